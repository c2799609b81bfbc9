"""Objects kept on this machine: a folder of them that is fetched once per node, whoever asks for it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dmr.files import user_path, write_text
from dmr.object_storage.store import Entry, ObjectStore

MANIFEST = "objects.json"


class _Manifest(NamedTuple):
    """What a folder of the cache holds: the objects below a URL, by key; none where that is not known."""

    url: str
    objects: dict[str, Entry]


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
        entry = _read_manifest(folder).objects.get(self.key)
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
    kept = _read_manifest(folder)
    entry = kept.objects.get("/".join(key))
    return None if entry is None else Origin(kept.url, entry.key, entry.tag)


def fetch_folder(store: ObjectStore) -> Path:
    """The objects below a URL as files, see `mirror`.

    Raises:
        FileNotFoundError: there is nothing below the URL, or it was changed while it was fetched.
        ValueError: a key cannot be the name of a file.
        StoreRefused, StoreAway: the store cannot be read.
        OSError: the cache cannot be written.
    """
    entries = store.entries()
    if not entries:
        raise FileNotFoundError(f"{store.url}: there is nothing below this URL")
    return mirror(store, entries)


def mirror(store: ObjectStore, entries: Iterable[Entry]) -> Path:
    """These objects as files: those that are here with the same size and tag stay, others are fetched, and what was
    fetched before and is none of them goes. One process at a time does this, others wait for it.

    Raises:
        FileNotFoundError: one was changed while it was fetched.
        ValueError: a key cannot be the name of a file.
        StoreRefused, StoreAway: the store cannot be read.
        OSError: the cache cannot be written.
    """
    folder = cache_folder(store.url)
    wanted = {entry.key: entry for entry in entries}
    for key in wanted:
        if not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise ValueError(f"{store.url}/{key}: is no name of a file")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name("lock")):
        before = _read_manifest(folder)
        kept = before.objects
        for key in kept.keys() - wanted.keys():
            (folder / key).unlink(missing_ok=True)
        kept = {key: entry for key, entry in kept.items() if wanted.get(key) == entry and _is_whole(folder, entry)}
        for key, entry in wanted.items():
            if key not in kept:
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                if store.download(key, folder / key) != entry.tag:
                    raise FileNotFoundError(f"{store.url}/{key}: was changed while it was fetched")
                kept[key] = entry
                _write_manifest(folder, _Manifest(store.url, kept))
        if kept != before.objects:
            _write_manifest(folder, _Manifest(store.url, kept))
    return folder


def _read_manifest(folder: Path) -> _Manifest:
    try:
        found = json.loads(folder.with_name(MANIFEST).read_text(encoding="utf-8"))
        objects = {str(key): Entry(str(key), int(size), str(tag)) for key, (size, tag) in found["objects"].items()}
        return _Manifest(str(found["url"]), objects)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return _Manifest("", {})


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    objects = {key: (entry.size, entry.tag) for key, entry in manifest.objects.items()}
    write_text(folder.with_name(MANIFEST), json.dumps({"url": manifest.url, "objects": objects}))


def _is_whole(folder: Path, entry: Entry) -> bool:
    file = folder / entry.key
    return file.is_file() and file.stat().st_size == entry.size


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with open(file, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
