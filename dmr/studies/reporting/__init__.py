"""What a study leaves to be read: heatmap, report and description on its MLflow run, and the table of the
confirmation.

Calls analysis. May import stages, trained_models and what they import.
"""
