"""What is found out about a study before it is run: whether a batch can be trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dmr.studies.driver.try_batches import try_batches
from dmr.studies.errors import StudyError
from dmr.studies.study_file.plan import StudyPlan, make_plan

OWN = """
from dataclasses import dataclass

import torch

from dmr.encoders import EncoderModule, EncoderSettings
from dmr.methods.dropout import Dropout, DropoutSettings


@dataclass(frozen=True)
class BrokenSettings(DropoutSettings):
    pass


class Broken(Dropout):
    Settings = BrokenSettings

    def losses(self, seen, generator):
        raise RuntimeError("nothing  there")


@dataclass(frozen=True)
class NotFiniteSettings(DropoutSettings):
    pass


class NotFinite(Dropout):
    Settings = NotFiniteSettings

    def losses(self, seen, generator):
        found = super().losses(seen, generator)
        return found._replace(total=found.total * torch.nan)
"""


def plan_of(**keys: Any) -> StudyPlan:
    model = {"method": "dropout", "encoder": {"name": "mlp", "width": 8}}
    return make_plan({"name": "s", "dataset": {"name": "digits"}, "model": model, "search": {}} | keys, "s.yaml")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_methods.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_each_block_is_tried_with_its_own_values() -> None:
    search = [{"name": "first"}, {"name": "second", "model.method": "dmrnet", "model.prior_std": 0.5}]
    lines = list(try_batches(plan_of(search=search, budget={"trials": 2})))
    starts = [f"s: block {name}: a batch was trained on the CPU: loss " for name in ("first", "second")]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True, True]
    assert len({line.rpartition(" ")[2] for line in lines}) == 2
    assert re.fullmatch(r"s: a batch was trained on the CPU: loss \d\.\d+", next(try_batches(plan_of())))


@pytest.mark.parametrize(
    ("method", "error"),
    [("Broken", "RuntimeError: nothing there"), ("NotFinite", "the first step was not finite")],
)
@pytest.mark.usefixtures("own")
def test_a_method_that_fails_is_a_line_that_names_its_block(method: str, error: str) -> None:
    search = [{"name": "good"}, {"name": "bad", "model.method": f"broken_methods:{method}"}]
    found = try_batches(plan_of(search=search, budget={"trials": 2}))
    assert next(found).startswith("s: block good: ")
    with pytest.raises(StudyError) as raised:
        next(found)
    assert raised.value.lines == (f"s: block bad: a batch cannot be trained: {error}",)
