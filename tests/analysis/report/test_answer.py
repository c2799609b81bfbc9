"""The words of a report: they claim what the numbers allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from dmr.analysis.comparison.comparison import chosen, compare
from dmr.analysis.comparison.entries import find_entries
from dmr.analysis.report.answer import Answer, answer
from dmr.analysis.report.facts import space_table
from dmr.analysis.report.page import run_links
from dmr.analysis.report.page_tables import number, p_text
from dmr.analysis.report.searching import paid
from dmr.analysis.report.words import combination_words
from dmr.analysis.results.artifacts import Samples
from dmr.analysis.results.record_names import COLUMNS, RUN_COLUMNS
from dmr.analysis.results.study_results import StudyResults, stage_of
from dmr.analysis.statistics import Interval
from dmr.direction import Direction

NAMES = ("rgb", "ir", "rgb-ir")
SEEDS = 8


def answered(
    found: Mapping[int, float],
    confirmed: Mapping[tuple[str, str, int], Sequence[float]],
    scores: Mapping[str, float] | None = None,
    metric: str = "accuracy",
    searched: tuple[str, ...] = ("train.lr",),
    methods: Mapping[int, str] | None = None,
    stopped: Mapping[int, str] | None = None,
    by: str = "mean",
    tags: Mapping[str, str] | None = None,
) -> Answer:
    """Of a search that found a summary `by` on val by trial, and a confirmation with a value per seed by method,
    configuration and trial; each of 200 samples of a method has the same of the `scores`, or none is kept. Trials that
    were stopped early got as far as `stopped` says.
    """
    runs, rows = [], []
    for trial, value in found.items():
        method = (methods or {}).get(trial, "dmrnet")
        start = (f"{trial}", trial, "search", "pruned" if trial in (stopped or {}) else "completed", method)
        runs.append((*start, None, 0, 1.0, method))
        rows.append((*start, 0, "val", f"{metric}_{by}", None, value))
    for (method, config, trial), values in confirmed.items():
        for seed, value in enumerate(values, start=1):
            start = (f"{method}/{config}/{seed}", trial, "confirm", "completed", method)
            runs.append((*start, config, seed, 1.0, method))
            rows += [(*start, seed, "test", metric, name, value) for name in NAMES]
    both = StudyResults(
        study="s",
        dataset="d",
        modalities=("rgb", "ir"),
        objectives=({"metric": f"val/{metric}_{by}", "mode": Direction.MAX},),
        searched=searched,
        main_metric=metric,
        main_mode=Direction.MAX,
        combinations="all 3",
        parent_run_id="p",
        tags=dict(tags or {}),
        runs=pd.DataFrame(runs, columns=list(RUN_COLUMNS)).set_index("run"),
        table=pd.DataFrame(rows, columns=list(COLUMNS)),
        stopped={f"{trial}": text for trial, text in (stopped or {}).items()},
    )
    if not confirmed:
        return answer(both, None, "dmrnet")

    def samples(run: str) -> Samples | None:
        score = (scores or {}).get(run.partition("/")[0])
        return None if score is None else (np.full((3, 200), score, dtype=np.float32), NAMES)

    search = stage_of(both, "search")
    reference = chosen(search, find_entries([both]).entries).label
    return answer(both, compare([both], reference=reference, samples=samples), "dmrnet")


def test_a_better_trial_that_is_not_confirmed_is_named() -> None:
    confirmed = {("dmrnet", "best 1", 1): [0.5] * SEEDS, ("dmrnet", "defaults", 0): [0.25] * SEEDS}
    first = "the configuration that the search put first on val"
    found = answered({0: 0.25, 1: 0.5}, confirmed)
    assert found.headline.startswith(f"dmrnet best 1 (trial 1), {first}")
    found = answered({0: 0.25, 1: 0.5, 2: 0.75}, confirmed)
    assert found.headline.startswith(f"dmrnet best 1 (trial 1), of those confirmed {first}")
    assert found.sentences[0].startswith("Trial 2 is better on val and has no values on test")
    found = answered({0: 0.25, 1: 0.5}, {("dmrnet", "defaults", 0): [0.25] * SEEDS})
    assert "Whether searching paid is not known" in " ".join(found.sentences)


def test_a_best_trial_that_was_stopped_early_says_so() -> None:
    found = answered({0: 0.25, 1: 0.5}, {}, stopped={1: "8 of 60 epochs"})
    assert found.headline.startswith("Not confirmed yet: trial 1 (dmrnet, 8 of 60 epochs) is the best of 2 trials")
    found = answered({0: 0.75, 1: 0.5}, {}, stopped={1: "8 of 60 epochs"})
    assert found.headline.startswith("Not confirmed yet: trial 0 (dmrnet) is the best of 2 trials")


def test_the_defaults_are_of_the_block_or_else_of_the_study() -> None:
    confirmed = {("dropout", "best 1", 1): [0.5] * SEEDS, ("dmrnet", "defaults", 0): [0.25] * SEEDS}
    choice, blocks = (
        " ".join(answered({0: 0.25, 1: 0.5}, confirmed, searched=(key, "train.lr")).sentences)
        for key in ("model.method", "block")
    )
    assert "Searching paid: against the file's defaults of dmrnet the mean changed by +0.2500" in choice
    assert "exact test over seeds of this comparison alone p = 0.0078" in choice
    assert "Whether searching paid is not known" in blocks


def test_searching_is_judged_for_each_method_and_not_at_all_where_nothing_was_searched() -> None:
    high, low = [0.5] * SEEDS, [0.25] * SEEDS
    confirmed = {("a", "best 1, defaults", 0): high, ("b", "best 1", 3): [0.45] * SEEDS, ("b", "defaults", 2): low}
    blocks = ("block", "train.lr")
    methods = {0: "a", 1: "a", 2: "b", 3: "b"}
    said = " ".join(answered({0: 0.5, 1: 0.4, 2: 0.2, 3: 0.3}, confirmed, searched=blocks, methods=methods).sentences)
    assert "Searching did not pay for a: the file's defaults were the best of the search." in said
    assert "Searching, of the other methods: for b it paid (p after Holm's correction)." in said
    once = answered({0: 0.5, 2: 0.2, 3: 0.3}, confirmed, searched=blocks, methods=methods)
    assert "Nothing was searched for a: it had one trial, with the file's defaults." in once.sentences
    none = " ".join(answered({0: 0.5}, {("a", "best 1, defaults", 0): high}, searched=()).sentences)
    assert "Nothing was searched: the configuration is the study file's own." in none
    assert "pay" not in none


def test_one_method_without_a_difference_does_not_silence_the_test_of_another() -> None:
    same, other = [0.5] * SEEDS, [0.25] * SEEDS
    confirmed = {("a", "best 1", 1): same, ("b", "best 1", 0): same, ("c", "best 1", 2): other}
    said = " ".join(answered({0: 0.3, 1: 0.5, 2: 0.2}, confirmed).sentences)
    assert "over seeds, which also covers training, finds c worse, and leaves 1 open" in said


def test_what_decides_comes_in_order() -> None:
    confirmed = {("dmrnet", "best 1", 1): [0.5] * SEEDS, ("dmrnet", "defaults", 0): [0.25] * SEEDS}
    said = answered({0: 0.25, 1: 0.5}, confirmed)
    assert said.headline.endswith("0.5000 in the worst combination of each seed, 0.5000 with all modalities (8 seeds).")
    starts = (
        "What is lost",
        "If one has to go",
        "Its weakest combination",
        "Searching paid",
        "It cost 2 trials and 16",
    )
    assert [sentence.startswith(start) for sentence, start in zip(said.sentences, starts, strict=False)] == [True] * 5


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("worst", "reaches in the worst combination of each seed a mean accuracy of 0.5000"),
        ("full", "reaches with all modalities a mean accuracy of 0.5000"),
        ("expected", "reaches an expected accuracy of 0.5000"),
    ],
)
def test_the_answer_is_by_what_was_searched_for(by: str, words: str) -> None:
    confirmed = {("dmrnet", "best 1", 1): [0.5] * SEEDS, ("dmrnet", "defaults", 0): [0.25] * SEEDS}
    said = answered({0: 0.25, 1: 0.5}, confirmed, by=by, tags={"deployment": '{"rgb": 0.5}'})
    assert words in said.headline
    assert said.figures[0].name == by
    assert {figure.name for figure in said.figures} == {"mean", "worst", "full", "expected"}
    assert f"against the file's defaults of dmrnet the {by} changed by +0.2500" in " ".join(said.sentences)


def test_scores_of_samples_are_not_those_of_segmentation() -> None:
    confirmed = {("a", "best 1", 1): [0.5] * SEEDS, ("b", "best 1", 0): [0.25] * SEEDS}
    said = " ".join(answered({0: 0.3, 1: 0.5}, confirmed, {"a": 0.5, "b": 0.75}, "miou").sentences)
    assert "of pixel accuracy over test samples, which speaks of these trained networks alone and takes" in said
    assert "samples as independent, finds b better" in said
    assert "over seeds, which also covers training, finds b worse" in said


@pytest.mark.parametrize(
    ("interval", "p_value", "mode", "words"),
    [
        (Interval(0.03, 0.01, 0.05, 8), 0.0078, "max", "paid"),
        (Interval(0.03, 0.01, 0.05, 8), 0.0078, "min", "made it worse"),
        (Interval(0.03, 0.01, 0.05, 5), 0.0625, "max", "seems to pay, but so few seeds cannot prove it"),
        (Interval(-0.03, -0.05, -0.01, 5), 0.0625, "max", "seems to make it worse, but so few seeds cannot prove it"),
        (Interval(0.03, 0.01, 0.05, 5), 0.125, "max", "made no difference that can be told from chance"),
        (Interval(0.03, -0.01, 0.05, 8), 0.04, "max", "made no difference that can be told from chance"),
        (Interval(0.0, 0.0, 0.0, 5), 1.0, "max", "made no difference that can be told from chance"),
        (Interval(0.03, math.nan, math.nan, 1), math.nan, "max", "cannot be judged from one seed"),
    ],
)
def test_searching_paid_only_where_interval_and_test_agree(
    interval: Interval, p_value: float, mode: str, words: str
) -> None:
    assert paid(interval, p_value, Direction(mode)) == words


def test_a_combination_in_words() -> None:
    modalities = ("rgb", "ir", "depth", "sound")
    assert combination_words("ir", modalities) == "ir alone"
    assert combination_words("rgb-ir", modalities) == "rgb and ir"
    assert combination_words("rgb-ir-sound", modalities) == "rgb, ir and sound"
    assert combination_words("rgb-ir-depth-sound", modalities) == "all modalities"


def test_numbers_as_they_are_written() -> None:
    assert [number(value) for value in (0.12346, -0.5, 1234.56, math.nan, None)] == [
        "0.1235",
        "−0.5000",
        "1234.6",
        "–",
        "–",
    ]
    assert number(0.00004, signed=True) == "+0.0000"
    assert [p_text(value) for value in (0.0625, 0.00002, math.nan)] == ["0.0625", "2e-05", "–"]


def test_the_space_names_each_distribution_once_with_its_blocks() -> None:
    width, keep = {"log_uniform": [0.1, 3.0]}, {"uniform": [0.3, 0.9], "when": {"sampling.strategy": "bernoulli"}}
    blocks = [
        {"name": "a", "model.method": "dmrnet", "train.rate": width, "sampling.keep_prob": keep},
        {"name": "b", "model.method": "dropout", "train.rate": width, "model.draws": 2},
    ]
    found = space_table({"search": blocks, "train": {"rate": 0.5}})
    assert found is not None
    assert [[cell.text for cell in row] for row in found.rows] == [
        ["train.rate", "log_uniform 0.1, 3.0", "–", "0.5", "all"],
        ["sampling.keep_prob", "uniform 0.3, 0.9", "sampling.strategy is bernoulli", "–", "a"],
        ["model.draws", "2", "–", "–", "b"],
    ]
    assert space_table({"search": {}}) is None
    assert space_table({}) is None


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("sqlite:////tmp/mlflow.db", "http://127.0.0.1:5000/#/experiments/7/runs/abc"),
        ("https://me:s3cret@host:8080/mlflow/", "https://host:8080/mlflow/#/experiments/7/runs/abc"),
        ("http://token@host", "http://host/#/experiments/7/runs/abc"),
        ("postgresql://me:s3cret@host/db", "http://127.0.0.1:5000/#/experiments/7/runs/abc"),
    ],
)
def test_a_run_is_linked_to_the_server_or_to_what_dmr_ui_opens(uri: str, link: str) -> None:
    assert run_links(uri, "7")("abc") == link
