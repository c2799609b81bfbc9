"""Which sensor can be dropped at the lowest price: what a study's best configuration loses without each of them.

    python analysis/which_sensor_to_drop.py digits

Values are on test where the study was confirmed, else on val of the search.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

from dmr.analysis.comparison.comparison import compared
from dmr.analysis.results.artifacts import samples_reader
from dmr.analysis.results.load_study import load_study
from dmr.analysis.results.record_names import WITHOUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--tracking-uri", default=os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    parser.add_argument("--experiment", help="default: the newest study of this name in any experiment")
    given = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # names with letters that a terminal lacks
    try:
        results = load_study(given.tracking_uri, given.study, experiment=given.experiment, stage=None)
        found, why_not = compared(results, samples_reader(given.tracking_uri))
        if found is None:
            raise LookupError(why_not)
        row = found.summary.loc[found.reference]
        sensors = [name for name in found.combinations.modalities if f"{WITHOUT}{name}" in row]
        if not sensors:
            raise LookupError(f"{given.study}: it cannot be told: {'; '.join(found.notes)}")
    except LookupError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{found.reference}: {found.metric} on {found.split} with all sensors {row['full']:.4f}")
    for sensor in sorted(sensors, key=lambda name: row[f"{WITHOUT}{name}"]):
        loss, low, high = (row[f"{WITHOUT}{sensor}{end}"] for end in ("", "_low", "_high"))
        interval = "one seed, no interval" if math.isnan(low) else f"95 % interval of the loss {low:.4f} to {high:.4f}"
        print(f"without {sensor}: {abs(loss):.4f} {'worse' if loss > 0 else 'better'} ({interval})")


if __name__ == "__main__":
    main()
