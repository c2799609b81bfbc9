"""Files of people's own that have our names, and an installed wheel far from any clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.utils import find_free_port

from dmr.studies.study_file.ready_studies import ready_studies

ROOT = Path(__file__).parents[2]
SOURCES = ("dmr", "studies", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
PLOTS = "def drawn():\n    return 'mine'\n"
METHOD = """
from dataclasses import dataclass

from analysis.plots import drawn
from analysis.results import mine
from dmr.methods.dropout import Dropout, DropoutSettings
from studies.schema import own

assert (drawn(), mine, own) == ("mine", 1, 2)


@dataclass(frozen=True)
class MineSettings(DropoutSettings):
    pass


class Mine(Dropout):
    Settings = MineSettings
"""


@pytest.fixture(scope="session")
def wheel_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dmr` of a wheel, in an environment that has everything else from the one the tests run in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    made = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", folder, source], capture_output=True, text=True, timeout=240
    )
    if made.returncode != 0 and "setuptools" in made.stderr:
        pytest.skip("setuptools cannot be had to build a wheel")
    assert made.returncode == 0, made.stderr
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True, timeout=240)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.rmtree(source)
    return python.with_name("dmr")


@pytest.fixture(params=[pytest.param("editable", marks=pytest.mark.long), "wheel"])
def place(request: pytest.FixtureRequest, workplace: Any) -> Any:
    if request.param == "wheel":
        workplace.command = (request.getfixturevalue("wheel_command"),)
    workplace.environment["PYTHONPATH"] = ""
    return workplace


def write_own_files(folder: Path) -> None:
    """Everything at once that people may have under names of ours."""
    files = {
        "analysis/__init__.py": "",
        "analysis/results.py": "mine = 1\n",
        "analysis/plots.py": PLOTS,
        "studies/__init__.py": "",
        "studies/schema.py": "own = 2\n",
        "mine.py": METHOD,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def write_study_of_own_method(place: Any, **changes: Any) -> None:
    place.write(
        model={"method": "mine:Mine", "encoder": {"name": "mlp", "width": 4}},
        search={"train.learning_rate": {"log_uniform": [1e-3, 1e-1]}},
        train__epochs=2,
        budget={"trials": 2},
        **changes,
    )


@contextmanager
def cluster_of(place: Any, ray_nodes: Any) -> Iterator[None]:
    """A node that runs the Python of the place's `dmr`; the place then submits to it."""
    commands = place.command[0].parent
    with ray_nodes.short_home() as home:
        environment = ray_nodes.environment_of_nodes(home, commands, "")
        port, api = find_free_port(), find_free_port()
        options = (f"--port={port}", f"--dashboard-port={api}", "--num-cpus=2")
        head, _ = ray_nodes.start_head(home, "head", environment, *options, python=commands / "python")
        try:
            place.environment |= environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{api}"}
            yield
        finally:
            ray_nodes.end(head)


def submit(place: Any, *command: Any) -> subprocess.CompletedProcess[str]:
    place.command = (Path(sys.executable).with_name("ray"),)
    variables = json.dumps({"env_vars": {"MLFLOW_TRACKING_URI": f"sqlite:///{place.path}/mlflow.db"}})
    options = ("--working-dir", ".", "--runtime-env-json", variables)
    done: subprocess.CompletedProcess[str] = place.dmr("job", "submit", *options, "--", *command)
    return done


@pytest.mark.slow
def test_own_packages_named_like_ours_are_imported_and_hide_nothing(place: Any) -> None:
    write_own_files(place.path)
    write_study_of_own_method(place)
    said = place.run("run", "small.yaml").stderr
    assert "small is complete: 2 trials" in said
    assert Path(place.run("heatmap", "small").stdout.strip()).stat().st_size > 0
    assert "<html" in Path(place.run("report", "small").stdout.strip()).read_text(encoding="utf-8")


@pytest.mark.cluster
def test_own_packages_named_like_ours_work_in_a_submitted_job(place: Any, ray_nodes: Any) -> None:
    write_own_files(place.path)
    write_study_of_own_method(place, dataset__path=str((place.path / "sensors").resolve()))
    (place.path / "sensors").unlink()
    with cluster_of(place, ray_nodes):
        done = submit(place, "dmr", "run", "small.yaml", "--storage", place.path / "shared")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "study small is complete: 2 trials" in ray_nodes.said_by_job(done.stdout)
        (place.path / "dmr.py").write_text("raise SystemExit('imported')\n")
        done = submit(place, "dmr", "list")
        assert done.returncode == 1, done.stdout
        said = ray_nodes.said_by_job(done.stdout)
        assert re.fullmatch(r"\S+/dmr\.py: hides the package dmr; rename it", said[0]), said
        assert "failed with exit code 2" in done.stdout
        assert "Traceback" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dmr.py", "dmr/__init__.py"])
def test_another_dmr_in_the_working_directory_is_one_line(place: Any, name: str) -> None:
    (place.path / name).parent.mkdir(exist_ok=True)
    (place.path / name).write_text("")
    place.write()
    for command in (["run", "small.yaml"], ["list"], ["studies"]):
        done = place.dmr(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"{place.path / name}: hides the package dmr from the processes that train; rename it\n"
    assert not (place.path / "dmr_runs").exists()


@pytest.mark.slow
def test_a_plain_folder_named_dmr_hides_an_editable_install_and_no_wheel(
    place: Any, request: pytest.FixtureRequest
) -> None:
    (place.path / "dmr").mkdir()
    done = place.dmr("studies")
    if request.node.name.endswith("[wheel]"):
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert done.stderr == f"{place.path / 'dmr'}: hides the package dmr from the processes that train; rename it\n"


@pytest.mark.slow
def test_a_wheel_works_far_from_any_clone(workplace: Any, wheel_command: Path) -> None:
    workplace.command = (wheel_command,)
    workplace.environment["PYTHONPATH"] = ""
    listed = workplace.run("studies").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(ready_studies())
    workplace.run("run", "digits", "--trials", "2", "--set", "train.epochs=2", "--set", "scheduler.name=none")
    assert (workplace.path / "dmr_runs/digits/report.html").exists()
    assert Path(workplace.run("report", "digits").stdout.strip()).exists()
    workplace.run("export", "digits", "-o", "model")
    assert (workplace.path / "model/MLmodel").exists()
    assert str(ROOT) not in (workplace.path / "dmr_runs/digits/log.txt").read_text(encoding="utf-8")
    python = [wheel_command.with_name("python"), "-c", "import dmr; print(dmr.__file__)"]
    where = subprocess.run(python, cwd=workplace.path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True)
    assert str(ROOT) not in where.stdout.decode()
