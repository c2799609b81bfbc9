"""The hooks of Ray Tune, without Ray: how a death is understood, and how many trials there may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from dmr.studies.driver import tune_hooks as engine
from dmr.studies.driver.tune_hooks import TrialSource, TuneCallback
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.trial_files import HUNG
from dmr.studies.trial_outcomes import TrialOutcome

PROCESS = """The actor died unexpectedly before finishing this task.
\tclass_name: ImplicitFunc
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"""
NODE = """The actor died unexpectedly before finishing this task.
\tclass_name: ImplicitFunc
The actor died because its node has died. Node Id: 1c4df0
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"""
MEMORY = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2) was 7.05GB
OOM kill reason: Memory usage 7483969536B exceeded threshold of 505530016B"""


class FakeStage:
    """A stage with endless trials."""

    stage = "search"
    error = None

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.live: dict[int, Any] = {}
        self.ended: list[TrialOutcome] = []

    @contextmanager
    def guarded(self) -> Iterator[None]:
        yield

    def begin(self) -> Any:
        number = len(self.live)
        self.live[number] = SimpleNamespace(number=number, settings=None, block=None, start=None)
        return self.live[number]

    def finish(self, number: int, ending: TrialOutcome) -> None:
        self.ended.append(ending)


@pytest.fixture
def stage(tmp_path: Path) -> FakeStage:
    return FakeStage(StudyFolder(tmp_path, "s"))


def outcome_after(stage: FakeStage, *deaths: str) -> TrialOutcome:
    """Tune keeps the deaths of a trial's process in one file."""
    file = stage.folder.path.parent / "error.txt"
    file.write_text("".join(f"Failure # {n} (occurred at 12:00)\n{text}\n" for n, text in enumerate(deaths, start=1)))
    callback = TuneCallback(stage, SimpleNamespace(trial_ended=lambda: None))  # type: ignore[arg-type]
    callback.on_trial_error(0, [], SimpleNamespace(config={"number": 0}, error_file=str(file)))
    return stage.ended[-1]


@pytest.mark.parametrize(
    ("deaths", "reason", "message"),
    [
        ([MEMORY, PROCESS], "lost", "its process died"),
        ([PROCESS, NODE], "lost", "its node died"),
        ([PROCESS, MEMORY], "out_of_memory", "Ray killed its process when the node ran out of memory"),
    ],
)
def test_the_last_death_says_how_a_trial_ended(stage: FakeStage, deaths: list[str], reason: str, message: str) -> None:
    ending = outcome_after(stage, *deaths)
    assert (ending.reason, ending.message) == (reason, message)
    assert ending.details.strip() == deaths[-1]


def test_a_hung_epoch_left_its_traceback_in_the_trials_folder(stage: FakeStage) -> None:
    place = stage.folder.run("search", 0)
    place.mkdir(parents=True)
    (place / HUNG).write_text("")  # it was watched, and died of something else
    assert outcome_after(stage, PROCESS).message == "its process died"
    for file in (
        place / HUNG,
        place / f"rank1-{HUNG}",
    ):  # the watch of another rank may be the first to end its process
        file.write_text("Timeout (0:01:00)!")
        assert outcome_after(stage, PROCESS) == TrialOutcome(
            "lost", "an epoch took longer than train.epoch_minutes", "Timeout (0:01:00)!"
        )
        file.write_text("")


def test_a_study_that_stops_ends_while_it_waits_for_nodes(stage: FakeStage) -> None:
    stopped = [False]
    source = TrialSource(stage, lambda: 0, lambda: stopped[0])  # type: ignore[arg-type]
    assert source.suggest("") is None
    stopped[0] = True
    assert source.suggest("") == Searcher.FINISHED


def test_trials_follow_the_nodes_that_come_and_go(stage: FakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [2]
    clock = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    source = TrialSource(stage, lambda: nodes[0], lambda: False)  # type: ignore[arg-type]

    def fill() -> int:
        while source.suggest("") is not None:
            pass
        return len(stage.live)

    assert fill() == 2
    nodes[0] = 3
    assert fill() == 2, "the cluster is asked at every step"
    clock[0] += engine.SECONDS_BETWEEN_LOOKS + 1
    assert fill() == 3
    nodes[0] = 1
    del stage.live[0]
    clock[0] += engine.SECONDS_BETWEEN_LOOKS + 1
    assert fill() == 2, "a trial was begun that no node has room for"
