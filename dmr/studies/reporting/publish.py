"""What a study leaves to read on its own run in MLflow, at the end of the search and of the confirmation."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dmr.analysis.results.record_names import SEARCH, Tag
from dmr.files import whole_file
from dmr.studies.errors import StudyError
from dmr.studies.reporting.report_file import write_study_report
from dmr.studies.reporting.study_note import study_note
from dmr.studies.stages.search_stage import SearchStage
from dmr.studies.stages.stage import Stage
from dmr.studies.storage.optuna_attributes import PUBLISHED
from dmr.studies.tracking.run_logging import NOTE
from dmr.studies.tracking.tracker import PARENT

if TYPE_CHECKING:
    from dmr.analysis.results.study_results import StudyResults
    from dmr.studies.reporting.confirm_table import Confirmed
    from dmr.studies.stages.confirm_stage import ConfirmStage

log = logging.getLogger("dmr")

FLUSH_SECONDS = 30.0


def publish(search_stage: SearchStage, confirmation: ConfirmStage | None = None) -> None:
    """Make what people read of a study and put it on its run, where MLflow has everything it is made from; once, until
    more trials have ended, or their runs have other ids.

    Whatever fails here is a warning: the study has its results.
    """
    tracker, folder, plan = search_stage.tracker, search_stage.folder, search_stage.plan
    stage: Stage = confirmation or search_stage
    published = None
    with stage.retry_queue.reaching():
        published = stage.study.user_attrs.get(PUBLISHED)
    if not tracker.flush(timeout=FLUSH_SECONDS):
        return
    if published == stage.finished and folder.heatmap.exists() and stage.stage not in tracker.outdated:
        return
    from dmr.analysis.figures.trial_heatmap import write_heatmap
    from dmr.analysis.results.study_results import stage_of

    last = confirmation is not None or plan.study.confirm is None  # nothing comes after it
    with _warned("the heatmap, report and note of the study"):
        both = _load(search_stage)
        search = stage_of(both, SEARCH)
        trials = folder.figures / "trials.png"  # the heatmap, where the report has it
        trials.unlink(missing_ok=True)
        if plan.study.tracking.report:
            with _warned("the report"):
                _publish_report(search_stage, last)
        with _warned("the heatmap"):
            if trials.exists():
                with whole_file(folder.heatmap) as partial:
                    shutil.copyfile(trials, partial)
            else:
                write_heatmap(search, folder.heatmap)
            tracker.artifact(PARENT, folder.heatmap)
        model = None
        if plan.study.tracking.report and last:
            with _warned("the model of the winner"):
                model = _publish_winner(search_stage)
        with _warned("the note of the study's run"):
            confirmed, said = (None, ()) if confirmation is None else _found(both, confirmation)
            tracker.tags(PARENT, {NOTE: study_note(search, tracker.experiment_id, confirmed, model, said)})
        tracker.published(stage.stage)
        stage.retry_queue.put(lambda: stage.study.set_user_attr(PUBLISHED, stage.finished))


def _publish_report(search_stage: SearchStage, last: bool) -> None:
    """The report, and the figures on it; of the `last` stage it says that the study ends now."""
    folder = search_stage.folder
    folder.figures.mkdir(exist_ok=True)
    write_study_report(folder, folder.report, folder.figures, round(1000 * time.time()) if last else None)
    for path in (folder.report, *sorted(folder.figures.glob("*.png"))):
        search_stage.tracker.artifact(PARENT, path)


def _publish_winner(search_stage: SearchStage) -> str | None:
    """The model of the winner, the same as of `dmr export`, with its files in MLflow; returns its id there."""
    from dmr.studies.trained_models.export import export_run
    from dmr.studies.trained_models.find_run import find_winner

    tracker, folder = search_stage.tracker, search_stage.folder
    if search_stage.best is None:
        return None
    winner = find_winner(folder)
    run = f"{winner.checkpoint.parent.parent.name}/{winner.checkpoint.parent.name}"
    key = f"winner/{run}"
    if not tracker.has_model(key):
        shutil.rmtree(folder.winner, ignore_errors=True)
        export_run(winner, folder.winner)
        if folder.writer is not None:
            folder.writer.delete_unlike(folder.winner)
        name = f"{search_stage.plan.study.name}-winner"
        tags = {Tag.STUDY: search_stage.plan.study.name, Tag.STAGE: winner.stage, "run": str(winner.run_id)}
        note = f"{winner.label}: takes any non-empty combination of modalities, absent ones null or left out."
        tags |= {"checkpoint": folder.place_of(winner.checkpoint), NOTE: note}
        tracker.model(PARENT, key, name=name, tags=tags, params={}, path=folder.winner)
        tracker.flush(timeout=FLUSH_SECONDS)
    return tracker.model_id(key)


def _load(search_stage: SearchStage) -> StudyResults:
    from dmr.analysis.results.load_study import load_study

    uri, experiment = search_stage.folder.store_uris().tracking_uri, search_stage.plan.document["experiment"]
    key = search_stage.folder.study_key
    return load_study(uri, search_stage.plan.study.name, experiment=experiment, key=key, stage=None)


def _found(both: StudyResults, confirmation: ConfirmStage) -> tuple[Confirmed, tuple[str, ...]]:
    """The rows of a confirmation, and what decides in the words of the report."""
    from dmr.analysis.report.answer import decisive
    from dmr.studies.reporting.confirm_table import confirmed_rows

    return confirmed_rows(both, confirmation.configurations, confirmation.seeds), decisive(both)


@contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever drawing, a disk or a model raises
        if isinstance(error, StudyError):  # such as a checkpoint that somebody has deleted
            log.warning("%s cannot be made: %s", what, error)
            return
        if type(error) in (LookupError, ValueError):  # MLflow has just gone; no trial has values; not a KeyError
            log.info("%s: %s", what, error)
            return
        log.info("%s cannot be made", what, exc_info=True)
        log.warning("%s cannot be made: %s", what, " ".join(f"{type(error).__name__}: {error}".split())[:300])
