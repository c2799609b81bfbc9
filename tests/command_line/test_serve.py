"""An exported model behind `mlflow models serve`, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from dmr.combinations import all_combinations
from dmr.data.digits import digits

STUDY = Path(__file__).parents[2] / "studies/digits.yaml"
SAMPLES = 3

pytestmark = pytest.mark.slow


class Served(NamedTuple):
    """A server's address, and what `dmr evaluate` says of the val samples: (N, C, L)."""

    address: str
    probabilities: np.ndarray[Any, Any]
    variance: np.ndarray[Any, Any]

    def ask(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def rows(self, **body: Any) -> pd.DataFrame:
        status, answer = self.ask(body)
        assert status == 200, answer
        return pd.DataFrame(answer["predictions"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_workplace: Any) -> Iterator[Served]:
    place = make_workplace(tmp_path_factory.mktemp("serve"))
    place.run("train", STUDY, "--set", "train.epochs=3")
    (run,) = place.mlflow_runs("digits", "train")
    place.run("evaluate", run.info.run_id, "--predictions", "p.npz")
    exported = place.run("export", "digits", "--run", run.info.run_id, "-o", "model", "--register", "robust")
    assert exported.stdout == "model\n"
    assert "models:/robust/1" in exported.stderr
    version = place.client.get_model_version("robust", "1")
    assert version.run_id == run.info.run_id
    assert {file.path for file in place.client.list_artifacts(run.info.run_id, "model")} >= {"model/MLmodel"}
    with np.load(place.path / "p.npz") as file:
        probabilities, variance = file["probabilities"].swapaxes(0, 1), file["variance"].T
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = ["models", "serve", "-m", "model", "--env-manager", "local", "--host", "127.0.0.1", "-p", str(port)]
    with open(place.path / "server.txt", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            cwd=place.path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, (place.path / "server.txt").read_text()
        try:
            return urllib.request.urlopen(f"{address}/ping", timeout=5).status == 200
        except OSError:
            return False

    try:
        place.wait_for(answers)
        yield Served(address, probabilities, variance)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def inputs() -> dict[str, list[list[float]]]:
    """The first val samples, by modality."""
    taken = digits().splits["val"].take(np.arange(SAMPLES))
    return {name: values.tolist() for name, values in taken.items()}


COMBINATIONS = all_combinations(digits().modality_names)


def check(found: pd.DataFrame, served: Served, samples: list[int], combinations: list[int]) -> None:
    assert list(found["combination"]) == [COMBINATIONS.names[c] for c in combinations]
    expected = served.probabilities[samples, combinations]
    np.testing.assert_allclose(np.array(found["probabilities"].tolist()), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["variance"], served.variance[samples, combinations], rtol=1e-5)
    assert list(found["predicted_class"]) == list(expected.argmax(1))


def test_every_combination_by_missing_columns_and_by_nulls(
    served: Served, inputs: dict[str, list[list[float]]]
) -> None:
    every = list(range(SAMPLES))
    for c, member in enumerate(COMBINATIONS.members):
        names = [COMBINATIONS.modalities[m] for m in member]
        data = [[inputs[name][n] for name in names] for n in every]
        found = served.rows(dataframe_split={"columns": names, "data": data})
        check(found, served, every, [c] * SAMPLES)
        records = [{name: x[n] if name in names else None for name, x in inputs.items()} for n in every]
        check(served.rows(dataframe_records=records), served, every, [c] * SAMPLES)


@pytest.mark.parametrize("form", ["dataframe_records", "inputs"])
def test_rows_of_one_request_differ(served: Served, inputs: dict[str, list[list[float]]], form: str) -> None:
    order = np.random.default_rng(0).permutation(15).tolist()
    samples = [n % SAMPLES for n in range(15)]
    rows = [
        {COMBINATIONS.modalities[m]: inputs[COMBINATIONS.modalities[m]][n] for m in COMBINATIONS.members[c]}
        for n, c in zip(samples, order, strict=True)
    ]
    check(served.rows(**{form: rows}), served, samples, order)


def test_whole_numbers_are_numbers(served: Served) -> None:
    whole = served.rows(dataframe_records=[{"top_left": [3] * 16}])
    assert whole.equals(served.rows(dataframe_records=[{"top_left": [3.0] * 16}]))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"top_left": None}], "row 0 has no modality; give at least one of top_left, top_right, bottom_left"),
        ([{}], "no row with a modality; give at least one of top_left"),
        ([{"left": [0.0] * 16}], "no row with a modality; give at least one of top_left"),
        ([{"top_left": [0.0] * 16}, {"top_right": [0.0] * 9}], "row 1, modality top_right: numbers of shape [16] are"),
        ([{"top_left": [float("nan")] * 16}], "row 0, modality top_left: NaN or infinity"),
    ],
)
def test_a_mistake_is_a_bad_request(served: Served, rows: list[dict[str, Any]], sentence: str) -> None:
    status, answer = served.ask({"dataframe_records": rows})
    assert status == 400
    assert sentence in answer["message"]
    assert "Traceback" not in json.dumps(answer)
