"""Which run is exported when nobody names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from dmr.files import write_text
from dmr.studies.errors import StudyError
from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.study_folder import StudyFolder
from dmr.studies.storage.trial_files import BEST
from dmr.studies.study_file.plan import make_plan
from dmr.studies.trained_models.find_run import find_run, find_winner
from dmr.studies.yaml_io import to_yaml

DOCUMENT = {
    "name": "s",
    "dataset": {"name": "digits"},
    "train": {"learning_rate": 0.001},
    "search": {"train.learning_rate": {"uniform": [0.001, 0.009]}},
    "seed": 5,
}
ID = "{:032x}"


class Store:
    """A study's folder with Optuna's database, filled by hand."""

    def __init__(self, storage: Path, metric: str, keep: int | None = 5) -> None:
        self.storage, self.folder = storage, StudyFolder(storage, "s")
        self.folder.path.mkdir()
        document = DOCUMENT | {"objective": [{"metric": metric}], "checkpoints": {"keep": keep}}
        plan = make_plan(document, "s.yaml")
        write_text(self.folder.study_file, to_yaml(plan.document))
        self.folder.remember(StoreUris("sqlite:///none.db", self.folder.optuna_url))
        self.lines: list[str] = []
        direction = "maximize" if plan.study.objective[0].mode == "max" else "minimize"
        self.studies = {
            name: optuna.create_study(study_name=name, storage=self.folder.optuna_url, direction=direction)
            for name in ("s", "s/confirm")
        }

    def add(self, study: str, state: TrialState, best: float | None, pair: tuple[str, int, int] | None = None) -> None:
        number = len(self.studies[study].trials)
        attributes: dict[str, Any] = {} if best is None else {"best": [best, 0.0]}
        if pair is None:
            params = {"train.learning_rate": 0.001 * (number + 1)}
            spread = {"train.learning_rate": FloatDistribution(0.001, 0.009)}
        else:
            params, spread = {}, {}
            attributes |= {"pair": list(pair), "point": {"train.learning_rate": 0.001 * (pair[1] + 1)}}
        value = best if state == TrialState.COMPLETE else None
        trial = create_trial(state=state, value=value, params=params, distributions=spread, user_attrs=attributes)
        self.studies[study].add_trial(trial)
        stage = "search" if pair is None else "confirm"
        checkpoint = self.folder.run("search" if pair is None else "confirm", number) / BEST
        checkpoint.parent.mkdir(parents=True)
        if best is not None:
            checkpoint.touch()
        run = ID.format(len(self.lines) + 1)
        self.lines.append(f'{{"op":"run","key":"{stage}/{number}","id":"{run}"}}\n')
        self.folder.journal.write_text("".join(self.lines))


def fill(store: Store, values: list[float]) -> None:
    """Four trials: the best value is a pruned one's; the last one failed."""
    first, second, third = values
    store.add("s", TrialState.COMPLETE, first)
    store.add("s", TrialState.PRUNED, second)
    store.add("s", TrialState.COMPLETE, third)
    store.add("s", TrialState.FAIL, None)


@pytest.mark.parametrize(("metric", "values"), [("val/accuracy_mean", [0.5, 0.9, 0.7]), ("val/nll_mean", [3, 1, 2])])
def test_the_winner_is_the_best_trial_and_then_its_best_confirm_run(
    tmp_path: Path, metric: str, values: list[float]
) -> None:
    store = Store(tmp_path, metric)
    fill(store, values)
    run = find_winner(StudyFolder(tmp_path, "s"))
    assert (run.label, run.run_id, run.settings.seed) == ("s trial 1", ID.format(2), 5)
    assert run.checkpoint == tmp_path / "s/trials/0001/best.pt"
    assert run.settings.train.learning_rate == pytest.approx(0.002)
    better, worse = sorted(values, reverse=metric == "val/nll_mean")[::-2]
    store.add("s/confirm", TrialState.COMPLETE, better, ("dmrnet", 0, 6))  # of another configuration
    store.add("s/confirm", TrialState.COMPLETE, worse, ("dmrnet", 1, 6))
    store.add("s/confirm", TrialState.COMPLETE, values[2], ("dmrnet", 1, 7))
    store.add("s/confirm", TrialState.FAIL, None, ("dmrnet", 1, 8))
    run = find_winner(StudyFolder(tmp_path, "s"))
    assert (run.label, run.run_id, run.settings.seed) == ("s confirm run 2", ID.format(7), 7)
    assert run.checkpoint == tmp_path / "s/confirm/0002/best.pt"
    assert run.settings.train.learning_rate == pytest.approx(0.002)


