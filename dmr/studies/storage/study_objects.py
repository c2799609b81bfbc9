"""What a study keeps in object storage, seen from a machine: the records that are copied here, the checkpoints that are
not, and who drives it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from dmr.object_storage.cache import cache_folder, locked, mirror
from dmr.object_storage.lease import KEY as LEASE
from dmr.object_storage.lease import MARGIN, Holder, LeaseHeld, parse_holder
from dmr.object_storage.segments import chain
from dmr.object_storage.store import Entry, ObjectStore, StoreAway, StoreRefused
from dmr.object_storage.writer import LOG, StoreWriter
from dmr.studies.errors import StudyError
from dmr.studies.names import NAME
from dmr.studies.storage.study_lock import Driver, StudyLock
from dmr.studies.storage.trial_files import ERROR

STUDY_FILE, STORES_FILE, JOURNAL, LOG_FILE = "study.yaml", "places.json", "journal.jsonl", "log.txt"
TRAINED = "train-"  # begins the folder of a run of `dmr train`, in that of its study
TRIES = 5  # to read what a driver writes and joins meanwhile


class StudyObjects:
    """The objects of one study below its URL. Files of the same names in `folder` are copies, which may be lost.

    Attributes:
        entries: the objects there were when they were last looked at.
        writer: writes them while this process drives the study; else None.
    """

    def __init__(self, url: str, listed: list[Entry] | None = None) -> None:
        self.url, self.folder = url, cache_folder(url)
        self.entries, self._just_listed = listed or [], listed is not None
        self.writer: StoreWriter | None = None

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.url)

    def key(self, file: Path) -> str:
        """The object of a file."""
        return file.relative_to(self.folder).as_posix()

    def store_of(self, run: Path) -> ObjectStore:
        """The objects of the folder of a run."""
        return ObjectStore(f"{self.url}/{self.key(run)}".removesuffix("/."))

    def pull(self) -> None:
        """Copy the records here as they are now; not where a driver of this machine has newer ones here.

        Raises:
            StudyError: the store cannot be read, or the log is damaged.
        """
        with said():
            if not self._just_listed:
                self.entries, self._just_listed = self.store.entries(), True
            if self.entries or self.folder.exists():
                with locked(_made(self.folder).with_name("pull")):
                    if StudyLock(self.folder).driver() is None:
                        self._copy()

    def _copy(self) -> None:
        for tries in range(TRIES):
            if not self._just_listed:
                self.entries = self.store.entries()
            self._just_listed = False
            try:
                begun = any(entry.key == STUDY_FILE for entry in self.entries)  # or a driver died before it was
                if not begun:
                    for name in (STUDY_FILE, STORES_FILE):
                        (self.folder / name).unlink(missing_ok=True)
                mirror(self.store, [entry for entry in self.entries if _is_record(entry.key, begun)])
                self._join_log()
                return
            except (FileNotFoundError, ValueError):
                if tries + 1 == TRIES:
                    raise
                time.sleep(0.1 * tries)

    def _join_log(self) -> None:
        """The journal, of its segments. Of an earlier study of this name nothing stays."""
        names = [entry.key.removeprefix(f"{LOG}/") for entry in self.entries if entry.key.startswith(f"{LOG}/")]
        content = b"".join((self.folder / LOG / segment.name).read_bytes() for segment in chain(names))
        journal = self.folder / JOURNAL
        if journal.exists() and journal_id(journal) != _id_in(content.partition(b"\n")[0]):
            shutil.rmtree(self.folder)
            raise FileNotFoundError(f"{self.url}: another study has been begun")
        if content:
            journal.write_bytes(content)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the study: no other machine drives it meanwhile. `writer` writes it.

        Raises:
            StudyError: another driver holds it, something else lies there, or the store cannot be written.
        """
        name = self.folder.name
        with ExitStack() as stack:
            with locked(_made(self.folder).with_name("pull")):
                stack.enter_context(StudyLock(self.folder, self.url).held())
            with said():
                before = [entry.key for entry in self.store.entries()]
                if before and not any(map(_is_study, before)):
                    raise StudyError(f"{self.url}: has something else in it, such as {before[0]}")
                try:
                    writer = StoreWriter(self.store, self.folder)
                except LeaseHeld as error:
                    raise StudyError(_held_line(self.url, name, error.holder)) from None
            try:
                with said():
                    self._copy()
                self.writer = writer
                yield
            finally:
                self.writer = None
                if (self.folder / LOG_FILE).exists():
                    writer.upload(self.folder / LOG_FILE, f"logs/{writer.lease.number:06d}.txt")
                writer.close()
                if not before and not (self.folder / STUDY_FILE).exists():  # it was refused
                    with suppress(StudyError):
                        self.remove()

    def driver(self) -> Driver | None:
        """The process that drives the study now; None where none does.

        Raises:
            StudyError: the store cannot be read.
        """
        with said():
            found = self.store.read(LEASE)
            holder = None if found is None else parse_holder(found.data)
        if holder is None or holder.dead or holder.expires + MARGIN < time.time():
            return None
        return Driver(holder.process, holder.host)

    def fetch(self, file: Path) -> bool:
        """Copy one object here, where it is not; whether it is there.

        Raises:
            StudyError: the store cannot be read.
        """
        with said():
            file.parent.mkdir(parents=True, exist_ok=True)
            return file.exists() or self.store.download(self.key(file), file) is not None

    def upload(self, file: Path) -> None:
        """Write the object of a file, without driving the study.

        Raises:
            StudyError: the store cannot be written.
        """
        with said():
            self.store.upload(self.key(file), file)

    def remove(self) -> None:
        """Delete all objects of the study, and nothing else.

        Raises:
            StudyError: the store cannot be written.
        """
        with said():
            self.store.delete([entry.key for entry in self.store.entries()])

    def keys_in(self, folder: Path) -> list[str]:
        """The objects of a folder now.

        Raises:
            StudyError: the store cannot be read.
        """
        with said():
            return [entry.key for entry in self.store_of(folder).entries()]


