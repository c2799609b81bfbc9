"""Which sensor can be dropped at the lowest price: what a study's best configuration loses without each of them.

    python analysis/which_sensor_to_drop.py digits

Values are on test where the study was confirmed, else on val of the search.
"""

from __future__ import annotations

import argparse
import os
import sys

from dmr.analysis.comparison.comparison import compared
from dmr.analysis.results.artifacts import samples_reader
from dmr.analysis.results.load_study import load_study
from dmr.combinations import combination_name


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
        values = dict(zip(found.combinations.names, found.entry(found.reference).values.mean(axis=0), strict=True))
        sensors = found.combinations.modalities
        full = combination_name(sensors, sensors)
        if full not in values or len(sensors) < 2:
            raise LookupError(f"{given.study}: there is no value with all sensors to compare with")
    except LookupError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{found.reference}: {found.metric} on {found.split} with all sensors {values[full]:.4f}")
    losses = {}
    for sensor in sensors:
        name = combination_name(sensors, [other for other in sensors if other != sensor])
        if name in values:
            losses[sensor] = found.mode.sign * (values[full] - values[name])
    for sensor, loss in sorted(losses.items(), key=lambda one: one[1]):
        print(f"without {sensor}: {abs(loss):.4f} {'worse' if loss > 0 else 'better'}")


if __name__ == "__main__":
    main()
