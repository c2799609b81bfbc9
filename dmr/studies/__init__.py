"""The orchestration of studies: Ray Train, Ray Tune, Optuna, MLflow and the command line."""
