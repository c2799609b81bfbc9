"""Where a study lies and who runs it: its folder, its lock, the files of a trial, Optuna's storage, MLflow's store,
and their passwords.

Also `dmr list`, `status`, `stop` and `rm`, which need nothing else.
"""
