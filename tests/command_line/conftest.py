"""What the tests of the command line share: a working directory with data and a study file, and the real `dmr`."""

from __future__ import annotations

import copy
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from typer.testing import CliRunner

from dmr.studies.cli.entry_point import app
from dmr.studies.storage.optuna_storage import open_log
from dmr.studies.storage.study_folder import StudyFolder

HERE = Path(__file__).parent
DMR = Path(sys.executable).with_name("dmr")
MODALITIES = ("ecg", "motion", "skin")
STUDY: dict[str, Any] = {
    "name": "small",
    "dataset": {"name": "arrays", "path": "sensors"},
    "model": {"method": "dmrnet", "encoder": {"name": "mlp", "width": 8}, "warmup_epochs": 1},
    "train": {"epochs": 4, "batch_size": 32, "learning_rate": 0.01},
    "search": {
        "model.prior_std": {"log_uniform": [0.1, 3.0]},
        "model.kl_weight": {"log_uniform": [1e-5, 1e-1]},
        "sampling.strategy": {"choice": ["uniform", "bernoulli"]},
        "sampling.keep_prob": {"uniform": [0.3, 0.9], "when": {"sampling.strategy": "bernoulli"}},
    },
    "scheduler": {"name": "none"},
    "budget": {"trials": 4},
    "tracking": {"report": False},  # costs seconds per study
}


