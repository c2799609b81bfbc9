"""A run is the same again: with the same seed, after a stop, and wherever its data lies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmr.data.batches
import dmr.training
from dmr.data.arrays import arrays
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.methods import METHODS, MethodSettings
from dmr.methods.dmrnet import DMRNetSettings
from dmr.settings import SamplingSettings
from dmr.training import OPTIMIZERS, EpochReport, RunSettings, fit

CPU = torch.device("cpu")
MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
Identical = Callable[[Any, Any], None]
TwoSeeds = Callable[[Callable[[], Any]], tuple[Any, Any]]

HARDNESS = SamplingSettings("hardness", combinations_per_sample=2, temperature=0.5)
DMRNET = DMRNetSettings(warmup_epochs=1, remine_every=2, draws=2, hard_weight=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_run(
    method: str,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    early: Callable[..., MethodSettings],
    memory_reporter: Any,
    under_two_global_seeds: TwoSeeds,
    assert_identical: Identical,
) -> None:
    dataset = make_dataset(3)
    settings = make_settings(dataset, early(METHODS[method]), HARDNESS, dropout=0.2, epochs=4)

    def run() -> Any:
        before = torch.get_rng_state()
        reporter = memory_reporter()
        fit(dataset, settings, CPU, reporter)
        assert torch.equal(torch.get_rng_state(), before)
        return reporter

    one, other = under_two_global_seeds(run)
    assert one.reports == other.reports
    assert_identical(one.states, other.states)


def test_another_seed_gives_another_run(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset()
    losses = {
        fit(dataset, make_settings(dataset, seed=seed), CPU, memory_reporter()).metrics["train/loss"]
        for seed in range(3)
    }
    assert len(losses) == 3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_a_stopped_run_goes_on_to_the_last_bit(
    stop_after: int,
    optimizer: str,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    stopped_here: type[Exception],
    assert_identical: Identical,
) -> None:
    dataset = make_dataset(3, train=20, signal=0.5)
    settings = make_settings(
        dataset, DMRNET, HARDNESS, dropout=0.3, epochs=5, optimizer=optimizer, schedule="cosine", clip_norm=1.0
    )
    whole = memory_reporter()
    last = fit(dataset, settings, CPU, whole)
    assert [report.epoch for report in whole.reports] == [0, 1, 2, 3, 4]

    first = memory_reporter(stop_after=stop_after)
    with pytest.raises(stopped_here, match="after epoch"):
        fit(dataset, settings, CPU, first)
    torch.manual_seed(999)
    second = memory_reporter(start=first.states[-1])
    assert fit(dataset, settings, CPU, second) == last
    assert_identical(first.states + second.states, whole.states)
    assert first.reports + second.reports[1:] == whole.reports
    assert second.reports[0] == first.reports[-1]  # what was saved is reported again: the report may have been lost
    assert whole.states[-1]["network"]["method.hard"].any()


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 4])
def test_a_run_that_is_stopped_between_two_evaluations_goes_on_to_the_last_bit(
    stop_after: int,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    stopped_here: type[Exception],
    assert_identical: Identical,
) -> None:
    dataset, whole, first = make_dataset(3, signal=0.5), memory_reporter(), memory_reporter(stop_after=stop_after)
    settings = make_settings(dataset, DMRNET, HARDNESS, dropout=0.3, epochs=6, evaluate_every=3)
    last = fit(dataset, settings, CPU, whole)
    with pytest.raises(stopped_here, match="after epoch"):
        fit(dataset, settings, CPU, first)
    second = memory_reporter(start=first.states[-1])
    assert fit(dataset, settings, CPU, second) == last
    assert_identical(first.states + second.states, whole.states)
    assert first.reports + second.reports[1:] == whole.reports


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop_after", [0, 1])
def test_on_label_maps_a_stopped_run_goes_on_to_the_last_bit(
    stop_after: int,
    method: str,
    make_maps: MakeDataset,
    make_settings: MakeSettings,
    early: Callable[..., MethodSettings],
    memory_reporter: Any,
    stopped_here: type[Exception],
    assert_identical: Identical,
) -> None:
    """The phases of a method change before the stop and after it."""
    dataset = make_maps(2, size=(8, 8))
    settings = make_settings(dataset, early(METHODS[method]), HARDNESS, epochs=4, schedule="linear")
    whole = memory_reporter()
    last = fit(dataset, settings, CPU, whole)
    assert {"val/miou_mean", "val/pixel_accuracy_worst", "train/encoder_passes"} <= set(last.metrics)
    first = memory_reporter(stop_after=stop_after)
    with pytest.raises(stopped_here, match="after epoch"):
        fit(dataset, settings, CPU, first)
    torch.manual_seed(999)
    second = memory_reporter(start=first.states[-1])
    assert_identical(asdict(fit(dataset, settings, CPU, second)), asdict(last))
    assert_identical(first.states + second.states, whole.states)


def test_a_finished_run_is_reported_and_not_trained_again(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset()
    settings = make_settings(dataset)
    whole = memory_reporter()
    last = fit(dataset, settings, CPU, whole)
    again = memory_reporter(start=whole.states[-1])
    assert fit(dataset, settings, CPU, again) == last
    assert again.calls == ["report 2"]


def test_an_epoch_is_saved_before_it_is_reported(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset, reporter = make_dataset(), memory_reporter()
    fit(dataset, make_settings(dataset), CPU, reporter)
    assert reporter.calls == [f"{call} {epoch}" for epoch in range(3) for call in ("save", "report")]
    assert [EpochReport(**state["report"]) for state in reporter.states] == reporter.reports


def test_an_epoch_is_saved_while_the_next_one_is_trained_and_handed_on_in_between(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, reporter, trained, saved = make_dataset(), memory_reporter(), threading.Event(), threading.Event()
    take, save = Batches.take, reporter.save

    def slow_save(state: dict[str, Any], is_best: bool) -> None:
        assert trained.wait(60), "nothing was trained meanwhile"
        save(state, is_best)
        saved.set()

    def watched_take(batches: Batches, positions: torch.Tensor) -> Any:
        if len(batches) == 18 and not reporter.calls:  # of train
            steps.append(len(positions))
            if len(steps) == 4:  # three of the first epoch
                trained.set()
                saved.wait(60)
        elif len(batches) == 18:
            between.append(list(reporter.calls))
        return take(batches, positions)

    steps: list[int] = []
    between: list[list[str]] = []
    monkeypatch.setattr(Batches, "take", watched_take)
    monkeypatch.setattr(reporter, "save", slow_save)
    fit(dataset, make_settings(dataset, epochs=2), CPU, reporter)
    assert between[-1] == ["save 0", "report 0"]
    assert reporter.calls == ["save 0", "report 0", "save 1", "report 1"]


def test_what_is_saved_does_not_change_any_more(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, assert_identical: Identical
) -> None:
    dataset, kept = make_dataset(), []

    class Keeping(memory_reporter):  # type: ignore[misc]
        def save(self, state: dict[str, Any], is_best: bool) -> None:
            super().save(state, is_best)
            kept.append(state)

    reporter = Keeping()
    fit(dataset, make_settings(dataset), CPU, reporter)
    assert_identical(kept, reporter.states)


def test_an_epoch_that_cannot_be_saved_is_not_handed_on(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, stopped_here: type[Exception]
) -> None:
    dataset = make_dataset()

    class Full(memory_reporter):  # type: ignore[misc]
        def save(self, state: dict[str, Any], is_best: bool) -> None:
            if state["report"]["epoch"] == 1:
                raise stopped_here("no space left")
            super().save(state, is_best)

    reporter = Full()
    with pytest.raises(stopped_here, match="no space left"):
        fit(dataset, make_settings(dataset), CPU, reporter)
    assert reporter.calls == ["save 0", "report 0"]


def test_an_epoch_is_handed_on_also_where_the_next_one_fails(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, reporter = make_dataset(), memory_reporter()
    start_epoch = dmr.training.Run.start_epoch

    def failing(run: dmr.training.Run, epoch: int) -> Any:
        if epoch == 1:
            raise dmr.training.Diverged("the second epoch")
        return start_epoch(run, epoch)

    monkeypatch.setattr(dmr.training.Run, "start_epoch", failing)
    with pytest.raises(dmr.training.Diverged, match="the second epoch"):
        fit(dataset, make_settings(dataset), CPU, reporter)
    assert reporter.calls == ["save 0", "report 0"]


def test_a_stop_gives_the_global_generator_back(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, stopped_here: type[Exception]
) -> None:
    dataset = make_dataset()
    before = torch.get_rng_state()
    with pytest.raises(stopped_here, match="after epoch"):
        fit(dataset, make_settings(dataset), CPU, memory_reporter(stop_after=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("resident_bytes", [0, 2**31])
def test_where_the_data_lies_changes_nothing(
    resident_bytes: int,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    write_arrays: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    assert_identical: Identical,
) -> None:
    in_memory = make_dataset(3)
    settings = make_settings(in_memory, DMRNET, HARDNESS, dropout=0.1)
    one = memory_reporter()
    fit(in_memory, settings, CPU, one)
    monkeypatch.setattr(dmr.data.batches, "RESIDENT_BYTES", resident_bytes)
    mapped = arrays(write_arrays(in_memory), seed=0)
    assert isinstance(mapped.splits["train"].inputs["a"], np.memmap)
    for dataset in (in_memory, mapped):
        other = memory_reporter()
        fit(dataset, settings, CPU, other)
        assert one.reports == other.reports
        assert_identical(one.states, other.states)
