"""Samples that lack sensors, from `dmr run` to the report: sensors of noise are worth nothing, or it is said why that
cannot be told.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from dmr.studies.cli.entry_point import app

pytestmark = pytest.mark.slow
SAMPLES = {"by_class": {"train": 600, "val": 200, "test": 600}, "by_chance": {"train": 600, "val": 200, "test": 60_000}}


class Studied(NamedTuple):
    """How sensor `a` is missing, how many samples of each split have both sensors, and what each command said."""

    missing: str
    complete: dict[str, int]
    place: Any
    ran: Any
    compared: Any
    summary: pd.DataFrame
    table: pd.DataFrame


def write_noise(folder: Path, missing: str) -> dict[str, int]:
    """Two classes and two sensors of noise. `a` is missing of 8 in 10 samples of the second class, or of 4 in 10 of
    both.
    """
    complete = {}
    for number, (split, count) in enumerate(SAMPLES[missing].items()):
        (folder / split).mkdir(parents=True)
        draw = np.random.default_rng(number)
        labels = np.arange(count) % 2
        has = np.ones((count, 2), dtype=bool)
        has[:, 0] = draw.random(count) < (np.where(labels, 0.2, 1.0) if missing == "by_class" else 0.6)
        for name in "ab":
            np.save(folder / split / f"{name}.npy", draw.standard_normal((count, 3)).astype(np.float32))
        np.save(folder / split / "present.npy", has)
        np.save(folder / split / "label.npy", labels)
        complete[split] = int(has.all(axis=1).sum())
    modalities = [{"name": name, "kind": "vector", "shape": [3]} for name in "ab"]
    about = {"task": "classification", "num_classes": 2, "class_names": ["x", "y"], "modalities": modalities}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(about))
    return complete


@pytest.fixture(scope="module", params=SAMPLES)
def studied(request, make_workplace, tmp_path_factory) -> Studied:
    place = make_workplace(tmp_path_factory.mktemp(request.param))
    complete = write_noise(place.path / "noise", request.param)
    study = {
        "dataset": {"name": "arrays", "path": "noise"},
        "model": {"method": "dropout", "encoder": {"name": "mlp", "width": 8}},
        "train": {"epochs": 2},
        "search": {"train.learning_rate": {"log_uniform": [1e-3, 1e-2]}},
        "scheduler": {"name": "none"},
        "budget": {"trials": 1},
        "confirm": {"top": 1, "seeds": 3},
        "tracking": {"report": False},
    }
    (place.path / "noise.yaml").write_text(yaml.safe_dump(study))
    ran = place.run("run", "noise.yaml")
    compared = place.run("compare", "noise", "-o", "compared")
    table = pd.read_csv(io.StringIO(place.run("table", "noise", "--stage", "confirm").stdout))
    summary = pd.read_csv(place.path / "compared/summary.csv")
    return Studied(request.param, complete, place, ran, compared, summary, table)


def spaced(text: str) -> str:
    return " ".join(text.split())


def test_how_many_samples_have_all_sensors_is_said_everywhere(studied, read_page) -> None:
    val, test = (f"the {studied.complete[split]} samples with all modalities" for split in ("val", "test"))
    screen = spaced(studied.ran.stdout)
    assert f"accuracy over all 3 combinations, best mean first; on {test}" in screen
    assert f"values on val, of {val}" in screen
    assert "; it has the file's defaults. Confirmed on test" in screen, "one trial: nothing was searched"
    assert f"best mean first; on {test}" in spaced(studied.compared.stdout)
    said = f"noise: on test, means, worst, differences and Shapley values are of {test}; a combination's own row"
    assert said in studied.compared.stderr
    counts = studied.table[studied.table["metric"] == "samples_complete"].groupby("split")["value"].unique()
    assert {split: values.tolist() for split, values in counts.items()} == {
        split: [studied.complete[split]] for split in ("val", "test")
    }
    page = report_of(studied, read_page)
    (headline,) = [element.text for element in page.all("p") if element.attributes.get("class") == "headline"]
    assert headline.endswith(f"(3 seeds, {test}).")
    (weakest,) = [item.text for item in page.all("li") if item.text.startswith("Its weakest combination")]
    assert f" on {test}, mean over seeds." in weakest, "the combination's own row is of others"
    captions = [caption.text for caption in page.all("caption")]
    assert any(f"on {test}" in caption for caption in captions)
    assert any(f"values on val, of {val}" in caption for caption in captions)
    named = ", ".join(f"{split} {count}" for split, count in studied.complete.items())
    assert named in [fact.text for fact in page.all("dd")]


def test_noise_is_worth_nothing_or_it_is_said_why_that_is_not_known(studied, read_page) -> None:
    page = report_of(studied, read_page)
    sentences = [element.text for element in page.all("li")]
    columns = [name for name in studied.summary if name.startswith(("shapley_", "without_"))]
    if studied.missing == "by_chance":
        row = studied.summary.iloc[0]
        assert row[["shapley_a", "shapley_b"]].abs().max() < 0.01
        assert row[["without_a", "without_b"]].abs().max() < 0.02
        assert any(sentence.startswith("Shapley values share the credit") for sentence in sentences)
        return
    own = studied.table[studied.table["metric"] == "accuracy"].groupby("combination")["value"].mean()
    assert own["a"] > 0.8 > 0.6 > own["b"], "each combination's own samples, which do not compare"
    assert columns == []
    reason = "a is missing more often in some classes, so that being there is itself a hint"
    assert f"- What is lost without each modality is left out: {reason}." in studied.ran.stderr.splitlines()
    assert f"What is lost without each modality is left out: {reason}." in sentences
    assert reason in studied.compared.stderr
    for text in (studied.ran.stderr, studied.compared.stderr, *sentences):
        assert "If one has to go" not in text
        assert "the value without any modality is not known" not in text, "which is not the reason"


def report_of(studied: Studied, read_page: Any) -> Any:
    path = studied.place.path / "noise.html"
    if not path.exists():
        storage = studied.place.path / "dmr_runs"
        done = CliRunner().invoke(app, ["report", "noise", "--storage", str(storage), "-o", str(path)])
        assert done.exit_code == 0, done.output
    return read_page(path.read_text(encoding="utf-8"))
