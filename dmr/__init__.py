"""Studies of multimodal models that keep working when sensors fail.

The modules right here, `dmr.data`, `dmr.encoders` and `dmr.methods` are the science: torch and numpy, no Ray, Optuna or
MLflow. `dmr.analysis` reads results, `dmr.studies` runs studies. Imports go one way: science, analysis, studies.
"""
