"""Which point comes next (Optuna's samplers), which trial is stopped early (Ray Tune's schedulers), which are best,
and whose checkpoints stay.

Policy only: nothing here writes a file or a database. May import study_file.
"""
