"""`dmr report` on real confirmed studies: the page has the numbers of the raw runs, computed in another way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from dmr.data import open_dataset
from studies.cli import app

pytestmark = pytest.mark.slow
DATA = {"digits": {}, "planted": {"train": 600, "val": 200, "test": 300}}
ODDS = {"top_left": 0.9, "bottom_right": 0.5}


@pytest.mark.parametrize("name", DATA)
def test_the_page_has_the_numbers_of_the_raw_runs(request, read_page, tmp_path, name) -> None:
    place, path = request.getfixturevalue(f"confirmed_{name}"), tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", name, "--storage", str(place.path / "dmr_runs"), "-o", str(path)])
    assert done.exit_code == 0, done.output
    page = read_page(path.read_text(encoding="utf-8"))
    names = [cell.text for cell in page.column("combinations", "combination")]
    modalities = names[-1].split("-")
    assert len(names) == 2 ** len(modalities) - 1

    values: dict[str, list[list[float]]] = {}
    for run in place.mlflow_runs(name, "confirm"):
        label = f"{run.data.tags['method']} {run.data.tags['config']}"
        values.setdefault(label, []).append([run.data.metrics[f"best/test/accuracy/{one}"] for one in names])
    arrays = {label: np.array(one) for label, one in values.items()}  # (S, C) each
    labels = [cell.text.removesuffix(", the reference") for cell in page.column("configurations", "configuration")]
    assert sorted(labels) == sorted(arrays)

    def shown(heading: str) -> dict[str, float]:
        return dict(zip(labels, page.values("configurations", heading), strict=True))

    for label, own in arrays.items():
        assert shown("mean")[label] == pytest.approx(own.mean())
        assert shown("worst")[label] == pytest.approx(own.min(1).mean())
        assert shown("full")[label] == pytest.approx(own[:, -1].mean())
        assert page.values("combinations", label) == pytest.approx(own.mean(0))
    splits = open_dataset(name, DATA[name], 0).splits
    empty = np.mean(splits["test"].targets() == np.bincount(splits["train"].targets()).argmax())
    for label, own in arrays.items():
        worth = {frozenset(one.split("-")): v for one, v in zip(names, own.mean(0), strict=True)} | {frozenset(): empty}
        for modality in modalities:
            before = [frozenset(order[: order.index(modality)]) for order in itertools.permutations(modalities)]
            share = np.mean([worth[some | {modality}] - worth[some] for some in before])
            assert shown(f"Shapley, {modality}")[label] == pytest.approx(share, abs=1e-6)
        if name == "digits":
            odds = {modality: ODDS.get(modality, 1.0) for modality in modalities}
            met = [math.prod(odds[m] if m in one.split("-") else 1 - odds[m] for m in modalities) for one in names]
            assert shown("expected")[label] == pytest.approx(own.mean(0) @ met / sum(met))

    search = {run.data.tags["trial"]: run.data for run in place.mlflow_runs(name)}
    best = max(search, key=lambda trial: search[trial].metrics["best/val/accuracy_mean"])
    (headline,) = [element.text for element in page.all("p") if element.attributes.get("class") == "headline"]
    (label,) = [one for one in labels if one.startswith(f"{search[best].tags['method']} best 1")]
    assert headline.startswith(f"{label} (trial {best}), the configuration that the search put first on val")
    assert f"a mean accuracy of {arrays[label].mean():.4f} (95 % interval " in headline
    assert f"{arrays[label].min(1).mean():.4f} in its worst combination" in headline
    trials = [cell.text for cell in page.column("trials", "trial")]
    means = [search[trial].metrics["best/val/accuracy_mean"] for trial in trials]
    assert page.values("trials", "accuracy_mean") == pytest.approx(means)
    assert means == sorted(means, reverse=True)
    samples = ", ".join(f"{len(split)} {one}" for one, split in splits.items())
    assert samples in page.all("main")[0].text
