from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient, artifacts

from dmr.analysis.results import load_study as results
from dmr.analysis.results.load_study import load_study
from dmr.analysis.results.record_names import COLUMNS
from dmr.analysis.results.study_results import (
    StudyResults,
    combination_values,
    stopped_trials,
    summary_values,
    trial_labels,
    trial_values,
)
from dmr.combinations import all_combinations

SEVEN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
ENDINGS = {
    0: ("FINISHED", "completed", SEVEN),
    1: ("FINISHED", "pruned", tuple(0.5 * value for value in SEVEN)),
    2: ("FAILED", "error", None),
    3: ("RUNNING", None, None),
    4: ("KILLED", "time_budget", None),
    5: ("FINISHED", "completed", tuple(1.2 * value for value in SEVEN)),
    6: ("FAILED", "diverged", tuple(0.1 * value for value in SEVEN)),
}

NewStudy = Callable[..., Any]


def load(study: Any, **options: Any) -> StudyResults:
    return load_study(study.uri, study.name, experiment=study.experiment, **options)


@pytest.fixture
def study(new_study: NewStudy) -> Any:
    """Seven trials that ended in every way, written in another order than their numbers'."""
    study = new_study(searched=["model.prior_std", "sampling.strategy", "sampling.keep_prob"])
    for number in (5, 0, 3, 1, 4, 2, 6):
        status, reason, values = ENDINGS[number]
        params = {"model.prior_std": 0.1 * (number + 1), "sampling.strategy": "uniform", "train.epochs": 8}
        if number % 2:
            params |= {"sampling.strategy": "bernoulli", "sampling.keep_prob": 0.5}
        study.trial(number, values, status=status, stop_reason=reason, params=params)
    return study


def test_how_far_a_trial_got_that_was_stopped_early(new_study: NewStudy) -> None:
    study = new_study()
    run = study.trial(0, SEVEN, stop_reason="pruned", params={"train.epochs": 60})
    study.client.set_tag(run, "epochs", "8")
    study.trial(1, SEVEN, stop_reason="pruned", params={"train.epochs": 60})  # of an earlier version
    study.client.set_tag(study.trial(2, SEVEN, params={"train.epochs": 60}), "epochs", "60")
    found = load(study)
    assert stopped_trials(found) == {0: "8 of 60 epochs", 1: "stopped early"}
    assert trial_labels(found) == {0: "trial 0 (8 of 60 epochs)", 1: "trial 1 (stopped early)", 2: "trial 2"}


def test_columns_and_what_is_known_of_the_study(study: Any) -> None:
    found = load(study)
    assert list(found.table.columns) == [*COLUMNS, "model.prior_std", "sampling.strategy", "sampling.keep_prob"]
    assert found.study == "digits"
    assert found.dataset == "digits"
    assert found.modalities == ("rgb", "depth", "ir")
    assert found.objectives == ({"metric": "val/accuracy_mean", "mode": "max"},)
    assert found.searched == ("model.prior_std", "sampling.strategy", "sampling.keep_prob")
    assert (found.main_metric, found.main_mode, found.combinations) == ("accuracy", "max", "all 7")
    assert found.parent_run_id == study.parent


def test_rows_of_a_trial_are_the_best_epochs_summaries_then_combinations_in_order(study: Any) -> None:
    table = load(study).table
    rows = table[table["trial"] == 0]
    assert rows["metric"].tolist() == ["accuracy"] * 7 + ["accuracy_full", "accuracy_mean", "accuracy_worst"]
    assert rows["combination"].tolist()[:7] == list(study.combinations.names)
    assert rows["combination"].isna().tolist() == [False] * 7 + [True] * 3
    assert rows["value"].tolist() == pytest.approx([*SEVEN, 0.7, 0.4, 0.1])
    assert set(rows["split"]) == {"val"}  # neither what was seen in training nor what earlier epochs had
    for column, value in {"stage": "search", "status": "completed", "method": "dmrnet", "seed": 0}.items():
        assert set(rows[column]) == {value}
    assert rows["run"].nunique() == 1


def test_every_trial_has_a_status_and_those_without_values_one_row(study: Any) -> None:
    table = load(study).table
    statuses = table.groupby("trial")["status"].first().to_dict()
    assert statuses == {number: reason or "running" for number, (_, reason, _) in ENDINGS.items()}
    for number in (2, 3, 4):
        rows = table[table["trial"] == number]
        assert len(rows) == 1
        assert rows[["split", "metric", "combination", "value"]].isna().all(axis=None)
    assert table["trial"].is_monotonic_increasing
    assert table.index.tolist() == list(range(4 * 10 + 3))


def test_searched_columns_are_numbers_where_all_their_values_are(study: Any) -> None:
    table = load(study).table.groupby("trial").first()
    assert table["model.prior_std"].tolist() == pytest.approx([0.1 * (number + 1) for number in range(7)])
    assert table["sampling.strategy"].tolist() == ["uniform", "bernoulli"] * 3 + ["uniform"]
    assert table["sampling.keep_prob"].dtype == float
    assert table["sampling.keep_prob"].isna().tolist() == [True, False] * 3 + [True]


