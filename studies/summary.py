"""What a command leaves on the screen: the plan of a study, and the table of its trials."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.table import Table

from studies.errors import StudyError
from studies.folder import StudyFolder
from studies.launch import Need, Outcome, measure_need, ray_running
from studies.plan import StudyPlan
from studies.yaml_files import to_yaml

SHOWN_TRIALS = 10


def show_plan(plan: StudyPlan, folder: StudyFolder, address: str | None) -> None:
    """`--dry-run`: the resolved study, its space, what a trial needs and how many fit.

    Raises:
        StudyError: no trial can ever run there.
    """
    out = Console(highlight=False, soft_wrap=True, markup=False)
    out.print(to_yaml(plan.document).rstrip())
    out.print("\nsearch space:")
    for parameter in plan.space.parameters:
        out.print(f"  {parameter.key}: {parameter.text()}")
    if not plan.space.parameters:
        out.print("  nothing is searched")
    dataset, combinations = plan.dataset, plan.combinations
    sizes = ", ".join(f"{name} {len(split)}" for name, split in dataset.splits.items())
    out.print(f"\ndata: {dataset.name}: {sizes}; modalities {', '.join(dataset.modality_names)}")
    number = 2 ** len(dataset.modalities) - 1
    out.print(f"combinations evaluated: {len(combinations)} of {number}")
    out.print(f"folder: {folder.path}")
    need = _need(plan, address)
    concurrent = min(need.fits, plan.study.resources.concurrent or need.fits)
    out.print(f"resources: {need.text()}; {concurrent} at a time")
    if need.fits < 1:
        raise StudyError(f"{plan.study.name}: resources: {need.text()}: no trial can ever run here")


def _need(plan: StudyPlan, address: str | None) -> Need:
    if address is not None:
        with ray_running(address):
            return measure_need(plan)
    import torch

    resources = plan.study.resources
    return Need(resources.cpus, resources.gpus, float(os.cpu_count() or 1), float(torch.cuda.device_count()))


def show_summary(plan: StudyPlan, folder: StudyFolder, outcome: Outcome, people: Console) -> int:
    """The best trials on standard output, where to look further on standard error; returns the exit code."""
    name = plan.study.name
    if outcome == "interrupted":
        people.print(f"stopped; go on with: dmr resume {name}", markup=False)
        return 130
    from analysis.heatmap import write_heatmap
    from analysis.results import best_trials, load_study

    places = folder.places()
    results = load_study(places.tracking_uri, name, experiment=plan.document["experiment"])
    table = results.table
    statuses = table.groupby("trial")["status"].first()
    failed = sorted(int(trial) for trial in statuses[statuses.isin(["diverged", "out_of_memory", "error", "lost"])].index)
    best = best_trials(results, SHOWN_TRIALS)
    if failed:
        people.print(f"{len(failed)} of {len(statuses)} trials failed: {', '.join(map(str, failed))}", markup=False)
    if not len(best):
        people.print(f"{name}: no trial succeeded; see {folder.log}", markup=False)
        return 1
    Console(highlight=False, width=None).print(_trial_table(results, best, plan))
    write_heatmap(results, folder.heatmap)
    people.print(f"study {name} is complete: {len(statuses)} trials" if outcome == "complete" else f"study {name} ended early")
    people.print(f"heatmap: {folder.heatmap}", markup=False)
    people.print(f"MLflow: dmr ui   (filter: tags.study = '{name}' and tags.stage = 'search')", markup=False)
    return 0 if outcome == "complete" else 1


def _trial_table(results: Any, best: list[int], plan: StudyPlan) -> Table:
    summaries = [f"accuracy_{summary}" for summary in ("mean", "worst", "full")]
    frame = results.table
    table = Table(title=f"{plan.study.name}: best {len(best)} trials by {plan.study.objective[0].metric}")
    for column in ("trial", "status", *(s.removeprefix("accuracy_") for s in summaries), *results.searched):
        table.add_column(column.split(".", 1)[-1] if "." in column else column, justify="right" if column != "status" else "left")
    for trial in best:
        rows = frame[frame["trial"] == trial]
        values = rows[rows["metric"].isin(summaries) & (rows["split"] == "val")].set_index("metric")["value"]
        searched = [rows[key].iloc[0] for key in results.searched]
        table.add_row(str(trial), rows["status"].iloc[0], *(f"{values[s]:.4f}" for s in summaries), *map(_cell, searched))
    return table


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
