"""What the files of `dmr`'s commands share: the application, how a command ends, and the options several of them have.

Exit codes: 0 the budget is done and a trial succeeded; 1 the work failed or none succeeded; 2 bad input, before
anything is started; 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import dmr
from dmr.files import user_path
from dmr.studies.errors import StudyError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="dmr",
    help="Studies of multimodal models that keep working when sensors fail.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data = typer.Typer(
    name="data", help="Data folders: write one from an original release, or check one.", no_args_is_help=True
)
app.add_typer(data)

StudyFileArgument = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml", help="The study file, or the name of a ready study.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a key of the study file, such as train.epochs=10; may be given several times.",
    ),
]
StorageOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where studies lie, a folder or s3://bucket/folder; else DMR_STORAGE, else ./dmr_runs."
    ),
]
AddressOption = Annotated[
    str | None, typer.Option(metavar="ADDR", help="A Ray cluster; else RAY_ADDRESS, else a local Ray.")
]
NameOption = Annotated[str | None, typer.Option(metavar="NAME", help="Replace the study's name.")]
SameDataOption = Annotated[
    bool, typer.Option("--same-data", help="Go on although the data differ from those it began with; they are kept.")
]
TrialsOption = Annotated[int | None, typer.Option(metavar="N", help="Replace the budget of trials.")]

LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        metavar="OLD=NEW,...",
        help='Other names in figures, such as "dropout best 1=Dropout"; several with commas, or given several times.',
    ),
]
NoTitleOption = Annotated[bool, typer.Option("--no-title", help="Figures without title and subtitle, for papers.")]


def command(
    name: str, to: typer.Typer = app, drives_study: bool = False
) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a command that returns its exit code; a StudyError is shown as lines, with exit code 2. One that
    `drives_study` imports much: Python looks for no garbage then, until the driver lets it before the first trial.
    """

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        @to.command(name)
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            from dmr.analysis.garbage import no_collecting

            try:
                check_working_directory(_working_directory())
                if os.getcwd() not in sys.path:  # where a user's own method or encoder, `module:Class`, is found
                    sys.path.append(os.getcwd())
                paths = {key: user_path(value) for key, value in kwargs.items() if isinstance(value, Path)}
                with no_collecting() if drives_study else nullcontext():
                    code = function(*args, **(kwargs | paths))
            except StudyError as error:
                for line in error.lines:
                    sys.stderr.write(line + "\n")
                raise typer.Exit(2) from None
            except BrokenPipeError:  # `dmr list | head`: the reader has enough, and Typer ends without a word
                raise
            except OSError as error:  # a disk that is full or gone
                where = f"{error.filename}: " if error.filename else ""
                sys.stderr.write(f"{where}{error.strerror or error}\n")
                raise typer.Exit(1) from None
            raise typer.Exit(code or 0)

        return wrapper

    return register


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise StudyError("the working directory has been deleted; change to another one") from None


def check_working_directory(folder: Path) -> None:
    """Ray puts the working directory first on the path of the processes that train.

    Raises:
        StudyError: they would import another `dmr` from there than the one that runs here.
    """
    there, first = _found([str(folder)]), _found([str(folder), *sys.path])
    if there is not None and there == first and there.resolve() != Path(dmr.__file__).resolve():
        raise StudyError(f"{there}: hides the package dmr from the processes that train; rename it")


def _found(path: list[str]) -> Path | None:
    """The file or folder that `import dmr` finds there; an editable install's own finder comes after all of these."""
    spec = PathFinder.find_spec("dmr", path)
    return None if spec is None else Path(spec.origin or next(iter(spec.submodule_search_locations or ())))


def stderr_console() -> Console:
    """Standard error, for people's eyes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
