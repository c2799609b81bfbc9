"""What a process that trains tells the driver, through the results of Ray Tune: five kinds of messages, as JSON.

A result has the message under `PAYLOAD`; that of an epoch also has what Tune's schedulers look at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dmr.studies.trial_outcomes import Tested, TrialOutcome
from dmr.training import EpochReport

PAYLOAD = "payload"
TIME = "epochs"  # of a scheduler: how many epochs are finished
VALUE = "scheduled"  # of a scheduler: the running best of its metric


@dataclass(frozen=True)
class EpochMessage:
    """An epoch has ended, perhaps with what it took of its machine, and with the names of the objects that the process
    has written since the last one.
    """

    report: EpochReport
    system: Mapping[str, float] = field(default_factory=dict)
    uploaded: Sequence[str] = ()

    def result(self, running_best: float) -> dict[str, Any]:
        """The result for Tune, with the running best of the scheduler's metric."""
        return {TIME: self.report.epoch + 1, VALUE: running_best, **result_of(self)}


@dataclass(frozen=True)
class TestedMessage:
    """The chosen checkpoint was evaluated on test."""

    tested: Tested


@dataclass(frozen=True)
class FailedMessage:
    """The training went wrong; the trial ends with this outcome."""

    outcome: TrialOutcome


@dataclass(frozen=True)
class RequestMessage:
    """What a worker group calls itself where it asks the cluster for nodes: the driver withdraws that, since this
    process is killed when the trial is stopped, and can do nothing then.
    """

    requester: str


@dataclass(frozen=True)
class StorageMessage:
    """Nothing is wrong with the trial, but its files cannot be written: the study stops and can go on later."""

    error: str


Message = EpochMessage | TestedMessage | FailedMessage | RequestMessage | StorageMessage


def encode(message: Message) -> str:
    match message:
        case EpochMessage(report, system, uploaded):
            return json.dumps({"epoch": asdict(report), "system": dict(system), "uploaded": list(uploaded)})
        case TestedMessage(tested):
            return json.dumps({"tested": tested._asdict()})
        case FailedMessage(outcome):
            return json.dumps({"failed": asdict(outcome)})
        case RequestMessage(requester):
            return json.dumps({"request": requester})
        case StorageMessage(error):
            return json.dumps({"storage": error})


def decode(text: str) -> Message:
    """The message that `encode` made this of."""
    content = json.loads(text)
    if "epoch" in content:
        return EpochMessage(EpochReport(**content["epoch"]), content["system"], content["uploaded"])
    if "tested" in content:
        return TestedMessage(Tested(**content["tested"]))
    if "failed" in content:
        return FailedMessage(TrialOutcome(**content["failed"]))
    if "request" in content:
        return RequestMessage(content["request"])
    return StorageMessage(content["storage"])


def result_of(message: Message) -> dict[str, Any]:
    """A result for Tune that no scheduler looks at, or the message's part of one."""
    return {PAYLOAD: encode(message)}
