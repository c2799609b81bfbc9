"""The same tests on an imitation of S3, whose conditional writes are not atomic, and in memory, where they are."""

from __future__ import annotations

import pytest

from dmr.object_storage.store import ObjectStore


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "s3":
        return ObjectStore(f"s3://{request.getfixturevalue('s3').bucket}/runs of ä")
    from obstore.store import MemoryStore

    return ObjectStore("s3://memory/runs", MemoryStore())
