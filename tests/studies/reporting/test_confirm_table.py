"""The table of a confirmation, also where runs failed or no test sample has all modalities."""

from __future__ import annotations

import pandas as pd
from rich.console import Console

from dmr.analysis.results.study_results import StudyResults
from dmr.direction import Direction
from dmr.studies.reporting.confirm_table import confirm_table
from dmr.studies.stages.confirm_stage import NO_TRIAL, Configuration


def test_what_is_not_known_is_a_dash() -> None:
    values = [(seed, "accuracy_mean", 0.5 + seed / 10) for seed in (1, 2)] + [(1, "accuracy_worst", 0.25)]
    rows = pd.DataFrame(values, columns=["seed", "metric", "value"])
    rows = rows.assign(method="a", trial=0, split="test", combination=None)
    results = StudyResults(
        "s", "d", ("x", "y"), (), (), "accuracy", Direction.MAX, "all 3", "", {}, pd.DataFrame(), rows
    )
    configurations = [Configuration("a", "best 1", 0, {}), Configuration("b", "defaults", NO_TRIAL, {})]
    console = Console(width=120)
    with console.capture() as captured:
        console.print(confirm_table(results, configurations, range(1, 3)))
    a, b = (line.split() for line in captured.get().splitlines() if line.startswith((" a ", " b ")))
    assert a == ["a", "best", "1", "0", "2", "0.6500", "0.0147–1.2853", "0.2500", "-"]
    assert b == ["b", "defaults", "-", "0", "-", "-", "-", "-"]
