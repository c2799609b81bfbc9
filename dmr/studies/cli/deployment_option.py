"""The option `--deployment`: how often each modality works, said after a study."""

from __future__ import annotations

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
    for part in text.split(","):
        name, _, chance = (piece.strip() for piece in part.partition("="))
        try:
            if name in odds:
                raise StudyError(f"--deployment {text}: {name} comes twice")
            odds[name] = float(chance)
        except ValueError:
            raise StudyError(f"--deployment {text}: got {part!r}; needed is a modality=probability") from None
    try:
        deployment_weights(evaluated_combinations(modalities), odds)
    except ValueError as error:
        raise StudyError(f"--deployment: {error}") from None
    return odds
