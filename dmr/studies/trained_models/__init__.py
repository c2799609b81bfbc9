"""Networks that a study has trained: find one by run id or as the winner, evaluate it, export and register it as an
MLflow model.

May import search, tracking, storage and study_file.
"""
