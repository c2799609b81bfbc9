"""The words of a report: they claim what the numbers allow."""

from __future__ import annotations

import math

import pytest

from analysis.report import run_links
from analysis.report_answer import combination_words, paid
from analysis.report_facts import space_table
from analysis.report_tables import number, p_text
from analysis.statistics import Interval


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
    assert paid(interval, p_value, mode) == words


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
