"""The only writer to MLflow: a local journal first, then batches from one thread, each record exactly once.

`run_logging.py` says what a run has; the names come from dmr.analysis.results.record_names. May import study_file and
storage.
"""
