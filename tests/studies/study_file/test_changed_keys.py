from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from dmr.studies.cli.study_commands import _check_unchanged
from dmr.studies.errors import StudyError
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.study_file.changed_keys import changed_keys
from dmr.studies.study_file.plan import make_plan
from dmr.studies.yaml_io import to_yaml

BEFORE: dict[str, Any] = {
    "name": "s",
    "seed": 0,
    "train": {"epochs": 40, "learning_rate": 1e-3},
    "model": {"method": "dmrnet", "encoder": {"name": "mlp", "width": 64}},
    "search": {"model.prior_std": {"log_uniform": [0.1, 3.0]}, "model.kl_weight": {"uniform": [0.0, 1.0]}},
    "objective": [{"metric": "val/accuracy_mean", "mode": "max"}],
    "deployment": None,
    "budget": {"trials": 24, "minutes": None},
    "resources": {"cpus": 1, "gpus": 0},
}


def changed(**sections: Any) -> dict[str, Any]:
    return copy.deepcopy(BEFORE) | sections


def test_the_same_document_has_no_changes() -> None:
    assert changed_keys(BEFORE, changed()) == []
    reordered = {key: BEFORE[key] for key in reversed(BEFORE)}
    assert changed_keys(BEFORE, reordered) == []


@pytest.mark.parametrize(
    "after",
    [
        changed(budget={"trials": 100, "minutes": 5.0}),
        changed(resources={"cpus": 4, "gpus": 1}),
        changed(retries=5),
        changed(checkpoints={"keep": None}),
    ],
)
def test_what_makes_no_other_trials_may_change(after: dict[str, Any]) -> None:
    assert changed_keys(BEFORE, after) == []


@pytest.mark.parametrize(
    ("after", "line"),
    [
        (changed(seed=1), "seed: was 0, is 1"),
        (changed(train=BEFORE["train"] | {"epochs": 10}), "train.epochs: was 40, is 10"),
        (
            changed(model={"method": "dmrnet", "encoder": {"name": "mlp", "width": 8}}),
            "model.encoder.width: was 64, is 8",
        ),
        (changed(deployment={"a": 0.5}), "deployment: was None, is {'a': 0.5}"),
        (
            changed(objective=[{"metric": "val/nll_mean", "mode": "min"}]),
            "objective: was [{'metric': 'val/accuracy_mean', 'mode': 'max'}], "
            "is [{'metric': 'val/nll_mean', 'mode': 'min'}]",
        ),
        (
            changed(search=BEFORE["search"] | {"model.kl_weight": {"uniform": [0.0, 2.0]}}),
            "search.model.kl_weight: was {'uniform': [0.0, 1.0]}, is {'uniform': [0.0, 2.0]}",
        ),
        (
            changed(search={"model.prior_std": BEFORE["search"]["model.prior_std"]}),
            "search.model.kl_weight: was {'uniform': [0.0, 1.0]}, is None",
        ),
        (
            changed(search=BEFORE["search"] | {"train.epochs": {"int": [1, 2]}}),
            "search.train.epochs: was None, is {'int': [1, 2]}",
        ),
    ],
)
def test_every_other_change_is_a_line(after: dict[str, Any], line: str) -> None:
    assert changed_keys(BEFORE, after) == [line]


def test_keys_that_come_or_go_are_changes() -> None:
    after = changed(train={"epochs": 40, "clip_norm": 1.0})
    came_and_gone = ["train.learning_rate: was 0.001, is None", "train.clip_norm: was None, is 1.0"]
    assert changed_keys(BEFORE, after) == came_and_gone


def test_blocks_are_compared_by_name_and_key() -> None:
    one = {"name": "a", "model.draws": {"int": [1, 3]}, "model.hard_mode": "released"}
    before = changed(search=[one, {"name": "b"}])
    after = changed(search=[{"name": "b"}, one | {"model.draws": {"int": [1, 4]}}])
    assert changed_keys(before, after) == ["search[a].model.draws: was {'int': [1, 3]}, is {'int': [1, 4]}"]


def test_a_study_of_an_earlier_version_is_unchanged(tmp_path: Path) -> None:
    given: dict[str, Any] = {"name": "s", "dataset": {"name": "digits"}, "search": {}}
    plan, folder = make_plan(given, "s.yaml"), StudyFolder(tmp_path, "s")
    earlier = copy.deepcopy(plan.document)
    del earlier["augment"], earlier["missing"], earlier["model"]["variance"], earlier["train"]["class_balanced"]
    earlier["dataset"]["path"] = None
    folder.path.mkdir()
    folder.study_file.write_text(to_yaml(earlier))
    _check_unchanged(plan, folder, "s.yaml")
    other = make_plan(given | {"augment": {"flip": True}, "dataset": {"name": "scenes"}}, "s.yaml")
    with pytest.raises(
        StudyError, match=r"(?s)dataset.name: was digits, is scenes\n.*augment.flip: was False, is True\n"
    ):
        _check_unchanged(other, folder, "s.yaml")
