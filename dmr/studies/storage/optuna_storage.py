"""Optuna's storage as such: a SQLite file in the study's folder, a database server that may go away, or the study's
log where that lies in object storage.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from dmr.analysis.store_uris import missing_file, sqlite_uri
from dmr.files import whole_file
from dmr.studies.errors import StudyError
from dmr.studies.storage.databases import engine_settings, storage_error
from dmr.studies.storage.optuna_attributes import CONFIRM
from dmr.studies.storage.store_passwords import ask_for_password, mask_password
from dmr.studies.storage.study_folder import StudyFolder

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

OPTUNA = "optuna"  # the kind of its records
OP = b'"op":"optuna"'


def open_optuna(url: str) -> BaseStorage:
    """Optuna's storage. A SQLite file appears complete, so that another shell never reads a half-made one.

    Raises:
        StudyError: it cannot be used.
    """
    from optuna.storages import RDBStorage, get_storage

    try:
        if (file := missing_file(url)) is not None:
            with whole_file(file) as partial:
                partial.unlink(missing_ok=True)  # half-made by a process that was killed
                RDBStorage(sqlite_uri(partial)).engine.dispose()
        return get_storage(RDBStorage(url, engine_kwargs=engine_settings(url)))
    except Exception as error:  # whatever a database driver raises
        raise unusable(url, error) from None


class LogBackend(BaseJournalBackend):
    """What Optuna writes as records of the study's journal, between those for MLflow."""

    def __init__(self, journal: Path, append: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Args:
        append: writes a record to the journal; None where it is only read.
        """
        self._append = append
        self._logs: list[dict[str, Any]] = []
        with suppress(FileNotFoundError), open(journal, "rb") as lines:
            found = (json.loads(line) for line in lines if OP in line)
            self._logs += [record["log"] for record in found if record["op"] == OPTUNA]

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        assert self._append is not None
        for log in logs:
            self._append({"op": OPTUNA, "log": log})
            self._logs.append(log)


def open_log(journal: Path, append: Callable[[dict[str, Any]], None] | None = None) -> BaseStorage:
    """Optuna's storage in a study's journal; see `LogBackend`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return JournalStorage(LogBackend(journal, append))


def unusable(url: str, error: BaseException) -> StudyError:
    """One line: which storage, what is wrong, what to do."""
    line = ask_for_password(storage_error(error), "DMR_OPTUNA_URL")
    return StudyError(f"Optuna's storage {mask_password(url)}: cannot be used: {line}")


def load_search(folder: StudyFolder) -> optuna.Study:
    """Optuna's study of the search of a study that has been run.

    Raises:
        StudyError: its storage cannot be read, or has lost it.
    """
    study = _load(folder, folder.name)
    if study is None:
        url = folder.store_uris().optuna_url
        raise StudyError(f"Optuna's storage {mask_password(url)}: has no study {folder.name!r}: {_bring_back(folder)}")
    return study


def load_confirmation(folder: StudyFolder) -> optuna.Study | None:
    """Optuna's study of the confirmation; None where it has not begun.

    Raises:
        StudyError: its storage cannot be read.
    """
    return _load(folder, f"{folder.name}/{CONFIRM}")


def _load(folder: StudyFolder, name: str) -> optuna.Study | None:
    url = folder.store_uris().optuna_url
    if (file := missing_file(url)) is not None:
        raise StudyError(f"{file}: there is no such file; {_bring_back(folder)}")
    storage = open_log(folder.journal) if folder.is_own_log(url) else open_optuna(url)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    except Exception as error:  # whatever a database driver raises
        raise unusable(url, error) from None


def _bring_back(folder: StudyFolder) -> str:
    """What to do about a database that is not there."""
    return (
        f"it has the trials of study {folder.name!r}: bring it back or, where it was moved, tell: "
        f"dmr relocate {folder.name} --optuna URL"
    )
