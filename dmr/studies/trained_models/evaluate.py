"""`dmr evaluate`: the chosen checkpoint of a run on a split, or on the data of another place."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from dmr.analysis.results.record_names import counted
from dmr.combinations import (
    SEPARATOR,
    Combinations,
    all_combinations,
    combination_name,
    complete_metric,
    deployment_weights,
    evaluated_combinations,
)
from dmr.data.arrays import data_folder
from dmr.data.augmentation import centre_crop
from dmr.data.batches import Batches
from dmr.data.dataset import DataError, MultimodalDataset
from dmr.data.site import open_site
from dmr.evaluation import evaluate
from dmr.metrics import METRICS, Values
from dmr.networks.network import Network
from dmr.studies.errors import StudyError
from dmr.studies.study_file.validation_errors import nearest
from dmr.studies.trained_models.export import network_state
from dmr.studies.trained_models.find_run import TrainedRun
from dmr.studies.trained_models.prediction_files import predictions_to

if TYPE_CHECKING:
    import pandas as pd

Weights = npt.NDArray[np.float64]
Form = Literal["text", "csv", "json"]
SPOILED = "whoever chooses by these values spoils the test split; `dmr confirm` reads it once, after the choice"


def evaluate_run(
    run: TrainedRun,
    combinations: str,
    split: str | None,
    data: Path | None,
    predictions: Path | None,
    form: Form,
    odds: dict[str, float] | None = None,
) -> int:
    """Print every metric of every combination; returns the exit code.

    Args:
        odds: how often each modality works: adds the expected value of each metric.

    Raises:
        StudyError: the split, the data, a combination, the odds or the checkpoint cannot be used.
    """
    split, dataset = _data_of(run, split, data)
    if data is None:
        run.warn_of_changed_data()
    wanted = parse_combinations(combinations, dataset.modality_names)
    try:
        weights = None if odds is None else deployment_weights(wanted, odds)
    except ValueError as error:
        raise StudyError(f"--deployment: {error}") from None
    state = network_state(run.checkpoint)
    gpu = run.plan.study.resources.gpus > 0 and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    design = run.settings.design(dataset)
    try:
        network = Network.restored(design, state).to(device)
    except RuntimeError as error:
        raise StudyError(f"{run.checkpoint}: {' '.join(str(error).split())[:300]}") from None
    seen = centre_crop(dataset, run.settings.augment)
    observer = None if predictions is None else predictions_to(predictions, seen, split, wanted)
    with design.autocast(device):
        found = evaluate(network, seen, Batches(seen.splits[split], device), wanted, observer=observer)
    if observer is not None:
        observer.write()
    if split == "test" and data is None and run.stage != "confirm":
        sys.stderr.write(f"{run.label}: {SPOILED}\n")
    frame = value_frame(found.values, wanted, weights)
    if form == "csv":
        sys.stdout.write(frame.to_csv(index=False))
    elif form == "json":
        sys.stdout.write(frame.to_json(orient="records", double_precision=15) + "\n")
    else:
        complete = int(seen.splits[split].has().all(axis=1).sum())
        samples = counted(len(seen.splits[split]), "sample")
        title = f"{run.label}: {split}{'' if data is None else f' of {dataset.name}'}, {samples}"
        if 0 < complete < len(seen.splits[split]):
            title += f"; mean and worst: of the {complete} that have all modalities"
        Console(highlight=False).print(value_table(title, found.values, wanted, weights, complete > 0))
    return 0


def _data_of(run: TrainedRun, split: str | None, data: Path | None) -> tuple[str, MultimodalDataset]:
    known = run.plan.dataset
    try:
        if data is not None:
            return open_site(data_folder(data), split, known)
        if run.stage == "confirm" and run.plan.redraws:
            known = run.plan.recipe.draw(run.settings.seed)
    except DataError as error:
        raise StudyError(str(error)) from None
    split = split or "val"
    if split not in known.splits:
        raise StudyError(f"--split {split}: data set {known.name} has {', '.join(known.splits)}")
    return split, known


def parse_combinations(text: str, modalities: tuple[str, ...]) -> Combinations:
    """`all` evaluated ones, or some by name, joined by commas.

    Raises:
        StudyError: no such modality, or nothing named.
    """
    if text == "all":
        return evaluated_combinations(modalities)
    names = {}
    for given in text.split(","):
        parts = given.strip().split(SEPARATOR)
        for part in parts:
            if part not in modalities:
                raise StudyError(f"--combinations {given}: {part!r} is no modality; {nearest(part, modalities)}")
        names[combination_name(modalities, parts)] = tuple(m for m, name in enumerate(modalities) if name in parts)
    everything = all_combinations(modalities).members
    return Combinations(modalities, tuple(member for member in everything if member in names.values()))


def value_frame(values: Values, combinations: Combinations, weights: Weights | None) -> pd.DataFrame:
    """One row per combination, one column per metric; what is not defined is empty. With the `weights` (C,) of odds a
    last row `expected`.
    """
    import pandas as pd

    if weights is None:
        return pd.DataFrame({"combination": combinations.names, **values})
    columns = {name: [*column, _expected(name, values, weights)] for name, column in values.items()}
    return pd.DataFrame({"combination": [*combinations.names, "expected"], **columns})


def value_table(
    title: str, values: Values, combinations: Combinations, weights: Weights | None, comparable: bool
) -> Table:
    """The same for people, with mean and worst of several combinations, on the samples that have all modalities.

    Args:
        comparable: whether there are such samples.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    shown = [name for name in values if name not in map(complete_metric, METRICS)]
    for column in ("combination", *shown):
        table.add_column(column, justify="left" if column == "combination" else "right", overflow="fold")
    for name, *row in zip(combinations.names, *(values[name] for name in shown), strict=True):
        table.add_row(name, *map(_cell, shown, row))
    if len(combinations) > 1 and comparable:
        table.add_section()
        for summary in ("mean", "worst"):
            table.add_row(summary, *(_cell(name, _summary(summary, name, values)) for name in shown))
    if weights is not None:
        table.add_row("expected", *(_cell(name, _expected(name, values, weights)) for name in shown))
    return table


def _expected(metric: str, values: Values, weights: Weights) -> float:
    """Weighted over the combinations that some sample has, as `_summary` takes them."""
    column = values.get(complete_metric(metric), values[metric])
    there = ~np.isnan(column)
    if metric not in METRICS or not weights[there].sum() > 0:
        return math.nan
    return float(column[there] @ weights[there] / weights[there].sum())


def _summary(summary: str, metric: str, values: Values) -> float:
    """Over the combinations on the samples that have all modalities; only of what is a metric of its own."""
    column = values.get(complete_metric(metric), values[metric])
    if metric not in METRICS or np.isnan(column).any():
        return math.nan
    return float(column.mean()) if summary == "mean" else float(METRICS[metric].direction.worst(column.tolist()))


def _cell(metric: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if metric == "samples" else f"{value:.4f}"