def write_arrays(folder: Path, samples: int = 120, classes: int = 3) -> Path:
    """Three vector modalities; `ecg` tells the classes best, `skin` hardly."""
    draw = np.random.default_rng(7)
    widths = {"ecg": (6, 2.0), "motion": (4, 1.0), "skin": (3, 0.2)}
    centres = {name: signal * draw.standard_normal((classes, width)) for name, (width, signal) in widths.items()}
    for split, count in (("train", samples), ("val", samples // 2), ("test", samples // 3)):
        (folder / split).mkdir(parents=True)
        labels = np.arange(count, dtype=np.int64) % classes
        np.save(folder / split / "label.npy", labels)
        for name, (width, _) in widths.items():
            values = centres[name][labels] + draw.standard_normal((count, width))
            np.save(folder / split / f"{name}.npy", values.astype(np.float32))
    description = {
        "task": "classification",
        "num_classes": classes,
        "class_names": [f"c{n}" for n in range(classes)],
        "modalities": [{"name": name, "kind": "vector", "shape": [width]} for name, (width, _) in widths.items()],
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    return folder


@dataclass
class Workplace:
    """A directory in which a user works."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[Any, ...] = (DMR,)
    said: str = ""
    left_by_ray: list[str] = field(default_factory=list)
    tracking_uri: str | None = None
    optuna_url: str | None = None
    storage_url: str | None = None  # where its studies lie in object storage

    def write(self, name: str = "small", **changes: Any) -> Path:
        """A study file: the small study, with dotted keys as `train__epochs=2` replaced."""
        document = copy.deepcopy(STUDY) | {"name": name}
        for key, value in changes.items():
            *path, last = key.split("__")
            section = document
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        file = self.path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        return file

    def start(self, *arguments: Any) -> subprocess.Popen[str]:
        """The command in a process group of its own."""
        return subprocess.Popen(
            [str(part) for part in (*self.command, *arguments)],
            cwd=self.path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def dmr(self, *arguments: Any, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def with_faulty_method(self) -> Workplace:
        """`dmr` with the method of faulty.py; the study file then has `model: {method: faulty, ...}`."""
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment |= {"PYTHONPATH": os.pathsep.join(paths), "FAULTY_HOME": str(self.path)}
        self.command = (sys.executable, "-c", "import faulty; from dmr.studies.cli.entry_point import main; main()")
        return self

    def run(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        """A command that has to succeed."""
        done = self.dmr(*arguments)
        assert done.returncode == 0, f"{done.args}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracking_uri or f"sqlite:///{self.path / 'mlflow.db'}")

    @staticmethod
    def wait_for(condition: Callable[[], object], seconds: float = 400.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"waited {seconds} s in vain"
            time.sleep(0.1)

    def write_slow(self, name: str = "small", **changes: Any) -> Path:
        """A study whose trials take about 3 s in 8 epochs and nearly no computing."""
        small = {
            "model": {"method": "faulty", "encoder": {"name": "mlp", "width": 4}, "slow": 0.4},
            "search": {
                "train.learning_rate": {"log_uniform": [1e-3, 1e-1]},
                "sampling.keep_prob": {"uniform": [0.3, 0.9]},
            },
            "scheduler": {"name": "none"},
            "train__epochs": 8,
        }
        return self.with_faulty_method().write(name, **(small | changes))

    def states(self) -> list[TrialState]:
        """Of Optuna's trials; a database that is not there yet has none."""
        made = (
            self.optuna_url is not None
            or self.storage_url is not None
            or (self.path / "dmr_runs/small/optuna.db").exists()
        )
        return [trial.state for trial in self.optuna_trials()] if made else []

    def epochs_of_running(self) -> int:
        """Epochs that trials which run now have reported."""
        if not self.states():
            return 0
        running = {f"search/{trial.number}" for trial in self.optuna_trials() if not trial.state.is_finished()}
        journal = self.path / "dmr_runs/small/journal.jsonl"
        if self.storage_url is not None:
            journal = StudyFolder.open(self.storage_url, "small").journal
        lines = journal.read_text().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return sum(record["op"] == "metrics" and record["key"] in running for record in records)

    def kill_at_drawn_moments(self, times: int, kill: Callable[[subprocess.Popen[str]], None]) -> subprocess.Popen[str]:
        """Run the study of small.yaml and so often, while a trial runs, kill it and go on; returns the last driver."""
        seed = random.SystemRandom().randrange(10**6)
        print(f"moments of the kills are drawn with seed {seed}")  # noqa: T201  # shown where the test fails
        draw = random.Random(seed)
        driver = self.start("run", "small.yaml")
        for _ in range(times):
            before = self.states().count(TrialState.COMPLETE)
            self.wait_for(
                lambda before=before: self.epochs_of_running() or self.states().count(TrialState.COMPLETE) > before
            )
            time.sleep(draw.uniform(0.0, 3.0))
            self.wait_for(lambda: TrialState.RUNNING in self.states())
            kill(driver)
            assert TrialState.RUNNING in self.states()
            driver = self.start("resume", "small")
        return driver

    def assert_exact(
        self,
        trials: int,
        epochs: int | None,
        name: str = "small",
        no_longer: tuple[str, ...] = (),
        not_before: tuple[str, ...] = (),
    ) -> None:
        """The budget, each trial once in Optuna and MLflow, each epoch from 0 once. Metrics whose names begin with one
        of `no_longer` are those that an earlier version logged of every epoch, with one of `not_before` those that it
        did not log: each step once.
        """
        found = self.optuna_trials(name)
        assert len(found) == trials
        assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
        assert len({tuple(sorted(trial.params.items())) for trial in found}) == trials
        runs = self.mlflow_runs(name)
        assert [int(run.data.tags["trial"]) for run in runs] == list(range(trials))
        assert {run.info.status for run in [*runs, *self.mlflow_runs(name, "study")]} == {"FINISHED"}
        models = self.client.search_logged_models([runs[0].info.experiment_id], f"tags.study = '{name}'")
        winners = [model.tags["run"] for model in models if model.name == f"{name}-winner"]
        assert len(set(winners)) == len(winners)
        own = [model for model in models if model.name != f"{name}-winner" and model.tags["stage"] == "search"]
        stubs = {model.source_run_id: model.tags for model in own}
        assert len(own) == len(stubs) == trials
        for trial, run in zip(found, runs, strict=True):
            assert stubs[run.info.run_id]["trial"] == run.data.tags["trial"]
            assert [i.tags[0].value for i in run.inputs.dataset_inputs] == ["train", "val"]
            expected = list(range(trial.user_attrs["epochs"] if epochs is None else epochs))
            every, last = int(run.data.params.get("train.evaluate_every", 1)), int(run.data.params["train.epochs"]) - 1
            evaluated = [epoch for epoch in expected if epoch % every == 0 or epoch == last]
            for metric, points in self.history(run).items():
                if metric.startswith("best/"):
                    assert len(points) == 1, f"trial {trial.number}: {metric}"
                else:
                    there = evaluated if metric.startswith("val/") else expected
                    if metric.startswith(no_longer):
                        there = there[: len(points)]
                    if metric.startswith(not_before):
                        there = there[len(there) - len(points) :]
                    assert [step for step, _ in points] == there, f"trial {trial.number}: {metric}"
            assert sorted(trial.intermediate_values) == (expected if len(trial.values) == 1 else [])
            assert trial.values[0] == run.data.metrics["best/val/accuracy_mean"]

    def mlflow_runs(self, study: str = "small", stage: str = "search") -> list[Run]:
        """The runs of a stage, by trial."""
        client = self.client
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(ids, f"tags.study = '{study}' and tags.stage = '{stage}'", max_results=1000)
        return sorted(runs, key=lambda run: int(run.data.tags.get("trial", -1)))

    def history(self, run: Run) -> dict[str, list[tuple[int, float]]]:
        """Every metric of a run: step and value of each point, by step."""
        client = self.client
        return {
            name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }

    def optuna_trials(self, study: str = "small", storage: str = "dmr_runs") -> list[optuna.trial.FrozenTrial]:
        if self.storage_url is not None and self.optuna_url is None:
            storage = open_log(StudyFolder.open(self.storage_url, study).journal)
            try:
                return optuna.load_study(study_name=study, storage=storage).get_trials()
            except KeyError:
                return []
        url = self.optuna_url or f"sqlite:///{self.path / storage / study / 'optuna.db'}"
        storage = optuna.storages.RDBStorage(url)
        try:
            return optuna.load_study(study_name=study, storage=storage).get_trials()
        except KeyError:
            return []
        finally:
            storage.engine.dispose()  # a server has so many connections and no more


@pytest.fixture(scope="session")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("data") / "sensors")


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store that nobody has used: to make one takes seconds, and `test_stores` does it."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


def _open_workplace(path: Path, sensors: Path, mlflow_store: Path) -> Workplace:
    (path / "sensors").symlink_to(sensors)
    shutil.copy(mlflow_store, path)
    return Workplace(path, {"XDG_CACHE_HOME": str(path.parent / "cache")})


@pytest.fixture
def workplace(tmp_path: Path, sensors: Path, mlflow_store: Path) -> Workplace:
    return _open_workplace(tmp_path, sensors, mlflow_store)


@pytest.fixture
def bucket_place(workplace: Workplace, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace whose studies lie in a bucket; the test reads them by a cache of its own."""
    workplace.storage_url = f"s3://{s3.bucket}/runs"
    workplace.environment |= s3.environment | {"DMR_STORAGE": workplace.storage_url, "DMR_CACHE": str(tmp_path / "c")}
    monkeypatch.setenv("DMR_CACHE", str(tmp_path / "of the test"))
    return workplace


@pytest.fixture(scope="module")
def finished(make_workplace: Callable[[Path], Workplace], tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace in which the small study has run, with a home that cannot be written; `said` is what people saw."""
    place = make_workplace(tmp_path_factory.mktemp("finished"))
    place.write(tracking__report=True)
    before = place.environment
    with tempfile.TemporaryDirectory(prefix="dmr %41", dir="/tmp") as folder:
        place.environment = before | {"HOME": "/dev/null/home", "RAY_TMPDIR": folder}
        place.said = place.run("run", "small.yaml").stderr
        place.left_by_ray = os.listdir(f"{folder}/ray")
    place.environment = before
    return place


@pytest.fixture(scope="session")
def make_workplace(sensors: Path, mlflow_store: Path) -> Callable[[Path], Workplace]:
    return partial(_open_workplace, sensors=sensors, mlflow_store=mlflow_store)


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace with commands in this process, which costs no imports."""
    monkeypatch.chdir(workplace.path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    workplace.dmr = lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
    return workplace


@pytest.fixture(scope="session")
def ray_nodes() -> Any:
    """Start and end Ray nodes: see ray_nodes.py."""
    return SimpleNamespace(**runpy.run_path(str(HERE / "ray_nodes.py")))


@pytest.fixture
def make_arrays() -> Callable[..., Path]:
    return write_arrays


def _confirmed(path: Path, document: dict[str, Any]) -> Workplace:
    place = Workplace(path, {"XDG_CACHE_HOME": str(path / "cache")})
    (path / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    place.run("run", "study.yaml")
    return place


def _tiny(name: str, dataset: dict[str, Any], methods: list[str], **keys: Any) -> dict[str, Any]:
    """A study with a block per method, two trials each, and all confirmed with three seeds."""
    rate = {"train.learning_rate": {"log_uniform": [1e-3, 3e-2]}}
    return {
        "name": name,
        "dataset": dataset,
        "model": {"method": methods[0], "encoder": {"name": "mlp", "width": 8}},
        "train": {"epochs": 3, "batch_size": 128},
        "search": [{"name": method, "model.method": method, **rate} for method in methods],
        "scheduler": {"name": "none"},
        "budget": {"trials": 2 * len(methods)},
        "confirm": {"top": 1, "seeds": 3},
        **keys,
    }


@pytest.fixture(scope="session")
def confirmed_digits(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace with the confirmed study `digits`: dmrnet and dropout, and odds of deployment."""
    odds = {"top_left": 0.9, "bottom_right": 0.5}
    document = _tiny("digits", {"name": "digits"}, ["dmrnet", "dropout"], deployment=odds)
    return _confirmed(tmp_path_factory.mktemp("confirmed_digits"), document)


@pytest.fixture(scope="session")
def confirmed_planted(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace with the confirmed study `planted`: dropout and dedicated."""
    document = _tiny("planted", {"name": "planted", "train": 600, "val": 200, "test": 300}, ["dropout", "dedicated"])
    return _confirmed(tmp_path_factory.mktemp("confirmed_planted"), document)
