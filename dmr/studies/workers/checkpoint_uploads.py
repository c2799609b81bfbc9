"""Checkpoints on their way to object storage: one thread per process that trains, which nobody waits for."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dmr.analysis.results.record_names import DIAGNOSTICS, SAMPLES
from dmr.object_storage.store import TRY_AGAIN_AFTER, ObjectStore, StoreAway, StoreRefused, answered
from dmr.studies.storage.trial_files import (
    BEST,
    LAST,
    CheckpointObject,
    StartFrom,
    checkpoint_objects,
    newest_checkpoints,
)

log = logging.getLogger("dmr")

AT_ONCE = 3


class _Waiting(NamedTuple):
    """A file that waits for its turn, under a name that no later checkpoint replaces."""

    file: Path
    name: str


class CheckpointUploads:
    """Uploads the checkpoints of one run. Where they come faster than they can be written, the newest counts: besides
    the one that is being written at most one waits, and the chosen network that belongs to it.
    """

    def __init__(self, store: ObjectStore, folder: Path, start: StartFrom) -> None:
        """Args:
        store: of the run's folder.
        folder: this machine's copy of it.
        """
        self.store, self.folder, self.start = store, folder, start
        self._waiting: dict[str, _Waiting] = {}  # the last one and the best one
        self._uploaded: list[str] = []
        self._error: str | None = None
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="checkpoint-uploads", daemon=True)
        self._thread.start()

    def fetch(self) -> None:
        """Copy the newest checkpoint that the run can go on from here; where there is none, nothing stays here. Waits
        for a store that is away.

        Raises:
            StoreRefused: the store cannot be read.
        """
        self._remove_files()
        for name in (DIAGNOSTICS, SAMPLES):
            (self.folder / name).unlink(missing_ok=True)
        if self.start.epochs is not None:
            answered(partial(self._fetch, self.start.epochs))

    def _fetch(self, epochs: int) -> None:
        found = checkpoint_objects(entry.key for entry in self.store.entries())
        self.folder.mkdir(parents=True, exist_ok=True)
        for one in newest_checkpoints(found, self.start.since, epochs):
            self.store.download(one.name, self.folder / (LAST if one.kind == "last" else BEST))

    def put(self, epoch: int, is_best: bool) -> None:
        """Upload the checkpoints that are in the folder now.

        Raises:
            OSError: an earlier one was refused by the store.
        """
        if self._error is not None:
            raise OSError(self._error)
        files = {"last": self.folder / LAST} | ({"best": self.folder / BEST} if is_best else {})
        with self._changed:
            for kind, file in files.items():
                name = CheckpointObject(kind, self.start.since, epoch).name
                linked = self.folder / f"uploading-{name}"
                linked.unlink(missing_ok=True)
                os.link(file, linked)
                if (before := self._waiting.get(kind)) is not None and before.file != linked:
                    before.file.unlink(missing_ok=True)
                self._waiting[kind] = _Waiting(linked, name)
            self._changed.notify_all()

    def uploaded(self) -> list[str]:
        """The names of what was written since this was asked last."""
        with self._changed:
            found, self._uploaded = self._uploaded, []
        return found

    def end(self) -> None:
        """No more checkpoints come. What waits is still written, and what else the run leaves in its folder."""
        with self._changed:
            for name in (DIAGNOSTICS, SAMPLES):
                if (self.folder / name).exists() and not self._ending:
                    self._waiting[name] = _Waiting(self.folder / name, name)
            self._ending = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: the store refuses it.
        """
        self._thread.join()
        if self._error is not None:
            raise OSError(self._error)

    def _remove_files(self) -> None:
        """This machine's copies of checkpoints go."""
        for file in (self.folder / LAST, self.folder / BEST, *self.folder.glob("uploading-*")):
            file.unlink(missing_ok=True)

    def _work(self) -> None:
        with ThreadPoolExecutor(AT_ONCE, "checkpoint-uploads") as threads:
            while found := self._next():
                for kind, error in zip(found, threads.map(self._upload, found.values()), strict=True):
                    self._uploaded_or_kept(kind, found[kind], error)
        self._remove_files()

    def _upload(self, waiting: _Waiting) -> Exception | None:
        try:
            self.store.upload(waiting.name, waiting.file)
        except (StoreRefused, OSError) as error:
            return error
        return None

    def _uploaded_or_kept(self, kind: str, waiting: _Waiting, error: Exception | None) -> None:
        """What a store that is away has not taken waits again, unless something newer does."""
        if isinstance(error, StoreAway):
            log.info("%s; trying again", error)
            time.sleep(TRY_AGAIN_AFTER)
        with self._changed:
            if isinstance(error, StoreAway) and self._waiting.setdefault(kind, waiting) is waiting:
                return
            if kind in ("last", "best"):
                waiting.file.unlink(missing_ok=True)
            if error is None:
                self._uploaded.append(waiting.name)
            elif not isinstance(error, StoreAway):
                self._error = str(error)

    def _next(self) -> dict[str, _Waiting]:
        """All that waits, nothing at the end; the last one comes after the best one, without which nobody could go on
        from it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ending or self._waiting)
            if self._error is not None:
                return {}
            last = self._waiting.pop("last", None) if "best" in self._waiting else None
            found, self._waiting = self._waiting, {} if last is None else {"last": last}
        return found
