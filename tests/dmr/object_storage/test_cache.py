"""A folder of objects on this machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from dmr.object_storage.cache import MANIFEST, Origin, cache_folder, fetch_folder, origin_of
from dmr.object_storage.store import ObjectStore, StoreAway, StoreRefused

FILES = {"dataset.yaml": b"task", "train/label.npy": b"labels", "train/a b.npy": b"x" * 1000}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DMR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def filled(store: ObjectStore) -> ObjectStore:
    for key, data in FILES.items():
        store.write(key, data)
    return store


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    """The keys of what is downloaded."""
    keys: list[str] = []
    download = ObjectStore.download

    def counted(self, key, file):
        keys.append(key)
        return download(self, key, file)

    monkeypatch.setattr(ObjectStore, "download", counted)
    return keys


def files(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_is_fetched_once_and_then_what_has_changed(filled, fetched) -> None:
    folder = fetch_folder(filled)
    assert folder == cache_folder(filled.url)
    assert files(folder) == FILES
    assert sorted(fetched) == sorted(FILES)
    fetched.clear()
    fetch_folder(filled)
    assert fetched == []
    filled.write("train/label.npy", b"others")  # of the same size
    filled.delete(["train/a b.npy"])
    filled.write("val/label.npy", b"new")
    fetch_folder(filled)
    assert sorted(fetched) == ["train/label.npy", "val/label.npy"]
    assert files(folder) == {"dataset.yaml": b"task", "train/label.npy": b"others", "val/label.npy": b"new"}


@pytest.mark.parametrize("damage", ["gone", "cut", "manifest", "manifest of others"])
def test_what_was_damaged_here_is_fetched_again(filled, damage) -> None:
    folder = fetch_folder(filled)
    if damage == "gone":
        (folder / "dataset.yaml").unlink()
    elif damage == "cut":
        (folder / "train/a b.npy").write_bytes(b"x")
    else:
        (folder.parent / MANIFEST).write_text(
            "[1" if damage == "manifest" else '{"url": "s3://other", "objects": {"dataset.yaml": 3}}'
        )
        (folder / "dataset.yaml").write_bytes(b"kept")
    fetch_folder(filled)
    assert files(folder) == FILES


def test_a_fetch_that_was_killed_goes_on(filled, fetched, monkeypatch) -> None:
    whole = ObjectStore.download

    def killed(self, key, file):
        if len(fetched) == 2:
            raise KeyboardInterrupt
        return whole(self, key, file)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "download", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_folder(filled)
    assert files(fetch_folder(filled)) == FILES
    assert sorted(fetched) == sorted(FILES)


def test_many_at_once_fetch_once(filled, fetched) -> None:
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(lambda _: fetch_folder(filled), range(8)))
    assert len(folders) == 1
    assert sorted(fetched) == sorted(FILES)


def test_nothing_there_is_said(store) -> None:
    with pytest.raises(FileNotFoundError, match="there is nothing below this URL"):
        fetch_folder(store)


def test_urls_with_equal_ends_have_folders_of_their_own() -> None:
    assert cache_folder("s3://a/runs") != cache_folder("s3://b/runs")


def test_a_file_is_found_on_another_machine_with_the_content_it_had(s3, monkeypatch, tmp_path) -> None:
    store = ObjectStore(f"s3://{s3.bucket}/sensors/")
    for key, data in FILES.items():
        store.write(key, data)
    folder = fetch_folder(store)
    origin = origin_of(folder / "train/label.npy")
    assert origin == Origin(f"s3://{s3.bucket}/sensors", "train/label.npy", store.read("train/label.npy").tag)
    assert origin.file() == folder / "train/label.npy"
    assert origin_of(tmp_path / "elsewhere.npy") is None
    assert origin_of(folder / "made by hand.npy") is None
    monkeypatch.setenv("DMR_CACHE", str(tmp_path / "another machine"))
    file = origin.file()
    assert file.is_relative_to(tmp_path / "another machine")
    assert file.read_bytes() == FILES["train/label.npy"]
    store.write("train/label.npy", b"others")
    assert origin.file() == file, "what is here is not asked for again"
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"train/label.npy: has changed, or is gone, since the study was started"
    ):
        origin.file()


def test_a_key_that_leads_out_of_the_folder_is_refused(s3, tmp_path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3.environment["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.put_object(Bucket=s3.bucket, Key="sensors/../../../out", Body=b"bad")
    with pytest.raises((ValueError, StoreRefused, StoreAway)):
        fetch_folder(ObjectStore(f"s3://{s3.bucket}/sensors"))
    assert not [file for file in tmp_path.rglob("*") if file.name == "out"]
