"""Two studies in one figure of your own: the best configuration of each, one bar per combination of sensors.

python analysis/compare_two_studies.py digits digits_wide --out digits.png
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dmr.analysis.comparison.comparison import compare
from dmr.analysis.figures.style import check_target, save_figure
from dmr.analysis.results.artifacts import samples_reader
from dmr.analysis.results.load_study import load_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs=2)
    parser.add_argument("--tracking-uri", default=os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    parser.add_argument("--experiment", help="default: the newest study of each name in any experiment")
    parser.add_argument("--out", type=Path, default=Path("comparison.png"))
    given = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # names with letters that a terminal lacks
    try:
        check_target(given.out)
        both = [load_study(given.tracking_uri, name, experiment=given.experiment, stage=None) for name in given.studies]
        found = compare(both, samples=samples_reader(given.tracking_uri))
    except (LookupError, ValueError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    names = found.combinations.names
    figure = Figure((2 + 0.5 * len(names), 4), layout="constrained")
    axes = figure.subplots()
    for number, study in enumerate(given.studies):
        own = [entry for entry in found.entries if entry.study == study]  # best mean first
        best = next((entry for entry in own if entry.is_best), own[0])  # chosen on val where the study was confirmed
        axes.bar(np.arange(len(names)) + 0.4 * number, best.values.mean(axis=0), width=0.4, label=best.label)
        print(f"{best.label}: mean {found.metric} on {found.split} {best.values.mean():.4f}")
    axes.set_xticks(np.arange(len(names)) + 0.2, names, rotation=45, ha="right")
    axes.set_ylabel(f"{found.metric}, split {found.split}")
    figure.legend(loc="outside upper left")
    print(save_figure(figure, given.out))


if __name__ == "__main__":
    main()
