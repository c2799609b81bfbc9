"""`dmr data`: the commands that write and look through data folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dmr.studies.cli.app import command, data, stderr_console


@command("prepare", data)
def prepare(
    name: Annotated[
        Literal["crema_d", "kinetics_sounds", "casia_surf", "nyuv2", "utd_mhad", "hydraulic"],
        typer.Argument(metavar="SET"),
    ],
    source: Annotated[Path, typer.Option(metavar="DIR", help="Where the original release lies.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder that is written.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out samples that cannot be read.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes; else one per core.")] = None,
    split: Annotated[
        Literal["published", "actor"], typer.Option(help="For crema_d: no actor in two splits, or the published lists.")
    ] = "published",
    target: Annotated[
        Literal["cooler", "valve", "pump", "accumulator"],
        typer.Option(help="For hydraulic: the component whose condition is the label."),
    ] = "accumulator",
    depth: Annotated[bool, typer.Option("--depth", help="For utd_mhad: the depth videos as well.")] = False,
) -> int:
    """Write crema_d, kinetics_sounds, casia_surf, nyuv2, utd_mhad or hydraulic as arrays.

    Run again, it goes on where it was interrupted.
    """
    from dmr.studies.cli.data_prepare import prepare_set

    options = {"split": split, "target": target, "depth": depth}
    return prepare_set(name, source, out, options, workers, skip_bad, stderr_console())


@command("check", data)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data folder: dataset.yaml and arrays.")],
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="A page for people, or all of it for machines.")
    ] = "text",
) -> int:
    """What is in a data folder, and all that is wrong with it; exit code 1 where something would spoil a study."""
    from dmr.studies.cli.data_check_page import check_data

    return check_data(folder, output)
