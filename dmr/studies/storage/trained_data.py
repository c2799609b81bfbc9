"""What a study trains on, kept in its folder, so that trials on other data are never ranked among its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dmr.files import write_text
from dmr.studies.errors import StudyError
from dmr.studies.storage.study_folder import StudyFolder


def changed_data(folder: StudyFolder, digests: Mapping[str, str], where: str) -> list[str]:
    """A line for everything in which the data differ from those the study began with, by split and file. A split that
    has come since is none. Nothing is said of a study that has not kept what it trains on.

    Args:
        digests: of the data as they are now, a plan's `data_digests`.
        where: the data's folder, or the name of what makes them; a plan's `data_source`.

    Raises:
        StudyError: what was kept cannot be read.
    """
    kept = kept_digests(folder) or {}
    splits = {key.partition("/")[0] for key in kept}
    known = [*kept, *(key for key in digests if key not in kept and key.partition("/")[0] in splits)]
    return [_line(where, key, kept.get(key), digests.get(key)) for key in known if digests.get(key) != kept.get(key)]


def kept_digests(folder: StudyFolder) -> dict[str, str] | None:
    """The digests of the data the study began with; None where it has not kept them.

    Raises:
        StudyError: they cannot be read.
    """
    file = folder.data_file
    if not file.exists():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(f"{folder.place_of(file)}: cannot be read: {error}; --same-data writes it anew") from None


def remember_data(folder: StudyFolder, digests: Mapping[str, str]) -> None:
    """Keep what the study trains on."""
    write_text(folder.data_file, json.dumps(digests, indent=1, ensure_ascii=False))
    folder.keep(folder.data_file)


def check_same_data(folder: StudyFolder, digests: Mapping[str, str], where: str) -> None:
    """Raises:
    StudyError: the data are not those the study began with.
    """
    changed = changed_data(folder, digests, where)
    if changed:
        raise StudyError(
            *changed,
            f"{folder.place}: trained on other data: bring those back, or give a study of these another name; if they "
            "mean the same, go on with --same-data",
        )


def _line(where: str, key: str, was: str | None, now: str | None) -> str:
    file, began = Path(where) / f"{key}.npy", "when the study began"
    at = str(file) if file.exists() else f"{where}: {key}"
    if was is None:
        return f"{at}: was not there {began}"
    if now is None:
        return f"{at}: was there {began}, and is not there now"
    return f"{at}: other values than {began}" if "/" in key else f"{at}: was {was} {began}, is {now}"
