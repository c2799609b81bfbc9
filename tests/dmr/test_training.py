from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dmr.methods.base
import dmr.training
from dmr.combinations import all_combinations
from dmr.data.batches import Batches, batch_positions
from dmr.data.dataset import MultimodalDataset
from dmr.evaluation import evaluate
from dmr.methods import METHODS
from dmr.methods.base import StepLosses, add_by_combination, sums_by_combination
from dmr.methods.dmrnet import DMRNet, DMRNetSettings
from dmr.methods.dropout import DropoutSettings
from dmr.networks.network import Network
from dmr.settings import SamplingSettings, TrainSettings
from dmr.training import (
    OPTIMIZERS,
    Diverged,
    Run,
    RunSettings,
    build_network,
    fit,
    try_step,
)

CPU = torch.device("cpu")
MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]


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
    assert "method.head.classify.weight" in moved


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


class Scripted(NamedTuple):
    """Stands in for an evaluation."""

    known: dict[str, Any]

    def values(self, metrics: set[str] | None = None) -> dict[str, Any]:
        return {name: value for name, value in self.known.items() if metrics is None or name in metrics}

    def diagnostics(self) -> dict[str, float]:
        return {}


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
    monkeypatch.setattr(dmr.training, "SplitEvaluation", lambda *_: Scripted(next(remaining)))
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


MOST = {"val/macro_f1", "val/ece", "val/variance_error_correlation", "val/class_mean_cosine"}


def later(metrics: dict[str, float]) -> set[str]:
    """Those of `MOST` that are among the metrics."""
    return {one for one in MOST if any(name.startswith(one) for name in metrics)}


@pytest.mark.parametrize(
    ("select", "watched", "each"),
    [
        (("val/accuracy_mean", "max"), (), set()),
        (("val/ece_worst", "min"), (), {"val/ece"}),
        (("val/nll_mean", "min"), ("val/macro_f1_mean",), {"val/macro_f1"}),
    ],
)
def test_what_nobody_reads_of_every_epoch_is_computed_of_the_chosen_one(
    select: tuple[str, str],
    watched: tuple[str, ...],
    each: set[str],
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
) -> None:
    dataset, reporter = make_dataset(3, val=60, signal=0.5), memory_reporter()
    settings = replace(make_settings(dataset, select=select, epochs=6, learning_rate=0.05), watched=watched)
    fit(dataset, settings, CPU, reporter)
    assert 1 < len({report.best_epoch for report in reporter.reports}) < 6
    for report in reporter.reports:
        assert later(report.metrics) == each
        assert later(report.best_metrics) == MOST
        chosen = reporter.reports[report.best_epoch]
        assert report.best_metrics == chosen.best_metrics
        assert chosen.metrics.items() <= report.best_metrics.items()
        assert {"accuracy", "macro_f1", "nll", "ece"} <= set(report.best_values["val"])
        network = build_network(dataset, settings)
        network.load_state_dict(reporter.states[report.best_epoch]["network"])
        found = evaluate(
            network, dataset, Batches(dataset.splits["val"], CPU), all_combinations(dataset.modality_names)
        )
        assert report.best_metrics["val/ece_mean"] == pytest.approx(found.values["ece"].mean(), rel=1e-6)
        for name, value in found.diagnostics.items():
            assert report.best_metrics[f"val/{name}"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("every", "epochs", "evaluated"), [(1, 3, [0, 1, 2]), (3, 6, [0, 3, 5]), (9, 4, [0, 3])])
