"""Optuna's storage as such: a SQLite file in the study's folder, or a database server that may go away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from dmr.files import whole_file
from dmr.studies.errors import StudyError
from dmr.studies.storage.databases import engine_settings, storage_error
from dmr.studies.storage.store_passwords import ask_for_password, mask_password
from dmr.studies.storage.study_folder import StudyFolder

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

SQLITE = "sqlite:///"


def open_optuna(url: str) -> BaseStorage:
    """Optuna's storage. A SQLite file appears complete, so that another shell never reads a half-made one.

    Raises:
        StudyError: it cannot be used.
    """
    from optuna.storages import RDBStorage, get_storage

    file = Path(url.removeprefix(SQLITE))
    try:
        if url.startswith(SQLITE) and not file.exists():
            with whole_file(file) as partial:
                partial.unlink(missing_ok=True)  # half-made by a process that was killed
                RDBStorage(f"{SQLITE}{partial}").engine.dispose()
        return get_storage(RDBStorage(url, engine_kwargs=engine_settings(url)))
    except Exception as error:  # whatever a database driver raises
        raise unusable(url, error) from None


def unusable(url: str, error: BaseException) -> StudyError:
    """One line: which storage, what is wrong, what to do."""
    line = ask_for_password(storage_error(error), "DMR_OPTUNA_URL")
    return StudyError(f"Optuna's storage {mask_password(url)}: cannot be used: {line}")


def load_search(folder: StudyFolder, name: str | None = None) -> optuna.Study | None:
    """Optuna's study of the search, or one of this name; None where there is none yet.

    Raises:
        StudyError: its storage cannot be read.
    """
    url = folder.store_uris().optuna_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    storage = open_optuna(url)
    try:
        return optuna.load_study(study_name=name or folder.name, storage=storage)
    except KeyError:
        return None
    except Exception as error:  # whatever a database driver raises
        raise unusable(url, error) from None
