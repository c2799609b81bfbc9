"""The tables of docs/findings.md, from the runs of finished studies.

    .venv/bin/python benchmarks/findings.py digits_methods planted_methods scenes --storage dmr_runs --out docs/findings

For each study two files, for segmentation three. `NAME.csv`: a row a configuration with means over seeds and their
intervals, tests against `dmrnet`, and cost; printed in markdown as well. `NAME_combinations.csv`: the main metric on
test of each configuration, combination and seed. `NAME_classes.csv`: the IoU of each class.

Letters: S seeds, C combinations, N test samples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from common import table
from mlflow.tracking import MlflowClient

from analysis.statistics import bootstrap_iqm, bootstrap_mean, holm, paired_permutation, paired_seeds, shapley
from dmr.combinations import Combinations, all_combinations
from dmr.data import open_dataset

REFERENCE = "dmrnet"
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--storage", type=Path, default=Path("dmr_runs"))
    parser.add_argument("--out", type=Path, default=Path("docs/findings"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    for name in given.studies:
        summary, combinations, classes = findings(given.storage / name)
        if len(classes):
            classes.to_csv(given.out / f"{name}_classes.csv", index=False, float_format="%.5f")
        summary.to_csv(given.out / f"{name}.csv", index=False, float_format="%.5f")
        combinations.to_csv(given.out / f"{name}_combinations.csv", index=False, float_format="%.5f")
        sys.stdout.write(f"\n{name}\n\n{_markdown(summary)}\n")


def findings(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A row a configuration; a row a configuration, combination and seed; and such rows for the IoU of each class."""
    document = yaml.safe_load((folder / "study.yaml").read_text())
    places = json.loads((folder / "places.json").read_text())
    client = MlflowClient(places["tracking_uri"])
    experiment = client.get_experiment_by_name(document["experiment"])
    wanted = f"tags.study = '{folder.name}' and tags.stage = 'confirm' and attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment.experiment_id], wanted, max_results=10_000)
    groups: dict[tuple[str, str], list[Any]] = {}
    for run in sorted(runs, key=lambda run: int(run.data.tags["seed"])):
        groups.setdefault((run.data.tags["method"], run.data.tags["config"]), []).append(run)
    dataset = open_dataset(document["dataset"].pop("name"), document["dataset"], document["seed"])
    combinations = all_combinations(dataset.modality_names)
    metric = "miou" if dataset.task == "segmentation" else "accuracy"
    best = dataset.description.get("best_accuracy")
    labels = dataset.splits["test"].targets()
    majority = np.bincount(labels).max() / len(labels) if labels.ndim == 1 else None
    summary, rows, scores = [], [], {}
    for (method, config), own in groups.items():
        samples = [np.load(client.download_artifacts(run.info.run_id, "samples.npz")) for run in own]
        scores[method, config] = np.stack([sample["scores"].astype(float).mean(0) for sample in samples])  # (S, N)
        values = np.array([[run.data.metrics[f"best/test/{metric}/{c}"] for c in combinations.names] for run in own])
        summary.append(_row(method, config, own, values, metric, combinations, best, majority))
        rows += [
            (method, config, run.data.tags["seed"], c, value)
            for run, of_run in zip(own, values, strict=True)
            for c, value in zip(combinations.names, of_run, strict=True)
        ]
    classes = [_classes(client, run) for own in groups.values() for run in own if metric == "miou"]
    frame = pd.DataFrame(summary)
    _add_tests(frame, scores)
    frame = frame.sort_values("mean", ascending=False, ignore_index=True)
    columns = ["method", "config", "seed", "combination", f"test_{metric}"]
    return frame, pd.DataFrame(rows, columns=columns), pd.concat(classes) if classes else pd.DataFrame()


def _classes(client: MlflowClient, run: Any) -> pd.DataFrame:
    """The rows of a run's combinations.csv that are of single classes, on test."""
    rows = pd.read_csv(client.download_artifacts(run.info.run_id, "combinations.csv"))
    rows = rows[(rows["split"] == "test") & rows["metric"].str.startswith("iou_")].drop(columns="split")
    return rows.assign(method=run.data.tags["method"], config=run.data.tags["config"], seed=run.data.tags["seed"])


