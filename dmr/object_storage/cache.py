"""Objects kept on this machine: a folder of them that is fetched once per node, whoever asks for it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dmr.files import user_path, write_text
from dmr.object_storage.store import Entry, ObjectStore

MANIFEST = "objects.json"


class Origin(NamedTuple):
    """Which object a file of the cache is: the URL of its folder, its key below that, and what its content is known
    by.
    """

    url: str
    key: str
    tag: str

    def file(self) -> Path:
        """The file on this machine, which may be another one than that on which this was made; fetched where it is not
        here.

        Raises:
            FileNotFoundError: the object has changed, or is gone.
            StoreRefused, StoreAway: the store cannot be read.
        """
        folder = cache_folder(self.url)
        if not self._is_in(folder):
            fetch_folder(ObjectStore(self.url))
            if not self._is_in(folder):
                raise FileNotFoundError(f"{self.url}/{self.key}: has changed, or is gone, since the study was started")
        return folder / self.key

    def _is_in(self, folder: Path) -> bool:
        entry = _kept(folder).get(self.key)
        return entry is not None and entry.tag == self.tag and _is_whole(folder, entry)


def cache_root() -> Path:
    """Where objects are kept on this machine: in `DMR_CACHE`, else in `dmr` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(os.environ.get("DMR_CACHE") or Path(home) / "dmr").absolute() / "objects"


def cache_folder(url: str) -> Path:
    """Where this machine keeps what lies below a URL. Its name is the last part of that."""
    return cache_root() / hashlib.sha256(url.encode()).hexdigest()[:16] / url.rpartition("/")[2]


def origin_of(file: Path) -> Origin | None:
    """Which object a file is; None where it is none of the cache."""
    if not file.is_relative_to(cache_root()):
        return None
    digest, name, *key = file.relative_to(cache_root()).parts
    folder = cache_root() / digest / name
    entry = _kept(folder).get("/".join(key))
    url = json.loads(_manifest(folder).read_text(encoding="utf-8"))["url"] if entry is not None else None
    return None if entry is None else Origin(str(url), entry.key, entry.tag)


def fetch_folder(store: ObjectStore) -> Path:
    """The objects below a URL as files: those that are here with the same size and tag stay, others are fetched, and
    what is not there any more goes. One process at a time does this, others wait for it.

    Raises:
        FileNotFoundError: there is nothing below the URL, or it was changed while it was fetched.
        ValueError: a key cannot be the name of a file.
        StoreRefused, StoreAway: the store cannot be read.
        OSError: the cache cannot be written.
    """
    folder = cache_folder(store.url)
    wanted = {entry.key: entry for entry in store.entries()}
    if not wanted:
        raise FileNotFoundError(f"{store.url}: there is nothing below this URL")
    for key in wanted:
        if not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise ValueError(f"{store.url}/{key}: is no name of a file")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name("lock")):
        kept = _kept(folder)
        for key in kept.keys() - wanted.keys():
            (folder / key).unlink(missing_ok=True)
        kept = {key: entry for key, entry in kept.items() if wanted.get(key) == entry and _is_whole(folder, entry)}
        for key, entry in wanted.items():
            if key not in kept:
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                if store.download(key, folder / key) != entry.tag:
                    raise FileNotFoundError(f"{store.url}/{key}: was changed while it was fetched")
                kept[key] = entry
                _keep(store.url, folder, kept)
        _keep(store.url, folder, kept)
    return folder


def _manifest(folder: Path) -> Path:
    return folder.with_name(MANIFEST)


def _kept(folder: Path) -> dict[str, Entry]:
    """What the folder holds, by key; nothing where that is not known."""
    try:
        found = json.loads(_manifest(folder).read_text(encoding="utf-8"))["objects"]
        return {str(key): Entry(str(key), int(size), str(tag)) for key, (size, tag) in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _keep(url: str, folder: Path, entries: dict[str, Entry]) -> None:
    objects = {key: (entry.size, entry.tag) for key, entry in entries.items()}
    write_text(_manifest(folder), json.dumps({"url": url, "objects": objects}))


def _is_whole(folder: Path, entry: Entry) -> bool:
    file = folder / entry.key
    return file.is_file() and file.stat().st_size == entry.size


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with open(file, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
