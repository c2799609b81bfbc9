"""Keep the numbers of finished studies as small files, one each, to make tables from later without MLflow.

python analysis/keep_numbers.py parts_planted parts_digits --out docs/findings
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dmr.analysis.results.kept_numbers import SUFFIX, write_numbers
from dmr.analysis.results.load_study import load_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--tracking-uri", default=os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    parser.add_argument("--out", type=Path, default=Path("docs/findings"))
    given = parser.parse_args()
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        for name in given.studies:
            write_numbers(load_study(given.tracking_uri, name, stage=None), given.out / f"{name}{SUFFIX}")
    except (LookupError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
