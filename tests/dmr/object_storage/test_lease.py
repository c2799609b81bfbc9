"""One driver at a time, whatever its machine, its clock and its network do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dmr.object_storage import lease as module
from dmr.object_storage.lease import KEY, Holder, Lease, LeaseHeld, parse_holder
from dmr.object_storage.store import ObjectStore, StoreAway


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Flaky(ObjectStore):
    """Does what it is asked, but the answers to the next `lost` writes do not arrive."""

    lost = 0
    away = False

    def create(self, key, data):
        return self._answer(super().create, key, data)

    def replace(self, key, data, tag):
        return self._answer(super().replace, key, data, tag)

    def _answer(self, write, *arguments):
        if self.away:
            raise StoreAway("away")
        tag = write(*arguments)
        if self.lost:
            self.lost -= 1
            raise StoreAway("no answer")
        return tag


@pytest.fixture
def quick(monkeypatch) -> None:
    """A lease of 0.6 s, renewed each 0.1 s."""
    for name, seconds in {"SECONDS": 0.6, "RENEW_AFTER": 0.1, "MARGIN": 0.2, "TRY_AGAIN_AFTER": 0.05}.items():
        monkeypatch.setattr(module, name, seconds)


def is_held(lease: Lease) -> bool:
    """Now or soon: a busy machine may come late to renew it, which loses nothing where nobody takes it."""
    until = time.monotonic() + 5
    while not lease.held and not lease.lost and time.monotonic() < until:
        time.sleep(0.01)
    return lease.held


def holder_of(store: ObjectStore) -> Holder:
    return parse_holder(store.read(KEY).data)


def test_a_second_driver_is_refused_until_the_first_gives_it_back(store) -> None:
    clock = Clock()
    first = Lease(store, clock)
    assert (first.held, first.number) == (True, 1)
    with pytest.raises(LeaseHeld, match=r"^process \d+ on ") as error:
        Lease(store, clock)
    assert error.value.holder == first.holder
    first.give_back()
    assert not first.held
    second = Lease(store, clock)
    assert (second.held, second.number) == (True, 2)
    second.give_back()


def test_a_lease_that_was_not_renewed_is_taken_over_after_it_expired(store) -> None:
    clock = Clock()
    first = Lease(store, clock)
    clock.now += module.SECONDS + module.MARGIN - 0.1
    with pytest.raises(LeaseHeld):
        Lease(store, clock)
    clock.now += 0.2
    second = Lease(store, clock)
    assert second.number == 2
    first.give_back()  # changes nothing
    assert holder_of(store) == second.holder
    second.give_back()


def test_it_is_renewed(store, quick) -> None:
    first = Lease(store)
    time.sleep(1.5)
    assert is_held(first)
    with pytest.raises(LeaseHeld):
        Lease(store)
    first.give_back()


def test_a_driver_that_slept_too_long_has_lost_it_before_it_can_be_taken(store, quick, monkeypatch) -> None:
    """SIGSTOP stops all threads: here the one that renews does not come to it."""
    monkeypatch.setattr(module, "RENEW_AFTER", 60.0)
    first = Lease(store)
    lost = taken = None
    until = time.monotonic() + 10
    while taken is None and time.monotonic() < until:
        if lost is None and not first.held:
            lost = time.monotonic()
        try:
            taken = Lease(store)
        except LeaseHeld:
            time.sleep(0.01)
    assert taken is not None
    assert lost is not None
    assert not first.held
    first.give_back()
    assert holder_of(store) == taken.holder
    taken.give_back()


def test_a_store_that_is_away_costs_the_lease_only_after_its_time(s3, quick) -> None:
    store = Flaky(f"s3://{s3.bucket}/runs")
    first = Lease(store)
    store.away = True
    assert first.held
    store.away = False
    time.sleep(0.5)
    assert is_held(first)
    store.away = True
    time.sleep(0.8)
    assert not first.held
    store.away = False
    assert is_held(first), "nobody has taken it meanwhile"
    first.give_back()


@pytest.mark.parametrize("before", ["nothing", "expired"])
def test_an_answer_that_was_lost_is_no_loss(s3, quick, monkeypatch, before) -> None:
    store = Flaky(f"s3://{s3.bucket}/runs")
    if before == "expired":
        Lease(store).give_back()
    lease = Lease(store)
    store.lost = 2
    time.sleep(1.0)
    assert store.lost == 0
    assert is_held(lease)
    with pytest.raises(LeaseHeld):
        Lease(ObjectStore(store.url))
    lease.give_back()
    assert holder_of(store).expires == 0.0


def test_somebody_else_in_its_place_ends_it(store, quick) -> None:
    first = Lease(store)
    store.write(KEY, first.holder._replace(number=2, token="other").encode())
    time.sleep(0.3)
    assert not first.held
    first.give_back()
    assert holder_of(store).token == "other"


def test_of_many_drivers_at_once_one_has_it() -> None:
    from obstore.store import MemoryStore

    clock = Clock()
    store = ObjectStore("s3://memory/runs", MemoryStore())

    def take(_: int) -> Lease | None:
        try:
            return Lease(store, clock)
        except LeaseHeld:
            return None

    with ThreadPoolExecutor(8) as threads:
        for number in range(1, 11):
            (taken,) = [lease for lease in threads.map(take, range(8)) if lease is not None]
            assert taken.number == number
            if number % 2:
                taken.give_back()
            else:
                clock.now += module.SECONDS + module.MARGIN + 1
                taken._closing.set()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"process": 1}', b"\xff"])
def test_a_damaged_lease_is_said(store, data) -> None:
    store.write(KEY, data)
    with pytest.raises(ValueError, match=r"lease|Expecting|decode"):
        Lease(store)
