"""A cluster that adds nodes on demand."""

from __future__ import annotations

from studies.errors import StudyError
from studies.plan import StudyPlan


def room_to_grow(plan: StudyPlan, total: dict[str, float]) -> dict[str, float]:
    """The CPUs and GPUs of the cluster this process is connected to; where its autoscaler adds nodes on demand, at
    least what `resources.concurrent` trials take, since nobody asks for nodes before trials wait for them.

    Raises:
        StudyError: the cluster grows and the study does not say how far.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2(fetch_from_server=True):
        return total
    resources = plan.study.resources
    if resources.concurrent is None:
        raise StudyError(
            "resources.concurrent: none is given, and this cluster grows on demand: say how many trials may run at a "
            "time (--set resources.concurrent=4)"
        )
    wanted = {"CPU": resources.concurrent * resources.cpus, "GPU": resources.concurrent * resources.gpus}
    return total | {name: max(total.get(name, 0.0), amount) for name, amount in wanted.items()}
