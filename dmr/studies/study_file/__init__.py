"""What a user asks for: the study file's keys and limits, its search space, and the checks that turn both into a
`StudyPlan`.

Imports dmr and the modules beside this package; never Ray, Optuna or MLflow at import time, so that a bad file is
refused within a second.
"""
