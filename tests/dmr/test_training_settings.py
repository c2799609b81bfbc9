"""What the settings of a run do to it, what it logs beside the metrics, and the test split."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dmr.training
from dmr.combinations import all_combinations
from dmr.data.batches import Batches
from dmr.data.dataset import MultimodalDataset, Split
from dmr.fusion import FUSIONS
from dmr.losses import TaskLoss, class_weights
from dmr.methods import METHODS, MethodSettings
from dmr.methods.dmrnet import DMRNet, DMRNetSettings
from dmr.methods.dropout import Dropout, DropoutSettings
from dmr.methods.full_only import FullOnlySettings
from dmr.methods.mmanet import MMANetSettings
from dmr.networks.network import Network
from dmr.seeds import derive_seed
from dmr.settings import SamplingSettings
from dmr.training import RunSettings, build_network, fit

CPU = torch.device("cpu")
MakeDataset = Callable[..., MultimodalDataset]
MakeSettings = Callable[..., RunSettings]
Early = Callable[..., MethodSettings]
IMAGE = {"kind": "image", "shape": (3, 8, 8)}


def with_test(dataset: MultimodalDataset, test: Split) -> MultimodalDataset:
    return dataclasses.replace(dataset, splits={**dataset.splits, "test": test})


def spoiled(split: Split) -> Split:
    return Split({name: np.full_like(array, np.nan) for name, array in split.inputs.items()}, split.labels)


# --- the test split ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["classification", "segmentation"])
def dataset(request: pytest.FixtureRequest, make_dataset: MakeDataset, make_maps: MakeDataset) -> MultimodalDataset:
    return make_dataset(3) if request.param == "classification" else make_maps(2, size=(8, 8))


@pytest.mark.parametrize(
    ("method", "precision"),
    [*((method, "float32") for method in METHODS), ("dmrnet", "bfloat16"), ("simmlm", "bfloat16")],
)
def test_on_a_test_split_that_is_val_the_checkpoint_has_its_values(
    method: str,
    precision: str,
    dataset: MultimodalDataset,
    make_settings: MakeSettings,
    early: Early,
    memory_reporter: Any,
    under_two_global_seeds: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    full, part = [1.0 for _ in dataset.modality_names], 0.7
    deployment = dict(zip(dataset.modality_names, [part, *full[1:]], strict=True))
    settings = make_settings(dataset, early(METHODS[method]), deployment=deployment, precision=precision)
    reporter = memory_reporter()
    report = fit(dataset, settings, CPU, reporter)
    chosen = reporter.states[report.best_epoch]["network"]
    same = with_test(dataset, dataset.splits["val"])
    one, other = under_two_global_seeds(lambda: dmr.training.test(same, settings, CPU, chosen))
    assert one.metrics == other.metrics
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.metrics == {
        f"test/{name.removeprefix('val/')}": value
        for name, value in report.best_metrics.items()
        if name.startswith("val/")
    }
    assert one.values.keys() == report.best_values["val"].keys()
    for name, values in one.values.items():
        np.testing.assert_array_equal(values, report.best_values["val"][name], err_msg=name)
    assert one.scores.shape == (2 ** len(dataset.modalities) - 1, len(dataset.splits["val"]))
    score = "pixel_accuracy" if dataset.task == "segmentation" else "accuracy"
    np.testing.assert_allclose(one.scores.mean(1), one.values[score], rtol=1e-5)


def test_only_test_reads_the_test_split(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset(2, test=9)
    settings = make_settings(dataset)
    bad = with_test(dataset, spoiled(dataset.splits["test"]))
    one, other = memory_reporter(), memory_reporter()
    assert fit(dataset, settings, CPU, one) == fit(bad, settings, CPU, other)
    chosen = one.states[-1]["network"]
    found = dmr.training.test(dataset, settings, CPU, chosen)
    bad_val = dataclasses.replace(dataset, splits={**dataset.splits, "val": spoiled(dataset.splits["val"])})
    again = dmr.training.test(bad_val, settings, CPU, chosen)
    assert found.metrics == again.metrics
    assert found.values == again.values
    assert found.scores.shape == (3, 9)
    assert np.isnan(dmr.training.test(bad, settings, CPU, chosen).metrics["test/nll_mean"])
    with pytest.raises(KeyError, match="test"):
        dmr.training.test(make_dataset(2), settings, CPU, chosen)


# --- precision, layout, compilation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_near_float32(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings, early: Early, memory_reporter: Any
) -> None:
    """Rounded to 8 bits, a loss near 1 differs by some hundredths after a few steps."""
    losses = []
    for precision in ("float32", "bfloat16"):
        reporter = memory_reporter()
        settings = make_settings(dataset, early(METHODS[method]), epochs=3, learning_rate=1e-3, precision=precision)
        report = fit(dataset, settings, CPU, reporter)
        losses.append(report.metrics["train/task"])
        weights = reporter.states[-1]["network"].values()
        assert {value.dtype for value in weights if value.is_floating_point()} <= {torch.float32, torch.float64}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_where_a_modality_is_absent_from_a_batch(
    method: str, dataset: MultimodalDataset, make_settings: MakeSettings
) -> None:
    network = build_network(dataset, make_settings(dataset, METHODS[method].Settings())).train()
    inputs, labels = Batches(dataset.splits["train"], CPU).take(torch.arange(4))
    with torch.autocast("cpu", torch.bfloat16):
        losses = network.losses(
            inputs, labels, torch.zeros((1, 4), dtype=torch.int64), torch.Generator().manual_seed(0)
        )
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.task.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_channels_last_changes_the_layout_only(
    task: str, make_dataset: MakeDataset, make_maps: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset(2, **IMAGE) if task == "classification" else make_maps(2, size=(8, 8))
    last = build_network(dataset, make_settings(dataset, channels_last=True))
    convolutions = [p for p in last.encoders.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert convolutions
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)
    one, other = (
        fit(dataset, make_settings(dataset, optimizer="sgd", channels_last=channels_last), CPU, memory_reporter())
        for channels_last in (False, True)
    )
    for name, value in one.metrics.items():
        assert other.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    plain, changed = (
        _losses(dataset, make_settings(dataset, channels_last=channels_last)) for channels_last in (False, True)
    )
    torch.testing.assert_close(plain, changed, rtol=1e-4, atol=1e-4)


def _losses(dataset: MultimodalDataset, settings: RunSettings) -> list[Tensor]:
    """Loss and gradients of a step on every combination in turn."""
    torch.manual_seed(0)
    network = build_network(dataset, settings).train()
    inputs, labels = Batches(dataset.splits["train"], CPU).take(torch.arange(6))
    combination = torch.arange(6)[None] % len(network.combinations)
    losses = network.losses(inputs, labels, combination, torch.Generator().manual_seed(0))
    losses.total.backward()
    return [losses.total.detach(), losses.task, *[p.grad for p in network.parameters() if p.grad is not None]]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("method", ["dmrnet", pytest.param("dedicated", marks=pytest.mark.long)])
def test_compiled_encoders_give_the_same(
    method: str, make_dataset: MakeDataset, make_settings: MakeSettings, early: Early, memory_reporter: Any
) -> None:
    """Plain gradient descent: an adaptive optimiser makes much of what is rounded in small gradients."""
    dataset, reporters, reports = make_dataset(2, **IMAGE), (memory_reporter(), memory_reporter()), []
    for reporter, compiled in zip(reporters, (False, True), strict=True):
        settings = make_settings(dataset, early(METHODS[method]), optimizer="sgd", compile=compiled)
        reports.append(fit(dataset, settings, CPU, reporter))
    plain, compiled = (reporter.states[-1]["network"] for reporter in reporters)
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    assert reports[1].metrics == pytest.approx(reports[0].metrics, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_is_trained(
    fusion: str, dataset: MultimodalDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    settings = make_settings(dataset, fusion=fusion, epochs=4)
    reporter = memory_reporter()
    fit(dataset, settings, CPU, reporter)
    losses = [report.metrics["train/task"] for report in reporter.reports]
    assert losses[-1] < losses[0]
    layers = [name for name in reporter.states[0]["network"] if name.startswith("method.fusion.")]
    learned = {"attention": "score.0.weight", "transformer": "tokens.0.weight"}.get(fusion, "project.0.weight")
    assert not layers if fusion == "concat" else f"method.fusion.{learned}" in layers


# --- class weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_class_weights_reach_the_loss(
    method: str, make_dataset: MakeDataset, make_maps: MakeDataset, make_settings: MakeSettings
) -> None:
    """With logits all equal, the loss of a sample is log L times the weight of its class."""
    kinds: list[tuple[MultimodalDataset, Any]] = [(make_dataset(2, train=10), "inverse")]
    kinds += [(make_maps(2, size=(8, 8)), kind) for kind in ("inverse", "median")]
    for dataset, kind in kinds:
        network = build_network(dataset, make_settings(dataset, METHODS[method].Settings(), class_weights=kind)).train()
        _flatten_logits(network)
        inputs, labels = Batches(dataset.splits["train"], CPU).take(torch.arange(6))
        losses = network.losses(inputs, labels, torch.full((1, 6), 2), torch.Generator().manual_seed(0))
        weights = class_weights(dataset.splits["train"].labels, 3, kind, dataset.ignore_index)
        assert weights is not None
        assert len(weights.unique()) > 1
        expected = TaskLoss(weights, dataset.ignore_index)(torch.zeros((*labels.shape, 3)), labels)
        assert len(expected.unique()) > 1
        torch.testing.assert_close(losses.task[0], expected)


def _flatten_logits(network: Network) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".classify." in name or ".classifier." in name:
                parameter.zero_()


# --- what a run logs --------------------------------------------------------------------------------------------------


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """How often each combination was seen, an epoch each."""
    found: list[Tensor] = []
    for method in (Dropout, DMRNet):
        own = method.end_epoch

        def end_epoch(self: Any, epoch: int, sums: Tensor, own: Any = own) -> None:
            found.append(sums[2].clone())
            own(self, epoch, sums)

        monkeypatch.setattr(method, "end_epoch", end_epoch)
    return found


def test_encoder_passes_are_the_samples_in_which_a_modality_is_present(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, counts: list[Tensor]
) -> None:
    dataset, reporter = make_dataset(3), memory_reporter()
    sampling = SamplingSettings(combinations_per_sample=1)
    fit(dataset, make_settings(dataset, DropoutSettings(), sampling), CPU, reporter)
    sizes = torch.from_numpy(all_combinations(dataset.modality_names).sizes).double()
    passes = [report.metrics["train/encoder_passes"] for report in reporter.reports]
    assert passes == [float(seen @ sizes) for seen in counts]
    assert len(set(passes)) > 1
    assert all(18 <= value < 3 * 18 for value in passes)


def test_samples_share_their_encodings(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of K combinations of a sample, a modality is encoded once."""
    dataset, drawn = make_dataset(3), []
    draw = dmr.training.draw_combinations

    def keep(*arguments: Any) -> Tensor:
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(dmr.training, "draw_combinations", keep)
    settings = make_settings(dataset, sampling=SamplingSettings(combinations_per_sample=3), epochs=1)
    report = fit(dataset, settings, CPU, memory_reporter())
    masks = torch.from_numpy(all_combinations(dataset.modality_names).masks)
    assert report.metrics["train/encoder_passes"] == sum(
        masks[combination].any(0).sum().item() for combination in drawn
    )


