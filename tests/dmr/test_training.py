from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor

import dmr.data.batches
import dmr.training
from dmr.combinations import all_combinations
from dmr.data.arrays import arrays
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset
from dmr.methods import METHODS, StepLosses
from dmr.methods.dmrnet import DMRNet, DMRNetSettings
from dmr.methods.dropout import DropoutSettings
from dmr.networks import Network
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import (
    OPTIMIZERS,
    Diverged,
    EpochReport,
    RunSettings,
    add_by_combination,
    batch_positions,
    build_network,
    evaluate,
    fit,
)

CPU = torch.device("cpu")
MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
Identical = Callable[[Any, Any], None]
TwoSeeds = Callable[[Callable[[], Any]], tuple[Any, Any]]

HARDNESS = SamplingSettings("hardness", combinations_per_sample=2, temperature=0.5)
DMRNET = DMRNetSettings(warmup_epochs=1, remine_every=2, draws=2, hard_weight=0.5)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Network, dict[str, Tensor]]]:
    """Each network that `fit` builds, with a copy of its first state."""
    networks = []

    def build(dataset: MultimodalDataset, settings: RunSettings) -> Network:
        network = build_network(dataset, settings)
        networks.append((network, copy.deepcopy(network.state_dict())))
        return network

    monkeypatch.setattr(dmr.training, "build_network", build)
    return networks


# --- the same again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_run(
    method: str,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    under_two_global_seeds: TwoSeeds,
    assert_identical: Identical,
) -> None:
    dataset = make_dataset(3)
    settings = make_settings(dataset, METHODS[method].Settings(), HARDNESS, dropout=0.2)

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


def test_a_stop_gives_the_global_generator_back(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, stopped_here: type[Exception]
) -> None:
    dataset = make_dataset()
    before = torch.get_rng_state()
    with pytest.raises(stopped_here, match="after epoch"):
        fit(dataset, make_settings(dataset), CPU, memory_reporter(stop_after=0))
    assert torch.equal(torch.get_rng_state(), before)


# --- where the data lies ----------------------------------------------------------------------------------------------


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


