from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from dmr.studies.search.schedulers import RecordedEpoch, StudyScheduler, make_scheduler
from dmr.studies.trial_messages import TIME, VALUE

EPOCHS = 27
QUALITIES = [0.5, 0.9, 0.1, 0.6, 0.2, 0.7, 0.3, 0.8, 0.05, 0.55, 0.4, 0.95, 0.15, 0.65]
BEST, WORST = QUALITIES.index(max(QUALITIES)), QUALITIES.index(min(QUALITIES))


class Controller:
    """Tune's, as far as a scheduler asks it: other trials wait, so that a rule that may pause would."""

    def get_live_trials(self) -> list[Any]:
        return [SimpleNamespace(status=Trial.PENDING)]


class Decided(NamedTuple):
    epoch: RecordedEpoch
    decision: str


def curve(trial: int, epochs: int, mode: str) -> float:
    """A running best that rises to the trial's quality (`max`) or falls to 1 less it (`min`)."""
    value = QUALITIES[trial] * epochs / (epochs + 2)
    return value if mode == "max" else 1.0 - value


def tune_trial(number: int) -> SimpleNamespace:
    return SimpleNamespace(trial_id=f"other with each driver {number}", config={"number": number})


def result(epoch: RecordedEpoch) -> dict[str, Any]:
    return {TIME: epoch.epochs, VALUE: epoch.value, "payload": "..."}


def report(scheduler: StudyScheduler, epoch: RecordedEpoch) -> str:
    return scheduler.on_trial_result(Controller(), tune_trial(epoch.trial), result(epoch))


def study(scheduler: StudyScheduler, mode: str, concurrent: int = 3) -> Iterator[Decided]:
    """Every trial of `QUALITIES`, some at a time, an epoch each in turn, until it is stopped or done."""
    waiting = list(range(len(QUALITIES)))
    running: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < concurrent:
            scheduler.on_trial_add(Controller(), tune_trial(waiting[0]))
            running[waiting.pop(0)] = 0
        for trial in list(running):
            running[trial] += 1
            epoch = RecordedEpoch(trial, running[trial], curve(trial, running[trial], mode))
            decision = report(scheduler, epoch)
            assert decision in (TrialScheduler.CONTINUE, TrialScheduler.STOP)
            yield Decided(epoch, decision)
            if decision == TrialScheduler.STOP or running[trial] == EPOCHS:
                scheduler.on_trial_complete(Controller(), tune_trial(trial), result(epoch))
                del running[trial]


def lengths(decided: list[Decided]) -> dict[int, int]:
    """Epochs that each trial had."""
    return {epoch.trial: epoch.epochs for epoch, _ in decided}


def stopped(decided: list[Decided]) -> Mapping[int, int]:
    """Epochs of the trials that were stopped."""
    return {epoch.trial: epoch.epochs for epoch, decision in decided if decision == TrialScheduler.STOP}


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("name", ["asha", "median"])
def test_bad_trials_are_stopped_and_good_ones_kept(name: str, mode: str) -> None:
    decided = list(study(make_scheduler(name, mode, EPOCHS, 3, 3), mode))
    assert lengths(decided)[BEST] == EPOCHS
    assert lengths(decided)[WORST] == 3
    ended = stopped(decided)
    assert 3 < len(ended) < len(QUALITIES) - 1
    kept = [quality for trial, quality in enumerate(QUALITIES) if trial not in ended]
    assert sum(kept) / len(kept) > 0.1 + sum(QUALITIES[trial] for trial in ended) / len(ended)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_no_scheduler_stops_nothing(mode: str) -> None:
    decided = list(study(make_scheduler("none", mode, EPOCHS, 3, 3), mode))
    assert stopped(decided) == {}
    assert set(lengths(decided).values()) == {EPOCHS}


@pytest.mark.parametrize("grace", [1, 2, 8, 20])
@pytest.mark.parametrize("name", ["asha", "median"])
def test_nothing_is_stopped_before_its_grace_is_over(name: str, grace: int) -> None:
    ended = stopped(list(study(make_scheduler(name, "max", EPOCHS, grace, 3), "max")))
    assert min(ended.values()) == grace


@pytest.mark.parametrize("grace", [EPOCHS, EPOCHS + 10])
@pytest.mark.parametrize("name", ["asha", "median", "none"])
def test_a_grace_as_long_as_the_training_lets_all_trials_finish(name: str, grace: int) -> None:
    decided = list(study(make_scheduler(name, "max", EPOCHS, grace, 3), "max"))
    assert set(lengths(decided).values()) == {EPOCHS}


def test_a_larger_reduction_factor_stops_more() -> None:
    ended = [len(stopped(list(study(make_scheduler("asha", "max", EPOCHS, 3, factor), "max")))) for factor in (2, 6)]
    assert ended[0] < ended[1]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("name", ["asha", "median", "none"])
