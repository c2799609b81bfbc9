"""One trial on several workers: a worker group of Ray Train's, from inside a trial of Ray Tune's.

The trial's own process trains nothing. It starts the group and hands on what the first rank reports: Tune's `report`
works there and Train's does not, in the workers it is the other way round. What goes wrong with the training is an
outcome, as in a trial of one process; what goes wrong with a process ends the group, and Tune starts the trial again,
which goes on from the checkpoint in its folder.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ray import train, tune
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue

from dmr.direction import Direction
from dmr.studies.storage.trial_files import HUNG, StartFrom
from dmr.studies.trial_messages import (
    PAYLOAD,
    FailedMessage,
    RequestMessage,
    StorageMessage,
    TestedMessage,
    encode,
    result_of,
)
from dmr.studies.workers.checkpoint_reporter import FolderReporter, StorageFailed
from dmr.studies.workers.checkpoint_uploads import CheckpointUploads
from dmr.studies.workers.epoch_watch import EpochWatch
from dmr.studies.workers.failures import failed_outcome
from dmr.studies.workers.local_trial import TrialContext, test_here
from dmr.studies.workers.system_metrics import SystemMonitor
from dmr.training import EpochReport, RunSettings

HEALTH_CHECK_SECONDS = "0.2"  # how often Train looks at its workers; a report waits for it
STARTS = 10  # attempts to start a group whose workers do not come up; each takes a minute
POLL_SECONDS = 0.2
PEER = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "ncclRemoteError")


class RankFailed(Exception):
    """A rank's training failed; its text is the message to the driver, encoded."""


class _Forward(train.UserCallback):
    """Hands on what the first rank reports.

    Ray's `TuneReportCallback` does the same through a queue of Tune's own, which blocks for ever where the trial's
    function returns, or reports for itself, while something is in it.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.queue.put(metrics[0])


class RankReporter(FolderReporter):
    """Hands the epochs of the first rank to Ray Train; the others only come along, since a report waits for all."""

    def __init__(
        self,
        folder: Path,
        followed: tuple[str, Direction],
        watch: EpochWatch,
        rank: int,
        monitor: SystemMonitor | None,
        uploads: CheckpointUploads | None,
    ) -> None:
        super().__init__(folder, followed, monitor, uploads)
        self.watch, self.rank = watch, rank

    def report(self, report: EpochReport) -> None:
        self.watch.stop()
        train.report(self.message(report).result(self.running_best) if self.rank == 0 else {})
        self.watch.start()


def run_group(config: dict[str, Any], context: TrialContext, data: list[Any]) -> None:
    """Tune's trainable: trains the trial of `config` (its `number` and `settings`) on several workers.

    Args:
        data: a reference to the data set, in a list so that Tune does not fetch it: this process does not need it.

    Raises:
        ray.train.TrainingFailedError: a worker died, or none could be started.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_SECONDS)
    for file in context.folder.run(context.stage, config["number"]).glob(f"*{HUNG}"):  # of a group that had more ranks
        file.unlink()
    scratch = context.folder.groups(context.stage)
    if context.folder.objects is not None:  # Train itself keeps nothing there
        scratch = Path(tempfile.gettempdir()) / f"dmr-{uuid.uuid4().hex}"
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        partial(train_rank, config["number"], config["settings"], config["start"], context, data),
        scaling_config=train.ScalingConfig(
            num_workers=context.workers[0] if context.workers[0] == context.workers[1] else context.workers,
            use_gpu=context.gpus > 0,
            resources_per_worker={"CPU": context.cpus, **({"GPU": context.gpus} if context.gpus else {})},
        ),
        run_config=train.RunConfig(
            name=f"{config['number']:04d}-{uuid.uuid4().hex[:8]}",
            storage_path=str(scratch),
            callbacks=[_Forward(queue)],
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=STARTS),
        ),
    )
    tune.report(result_of(RequestMessage(f"train-{trainer.train_run_context.run_id}")))
    with ThreadPoolExecutor(1, "group") as thread:
        training = thread.submit(trainer.fit)
        while True:
            try:
                tune.report(queue.get(timeout=POLL_SECONDS))
            except Empty:
                if training.done():
                    break
    queue.shutdown(force=True)
    if context.folder.objects is not None:
        shutil.rmtree(scratch, ignore_errors=True)
    error = training.exception()
    if error is not None:
        payload = _payload_of(error)
        if payload is None:
            raise error
        tune.report({PAYLOAD: payload})


def _payload_of(error: BaseException) -> str | None:
    """What a failing rank had to say; None where a process died, whatever the other ranks made of it."""
    failures = error.worker_failures.values() if isinstance(error, train.WorkerGroupError) else [error]
    told = [str(failure) for failure in failures if isinstance(failure, RankFailed)]
    return told[0] if told and len(told) == len(failures) else None


def train_rank(
    number: int, settings: RunSettings, start: StartFrom | None, context: TrialContext, data: list[Any]
) -> None:
    """Train in this worker, on its share of every batch.

    Raises:
        RankFailed: the training went wrong.
    """
    import ray
    import torch

    from dmr.training import fit

    torch.set_num_threads(max(1, int(context.cpus)))
    rank, device = train.get_context().get_world_rank(), get_device()
    folder = context.folder.run(context.stage, number)
    uploads = context.uploads(number, start) if rank == 0 else None
    try:
        context.check_seen()
        watch = EpochWatch(folder, settings.train.epoch_minutes, rank)
        watch.start()
        monitor = SystemMonitor(device) if context.system_metrics and rank == 0 else None
        reporter = RankReporter(folder, context.scheduled, watch, rank, monitor, uploads)
        dataset = context.data(ray.get(data[0]), settings.seed)
        fit(dataset, settings, device, reporter)
        tested = test_here(settings, folder, device, dataset) if context.stage == "confirm" and rank == 0 else None
        watch.stop()
        reporter.end()
        if context.stage == "confirm":
            train.report({} if tested is None else result_of(TestedMessage(tested)))
    except StorageFailed as error:
        raise RankFailed(encode(StorageMessage(str(error)))) from None
    except Exception as error:
        if isinstance(error, RuntimeError) and any(text in str(error) for text in PEER):
            raise  # another rank is gone: that one knows why
        raise RankFailed(encode(FailedMessage(failed_outcome(error)))) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
        if uploads is not None:
            uploads.end()
