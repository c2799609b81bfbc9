"""Study files mutated in their structure, and bytes that are no study: exit code 0 or 2, nothing written."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dmr.studies.cli.entry_point import app

SHIPPED = [yaml.safe_load(file.read_text()) for file in sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))]
FULL: dict[str, Any] = {
    "name": "full",
    "experiment": "e",
    "dataset": {"name": "arrays", "path": "sensors"},
    "model": {"method": "dropout", "encoder": {"ecg": {"name": "mlp", "width": 8}, "motion": {"name": "mlp"}}},
    "search": {
        "model.method": {"choice": ["dmrnet", "dropout"]},
        "model.draws": {"int": [1, 9], "step": 2, "when": {"model.method": "dmrnet"}},
        "train.batch_size": {"log_int": [8, 64]},
        "model.encoder.ecg.width": {"choice": [8, 16]},
    },
    "first": ["defaults", {"train.batch_size": 16}],
    "objective": [{"metric": "val/accuracy_expected", "mode": "max"}, {"metric": "val/nll_full"}],
    "deployment": {"ecg": 0.9, "motion": 0.5},
    "sampler": "nsga2",
    "scheduler": {"name": "median", "grace_epochs": 9, "metric": "val/ece_worst"},
    "budget": {"trials": 9, "minutes": 3.5},
    "resources": {"workers": 1, "cpus": 0.5, "gpus": 0, "concurrent": 2},
    "retries": 0,
    "checkpoints": {"keep": 2},
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["dmrnet", "dropout", "mlp", "cnn", "grid", "asha", "val/accuracy_mean", "..", "/", "x" * 300, "1e5"]
    ),
    st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=3), st.integers()), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, child in inner for found in [(*path, key), *places(child, (*path, key))]]


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    document = copy.deepcopy(draw(st.sampled_from([*SHIPPED, FULL, FULL])))
    for _ in range(draw(st.integers(1, 4))):
        found = places(document)
        if not found:
            break
        *path, key = draw(st.sampled_from(found))
        holder = at(document, tuple(path))
        action = draw(st.sampled_from(["replace", "delete", "add", "rename", "move"]))
        if action == "replace":
            holder[key] = draw(JUNK)
        elif action == "delete":
            del holder[key]
        elif action == "move":
            holder[key] = copy.deepcopy(at(document, draw(st.sampled_from(found))))
        elif isinstance(holder, list):
            holder.insert(key, draw(JUNK))
        elif action == "add":
            holder[draw(st.text(max_size=8))] = draw(JUNK)
        else:
            holder[draw(st.sampled_from([str(key)[:-1], str(key) + "s", str(key).upper()]))] = holder.pop(key)
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        where = draw(st.integers(0, len(text)))
        text = text[:where] + draw(st.binary(max_size=3)) + text[where + draw(st.integers(0, 3)) :]
    return text


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=700, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=st.one_of(mutated(), mutated(), mutated(), mutated(), mutated(), st.binary(max_size=200)))
def test_any_file_is_a_study_or_a_clear_mistake(workplace, monkeypatch, content):
    monkeypatch.chdir(workplace.path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace.path.parent / "cache"))
    state = random.getstate()
    (workplace.path / "fuzzed.yaml").write_bytes(content)
    result = CliRunner().invoke(app, ["run", "fuzzed.yaml", "--dry-run"])
    random.setstate(state)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 2)
    if result.exit_code == 2:
        lines = result.stderr.splitlines()
        assert lines
        assert all(len(line) < 1000 for line in lines)
    assert {entry.name for entry in workplace.path.iterdir()} == {"sensors", "fuzzed.yaml", "mlflow.db"}