def test_a_choice_that_mixes_numbers_and_words_stays_text(new_study: NewStudy) -> None:
    study = new_study(searched=["mixed", "whole", "never"])
    for number, value in enumerate(["1", "none", "2"]):
        study.trial(number, SEVEN, params={"mixed": value, "whole": 2**number})
    table = load(study).table.groupby("trial").first()
    assert table["mixed"].tolist() == ["1", "none", "2"]
    assert table["whole"].tolist() == [1, 2, 4]
    assert pd.api.types.is_integer_dtype(table["whole"])
    assert table["never"].isna().all()


def test_pages_make_no_difference(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(study).table
    for page in (1, 2, 7):
        monkeypatch.setattr(results, "PAGE", page)
        pd.testing.assert_frame_equal(load(study).table, whole)


def test_main_reads_no_artifact_and_all_adds_the_other_metrics(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = load(study, metrics="all").table
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "download_artifacts", None)
        patch.setattr(MlflowClient, "list_artifacts", None)
        main = load(study).table
    known = everything["metric"].isna() | everything["metric"].str.startswith("accuracy")
    pd.testing.assert_frame_equal(everything[known].reset_index(drop=True), main)
    rows = everything[(everything["trial"] == 5) & (everything["metric"] == "nll")]
    assert rows["combination"].tolist() == list(study.combinations.names)
    assert rows["value"].tolist() == pytest.approx([0.6 * value for value in SEVEN])
    assert rows["model.prior_std"].tolist() == pytest.approx([0.6] * 7)
    assert set(everything["metric"].dropna()) == {*main["metric"].dropna(), "macro_f1", "nll"}


def test_all_reads_a_run_whose_artifact_is_not_there(new_study: NewStudy, capfd: pytest.CaptureFixture[str]) -> None:
    study = new_study()
    study.trial(0, SEVEN, artifact=False)
    study.trial(1, SEVEN)
    capfd.readouterr()
    table = load(study, metrics="all").table
    assert table.groupby("trial")["metric"].nunique().to_dict() == {0: 4, 1: 6}
    assert capfd.readouterr().err == ""


def test_a_damaged_artifact_is_one_line(new_study: NewStudy, tmp_path: Path) -> None:
    study = new_study()
    run = study.trial(0, SEVEN)
    for text in ("split,metric,combination,value\nval,nll,rg", "split,metric,combination,value\nval,nll,rgb,x\n"):
        (tmp_path / "combinations.csv").write_text(text)
        study.client.log_artifact(run, str(tmp_path / "combinations.csv"))
        with pytest.raises(LookupError, match=f"run {run}: its combinations.csv cannot be read: "):
            load(study, metrics="all")
    assert len(load(study).table) == 10


def test_only_the_stage_asked_for_and_only_this_study(new_study: NewStudy) -> None:
    study = new_study()
    study.trial(0, SEVEN)
    study.trial(0, SEVEN, stage="confirm", seed=11)
    study.trial(0, SEVEN, stage="confirm", seed=5)
    study.client.delete_run(study.trial(8, SEVEN))
    other = new_study(experiment=study.experiment, name="other")
    other.trial(9, SEVEN)
    assert load(study).table[["stage", "trial", "seed"]].drop_duplicates().values.tolist() == [["search", 0, 0]]
    confirmed = load(study, stage="confirm").table[["trial", "seed"]].drop_duplicates()
    assert confirmed.values.tolist() == [[0, 5], [0, 11]]
    both = load(study, stage=None).table
    assert both["stage"].drop_duplicates().tolist() == ["confirm", "search"]
    assert set(both["trial"]) == {0}
    assert set(load(other).table["trial"]) == {9}


def test_the_newest_of_two_studies_of_one_name(new_study: NewStudy) -> None:
    old = new_study(start=1_000)
    old.trial(0, SEVEN)
    new = new_study(experiment=old.experiment, start=2_000)
    new.trial(1, SEVEN)
    assert load(old).parent_run_id == new.parent
    assert set(load(old).table["trial"]) == {1}


def test_a_study_without_trials_is_an_empty_table(new_study: NewStudy) -> None:
    found = load(new_study(searched=["model.prior_std"]), metrics="all")
    assert list(found.table.columns) == [*COLUMNS, "model.prior_std"]
    for frame in (found.table, trial_values(found), combination_values(found), summary_values(found)):
        assert frame.empty


def test_no_such_store_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in (f"sqlite:///{tmp_path}/none.db", "sqlite:///none.db", f"sqlite:///{tmp_path}"):
        with pytest.raises(LookupError, match=r"MLflow store sqlite:///.*: there is no such file"):
            load_study(uri, "digits", experiment="digits")
    assert list(tmp_path.iterdir()) == []


def test_no_such_experiment_or_study(study: Any) -> None:
    with pytest.raises(LookupError, match=r"mlflow\.db: no experiment 'elsewhere'"):
        load_study(study.uri, "digits", experiment="elsewhere")
    with pytest.raises(LookupError, match=rf"mlflow\.db: experiment '{study.experiment}' has no study 'letters'"):
        load_study(study.uri, "letters", experiment=study.experiment)


def test_a_store_that_cannot_be_read_is_one_line_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    text = tmp_path / "notes.txt"
    text.write_text("This is a text and no data base. " * 20)
    for uri in (f"sqlite:///{text}", "http://someone:s3cret@127.0.0.1:9", "http://127.0.0.1:9/?password=s3cret"):
        with pytest.raises(LookupError, match="cannot be read: ") as caught:
            load_study(uri, "digits", experiment="digits")
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_trials_are_ordered_best_first_and_equal_ones_by_number(new_study: NewStudy) -> None:
    mean = {0: 0.3, 1: 0.5, 2: 0.4, 3: 0.5}
    for mode, order in {"max": [1, 3, 2, 0], "min": [0, 2, 1, 3]}.items():
        study = new_study(objectives=[("val/accuracy_mean", mode)])
        for number, value in mean.items():
            study.trial(number, [value] * 7)
        study.trial(4, status="FAILED", stop_reason="error")
        values = trial_values(load(study))
        assert values.columns.tolist() == ["val/accuracy_mean"]
        assert values.index.tolist() == order
        assert values["val/accuracy_mean"].tolist() == pytest.approx([mean[number] for number in order])


def test_of_two_objectives_the_first_orders_and_both_are_needed(new_study: NewStudy) -> None:
    study = new_study(objectives=[("val/nll_worst", "min"), ("val/accuracy_mean", "max")])
    for number, nll in enumerate([1.5, 0.5, 1.0]):
        study.trial(number, [0.1 * number] * 7, extra={"best/val/nll_worst": nll})
    study.trial(3, SEVEN)
    values = trial_values(load(study))
    assert values.columns.tolist() == ["val/nll_worst", "val/accuracy_mean"]
    assert values.index.tolist() == [1, 2, 0]
    assert values.to_numpy() == pytest.approx(np.array([[0.5, 0.1], [1.0, 0.2], [1.5, 0.0]]))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_combinations_come_in_their_order_whatever_the_names(new_study: NewStudy, count: int) -> None:
    modalities = random.Random(count).sample(["z", "b10", "b9", "A", "ir_2", "Ir"], count)
    study = new_study(modalities=modalities)
    expected = [0.01 * position for position in range(2**count - 1)]
    study.trial(0, expected)
    study.trial(1, status="RUNNING", stop_reason=None)
    values = combination_values(load(study))
    assert values.columns.tolist() == list(all_combinations(modalities).names)
    assert values.index.tolist() == [0]
    assert values.loc[0].tolist() == pytest.approx(expected)


def test_summaries_of_the_main_metric(study: Any) -> None:
    values = summary_values(load(study))
    assert values.columns.tolist() == ["accuracy_mean", "accuracy_worst", "accuracy_full"]
    assert values.index.tolist() == [0, 1, 5, 6]
    assert values.loc[1].tolist() == pytest.approx([0.2, 0.05, 0.35])


def test_values_of_another_split(new_study: NewStudy) -> None:
    study = new_study()
    study.trial(0, SEVEN, extra={"best/test/accuracy/rgb-ir": 0.9, "best/test/accuracy_mean": 0.8})
    found = load(study)
    assert combination_values(found, "test").to_dict() == {"rgb-ir": {0: 0.9}}
    assert summary_values(found, "test").to_dict() == {"accuracy_mean": {0: 0.8}}
    assert trial_values(found).loc[0].tolist() == pytest.approx([0.4])


def test_the_better_end_of_the_main_metric_is_what_the_study_says(new_study: NewStudy) -> None:
    assert load(new_study(tags={"main_metric_mode": "min"})).main_mode == "min"
    assert load(new_study(tags={"main_metric_mode": "max"})).main_mode == "max"


def test_a_study_whose_run_was_deleted_is_no_study_and_its_trials_are_left_out_where_theirs_were(
    new_study: NewStudy,
) -> None:
    study = new_study()
    kept, deleted = (study.trial(number, SEVEN) for number in range(2))
    study.client.delete_run(deleted)
    found = load(study)
    assert list(found.runs.index) == [kept]
    assert found.deleted[0][1] == deleted
    assert f"mlflow runs restore --run-id {deleted}" in found.deleted_line()
    assert load(study, stage="confirm").deleted_line() == ""
    study.client.delete_run(study.parent)
    with pytest.raises(LookupError, match=f"the study's run was deleted in MLflow; .*--run-id {study.parent}$"):
        load(study)
    study.client.delete_experiment(study.experiment_id)
    with pytest.raises(LookupError, match=f"was deleted in MLflow; .*--experiment-id {study.experiment_id}$"):
        load(study)
