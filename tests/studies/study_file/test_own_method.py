"""The method and the encoder of one's own in docs/methods.md, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmr.methods.base import Seen, StepLosses
from dmr.methods.dropout import Dropout
from dmr.named import import_class
from dmr.studies.study_file.plan import make_plan
from dmr.training import EpochReport, Reporter, fit

PAGE = (Path(__file__).parents[3] / "docs/methods.md").read_text()
METHOD, ENCODER = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


class Silent(Reporter):
    def load(self):
        return None

    def save(self, state, is_best):
        pass

    def report(self, report):
        pass


def test_the_method_on_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
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


def test_the_encoder_on_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len([line for line in ENCODER.splitlines() if line.strip()]) <= 20
    (tmp_path / "wide.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    document = {
        "name": "s",
        "dataset": {"name": "digits"},
        "model": {"encoder": {"name": "wide:WideSettings", "width": 16}},
        "train": {"epochs": 2},
    }
    plan = make_plan(document, "s.yaml")
    assert plan.document["model"]["encoder"]["width"] == 16
    report = fit(plan.dataset, plan.run_settings({}, 0), torch.device("cpu"), Silent())
    assert isinstance(report, EpochReport)
    assert report.metrics["val/accuracy_mean"] > 0.3


@pytest.mark.parametrize("combinations", [1, 2])
def test_the_shapes_on_the_page(combinations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    document = {
        "name": "s",
        "dataset": {"name": "digits"},
        "model": {"method": "shapes:Calm", "encoder": {"name": "mlp", "width": 8}},
        "train": {"epochs": 1, "batch_size": 64},
        "sampling": {"combinations_per_sample": combinations},
    }
    plan = make_plan(document, "s.yaml")
    shapes = set()
    calm = import_class("shapes:Calm", Dropout)

    def with_terms(self: Dropout, seen: Seen, fused: Tensor, terms: dict[str, tuple[float, Tensor]]) -> StepLosses:
        shapes.add((tuple(fused.shape), tuple(seen.labels.shape), tuple(seen.masks.shape)))
        return Dropout.with_terms(self, seen, fused, terms)

    monkeypatch.setattr(calm, "with_terms", with_terms)
    fit(plan.dataset, plan.run_settings({}, 0), torch.device("cpu"), Silent())
    assert ((combinations, 64, 4 * 8), (64,), (combinations, 64, 4)) in shapes


def test_the_page_names_every_method_and_encoder() -> None:
    from dmr.encoders import ENCODERS
    from dmr.methods import METHODS

    missing = [name for name in (*METHODS, *ENCODERS) if f"`{name}`" not in PAGE]
    assert not missing
