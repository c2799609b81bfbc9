"""From a release of each public data set to the shipped study: prepare, check, and a dry run, or a heatmap."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STUDIES = Path(__file__).parents[2] / "studies"
SMALL = {"train.epochs": 2, "resources": "{cpus: 1, gpus: 0}", "scheduler.name": "none", "confirm": "null"}
IMAGES, MAPS = "{name: cnn, width: 8}", "{name: pyramid, width: 4}"
CASES = {
    "crema_d": ("crema_d", {"model.encoder": IMAGES}, "accuracy"),
    "kinetics_sounds": ("kinetics_sounds", {"model.encoder": IMAGES}, "accuracy"),
    "casia_surf": ("casia_surf", {"model.encoder": IMAGES}, "accuracy"),
    "nyuv2": ("nyuv2", {"model.encoder": MAPS, "augment.crop": "[16, 24]"}, "miou"),
    "utd_mhad": ("utd_mhad", {"model.encoder.width": 8}, "accuracy"),
    "hydraulic": ("hydraulic", {}, "accuracy"),
}
RUN = {"crema_d", "nyuv2"}
LONG = {"crema_d", "casia_surf"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "release", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in CASES]
)
def test_from_a_release_to_a_heatmap(
    release: str, tmp_path: Path, make_workplace: Any, write_release: Callable[[str, Path], Path]
) -> None:
    name, changes, metric = CASES[release]
    place = make_workplace(tmp_path)
    write_release(release, tmp_path / "release")
    place.run("data", "prepare", name, "--source", "release", "--out", f"data/{name}")
    report = json.loads(place.run("data", "check", f"data/{name}", "--format", "json").stdout)
    assert report["errors"] == []
    overrides = [text for key, value in {**SMALL, **changes}.items() for text in ("--set", f"{key}={value}")]
    if release not in RUN:
        place.run("run", STUDIES / f"{name}.yaml", "--dry-run", *overrides)
        return
    place.run("run", STUDIES / f"{name}.yaml", "--trials", "2", *overrides)
    assert (tmp_path / f"dmr_runs/{name}/heatmap.png").read_bytes().startswith(b"\x89PNG")
    runs = place.mlflow_runs(name)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert all(0.0 <= run.data.metrics[f"best/val/{metric}_mean"] <= 1.0 for run in runs)
