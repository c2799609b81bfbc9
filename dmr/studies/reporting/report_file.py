"""The report of a study, from where its folder says that it lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmr.studies.storage.study_folder import StudyFolder


def write_study_report(folder: StudyFolder, path: Path, figures: Path | None = None, ended: int | None = None) -> Path:
    """Write the page of a study that MLflow has; the file is there whole or not at all.

    Args:
        figures: a folder for the figures on it, as .png.
        ended: when the study ended, in milliseconds since 1970, where MLflow has not been told yet.

    Raises:
        StudyError: the study's folder is damaged.
        LookupError: MLflow has no such study, or cannot be read.
        OSError: the file cannot be written.
    """
    from dmr.analysis.report.page import Source, write_report

    document = folder.document()
    source = Source(
        tracking_uri=folder.store_uris().tracking_uri,
        experiment=document["experiment"],
        study=folder.name,
        key=folder.study_key,
        study_file=folder.study_file.read_text(encoding="utf-8"),
        ended=ended,
    )
    return write_report(source, path, figures)
