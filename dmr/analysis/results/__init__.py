"""What a study left in MLflow, as one tidy table.

`load_study.py` reads a study, `study_results.py` answers the usual questions to it, `artifacts.py` reads the files of
single runs, and `record_names.py` has the names (tags, metrics, artifacts) that the writer in dmr.studies and the
readers here share. May import dmr.combinations, dmr.direction, dmr.files and dmr.analysis.store_uris, and no
other package of dmr.analysis. Nothing here draws or tests.
"""
