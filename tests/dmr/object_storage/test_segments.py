"""The log in segments: what was committed is there once, in order, whoever wrote it and died in between."""

from __future__ import annotations

import json

import pytest

from dmr.object_storage import lease as lease_module
from dmr.object_storage.lease import Lease
from dmr.object_storage.segments import LeaseLost, Segment, SegmentLog, chain, read_log
from dmr.object_storage.store import ObjectStore, StoreAway


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Died(BaseException):
    """The process is gone."""


class Dying(ObjectStore):
    """Dies before, or right after, its n-th write or delete."""

    left, after = 10**9, False

    def create(self, key, data):
        return self._count(super().create, key, data)

    def delete(self, keys):
        return self._count(super().delete, keys)

    def _count(self, call, *arguments):
        self.left -= 1
        if self.left < 0 and not self.after:
            raise Died
        answer = call(*arguments)
        if self.left < 0:
            raise Died
        return answer


def take(store: ObjectStore, clock: Clock) -> Lease:
    clock.now += lease_module.SECONDS + lease_module.MARGIN + 1
    return Lease(ObjectStore(store.url, store._store), clock)


def lines(*numbers: int) -> list[bytes]:
    return [json.dumps({"n": number}).encode() for number in numbers]


def extend(log: SegmentLog, *numbers: int) -> None:
    for line in lines(*numbers):
        log.append(line)
    log.commit()


def test_what_was_committed_is_read(store) -> None:
    log = SegmentLog(store, Lease(ObjectStore("s3://memory/x", _memory())))
    assert read_log(store) == []
    extend(log, 1, 2)
    log.append(b"not committed")
    assert read_log(store) == lines(1, 2)
    log.lines.pop()
    extend(log, 3)
    extend(log)
    assert read_log(store) == lines(1, 2, 3)
    names = [entry.key for entry in store.entries()]
    assert names == [Segment(1, 0, 0).name, Segment(1, 0, 2).name, Segment(1, 2, 3).name]


def test_the_next_holder_goes_on_and_what_the_one_before_still_writes_does_not_count() -> None:
    store, clock = ObjectStore("s3://memory/runs", _memory()), Clock()
    first = SegmentLog(store, take(store, clock))
    extend(first, 1, 2)
    second = SegmentLog(store, take(store, clock))
    assert second.lines == lines(1, 2)
    extend(first, 30, 40)  # by its own clock it still has the lease
    extend(second, 3)
    assert read_log(store) == lines(1, 2, 3)
    third = SegmentLog(store, take(store, clock))
    assert third.lines == lines(1, 2, 3)
    assert [entry.key for entry in store.entries()] == [Segment(3, 0, 3).name, "lease.json"]


def test_a_driver_without_lease_writes_nothing() -> None:
    store, clock = ObjectStore("s3://memory/runs", _memory()), Clock()
    log = SegmentLog(store, take(store, clock))
    extend(log, 1)
    log.lease.give_back()
    log.append(b"more")
    with pytest.raises(LeaseLost, match="the lease was lost: another driver goes on"):
        log.commit()
    assert read_log(store) == lines(1)


@pytest.mark.parametrize("after", [False, True])
def test_a_driver_that_dies_between_any_two_writes_leaves_a_whole_log(after) -> None:
    """Each driver appends one line per commit and dies at its n-th write; the next one goes on."""
    for deaths in range(1, 8):
        store, clock = Dying("s3://memory/runs", _memory()), Clock()
        store.after = after
        seen: list[bytes] = []  # what a commit has returned for
        for driver in range(6):
            store.left = deaths - 1
            try:
                log = SegmentLog(store, take(store, clock))
                assert log.lines[: len(seen)] == seen
                for number in range(5):
                    extend(log, 10 * driver + number)
                    seen = list(log.lines)
            except Died:
                store.left = 10**9
                found = read_log(store)
                assert found[: len(seen)] == seen, (deaths, driver)
                assert len(found) <= len(seen) + 1
                seen = found


def test_a_commit_whose_answer_was_lost_is_there_once(store, monkeypatch) -> None:
    log = SegmentLog(store, Lease(ObjectStore("s3://memory/x", _memory())))
    create = ObjectStore.create

    def unanswered(self, key, data):
        create(self, key, data)
        raise StoreAway("no answer")

    for more in ((), (4, 5)):  # the same lines again; with others that came since
        log.append(b"first")
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "create", unanswered)
            with pytest.raises(StoreAway):
                log.commit()
        extend(log, *more)
        assert read_log(store) == log.lines
    assert read_log(store) == [b"first", b"first", *lines(4, 5)]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_missing_or_damaged_segment_is_said(store, damage) -> None:
    log = SegmentLog(store, Lease(ObjectStore("s3://memory/x", _memory())))
    for number in range(3):
        extend(log, number)
    name = Segment(1, 1, 2).name
    if damage == "gone":
        store.delete([name])
    else:
        store.write(name, b"")
    with pytest.raises(ValueError, match=r"lines 1 to 2 of the log are missing|missing or damaged"):
        read_log(store)


def test_foreign_objects_beside_the_log_are_left_alone(store) -> None:
    store.write("notes.txt", b"mine")
    lease_store = ObjectStore("s3://memory/x", _memory())
    lease = Lease(lease_store)
    SegmentLog(store, lease)
    lease.give_back()
    SegmentLog(store, Lease(lease_store))
    assert store.read("notes.txt") is not None


def test_the_longest_of_two_segments_counts() -> None:
    names = [Segment(*one).name for one in ((2, 0, 3), (1, 0, 9), (2, 3, 4), (2, 3, 6), (2, 6, 7), (1, 9, 12))]
    assert chain([*names, "other.txt"]) == [Segment(2, 0, 3), Segment(2, 3, 6), Segment(2, 6, 7)]


def _memory():
    from obstore.store import MemoryStore

    return MemoryStore()