# --- what is not finite -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_step_that_is_not_finite_is_left_out(
    value: float,
    optimizer: str,
    clip_norm: float | None,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    built: list[tuple[Network, dict[str, Tensor]]],
) -> None:
    """Every sample is in the one step of the epoch, so that the weights must be the first ones."""
    dataset, reporter = make_dataset(), memory_reporter()
    settings = make_settings(
        dataset,
        sampling=SamplingSettings("full_biased", full_prob=1.0),
        optimizer=optimizer,
        clip_norm=clip_norm,
        batch_size=64,
    )
    dataset.splits["train"].inputs["a"][4, 1] = value
    with pytest.raises(Diverged, match="epoch 0: 1 of 1 steps were not finite"):
        fit(dataset, settings, CPU, reporter)
    ((network, first),) = built
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, first[name]), name
    assert reporter.calls == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_other_steps_are_taken(
    optimizer: str,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    built: list[tuple[Network, dict[str, Tensor]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, calls = make_dataset(train=18), []
    sampling = SamplingSettings("full_biased", full_prob=1.0)
    settings = make_settings(dataset, sampling=sampling, optimizer=optimizer, batch_size=3)
    take = Batches.take

    def spoil_the_third(batches: Batches, positions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        inputs, labels = take(batches, positions)
        calls.append(len(labels))
        return (inputs | {"a": inputs["a"] * math.inf} if len(calls) == 3 else inputs), labels

    monkeypatch.setattr(Batches, "take", spoil_the_third)
    with pytest.raises(Diverged, match="epoch 0: 1 of 6 steps were not finite"):
        fit(dataset, settings, CPU, memory_reporter())
    assert calls == [3] * 6
    ((network, first),) = built
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    moved = [name for name, parameter in network.named_parameters() if not torch.equal(parameter, first[name])]
    assert "method.classify.weight" in moved


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_huge_learning_rate_diverges_with_finite_weights(
    optimizer: str,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    built: list[tuple[Network, dict[str, Tensor]]],
) -> None:
    dataset, reporter = make_dataset(), memory_reporter()
    with pytest.raises(Diverged, match=r"epoch \d+: "):
        fit(dataset, make_settings(dataset, optimizer=optimizer, learning_rate=1e30, epochs=30), CPU, reporter)
    ((network, _),) = built
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert all(tensor.isfinite().all() for state in reporter.states for tensor in state["network"].values())


def test_a_metric_that_is_not_finite_diverges_even_if_it_is_not_the_selected_one(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset, reporter = make_dataset(), memory_reporter()
    dataset.splits["val"].inputs["a"][4, 1] = math.inf
    with pytest.raises(Diverged, match=r"epoch 0: val/nll_mean is nan"):
        fit(dataset, make_settings(dataset, select=("val/accuracy_mean", "max")), CPU, reporter)
    assert reporter.calls == []


# --- choosing the checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("select", "mode", "best"),
    [
        ("val/accuracy_mean", "max", [0, 0, 2, 2, 2, 5]),
        ("val/accuracy_worst", "max", [0, 1, 1, 3, 3, 5]),
        ("val/nll_mean", "min", [0, 1, 1, 1, 4, 4]),
    ],
)
def test_the_best_epoch_is_kept_and_a_tie_keeps_the_earlier(
    select: str,
    mode: str,
    best: list[int],
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracy = [(0.4, 0.2, 0.6), (0.3, 0.3, 0.3), (0.9, 0.1, 0.5), (0.5, 0.5, 0.5), (0.4, 0.4, 0.4), (0.6, 0.6, 0.6)]
    nll = [0.9, 0.7, 0.7, 0.8, 0.1, 0.1]
    scripted = [
        {name: np.array(values) for name, values in (("accuracy", a), ("nll", (n, n, n)))}
        for a, n in zip(accuracy, nll, strict=True)
    ]
    remaining = iter(scripted)
    monkeypatch.setattr(dmr.training, "evaluate", lambda *_: next(remaining))
    dataset, reporter = make_dataset(), memory_reporter()
    settings = make_settings(dataset, DropoutSettings(), select=(select, mode), epochs=6)
    fit(dataset, settings, CPU, reporter)
    assert [report.best_epoch for report in reporter.reports] == best
    assert reporter.is_best == [epoch == chosen for epoch, chosen in enumerate(best)]
    for epoch, report in enumerate(reporter.reports):
        assert report.epoch == epoch
        assert report.metrics["val/nll_mean"] == pytest.approx(nll[epoch])
        assert report.best_metrics == reporter.reports[report.best_epoch].metrics
        expected = {name: value.tolist() for name, value in scripted[report.best_epoch].items()}
        assert report.best_values == {"val": expected}


def test_a_report_is_plain_numbers(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset()
    settings = make_settings(dataset, deployment={"a": 0.5}, select=("val/accuracy_expected", "max"))
    report = fit(dataset, settings, CPU, memory_reporter())
    assert {type(value) for value in report.metrics.values()} == {float}
    assert {type(v) for values in report.best_values["val"].values() for v in values} == {float}
    a, b, full = report.best_values["val"]["accuracy"]
    assert report.best_metrics["val/accuracy_mean"] == pytest.approx((a + b + full) / 3)
    assert report.best_metrics["val/accuracy_expected"] == pytest.approx(0.5 * b + 0.5 * full)
    assert {"train/loss", "train/task", "train/kl", "train/hard"} <= set(report.metrics)
    assert asdict(report)["best_epoch"] == report.best_epoch


# --- one epoch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(8, 4, [4, 4]), (9, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 8, [3]), (1, 8, [])]
)
def test_batches_leave_out_a_single_sample(count: int, size: int, sizes: list[int]) -> None:
    batches = list(batch_positions(count, size, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == sizes
    positions = torch.cat(batches).tolist() if batches else []
    assert len(set(positions)) == len(positions) >= count - 1
    assert set(positions) <= set(range(count))


def test_a_single_sample_left_over_does_not_hurt(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset(train=13)
    report = fit(dataset, make_settings(dataset, batch_size=4), CPU, memory_reporter())
    assert all(math.isfinite(value) for value in report.metrics.values())


def test_sums_by_combination_are_the_loop() -> None:
    combination = torch.randint(0, 7, (2, 9))
    task, variance = torch.rand(2, 9), torch.rand(2, 9)
    sums = torch.zeros((3, 7), dtype=torch.float64)
    without = torch.zeros((3, 7), dtype=torch.float64)
    add_by_combination(sums, combination, StepLosses(task.mean(), task, variance, {}))
    add_by_combination(without, combination, StepLosses(task.mean(), task, None, {}))
    expected = np.zeros((3, 7))
    for k in range(2):
        for b in range(9):
            expected[:, combination[k, b]] += [task[k, b], variance[k, b], 1]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
    np.testing.assert_allclose(without, expected * [[1], [0], [1]], rtol=1e-6)


def test_difficulty_is_the_mean_loss_of_what_was_seen(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, reporter, epochs = make_dataset(3), memory_reporter(), []
    monkeypatch.setattr(DMRNet, "end_epoch", lambda self, epoch, sums: epochs.append(sums.clone()))
    sampling = SamplingSettings("bernoulli", keep_prob=0.97, combinations_per_sample=2)
    fit(dataset, make_settings(dataset, sampling=sampling, epochs=4), CPU, reporter)
    known = np.full(7, np.nan)
    for sums, state, report in zip(epochs, reporter.states, reporter.reports, strict=True):
        assert sums[2].sum() == 2 * 18
        seen = (sums[2] > 0).numpy()
        known[seen] = (sums[0] / sums[2]).numpy()[seen]
        np.testing.assert_array_equal(state["difficulty"], known)
        assert report.metrics["train/task"] == pytest.approx(sums[0].sum().item() / 36, rel=1e-5)
    assert np.isnan(known).any()  # this seed leaves some combination unseen


def test_hardness_sampling_prefers_what_is_hard(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, counts = make_dataset(2, train=300, signal=3.0), []
    dataset.splits["train"].inputs["b"][:] = np.random.default_rng(0).standard_normal((300, 5))  # no signal in b
    monkeypatch.setattr(DMRNet, "end_epoch", lambda self, epoch, sums: counts.append(sums[2].tolist()))
    sampling = SamplingSettings("hardness", temperature=0.1, floor=0.1)
    fit(dataset, make_settings(dataset, DMRNetSettings(noise_scale=0.0), sampling, epochs=4), CPU, memory_reporter())
    assert max(counts[0]) < 140
    assert counts[-1][1] > 200


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_schedules_run_over_all_steps(
    schedule: str,
    expected: list[float],
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setitem(OPTIMIZERS, "adamw", Watched)
    dataset = make_dataset(train=12)
    fit(dataset, make_settings(dataset, epochs=2, batch_size=6, schedule=schedule), CPU, memory_reporter())
    np.testing.assert_allclose(rates, [1e-2 * factor for factor in expected], rtol=1e-12)


def test_clipping_bounds_the_step(
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    built: list[tuple[Network, dict[str, Tensor]]],
) -> None:
    dataset = make_dataset()
    for clip_norm in (None, 0.01):
        settings = make_settings(
            dataset,
            optimizer="sgd",
            learning_rate=0.5,
            weight_decay=0.0,
            epochs=1,
            batch_size=64,
            clip_norm=clip_norm,
        )
        fit(dataset, settings, CPU, memory_reporter())
    lengths = [
        math.sqrt(sum((p - first[name]).square().sum().item() for name, p in network.named_parameters()))
        for network, first in built
    ]
    assert lengths[0] > 0.05
    assert lengths[1] == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_settings_decide_how_many_epochs() -> None:
    assert TrainSettings().epochs == 40
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        TrainSettings(epoch=3)  # type: ignore[call-arg]


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [5, 512])
def test_evaluation_is_one_pass_a_combination(
    at_once: int, make_dataset: MakeDataset, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dmr.training, "EVALUATION_BATCH", at_once)
    dataset = make_dataset(3, val=33)
    network = build_network(dataset, make_settings(dataset, dropout=0.5)).train()
    combinations = all_combinations(dataset.modality_names)
    split = dataset.splits["val"]
    values = evaluate(network, Batches(split, CPU), combinations)
    assert not network.training
    inputs = {name: torch.from_numpy(array) for name, array in split.inputs.items()}
    for c, member in enumerate(combinations.members):
        mask = torch.tensor([[m in member for m in range(3)]])
        with torch.no_grad():
            fused = torch.cat(
                [network.encoders[m](inputs[name]) * mask[:, m : m + 1] for m, name in enumerate(network.names)], dim=1
            )
            predicted = network.method.predict(fused[None]).logits[0].argmax(-1)
        assert values["accuracy"][c] == pytest.approx(accuracy_score(split.labels, predicted), abs=1e-6)


def test_what_carries_signal_is_learned_and_what_does_not_is_not(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset(2, train=240, val=300, signal=3.0)
    draw = np.random.default_rng(1)
    for split in dataset.splits.values():
        split.inputs["b"][:] = draw.standard_normal(split.inputs["b"].shape)
    for method in METHODS.values():
        settings = make_settings(dataset, method.Settings(), epochs=6, batch_size=32)
        report = fit(dataset, settings, CPU, memory_reporter())
        with_a, with_b, full = report.best_values["val"]["accuracy"]
        assert with_a > 0.9
        assert full > 0.9
        assert abs(with_b - 1 / 3) < 5 * math.sqrt(2 / 9 / 300)


def test_nine_modalities_are_trained_on_all_and_evaluated_on_some(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset, reporter = make_dataset(9), memory_reporter()
    report = fit(dataset, make_settings(dataset, epochs=1), CPU, reporter)
    assert len(report.best_values["val"]["accuracy"]) == 83
    assert reporter.states[0]["difficulty"].shape == (511,)
