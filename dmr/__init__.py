"""Studies of multimodal models that keep working when sensors fail.

Everything but `dmr.analysis` and `dmr.studies` is the science: torch and numpy, no Ray, Optuna, MLflow or pandas.
`dmr.analysis` reads results, `dmr.studies` runs studies. Imports go one way: science, analysis, studies.
"""
