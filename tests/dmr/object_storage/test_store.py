"""Objects by their keys, and what is said where a store refuses or does not answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from dmr.object_storage import store as module
from dmr.object_storage.store import (
    Content,
    Entry,
    ObjectChanged,
    ObjectExists,
    ObjectStore,
    StoreAway,
    StoreRefused,
    clean_url,
)


def test_objects_are_written_read_listed_and_deleted(store: ObjectStore) -> None:
    assert store.entries() == []
    assert store.read("a/b") is None
    tag = store.write("a/b", b"one")
    assert store.read("a/b") == Content(b"one", tag)
    other = store.write("a.b/ü c", b"")
    assert store.entries() == [Entry("a.b/ü c", 0, other), Entry("a/b", 3, tag)]
    assert store.entries("a") == [Entry("a/b", 3, tag)]
    store.delete(["never there", "a/b"])
    assert store.entries() == [Entry("a.b/ü c", 0, other)]


def test_an_object_is_created_once_and_replaced_where_it_is_the_one_that_was_read(store: ObjectStore) -> None:
    first = store.create("key", b"1")
    with pytest.raises(ObjectExists):
        store.create("key", b"2")
    second = store.replace("key", b"2", first)
    with pytest.raises(ObjectChanged):
        store.replace("key", b"3", first)
    assert store.read("key") == Content(b"2", second)
    store.delete(["key"])
    with pytest.raises(ObjectChanged):
        store.replace("key", b"3", second)
    assert store.read("key") is None


def test_of_many_that_create_or_replace_at_once_one_wins() -> None:
    """In memory: the imitation of S3 looks first and writes then."""
    from obstore.store import MemoryStore

    store = ObjectStore("s3://memory/runs", MemoryStore())

    def won(write) -> bool:
        try:
            write()
        except (ObjectExists, ObjectChanged):
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        for key in map(str, range(50)):
            made = list(threads.map(lambda n, key=key: won(lambda: store.create(key, b"%d" % n)), range(8)))
            assert sum(made) == 1
            tag = store.read(key).tag
            replaced = threads.map(
                lambda n, key=key, tag=tag: won(lambda: store.replace(key, b"r%d" % n, tag)), range(8)
            )
            assert sum(replaced) == 1


def test_files_go_up_and_come_down_whole(store: ObjectStore, tmp_path) -> None:
    data = bytes(range(256)) * 60_000  # 15 MB: several parts
    (tmp_path / "up").write_bytes(data)
    tag = store.upload("large", tmp_path / "up")
    assert store.download("large", tmp_path / "down") == tag
    assert (tmp_path / "down").read_bytes() == data
    assert store.download("none", tmp_path / "never") is None
    assert {file.name for file in tmp_path.iterdir()} == {"up", "down"}


def test_a_bucket_that_is_not_there_is_one_line(s3) -> None:
    store = ObjectStore("s3://other/runs")
    calls = {
        "read": lambda: store.read("key"),
        "write": lambda: store.write("key", b""),
        "create": lambda: store.create("key", b""),
        "replace": lambda: store.replace("key", b"", '"tag"'),
        "entries": store.entries,
    }
    for name, call in calls.items():
        with pytest.raises(StoreRefused) as error:
            call()
        assert str(error.value) == "s3://other/runs: there is no bucket 'other'", name


@pytest.mark.parametrize(
    ("status", "code", "expected", "line"),
    [
        (403, "AccessDenied", StoreRefused, "the store answers AccessDenied"),
        (400, "ExpiredToken", StoreRefused, "the store answers ExpiredToken"),
        (403, None, StoreRefused, "the store answers 403 Forbidden"),
        (503, "SlowDown", StoreAway, "the store answers SlowDown"),
        (500, None, StoreAway, "the store answers 500 Internal Server Error"),
    ],
)
def test_what_a_store_answers(s3, monkeypatch, status, code, expected, line) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"" if code is None else f"<Error><Code>{code}</Code></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(module, "RETRIES", 0)
        store = ObjectStore(f"s3://{s3.bucket}/runs")
        for call in (lambda: store.read("key"), lambda: store.create("key", b"1")):
            with pytest.raises(expected) as error:
                call()
            assert str(error.value) == f"s3://{s3.bucket}/runs/key: {line}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_store_that_nobody_listens_for_is_away(s3, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(module, "RETRIES", 0)
    with pytest.raises(StoreAway) as error:
        ObjectStore(f"s3://{s3.bucket}/runs").read("key")
    assert str(error.value) == f"s3://{s3.bucket}/runs/key: HTTP error: error sending request"


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("s3://bucket/runs/", "s3://bucket/runs"),
        ("S3://bucket", "s3://bucket"),
        ("gs://b/a b/ä", "gs://b/a b/ä"),
        ("az:/b", "az://b"),
    ],
)
def test_a_url_is_written_one_way(given, clean) -> None:
    assert clean_url(given) == clean


@pytest.mark.parametrize("given", ["s3://", "s3:///", "s3://bucket//runs", "s3://bucket/../runs", "s3://bucket/./a"])
def test_a_url_without_bucket_or_with_odd_parts_is_refused(given) -> None:
    with pytest.raises(ValueError, match=r"names no bucket|an empty part"):
        clean_url(given)


def test_other_urls_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^http://host/runs: allowed are URLs that begin with s3://, gs:// or az://$"):
        ObjectStore("http://host/runs")
