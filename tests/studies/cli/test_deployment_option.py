"""Odds on the command line, checked as those of a study file."""

from __future__ import annotations

import pytest

from dmr.studies.cli.deployment_option import parse_odds
from dmr.studies.errors import StudyError


def test_odds_are_read() -> None:
    assert parse_odds(None, ("audio", "image")) is None
    assert parse_odds("audio=0.99, image=0.8", ("audio", "image")) == {"audio": 0.99, "image": 0.8}
    assert parse_odds("image=0", ("audio", "image")) == {"image": 0.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio", "--deployment audio: got 'audio'; needed is a modality=probability"),
        ("audio=often", "--deployment audio=often: got 'audio=often'; needed is a modality=probability"),
        ("", "--deployment : got ''; needed is a modality=probability"),
        ("audio=0.5,audio=0.6", "--deployment audio=0.5,audio=0.6: audio comes twice"),
        ("sound=0.5", "--deployment: sound: the modalities are audio, image"),
        ("audio=1.5", "--deployment: audio: a probability between 0 and 1 is needed, got 1.5"),
        ("audio=nan", "--deployment: audio: a probability between 0 and 1 is needed, got nan"),
        ("audio=0,image=0", "--deployment: these odds leave no combination possible"),
    ],
)
def test_a_mistake_is_one_line(text: str, message: str) -> None:
    with pytest.raises(StudyError) as error:
        parse_odds(text, ("audio", "image"))
    assert error.value.lines == (message,) or list(error.value.lines) == [message]
