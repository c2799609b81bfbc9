"""The study files that come with DMR, known by their names: `digits` is `studies/digits.yaml`."""

from __future__ import annotations

from pathlib import Path

import dmr
from dmr.studies.errors import StudyError

_PACKAGE = Path(dmr.__file__).resolve().parent
FOLDERS = (_PACKAGE / "ready_studies", _PACKAGE.parent / "studies")  # of an installed wheel, and of a clone


def ready_studies() -> dict[str, Path]:
    """The file of every ready study, by name."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def ready_study(name: str) -> Path:
    """Raises:
    StudyError: there is none of this name.
    """
    ready = ready_studies()
    if name not in ready:
        raise StudyError(f"{name}: no ready study of that name; there are {', '.join(ready) or 'none'}")
    return ready[name]


def find_study_file(given: Path) -> Path:
    """A study file as given on the command line: a file, or else the ready study of that name.

    Raises:
        StudyError: it is a bare name, and neither is there.
    """
    if given.exists() and not given.is_dir():
        return given
    ready = ready_studies()
    if str(given) in ready:
        return ready[str(given)]
    if given.exists() or given.name != str(given) or given.suffix:
        return given  # a path: whoever reads it says what is wrong
    names = ", ".join(ready) or "none"
    raise StudyError(f"{given}: no such file, and no ready study of that name; there are {names}")


def purpose(file: Path) -> str:
    """What a ready study is for: the first sentence of the comment it begins with."""
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words += line.removeprefix("#").split()
    sentence, _, _ = f"{' '.join(words)} ".partition(". ")
    return f"{sentence.strip().removesuffix('.')}."