def test_a_restart_after_any_epoch_changes_no_decision(name: str, mode: str) -> None:
    uninterrupted = list(study(make_scheduler(name, mode, EPOCHS, 3, 3), mode))
    recorded = [decided.epoch for decided in uninterrupted]
    for cut in range(1, len(uninterrupted), 7):
        last = {decided.epoch.trial: decided for decided in uninterrupted[:cut]}
        ended = {trial for trial, (epoch, decision) in last.items() if epoch.epochs == EPOCHS or decision != "CONTINUE"}
        live = set(last) - ended | {uninterrupted[cut - 1].epoch.trial}  # what was last decided was not carried out
        restarted = make_scheduler(name, mode, EPOCHS, 3, 3)
        restarted.replay(recorded[:cut], live)
        for trial in sorted(live):
            assert report(restarted, last[trial].epoch) == last[trial].decision
        after = [Decided(epoch, report(restarted, epoch)) for epoch in recorded[cut:]]
        assert after == uninterrupted[cut:]


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_that_was_to_be_stopped_is_stopped_when_it_comes_back(name: str) -> None:
    uninterrupted = list(study(make_scheduler(name, "max", EPOCHS, 3, 3), "max"))
    cut = next(n for n, (_, decision) in enumerate(uninterrupted) if decision == TrialScheduler.STOP) + 1
    doomed = uninterrupted[cut - 1].epoch
    for epochs in (doomed.epochs, doomed.epochs + 1):  # the checkpoint may be one epoch ahead of the record
        restarted = make_scheduler(name, "max", EPOCHS, 3, 3)
        restarted.replay([decided.epoch for decided in uninterrupted[:cut]], {doomed.trial})
        assert report(restarted, doomed._replace(epochs=epochs)) == TrialScheduler.STOP


@pytest.mark.parametrize("name", ["asha", "median"])
def test_epochs_that_are_repeated_change_nothing(name: str) -> None:
    """A trial whose process died begins again at its last checkpoint, at worst at its first epoch."""
    plain, repeated = (make_scheduler(name, "max", EPOCHS, 3, 3) for _ in range(2))
    for epoch, decision in study(plain, "max"):
        assert report(repeated, epoch) == decision
        if decision == TrialScheduler.CONTINUE:
            earlier = RecordedEpoch(epoch.trial, max(1, epoch.epochs - 2), 0.0)
            assert report(repeated, earlier) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_that_went_on_where_the_rule_would_stop_it_goes_on(name: str) -> None:
    good = [RecordedEpoch(trial, epochs, 0.9) for trial in range(4) for epochs in range(1, 10)]
    late = [RecordedEpoch(4, epochs, 0.1 if epochs < 6 else 0.95) for epochs in range(1, 8)]
    restarted = make_scheduler(name, "max", EPOCHS, 3, 3)
    restarted.replay([*good, *late], {4})
    assert report(restarted, late[-1]) == TrialScheduler.CONTINUE
    assert report(restarted, RecordedEpoch(4, 8, 0.95)) == TrialScheduler.CONTINUE
    assert report(restarted, RecordedEpoch(5, 3, 0.1)) == TrialScheduler.STOP


@pytest.mark.parametrize("name", ["asha", "median", "none"])
def test_a_failed_trial_reports_without_a_value(name: str) -> None:
    scheduler = make_scheduler(name, "max", EPOCHS, 1, 3)
    scheduler.replay([RecordedEpoch(0, 1, 0.5)], {0})
    assert scheduler.on_trial_result(Controller(), tune_trial(0), {"payload": "..."}) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("name", ["asha", "median"])
def test_blocks_never_stop_each_other(name: str) -> None:
    """The trials of a bad block are compared with each other; a replay keeps them apart too."""
    good = [RecordedEpoch(trial, epochs, 0.9, "good") for trial in range(6) for epochs in range(1, 10)]
    bad = [RecordedEpoch(trial, epochs, 0.1, "bad") for trial in range(6, 9) for epochs in range(1, 10)]
    scheduler = make_scheduler(name, "max", EPOCHS, 3, 3)
    scheduler.replay([*good, *bad], set())

    def decide(number: int, value: float, block: str) -> str:
        trial = SimpleNamespace(trial_id=str(number), config={"number": number, "block": block})
        return scheduler.on_trial_result(Controller(), trial, {TIME: 3, VALUE: value})

    assert decide(10, 0.1, "bad") == TrialScheduler.CONTINUE
    assert decide(11, 0.1, "good") == TrialScheduler.STOP
    assert decide(12, 0.05, "bad") == TrialScheduler.STOP
