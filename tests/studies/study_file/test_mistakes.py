"""Mistakes in a study file are values until somebody who knows the file's name makes lines of them."""

from __future__ import annotations

import pytest

from dmr.studies.errors import StudyError
from dmr.studies.study_file.mistakes import InvalidStudy, Mistake, inside, invalid, mistake_of_setting
from dmr.studies.study_file.plan import make_plan

EPOCHS = Mistake("train.epochs", "got 0; allowed: greater than or equal to 1")
TRIALS = Mistake("budget.trials", "got 0; allowed: greater than or equal to 1")


def test_the_name_of_the_file_is_put_in_front_of_every_line_once() -> None:
    error = InvalidStudy(EPOCHS, TRIALS)
    assert error.mistakes == (EPOCHS, TRIALS)
    assert error.lines == (f"train.epochs: {EPOCHS.text}", f"budget.trials: {TRIALS.text}")
    assert error.in_file("s.yaml").lines == tuple(f"s.yaml: {line}" for line in error.lines)


def test_a_document_with_mistakes_is_refused_with_the_name_it_came_with() -> None:
    document = {"name": "s", "dataset": {"name": "digits"}, "train": {"epochs": 0}, "budget": {"trials": 0}}
    with pytest.raises(StudyError) as caught:
        make_plan(document, "s.yaml")
    assert caught.value.lines == InvalidStudy(EPOCHS, TRIALS).in_file("s.yaml").lines


def test_what_is_found_inside_a_block_of_the_search_lies_there() -> None:
    with pytest.raises(InvalidStudy) as caught, inside("search[1]: "):
        raise invalid("model.encoder", "cannot read text")
    assert caught.value.mistakes == (Mistake("search[1]: model.encoder", "cannot read text"),)


def test_a_setting_is_a_key_of_its_section() -> None:
    found = mistake_of_setting("augment", ValueError("crop: got [9, 9]; allowed: at most 8"))
    assert found == Mistake("augment.crop", "got [9, 9]; allowed: at most 8")
