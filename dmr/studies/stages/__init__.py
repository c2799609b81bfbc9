"""The two stages of a study, search and confirmation: trials are begun, followed and ended here, in Optuna and in
MLflow's journal, and nowhere else.

May import search, tracking, storage and study_file.
"""
