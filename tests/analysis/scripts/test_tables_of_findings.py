from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml


def test_the_tables_of_a_study(confirmed: dict[str, Any], run_script: Callable[..., Any], tmp_path: Path) -> None:
    study, folder = confirmed["site_one"], tmp_path / "dmr_runs" / "site_one"
    folder.mkdir(parents=True)
    (folder / "places.json").write_text(json.dumps({"tracking_uri": study.uri}))
    document = {"dataset": {"name": "digits"}, "seed": 0, "experiment": study.experiment}
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    ran = run_script("tables_of_findings.py", "site_one", "--out", "out")
    assert ran.returncode == 0, ran.stderr
    assert "| dmrnet | best 1 | 60.71 (" in ran.stdout
    summary = pd.read_csv(tmp_path / "out" / "site_one.csv")
    assert summary[["method", "config", "seeds", "full", "encoder_passes"]].values.tolist() == [
        ["dmrnet", "best 1", 2, 0.9, 7.0]
    ]
    values = pd.read_csv(tmp_path / "out" / "site_one_combinations.csv")
    assert len(values) == 2 * 7
    assert list(values) == ["method", "config", "seed", "combination", "test_accuracy"]


def test_a_mistake_is_one_line(run_script: Callable[..., Any]) -> None:
    ran = run_script("tables_of_findings.py", "none")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "dmr_runs/none/study.yaml" in ran.stderr.splitlines()[-1]