def listed_folders(storage: str) -> list[tuple[str, str, list[Entry]]]:
    """The folders of studies, and of `dmr train` below them, by one listing: where, name, and objects.

    Raises:
        StudyError: the store cannot be read.
    """
    found: dict[str, list[Entry]] = {}
    with said():
        entries = ObjectStore(storage).entries()
    for entry in entries:
        name, _, rest = entry.key.partition("/")
        run, _, key = rest.partition("/") if rest.startswith(TRAINED) else ("", "", rest)
        found.setdefault(f"{name}/{run}".rstrip("/"), []).append(entry._replace(key=key))
    places = [(*f"{storage}/{name}".rpartition("/"), some) for name, some in sorted(found.items())]
    return [(where, name, some) for where, _, name, some in places if NAME.fullmatch(name)]


def _is_record(key: str, begun: bool) -> bool:
    """What every command may read: not checkpoints, what single trials leave, figures and the winner."""
    file = key.endswith(f"/{ERROR}") or ("/" not in key and not key.endswith(".pt"))
    return key.startswith(f"{LOG}/") or (begun and file)


def _is_study(key: str) -> bool:
    return key in (STUDY_FILE, LEASE) or key.startswith((f"{LOG}/", TRAINED))


def _held_line(url: str, name: str, holder: Holder) -> str:
    ends = max(0.0, holder.expires + MARGIN - time.time())
    return (
        f"{url}: study {name!r} is running in {holder}; `dmr stop {name}` there stops it; if that is dead, it can be "
        f"gone on with in {ends:.0f} s"
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def journal_id(journal: Path) -> str | None:
    """What a journal is known by; None where there is none."""
    with suppress(OSError), open(journal, "rb") as lines:
        return _id_in(lines.readline())
    return None


def _id_in(first_line: bytes) -> str | None:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(first_line)["id"])
    return None


@contextmanager
def said() -> Iterator[None]:
    """What a store refuses is one line."""
    try:
        yield
    except (StoreRefused, StoreAway, ValueError, FileNotFoundError) as error:
        raise StudyError(str(error)) from None
