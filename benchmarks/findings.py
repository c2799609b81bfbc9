"""The tables of docs/findings.md, from the runs of finished studies.

    .venv/bin/python benchmarks/findings.py digits_methods planted_methods scenes --storage dmr_runs --out docs/findings

For each study two files: `NAME.csv`, a row a configuration with means over seeds and their intervals, tests against
`dmrnet`, and cost; and `NAME_combinations.csv`, the main metric on test of each configuration, combination and seed.
The first is printed in markdown as well.

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

from analysis.statistics import bootstrap_iqm, bootstrap_mean, holm, paired_permutation, shapley
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
        summary, combinations = findings(given.storage / name)
        summary.to_csv(given.out / f"{name}.csv", index=False, float_format="%.5f")
        combinations.to_csv(given.out / f"{name}_combinations.csv", index=False, float_format="%.5f")
        sys.stdout.write(
            f"\n{name}\n\n{table(list(summary), [[_cell(v) for v in row] for row in summary.to_numpy()])}\n"
        )


def findings(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a configuration, and a row a configuration, combination and seed."""
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
    frame = pd.DataFrame(summary)
    _add_tests(frame, scores)
    frame = frame.sort_values("mean", ascending=False, ignore_index=True)
    return frame, pd.DataFrame(rows, columns=["method", "config", "seed", "combination", f"test_{metric}"])


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
    combinations; p after Holm.
    """
    best = [key for key in scores if "best 1" in key[1]]
    reference = next(key for key in best if key[0] == REFERENCE)
    others = [key for key in best if key != reference]
    tests = [
        paired_permutation(scores[key].mean(0, keepdims=True), scores[reference].mean(0, keepdims=True), SEED)
        for key in others
    ]
    adjusted = holm(np.array([test.p_value for test in tests]))
    found = {key: (test.difference, p) for key, test, p in zip(others, tests, adjusted, strict=True)}
    keys = list(zip(frame["method"], frame["config"], strict=True))
    frame["minus_dmrnet"] = [found.get(key, (np.nan, np.nan))[0] for key in keys]
    frame["p_holm"] = [found.get(key, (np.nan, np.nan))[1] for key in keys]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
