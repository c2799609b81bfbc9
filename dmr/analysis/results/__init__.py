"""What a study left in MLflow, as one tidy table: loading it, asking it, and the names (tags, metrics, artifacts) that
the writer in `studies` and the readers here share.

May import dmr.combinations, dmr.files and dmr.analysis.password_masking. Nothing here draws or tests.
"""
