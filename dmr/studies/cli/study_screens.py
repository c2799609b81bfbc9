"""What a command leaves on the screen: the plan of a study, and what came out of it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from rich.console import Console

from dmr.analysis.results.record_names import CONFIRM, SEARCH, counted, runs_filter
from dmr.studies.cli.trials_screen import trials_text
from dmr.studies.driver.local_ray import check_can_start
from dmr.studies.driver.ray_cluster import check_fits, local_need, measure_need, ray_running
from dmr.studies.driver.try_batches import try_batches
from dmr.studies.storage.locations import default_tracking_uri
from dmr.studies.storage.store_passwords import mask_password
from dmr.studies.storage.study_folder import StageName, StudyFolder
from dmr.studies.study_file.plan import StudyPlan
from dmr.studies.trial_outcomes import FAILURES
from dmr.studies.yaml_io import to_yaml

if TYPE_CHECKING:
    from dmr.studies.driver.run_study import RunResult


def show_plan(plan: StudyPlan, folder: StudyFolder, address: str | None) -> None:
    """`--dry-run`: the resolved study, its space, what a trial needs and how many fit, and that a batch can be trained.

    Raises:
        StudyError: no trial can ever run there, Ray cannot start here, or a block of the search cannot be trained.
    """
    out = Console(highlight=False, soft_wrap=True, markup=False)
    out.print(to_yaml(plan.document).rstrip())
    out.print("\nsearch space:")
    for block in plan.blocks:
        if block.label is not None:
            out.print(f"  block {block.label}: {', '.join(f'{key} is {v}' for key, v in block.fixed.items())}")
        for parameter in block.space.parameters:
            out.print(f"  {parameter.key}: {parameter.text()}")
        if not block.space.parameters:
            out.print("  nothing is searched")
    if plan.random_search:
        out.print(plan.random_search)
    dataset, combinations = plan.dataset, plan.combinations
    sizes = ", ".join(f"{name} {len(split)}" for name, split in dataset.splits.items())
    out.print(f"\ndata: {dataset.name}: {sizes}; modalities {', '.join(dataset.modality_names)}")
    number = 2 ** len(dataset.modalities) - 1
    out.print(f"combinations evaluated: {len(combinations)} of {number}")
    out.print(f"folder: {folder.place}")
    with nullcontext() if address is None else ray_running(address, plan.study.resources.distributed):
        need = local_need(plan) if address is None else measure_need(plan)
    check_fits(plan, need)
    if address is None:
        check_can_start()
    concurrent = min(need.fits, plan.study.resources.concurrent or need.fits)
    out.print(f"resources: {need.text()}; {concurrent} at a time")
    for line in try_batches(plan):
        out.print(line)


def show_summary(plan: StudyPlan, folder: StudyFolder, result: RunResult, console: Console) -> int:
    """What was found, and the best trials, on standard output; where to look further on standard error. Returns the
    exit code.
    """
    from dmr.studies.driver.run_study import tracking_error_line, tracking_note_lines

    name = plan.study.name

    def tell(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if result.tracking_error:
        tell(f"{tracking_error_line(result.tracking_error, folder)}; `dmr resume {name}` sends it")
    for note in tracking_note_lines(result.tracking_notes, folder):
        tell(note)
    if result.outcome != "complete":
        tell(f"stopped; go on with: dmr resume {name}")
        return 130 if result.outcome == "interrupted" else 1
    from dmr.analysis.results.load_study import load_study
    from dmr.analysis.results.study_results import stage_of
    from dmr.studies.reporting.confirm_table import confirm_table, confirmed_rows
    from dmr.studies.reporting.study_note import finding

    try:
        uri, experiment = folder.store_uris().tracking_uri, plan.document["experiment"]
        both = load_study(uri, name, experiment=experiment, key=folder.study_key, stage=None)
    except LookupError as error:
        tell(f"study {name} is complete, but its table cannot be shown: {error.args[0]}")
        return int(result.refused or not result.succeeded)
    results, runs = stage_of(both, SEARCH), stage_of(both, CONFIRM)
    if line := results.deleted_line():
        tell(line)
    trials = results.runs.groupby("trial")["status"].first()
    failed = trials.index[trials.isin(FAILURES)]
    if len(failed):
        numbers = ", ".join(map(str, failed))
        tell(f"{len(failed)} of {counted(len(trials), 'trial')} failed: {numbers}{_traceback(folder, 'search')}")
    if not result.succeeded:
        tell(f"{name}: no trial succeeded; see {folder.log}")
        return 1
    code, confirmed, out = int(result.refused), "", Console(highlight=False)
    chosen = (result.confirmed or []) if plan.study.confirm is not None else []
    tested = confirmed_rows(runs, chosen, plan.confirm_seeds) if chosen else None
    found = finding(results, tested)
    out.print(found.replace("*", "").replace("`", ""), markup=False)
    if tested is not None:
        from dmr.analysis.report.answer import decisive

        out.print()
        out.print(confirm_table(runs, tested))
        for sentence in decisive(both):
            tell(f"- {sentence}")
        count, failures = len(chosen) * len(plan.confirm_seeds), runs.table["status"].isin(FAILURES)
        confirmed = f", {counted(count, 'confirm run')}"
        if failures.any():
            tell(f"{counted(failures.sum(), 'confirm run')} failed; see {folder.log}{_traceback(folder, 'confirm')}")
        code |= int(not (runs.table["split"] == "test").any())
    out.print(f"\n{trials_text(results, out.width)}\n", markup=False, soft_wrap=True)
    tell(f"study {name} is complete: {counted(len(trials), 'trial')}{confirmed}")
    for what, file in (("heatmap", folder.heatmap), ("report", folder.report)):
        if file.exists():
            tell(f"{what}: {folder.place_of(file)}")
    page = "dmr ui" if uri == default_tracking_uri() else mask_password(uri)
    tell(f"MLflow: {page}   (filter: {runs_filter(name, SEARCH)})")
    return code


def _traceback(folder: StudyFolder, stage: StageName) -> str:
    """Where the first failed trial's traceback is, to be added to a line."""
    file = folder.first_error(stage)
    return "" if file is None else f"; the first one's traceback: {folder.place_of(file)}"
