"""What the tests of `analysis` share: studies in a real MLflow store, written as `studies` writes them (design.md)."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from dmr.combinations import all_combinations

MODALITIES = ("rgb", "depth", "ir")
EXTRA_METRICS = ("macro_f1", "nll")  # of each combination, in the artifact only
SUMMARIES = {"mean": lambda values: sum(values) / len(values), "worst": min, "full": lambda values: values[-1]}


@dataclass
class Store:
    """A store that many tests write to, each in an experiment of its own."""

    uri: str
    client: MlflowClient
    folder: Path
    number: Any = field(default_factory=itertools.count)

    def experiment(self) -> str:
        name = f"experiment-{next(self.number)}"
        self.client.create_experiment(name, artifact_location=(self.folder / name).as_uri())
        return name


class Study:
    """A study in the store, whose trials a test writes."""

    def __init__(
        self,
        store: Store,
        experiment: str,
        modalities: Sequence[str] = MODALITIES,
        objectives: Sequence[tuple[str, str]] = (("val/accuracy_mean", "max"),),
        searched: Sequence[str] = (),
        name: str = "digits",
        tags: Mapping[str, str] | None = None,
        start: int = 1_000,
    ) -> None:
        self.store, self.uri, self.client, self.name, self.experiment = store, store.uri, store.client, name, experiment
        self.experiment_id = self.client.get_experiment_by_name(experiment).experiment_id
        self.combinations = all_combinations(modalities)
        self.parent = self.client.create_run(
            self.experiment_id,
            start_time=start,
            run_name=name,
            tags={
                "study": name,
                "stage": "study",
                "modalities": json.dumps(self.combinations.modalities),
                "objectives": json.dumps([{"metric": metric, "mode": mode} for metric, mode in objectives]),
                "searched": json.dumps(list(searched)),
                "dataset": "digits",
                "main_metric": "accuracy",
                "combinations": f"all {len(self.combinations)}",
            }
            | dict(tags or {}),
        ).info.run_id

    def trial(
        self,
        number: int,
        values: Sequence[float] | None = None,
        *,
        status: str = "FINISHED",
        stop_reason: str | None = "completed",
        params: Mapping[str, Any] | None = None,
        extra: Mapping[str, float] | None = None,
        stage: str = "search",
        seed: int = 0,
        artifact: bool = True,
    ) -> str:
        """A trial's run, with its accuracy of each combination, or None for a trial without a finished epoch."""
        tags = {"study": self.name, "stage": stage, "method": "dmrnet", "seed": str(seed), "trial": str(number)}
        run_id: str = self.client.create_run(
            self.experiment_id, tags=tags | {"mlflow.parentRunId": self.parent}, run_name=f"{self.name}-{number:04d}"
        ).info.run_id
        metrics = {"train/loss": 0.5, "val/accuracy_mean": 0.25}
        if values is not None:
            metrics |= {"best/epoch": 3.0, "best/train/loss": 0.5}
            metrics |= {f"best/val/accuracy_{name}": float(summary(values)) for name, summary in SUMMARIES.items()}
            names = list(zip(self.combinations.names, values, strict=True))
            metrics |= {f"best/val/accuracy/{name}": value for name, value in reversed(names)}
        metrics |= dict(extra or {})
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, value, 0, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in (params or {}).items()],
            tags=[RunTag("stop_reason", stop_reason)] if stop_reason else [],
        )
        if values is not None and artifact:
            self._artifact(run_id, values)
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id

    def _artifact(self, run_id: str, values: Sequence[float]) -> None:
        path = self.store.folder / "combinations.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("split", "metric", "combination", "value"))
            for metric in ("accuracy", *EXTRA_METRICS):
                for name, value in zip(self.combinations.names, values, strict=True):
                    writer.writerow(("val", metric, name, repr(value if metric == "accuracy" else value / 2)))
        self.client.log_artifact(run_id, str(path))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return Store(uri, MlflowClient(uri), folder)


@pytest.fixture(scope="session")
def new_study(store: Store) -> Callable[..., Study]:
    """`new_study(modalities=..., objectives=..., ...)`: a study in an experiment of its own."""

    def new(**settings: Any) -> Study:
        return Study(store, settings.pop("experiment", None) or store.experiment(), **settings)

    return new


@pytest.fixture
def check_texts() -> Callable[[Figure], list[Text]]:
    """`check_texts(figure)`: the texts that it really draws; none leaves the figure or covers another."""

    def check(figure: Figure) -> list[Text]:
        texts = _drawn_texts(figure)
        boxes = np.array([text.get_window_extent().extents for text in texts])  # (T, 4) left, bottom, right, top
        size = figure.get_size_inches() * figure.dpi
        outside = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > size).any(axis=1)
        assert [text.get_text() for text, out in zip(texts, outside, strict=True) if out] == []
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        overlaps = np.argwhere(np.triu(np.all(high - low > 0.5, axis=-1), k=1))
        assert [(texts[first].get_text(), texts[second].get_text()) for first, second in overlaps] == []
        return texts

    return check


def _drawn_texts(figure: Figure) -> list[Text]:
    """Tick labels beyond the axes are not among them."""
    texts: list[Text] = []
    draw = Text.draw

    def record(text: Text, *args: Any, **kwargs: Any) -> None:
        texts.append(text)
        draw(text, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.savefig(io.BytesIO(), dpi=figure.dpi)
    return [text for text in dict.fromkeys(texts) if text.get_visible() and text.get_text().strip()]
