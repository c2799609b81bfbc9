"""The option `--deployment`: how often each modality works, said after a study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from dmr.combinations import deployment_weights, evaluated_combinations
from dmr.studies.errors import StudyError

DeploymentOption = Annotated[
    str | None,
    typer.Option(
        "--deployment",
        metavar="A=0.9,B=0.5",
        help="How often each modality works: the expected value under these odds; not named: always.",
    ),
]


def parse_odds(text: str | None, modalities: tuple[str, ...]) -> dict[str, float] | None:
    """`audio=0.99,image=0.8` as the study file's `deployment` has it, checked as that is; None where nothing is given.

    Raises:
        StudyError: one line: it is not written so, or does not fit the modalities.
    """
    if text is None:
        return None
    odds: dict[str, float] = {}
    for part, name, chance in named_values("--deployment", text):
        try:
            odds[name] = float(chance)
        except ValueError:
            raise StudyError(f"--deployment {text}: got {part!r}; needed is a modality=probability") from None
    try:
        deployment_weights(evaluated_combinations(modalities), odds)
    except ValueError as error:
        raise StudyError(f"--deployment: {error}") from None
    return odds


def named_values(option: str, text: str) -> Iterator[tuple[str, str, str]]:
    """Each part of `audio=0.99,image=0.8`, and its name and value.

    Raises:
        StudyError: a name comes twice.
    """
    names: set[str] = set()
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name in names:
            raise StudyError(f"{option} {text}: {name} comes twice")
        names.add(name)
        yield part, name, value
