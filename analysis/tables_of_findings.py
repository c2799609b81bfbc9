"""The tables of docs/findings.md, from the runs of finished studies.

    python analysis/tables_of_findings.py digits_methods planted_methods scenes --storage dmr_runs --out docs/findings

For each study two files, for segmentation three. `NAME.csv`: one row per configuration with means over seeds and their
intervals, tests against `dmrnet`, and cost; printed in markdown as well. `NAME_combinations.csv`: the main metric on
test of each configuration, combination and seed. `NAME_classes.csv`: the IoU of each class.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from mlflow.tracking import MlflowClient

from dmr.analysis.comparison.comparison import Comparison, Entry, compare
from dmr.analysis.comparison.entries import find_entries
from dmr.analysis.results.artifacts import samples_reader
from dmr.analysis.results.load_study import load_study
from dmr.analysis.statistics import holm
from dmr.data import open_dataset

REFERENCE = "dmrnet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--storage", type=Path, default=Path("dmr_runs"))
    parser.add_argument("--tracking-uri", help="default: where the study was written, by its places.json")
    parser.add_argument("--out", type=Path, default=Path("docs/findings"))
    given = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # names with letters that a terminal lacks
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.studies:
        try:
            summary, combinations, classes = findings(given.storage / name, given.tracking_uri)
        except (LookupError, OSError, ValueError) as error:
            sys.stderr.write(f"{name}: {error}\n")
            raise SystemExit(2) from None
        if len(classes):
            classes.to_csv(given.out / f"{name}_classes.csv", index=False, float_format="%.5f")
        summary.to_csv(given.out / f"{name}.csv", index=False, float_format="%.5f")
        combinations.to_csv(given.out / f"{name}_combinations.csv", index=False, float_format="%.5f")
        sys.stdout.write(f"\n{name}\n\n{_markdown(summary)}\n")


def findings(folder: Path, uri: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """One row per configuration; one per configuration, combination and seed; such rows for the IoU of each class."""
    document = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    uri = uri or str(json.loads((folder / "places.json").read_text(encoding="utf-8"))["tracking_uri"])
    client = MlflowClient(uri)
    dataset = open_dataset(document["dataset"].pop("name"), document["dataset"], document["seed"])
    results = load_study(uri, folder.name, experiment=document["experiment"], stage="confirm")
    best = [entry.label for entry in find_entries([results]).entries if entry.is_best and entry.method == REFERENCE]
    found = compare([results], samples=samples_reader(uri), reference=next(iter(best), None))
    own = {entry.label: [client.get_run(run_id) for run_id in entry.run_ids] for entry in found.entries}
    bounds = dataset.description.get("best_accuracy")
    rows = [_row(found, entry, own[entry.label], bounds) for entry in found.entries]
    values = [
        (entry.method, entry.config, seed, name, value)
        for entry in found.entries
        for seed, of_run in zip(entry.seeds, entry.values, strict=True)
        for name, value in zip(found.combinations.names, of_run, strict=True)
    ]
    classes = [_classes(client, run) for runs in own.values() for run in runs if found.metric == "miou"]
    columns = ["method", "config", "seed", "combination", f"test_{found.metric}"]
    frame = _with_tests(pd.DataFrame(rows), found)
    return frame, pd.DataFrame(values, columns=columns), pd.concat(classes) if classes else pd.DataFrame()


def _classes(client: MlflowClient, run: Any) -> pd.DataFrame:
    """The rows of a run's combinations.csv that are of single classes, on test."""
    rows = pd.read_csv(client.download_artifacts(run.info.run_id, "combinations.csv"))
    rows = rows[(rows["split"] == "test") & rows["metric"].str.startswith("iou_")].drop(columns="split")
    return rows.assign(method=run.data.tags["method"], config=run.data.tags["config"], seed=run.data.tags["seed"])


def _row(found: Comparison, entry: Entry, runs: list[Any], best: dict[str, list[float]] | None) -> dict[str, Any]:
    """One row of the summary: metrics, gap to the best possible accuracy, diagnostics and cost.

    Args:
        best: the best accuracy that is possible with each combination, and how it was had.
    """
    names = ["method", "config", "seeds", "mean", "low", "high", "iqm", "worst", "full"]
    row = dict(found.summary.loc[entry.label, names])
    if best is not None:
        bound = np.array([best[name][0] for name in found.combinations.names])
        signal = np.array([name != "noise" for name in found.combinations.names])
        row["gap"] = (bound - entry.values)[:, signal].mean()
        row["largest_excess"] = (entry.values.mean(0) - bound).max()
    row |= dict(found.summary.loc[entry.label].filter(like="shapley_"))
    for name in ("variance_error_correlation", "class_mean_cosine"):
        known = [run.data.metrics[f"best/test/{name}"] for run in runs if f"best/test/{name}" in run.data.metrics]
        row[name] = float(np.mean(known)) if known else None
    row["encoder_passes"] = np.mean([run.data.metrics["train/encoder_passes"] for run in runs])
    row["seconds"] = np.mean([(run.info.end_time - run.info.start_time) / 1000 for run in runs])
    return row


def _with_tests(frame: pd.DataFrame, found: Comparison) -> pd.DataFrame:
    """Best configurations against that of `dmrnet`: test samples are the pairs, their scores means over seeds and
    combinations; p after Holm for these alone, and the smallest attainable. `p_seeds`: the exact test over seeds
    of the main metric.
    """
    summary = found.summary.reset_index(drop=True)  # rows as in frame
    best = summary["config"].str.contains("best 1")
    tests = summary[["samples_minus_reference", "p_samples", "smallest_p_samples", "p_seeds"]].where(best)
    tests["p_samples"] = holm(tests["p_samples"])
    return frame.join(tests.set_axis(["minus_dmrnet", "p_holm", "smallest_p", "p_seeds"], axis=1))


def _markdown(summary: pd.DataFrame) -> str:
    """What is read most, in percent: the best configurations, then the file's defaults."""
    percent = [name for name in ("worst", "full", "gap", "minus_dmrnet") if name in summary]
    others = ["p_holm", "class_mean_cosine", "variance_error_correlation", "encoder_passes", "seconds"]
    rows = []
    for best in (True, False):
        for _, row in summary[summary["config"].str.contains("best") == best].iterrows():
            interval = f"{100 * row['mean']:.2f} ({100 * row['low']:.2f}–{100 * row['high']:.2f})"
            shown = ["" if pd.isna(row[name]) else f"{100 * row[name]:.2f}" for name in percent]
            rows.append([row["method"], row["config"], interval, *shown, *(_short(row[name]) for name in others)])
    head = ["method", "configuration", "mean (95 %)", *percent, *others]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
