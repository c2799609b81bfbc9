"""A cluster that adds nodes on demand."""

from __future__ import annotations

from dmr.studies.errors import StudyError
from dmr.studies.study_file.plan import StudyPlan


def places_on_demand(plan: StudyPlan) -> int:
    """How many workers the trials of a study may ask for where the autoscaler of the cluster this process is connected
    to adds nodes on demand: those of `resources.concurrent` trials, since nobody asks for nodes before trials wait for
    them. 0 where it adds none.

    Raises:
        StudyError: the cluster grows and the study does not say how far.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2(fetch_from_server=True):
        return 0
    resources = plan.study.resources
    if resources.concurrent is None:
        raise StudyError(
            "resources.concurrent: none is given, and this cluster grows on demand: say how many trials may run at a "
            "time (--set resources.concurrent=4)"
        )
    return resources.concurrent * resources.least_and_most[1]