def _row(
    method: str,
    config: str,
    runs: list[Any],
    values: np.ndarray,
    metric: str,
    combinations: Combinations,
    best: dict[str, list[float]] | None,
    majority: float | None,
) -> dict[str, Any]:
    """`values` (S, C); `majority`: the accuracy of always answering the most frequent class."""
    mean = bootstrap_mean(values.mean(1), SEED)
    row = {
        "method": method,
        "config": config,
        "seeds": len(runs),
        "mean": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "iqm": bootstrap_iqm(values.mean(1), SEED).estimate,
        "worst": values.min(1).mean(),
        "full": values[:, combinations.full].mean(),
    }
    if best is not None:
        bound = np.array([best[name][0] for name in combinations.names])
        signal = np.array([name != "noise" for name in combinations.names])
        row["gap"] = (bound - values)[:, signal].mean()
        row["largest_excess"] = (values.mean(0) - bound).max()
    if majority is not None:
        parts = shapley(values.mean(0), combinations, majority)
        row |= {f"shapley_{name}": value for name, value in parts.items()}
    diagnostics = ("variance_error_correlation", "class_mean_cosine")
    for name in diagnostics:
        found = [run.data.metrics[f"best/test/{name}"] for run in runs if f"best/test/{name}" in run.data.metrics]
        row[name] = float(np.mean(found)) if found else None
    row["encoder_passes"] = np.mean([run.data.metrics["train/encoder_passes"] for run in runs])
    row["seconds"] = np.mean([(run.info.end_time - run.info.start_time) / 1000 for run in runs])
    return row


def _add_tests(frame: pd.DataFrame, scores: dict[tuple[str, str], np.ndarray]) -> None:
    """Best configurations against that of `dmrnet`: test samples are the pairs, their scores means over seeds and
    combinations; p after Holm, and the smallest attainable. `p_seeds`: the exact test over seeds, at least 2 / 2^S.
    """
    best = [key for key in scores if "best 1" in key[1]]
    reference = next(key for key in best if key[0] == REFERENCE)
    others = [key for key in best if key != reference]
    tests = [
        paired_permutation(scores[key].mean(0, keepdims=True), scores[reference].mean(0, keepdims=True), SEED)
        for key in others
    ]
    adjusted = holm(np.array([test.p_value for test in tests]))
    seeds = [paired_seeds(scores[key].mean(1), scores[reference].mean(1)) for key in others]
    columns = ("minus_dmrnet", "p_holm", "smallest_p", "p_seeds")
    found = {
        key: dict(zip(columns, (test.difference, p, test.smallest_p, seed.p_value), strict=True))
        for key, test, p, seed in zip(others, tests, adjusted, seeds, strict=True)
    }
    for column in columns:
        keys = zip(frame["method"], frame["config"], strict=True)
        frame[column] = [found.get(key, {}).get(column, np.nan) for key in keys]


def _markdown(summary: pd.DataFrame) -> str:
    """What is read most, in percent: the best configurations, then the file's own values."""
    percent = [name for name in ("worst", "full", "gap", "minus_dmrnet") if name in summary]
    others = ["p_holm", "class_mean_cosine", "variance_error_correlation", "encoder_passes", "seconds"]
    rows = []
    for best in (True, False):
        for _, row in summary[summary["config"].str.contains("best") == best].iterrows():
            interval = f"{100 * row['mean']:.2f} ({100 * row['low']:.2f}–{100 * row['high']:.2f})"
            shown = ["" if pd.isna(row[name]) else f"{100 * row[name]:.2f}" for name in percent]
            rows.append([row["method"], row["config"], interval, *shown, *(_short(row[name]) for name in others)])
    return table(["method", "configuration", "mean (95 %)", *percent, *others], rows)


def _short(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
