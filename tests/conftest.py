"""What all tests share: two global seeds, one thread, and the public data sets' original layouts."""

from __future__ import annotations

import os
import random
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
import torch

from dmr.networks.convolutions import sound_convolutions

hypothesis.settings.register_profile("dmr", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("dmr")

LONGEST = {"test_readme.py", "test_resume.py", "test_run.py", "test_workers.py"}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with sound_convolutions(torch.device("cpu")):  # tests also take gradients without `fit`
        yield


@pytest.fixture(scope="session")
def under_two_global_seeds() -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    def run(function: Callable[[], Any]) -> tuple[Any, Any]:
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            results.append(function())
        return results[0], results[1]

    return run


@pytest.fixture(scope="session")
def write_release() -> Callable[[str, Path], Path]:
    """Write a tiny release of a public data set: see releases.py."""
    write: Callable[[str, Path], Path] = runpy.run_path(str(Path(__file__).with_name("releases.py")))["write_release"]
    return write


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Any]:
    """Parse a report: see pages.py."""
    read: Callable[[str], Any] = runpy.run_path(str(Path(__file__).with_name("pages.py")))["Page"]
    return read


class S3(NamedTuple):
    """An empty bucket, and the environment in which it is found."""

    bucket: str
    environment: dict[str, str]

    def put(self, folder: Path, prefix: str) -> str:
        """Put the files of a folder below a prefix; the URL of that."""
        from dmr.object_storage.store import ObjectStore

        store = ObjectStore(f"s3://{self.bucket}/{prefix}")
        for file in folder.rglob("*"):
            if file.is_file():
                store.upload(file.relative_to(folder).as_posix(), file)
        return store.url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A local imitation of S3, whose conditional writes look first and write then."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    return new_bucket(s3_server, monkeypatch)


@pytest.fixture(scope="session")
def make_bucket(s3_server: str) -> Callable[[pytest.MonkeyPatch], S3]:
    return lambda patch: new_bucket(s3_server, patch)


def new_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket; this process finds it, too."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIAOFTHEBUCKET",
        "AWS_SECRET_ACCESS_KEY": "s3cret-of-the-bucket",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{random.SystemRandom().randrange(10**12)}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket=bucket)
    return S3(bucket, environment)


@pytest.fixture
def s3_proxy(s3: S3, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Between DMR and the bucket of `s3`: see s3_proxy.py."""
    proxy = runpy.run_path(str(Path(__file__).with_name("s3_proxy.py")))["Proxy"](s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    s3.environment["AWS_ENDPOINT_URL"] = proxy.url
    yield proxy
    proxy.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: a file's tests run in one process, which sets up what they share once."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