def test_runs_are_found_by_id_in_the_journals(tmp_path: Path) -> None:
    store = Store(tmp_path, "val/accuracy_mean")
    fill(store, [0.5, 0.9, 0.7])
    store.add("s/confirm", TrialState.COMPLETE, 0.8, ("dmrnet", 2, 7))
    assert find_run(ID.format(3), tmp_path).label == "s trial 2"
    assert find_run(ID.format(5), tmp_path).settings.seed == 7
    for unknown in (ID.format(9), "", '"'):  # an empty one is what a shell makes of a variable that is not set
        with pytest.raises(StudyError, match=f"run {unknown}: no study in .* has it"):
            find_run(unknown, tmp_path)


@pytest.mark.parametrize(("metric", "values"), [("val/accuracy_mean", [0.5, 0.9, 0.7]), ("val/nll_mean", [3, 1, 2])])
def test_a_checkpoint_that_was_removed_is_said_to_be(tmp_path: Path, metric: str, values: list[float]) -> None:
    store = Store(tmp_path, metric, keep=1)
    fill(store, values)
    for number in (1, 2):
        (tmp_path / f"s/trials/000{number}/best.pt").unlink()
    with pytest.raises(StudyError, match=r"^s trial 2: its checkpoint was removed: .* best 1 .*`checkpoints.keep`"):
        find_run(ID.format(3), tmp_path)
    file = tmp_path / "s/trials/0001/best.pt"
    with pytest.raises(StudyError, match=f"^s trial 1: {file}: not there any more: it was deleted by hand, or .*keep"):
        find_run(ID.format(2), tmp_path)
    with pytest.raises(StudyError, match=r"^s trial 3: it failed, and checkpoints of failed trials are not kept$"):
        find_run(ID.format(4), tmp_path)


def test_the_defaults_keep_their_checkpoint_so_a_missing_one_was_deleted(tmp_path: Path) -> None:
    """The file's own learning rate is the first trial's."""
    store = Store(tmp_path, "val/accuracy_mean", keep=1)
    fill(store, [0.5, 0.9, 0.7])
    for number in (0, 2):
        (tmp_path / f"s/trials/000{number}/best.pt").unlink()
    with pytest.raises(StudyError, match=r"^s trial 0: .*best.pt: not there any more: it was deleted by hand, or"):
        find_run(ID.format(1), tmp_path)
    with pytest.raises(StudyError, match=r"^s trial 2: its checkpoint was removed"):
        find_run(ID.format(3), tmp_path)


def test_a_checkpoint_that_somebody_has_deleted_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, "val/accuracy_mean", keep=None)
    fill(store, [0.5, 0.9, 0.7])
    deleted = "not there any more: it was deleted by hand"
    file = tmp_path / "s/trials/0001/best.pt"
    file.unlink()
    with pytest.raises(StudyError, match=f"^s trial 1: {file}: {deleted}$"):
        find_winner(StudyFolder(tmp_path, "s"))
    store.add("s/confirm", TrialState.COMPLETE, 0.8, ("dmrnet", 1, 7))
    store.add("s/confirm", TrialState.FAIL, None, ("dmrnet", 1, 8))
    file = tmp_path / "s/confirm/0000/best.pt"
    file.unlink()
    with pytest.raises(StudyError, match=f"^s confirm run 0: {file}: {deleted}$"):
        find_winner(StudyFolder(tmp_path, "s"))
    with pytest.raises(StudyError, match=r"^s confirm run 1: it failed: .*best.pt: not there$"):
        find_run(ID.format(6), tmp_path)


def test_a_trial_that_has_not_ended_has_no_checkpoint_yet(tmp_path: Path) -> None:
    Store(tmp_path, "val/accuracy_mean").add("s", TrialState.RUNNING, None)
    with pytest.raises(StudyError, match=r"^s trial 0: .*best.pt: not there: it has not ended$"):
        find_run(ID.format(1), tmp_path)


def test_a_single_training_without_its_checkpoint_is_said_to_be(tmp_path: Path) -> None:
    store = Store(tmp_path, "val/accuracy_mean")
    folder = StudyFolder(tmp_path / "s", "train-1")
    folder.path.mkdir()
    folder.study_file.write_text(store.folder.study_file.read_text())
    folder.journal.write_text(f'{{"op":"run","key":"train","id":"{ID.format(9)}"}}\n')
    with pytest.raises(StudyError, match=r"^s train: .*train-1/best.pt: not there: no epoch has ended, or it was del"):
        find_run(ID.format(9), tmp_path)


def test_a_study_without_a_successful_trial_has_no_winner(tmp_path: Path) -> None:
    Store(tmp_path, "val/accuracy_mean").add("s", TrialState.FAIL, None)
    with pytest.raises(StudyError, match="s: no trial has succeeded"):
        find_winner(StudyFolder(tmp_path, "s"))


def test_a_single_training_is_named_by_its_run(tmp_path: Path) -> None:
    (tmp_path / "s/train-1").mkdir(parents=True)
    with pytest.raises(StudyError, match="s: only `dmr train` has run here; name the run: --run RUN_ID"):
        find_winner(StudyFolder(tmp_path, "s"))