def test_val_is_evaluated_at_the_first_epoch_every_nth_and_the_last(
    every: int,
    epochs: int,
    evaluated: list[int],
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
) -> None:
    """All else of the training stays as it is, to the last bit."""
    dataset, reporter, each = make_dataset(), memory_reporter(), memory_reporter()
    report = fit(dataset, make_settings(dataset, epochs=epochs, evaluate_every=every), CPU, reporter)
    fit(dataset, make_settings(dataset, epochs=epochs), CPU, each)
    assert [r.epoch for r in reporter.reports] == list(range(epochs))
    assert [r.epoch for r in reporter.reports if "val/accuracy_mean" in r.metrics] == evaluated
    assert report.best_epoch in evaluated
    for one, other in zip(reporter.reports, each.reports, strict=True):
        assert one.metrics.items() <= other.metrics.items()
        assert "train/loss" in one.metrics
        assert one.best_epoch <= one.epoch
    assert [r.epoch for r in reporter.reports if r.best_epoch == r.epoch] == [
        epoch for epoch, best in enumerate(reporter.is_best) if best
    ]


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


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_step_that_is_tried_is_the_first_of_a_run(
    make_dataset: MakeDataset, make_maps: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, task: str
) -> None:
    dataset = make_dataset() if task == "classification" else make_maps()
    settings = make_settings(dataset, epochs=1, batch_size=len(dataset.splits["train"]))
    before = torch.get_rng_state()
    loss = try_step(dataset, settings, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert loss == pytest.approx(fit(dataset, settings, CPU, memory_reporter()).metrics["train/loss"])


def test_a_step_that_is_tried_and_not_finite_diverges(make_dataset: MakeDataset, make_settings: MakeSettings) -> None:
    dataset = make_dataset()
    dataset.splits["train"].inputs["a"][:] = np.inf
    with pytest.raises(Diverged, match=r"^the first step was not finite$"):
        try_step(dataset, make_settings(dataset), CPU)


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
    add_by_combination(sums, StepLosses(task.mean(), task, combination, variance, {}))
    add_by_combination(without, StepLosses(task.mean(), task, combination, None, {}))
    expected = np.zeros((3, 7))
    for k in range(2):
        for b in range(9):
            expected[:, combination[k, b]] += [task[k, b], variance[k, b], 1]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
    np.testing.assert_allclose(without, expected * [[1], [0], [1]], rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
def test_a_product_with_the_one_hot_is_index_add(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(dmr.methods.base, "ONE_HOT_VALUES", at_once)
    values, combination = torch.randn(3, 4, 9), torch.randint(1, 6, (4, 9))
    got = sums_by_combination(values, combination, 7)
    expected = torch.zeros((3, 7), dtype=torch.float64).index_add_(1, combination.flatten(), values.flatten(1).double())
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)
    assert (got[:, [0, 6]] == 0).all()


class AddedUp(TorchDispatchMode):
    """Notes the operations that add up by index, on a GPU in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        accumulates = name == "index_put" and len(args) > 3 and args[3]
        weighted = name == "bincount" and len(args) > 1 and args[1] is not None
        indexed = name in {"index_add", "scatter_add", "scatter_reduce", "index_reduce"}
        if accumulates or weighted or (indexed and args[0].is_floating_point()):  # whole numbers have no rounding
            self.found.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_added_up_in_the_order_of_a_gpus_threads(
    method: str, make_dataset: MakeDataset, make_settings: MakeSettings
) -> None:
    dataset = make_dataset(3)
    run = Run(dataset, make_settings(dataset, METHODS[method].Settings(), batch_size=6), CPU)
    with torch.no_grad(), AddedUp() as added:
        for epoch in (0, 20):  # with mmanet's teacher as well
            streams = run.start_epoch(epoch)
            positions, sums = torch.arange(6), torch.zeros((3, 7), dtype=torch.float64)
            batch, shard = run.train.take(positions), run.ranks.part(6)
            add_by_combination(sums, run.losses_of(batch, positions, run.probabilities(), streams, shard))
        evaluate(run.network, dataset, run.val, run.evaluated)
    assert added.found == set()


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
    sampling = SamplingSettings("hardness", combinations_per_sample=1, temperature=0.1, floor=0.1)
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

    adamw = OPTIMIZERS["adamw"]

    def watched(*given: Any, lr: float, **how: Any) -> None:
        rates.append(lr)
        adamw.update(*given, lr=lr, **how)

    monkeypatch.setitem(OPTIMIZERS, "adamw", adamw._replace(update=watched))
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


# --- what is learned --------------------------------------------------------------------------------------------------


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
