"""How a training run went wrong, from the exception it raised."""

from __future__ import annotations

import traceback

from dmr.studies.trial_outcomes import StopReason, TrialOutcome

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def failed_outcome(error: Exception) -> TrialOutcome:
    """The outcome of a training run that raised this, which is being handled now."""
    return TrialOutcome(reason_of(error), one_line(error), traceback.format_exc())


def reason_of(error: Exception) -> StopReason:
    """`diverged`, `out_of_memory` or `error`."""
    import torch

    from dmr.training import Diverged

    if isinstance(error, Diverged):
        return "diverged"
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or (isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)):
        return "out_of_memory"
    return "error"


def one_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return (f"{name}: {text}" if text and name != "Diverged" else text or name)[:300]
