"""The method of one's own in docs/methods.md, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dmr.studies.study_file.plan import make_plan
from dmr.training import EpochReport, Reporter, fit

PAGE = (Path(__file__).parents[3] / "docs/methods.md").read_text()


class Silent(Reporter):
    def load(self):
        return None

    def save(self, state, is_best):
        pass

    def report(self, report):
        pass


def test_the_method_on_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    document = {
        "name": "s",
        "dataset": {"name": "digits"},
        "model": {"method": "mine:Calm", "calm_weight": 0.1, "encoder": {"name": "mlp", "width": 8}},
        "train": {"epochs": 1},
    }
    plan = make_plan(document, "s.yaml")
    assert "model.calm_weight" in plan.space.keys
    report = fit(plan.dataset, plan.run_settings({}, 0), torch.device("cpu"), Silent())
    assert isinstance(report, EpochReport)
    losses = report.metrics
    assert losses["train/loss"] == pytest.approx(losses["train/task"] + 0.1 * losses["train/calm"], rel=1e-5)


def test_the_page_names_every_method_and_encoder() -> None:
    from dmr.encoders import ENCODERS
    from dmr.methods import METHODS

    missing = [name for name in (*METHODS, *ENCODERS) if f"`{name}`" not in PAGE]
    assert not missing