@pytest.mark.parametrize("modalities", [2, 3])
def test_encoder_passes_of_complete_samples(
    modalities: int, make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset(modalities)
    every = 18 * modalities
    full_only = fit(dataset, make_settings(dataset, FullOnlySettings()), CPU, memory_reporter())
    assert full_only.metrics["train/encoder_passes"] == every
    dedicated = fit(dataset, make_settings(dataset, METHODS["dedicated"].Settings()), CPU, memory_reporter())
    assert dedicated.metrics["train/encoder_passes"] == every * 2 ** (modalities - 1)


def test_encoder_passes_of_a_teacher(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset = make_dataset(2)
    of_student = memory_reporter()
    of_both = memory_reporter()
    fit(dataset, make_settings(dataset, DropoutSettings(), epochs=4), CPU, of_student)
    fit(dataset, make_settings(dataset, MMANetSettings(teacher_epochs=2), epochs=4), CPU, of_both)
    own = [2 * 2 * 18, 0, 0, 0]  # in the first epoch its training, then one pass over what it teaches
    for student, both, training in zip(of_student.reports, of_both.reports, own, strict=True):
        assert both.metrics["train/encoder_passes"] == student.metrics["train/encoder_passes"] + 2 * 18 + training


@pytest.mark.parametrize("method", ["dropout", "mmanet", "dedicated", "unimodal_ensemble"])
def test_gradient_norms_are_of_the_encoders_of_each_modality(
    method: str, make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    """Of a run of one step of SGD, whose gradients are what it has changed."""
    dataset, reporter = make_dataset(3), memory_reporter()
    rate = {"learning_rate": 0.1, "weight_decay": 0.0, "optimizer": "sgd"}
    settings = make_settings(dataset, METHODS[method].Settings(), epochs=1, batch_size=18, **rate)
    found = fit(dataset, settings, CPU, reporter).metrics
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(0, "initialisation"))
        before = build_network(dataset, settings).state_dict()
    members = all_combinations(dataset.modality_names).members
    squares = [0.0] * 3
    for name, value in reporter.states[0]["network"].items():
        place = re.fullmatch(r"(?:method\.all_models\.(\d+)\.)?encoders\.(\d+)\..*", name)
        if place is not None:
            model, m = place[1], int(place[2])
            of = m if model is None else members[int(model)][m]
            squares[of] += float(((before[name] - value) / 0.1).square().sum())
    assert min(squares) > 0
    for name, square in zip(dataset.modality_names, squares, strict=True):
        assert found[f"train/gradient_norm_{name}"] == pytest.approx(square**0.5, rel=1e-3)


@pytest.mark.parametrize("stop_after", [None, 0, 2])
def test_what_is_diagnosed_is_a_table_an_epoch(
    stop_after: int | None,
    make_dataset: MakeDataset,
    make_settings: MakeSettings,
    memory_reporter: Any,
    stopped_here: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mean loss, mean variance and whether it is hard, of each combination."""
    dataset, epochs = make_dataset(3, signal=0.5), []
    end_epoch = DMRNet.end_epoch

    def keep(self: Any, epoch: int, sums: Tensor) -> None:
        epochs.append((sums.clone(), self.hard.clone()))
        end_epoch(self, epoch, sums)

    monkeypatch.setattr(DMRNet, "end_epoch", keep)
    settings = make_settings(dataset, DMRNetSettings(warmup_epochs=2, remine_every=1), epochs=5)
    reporter = memory_reporter(stop_after=stop_after)
    if stop_after is None:
        fit(dataset, settings, CPU, reporter)
    else:
        with pytest.raises(stopped_here, match="after epoch"):
            fit(dataset, settings, CPU, reporter)
        start = reporter.states[-1]
        reporter = memory_reporter(start=start)
        fit(dataset, settings, CPU, reporter)
    diagnosed = reporter.states[-1]["diagnosed"]
    assert [tuple(table.shape) for table in diagnosed] == [(3, 7)] * 5
    for table, (sums, hard) in zip(diagnosed, epochs, strict=True):
        means = np.where(sums[2] > 0, sums / sums[2].clamp(min=1), np.nan)
        np.testing.assert_allclose(table[0], means[0])
        np.testing.assert_allclose(table[1], means[1])
        assert table[2].bool().tolist() == hard.tolist()
    assert [int(table[2].sum()) for table in diagnosed] == [0, 0, 3, 3, 3]


def test_a_method_without_hard_combinations_is_not_diagnosed(
    make_dataset: MakeDataset, make_settings: MakeSettings, memory_reporter: Any
) -> None:
    dataset, reporter = make_dataset(), memory_reporter()
    fit(dataset, make_settings(dataset, DropoutSettings()), CPU, reporter)
    assert reporter.states[-1]["diagnosed"] == []
