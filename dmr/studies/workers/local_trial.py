"""One trial, in a process of Ray Tune's: Ray Train in local mode around `dmr.training.fit`.

The process is reused for the next trial: whatever a trial needs it makes anew, and fit() leaves torch's global
generator as it was. Only the data set is kept, once per process.
"""

from __future__ import annotations

import faulthandler
import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmr.analysis.results.record_names import SAMPLES
from dmr.checkpoints import load_checkpoint
from dmr.combinations import evaluated_combinations
from dmr.data import DataRecipe
from dmr.data.dataset import MultimodalDataset
from dmr.direction import Direction
from dmr.files import whole_file
from dmr.studies.storage.study_folder import StageName, StudyFolder
from dmr.studies.storage.trial_files import BEST, StartFrom
from dmr.studies.trial_messages import FailedMessage, StorageMessage, TestedMessage, result_of
from dmr.studies.trial_outcomes import Tested
from dmr.studies.workers.checkpoint_reporter import FolderReporter, StorageFailed
from dmr.studies.workers.checkpoint_uploads import CheckpointUploads
from dmr.studies.workers.epoch_watch import EpochWatch
from dmr.studies.workers.failures import failed_outcome
from dmr.studies.workers.system_metrics import SystemMonitor
from dmr.training import EpochReport, RunSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a study share.

    Attributes:
        folder: the study's.
        stage: `confirm` also evaluates on test.
        scheduled: the metric a scheduler looks at, and which way it is better.
        cpus, gpus: of one worker.
        workers: of one trial, at least and at most.
        system_metrics: whether what a trial takes of its machine is recorded.
        recipe: of the data, where each trial draws its own with its seed.
    """

    folder: StudyFolder
    stage: StageName
    scheduled: tuple[str, Direction]
    cpus: float
    gpus: float
    workers: tuple[int, int] = (1, 1)
    system_metrics: bool = False
    recipe: DataRecipe | None = None

    def data(self, dataset: MultimodalDataset, seed: int) -> MultimodalDataset:
        """What a trial with this seed is trained on: the data of all trials, or its own."""
        return dataset if self.recipe is None else self.recipe.draw(seed)

    def check_seen(self) -> None:
        """Raises:
        StorageFailed: this node does not see the study's folder.
        """
        if self.folder.objects is None and not self.folder.exists:
            raise StorageFailed(f"{self.folder.path}: node {os.uname().nodename} does not see it")

    def uploads(self, number: int, start: StartFrom | None) -> CheckpointUploads | None:
        """What takes the checkpoints of a trial to object storage; None where the study does not lie there."""
        if self.folder.objects is None or start is None:
            return None
        run = self.folder.run(self.stage, number)
        return CheckpointUploads(self.folder.objects.store_of(run), run, start)


class TuneReporter(FolderReporter):
    """Hands epochs to Ray Tune. In local mode Ray Train's own `report` cannot be used."""

    def __init__(
        self,
        folder: Path,
        followed: tuple[str, Direction],
        watch: EpochWatch,
        monitor: SystemMonitor | None,
        uploads: CheckpointUploads | None,
    ) -> None:
        super().__init__(folder, followed, monitor, uploads)
        self.watch = watch

    def report(self, report: EpochReport) -> None:
        from ray import tune

        self.watch.stop()
        tune.report(self.message(report).result(self.running_best))
        self.watch.start()


def run_trial(config: dict[str, Any], context: TrialContext, dataset: MultimodalDataset) -> None:
    """Tune's trainable: trains the trial of `config` (its `number` and `settings`), and reports how it failed, if so.

    Only the death of the process is left to Tune; an exception is an outcome like any other.
    """
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    def loop() -> None:
        train_here(config["number"], config["settings"], config["start"], context, dataset)

    TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0, use_gpu=context.gpus > 0)).fit()


def train_here(
    number: int, settings: RunSettings, start: StartFrom | None, context: TrialContext, dataset: MultimodalDataset
) -> None:
    """Train in this process, on its share of the machine."""
    import torch
    from ray import tune

    from dmr.training import fit

    torch.set_num_threads(max(1, int(context.cpus)))
    device = torch.device("cuda" if context.gpus > 0 else "cpu")
    folder = context.folder.run(context.stage, number)
    uploads = context.uploads(number, start)
    try:
        context.check_seen()
        watch = EpochWatch(folder, settings.train.epoch_minutes)
        watch.start()
        monitor = SystemMonitor(device) if context.system_metrics else None
        reporter = TuneReporter(folder, context.scheduled, watch, monitor, uploads)
        dataset = context.data(dataset, settings.seed)
        fit(dataset, settings, device, reporter)
        tested = test_here(settings, folder, device, dataset) if context.stage == "confirm" else None
        watch.stop()
        reporter.end()
        if tested is not None:
            tune.report(result_of(TestedMessage(tested)))
    except StorageFailed as error:
        tune.report(result_of(StorageMessage(str(error))))
    except Exception as error:
        tune.report(result_of(FailedMessage(failed_outcome(error))))
    finally:
        faulthandler.cancel_dump_traceback_later()
        if uploads is not None:
            uploads.end()
        if device.type == "cuda":
            release_gpu_memory()


def release_gpu_memory() -> None:
    """Give back the GPU memory that torch caches for this process, also after it ran out: other processes share the
    GPU, and this one may be idle now.
    """
    import torch

    gc.collect()  # a failed step's tensors may hang in a cycle with its traceback
    torch.cuda.empty_cache()


def test_here(settings: RunSettings, folder: Path, device: torch.device, dataset: MultimodalDataset) -> Tested:
    """Evaluate the chosen checkpoint on test; the results of single samples are left in the run's folder.

    Raises:
        StorageFailed: the file of the samples cannot be written.
        RuntimeError: the checkpoint cannot be read.
    """
    import numpy as np

    from dmr.training import test

    state = load_checkpoint(folder / BEST, device)
    if state is None:
        raise RuntimeError(f"{folder / BEST}: cannot be read")
    report = test(dataset, settings, device, state["network"])
    names = np.array(evaluated_combinations(dataset.modality_names).names)
    try:
        with whole_file(folder / SAMPLES) as partial:
            np.savez_compressed(partial, scores=report.scores, combinations=names)
    except OSError as error:
        raise StorageFailed(f"{folder}: cannot be written: {error}") from error
    return Tested(report.metrics, report.values)
