"""The report of a study, from where its folder says that it lies."""

from __future__ import annotations

from pathlib import Path

from studies.folder import StudyFolder
from studies.mlflow_store import fail_soon


def write_study_report(folder: StudyFolder, path: Path) -> Path:
    """Write the page of a study that MLflow has; the file is there whole or not at all.

    Raises:
        StudyError: the study's folder is damaged.
        LookupError: MLflow has no such study, or cannot be read.
        OSError: the file cannot be written.
    """
    from analysis.report import Source, write_report

    fail_soon()
    document = folder.document()
    source = Source(
        tracking_uri=folder.places().tracking_uri,
        experiment=document["experiment"],
        study=folder.name,
        key=folder.study_key,
        study_file=folder.study_file.read_text(encoding="utf-8"),
    )
    return write_report(source, path)
