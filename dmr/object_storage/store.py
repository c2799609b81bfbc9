"""Objects by their keys below a URL such as `s3://bucket/runs`, and writes that fail instead of replacing what they do
not know.

obstore does the work. Credentials come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` and so on) or the
machine's role.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dmr.files import whole_file

log = logging.getLogger("dmr")
T = TypeVar("T")

URL = re.compile(r"(s3|gs|az):(/+|$)", re.IGNORECASE)  # of a path, `//` is `/`, and at its end nothing
SCHEMES = "s3://, gs:// or az://"
CONNECT_SECONDS, REQUEST_SECONDS = 5, 60  # until a server counts as away
RETRIES, RETRY_SECONDS = 2, 10
TRY_AGAIN_AFTER = 2.0  # seconds, where a store is away for longer than that
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
REFUSED = (  # what no later try will change, by what a store answers
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "PermanentRedirect",
    "InvalidBucketName",
    "401 Unauthorized",
    "403 Forbidden",
)
CODE = re.compile(r"<Code>(\w+)</Code>")
STATUS = re.compile(r"status code: (\d{3}[^:]*)")


class StoreRefused(Exception):
    """The store will not do this: no such bucket, no rights, credentials that have expired. One line."""


class StoreAway(OSError):
    """The store does not answer now, or asks to be left alone. One line."""


class ObjectExists(Exception):
    """There is an object of this key."""


class ObjectChanged(Exception):
    """The object is not the one that was read."""


class Entry(NamedTuple):
    """An object in a listing: its key below the store's URL, its bytes, and what its content is known by."""

    key: str
    size: int
    tag: str


class Content(NamedTuple):
    """What an object holds, and what that is known by."""

    data: bytes
    tag: str


def answered(ask: Callable[[], T]) -> T:
    """What a store answers, which is waited for where it is away."""
    while True:
        try:
            return ask()
        except StoreAway as error:
            log.info("%s; trying again", error)
            time.sleep(TRY_AGAIN_AFTER)


def is_url(given: str | Path) -> bool:
    """Whether this names object storage."""
    return URL.match(str(given)) is not None


def clean_url(given: str | Path) -> str:
    """The URL with a scheme in small letters, two slashes after it and none at its end.

    Raises:
        ValueError: it names no bucket, or a key with `.` or `..` in it.
    """
    text = str(given)
    found = URL.match(text)
    if found is None:
        raise ValueError(f"{text}: allowed are URLs that begin with {SCHEMES}")
    text = f"{found[1].lower()}://{text[found.end() :].rstrip('/')}"
    bucket, *keys = text.partition("://")[2].split("/")
    if not bucket:
        raise ValueError(f"{text}: names no bucket; as in s3://bucket/folder")
    if any(key in ("", ".", "..") for key in keys):
        raise ValueError(f"{text}: an empty part, `.` or `..` between its slashes")
    return text


class ObjectStore:
    """The objects below a URL.

    Every method raises StoreRefused where the store will not do it, and StoreAway where it does not answer now.
    """

    def __init__(self, url: str | Path, store: Any = None) -> None:
        """Args:
            store: one of obstore's instead of that of the URL.

        Raises:
            ValueError: no URL of object storage, or obstore is not installed; in one line.
        """
        self.url = clean_url(url)
        try:
            import obstore
        except ImportError:
            raise ValueError(f"{self.url}: needs obstore: pip install 'dmr-studies[object-storage]'") from None
        self._obstore = obstore
        self._store = store if store is not None else _open(self.url)

    def read(self, key: str) -> Content | None:
        """An object; None where there is none."""
        try:
            with self._errors(key):
                found = self._obstore.get(self._store, key)
                return Content(bytes(found.bytes()), str(found.meta["e_tag"]))
        except FileNotFoundError:
            return None

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with self._errors(key):
                self._obstore.head(self._store, key)
                return True
        except FileNotFoundError:
            return False

    def write(self, key: str, data: bytes) -> str:
        """Write a whole object, whatever was there; returns its tag."""
        with self._errors(key):
            return str(self._obstore.put(self._store, key, data)["e_tag"])

    def create(self, key: str, data: bytes) -> str:
        """Write an object that is not there yet; returns its tag. After StoreAway it may be there nevertheless.

        Raises:
            ObjectExists: it is there; it may be this one, of a try whose answer was lost.
        """
        from obstore.exceptions import AlreadyExistsError

        with self._errors(key):
            try:
                return str(self._obstore.put(self._store, key, data, mode="create")["e_tag"])
            except AlreadyExistsError:
                raise ObjectExists(f"{self.url}/{key}") from None

    def replace(self, key: str, data: bytes, tag: str) -> str:
        """Replace an object that is still the one known by `tag`; returns its new tag.

        Raises:
            ObjectChanged: it is another one, or gone.
        """
        from obstore.exceptions import PreconditionError

        with self._errors(key):
            try:
                return str(self._obstore.put(self._store, key, data, mode={"e_tag": tag})["e_tag"])
            except (PreconditionError, FileNotFoundError) as error:
                if _names_bucket(error):
                    raise
                raise ObjectChanged(f"{self.url}/{key}") from None

    def entries(self, prefix: str = "") -> list[Entry]:
        """All objects whose keys begin with `prefix` and a slash, by key."""
        with self._errors(prefix):
            batches = self._obstore.list(self._store, prefix or None)
            return sorted(
                Entry(str(one["path"]), int(one["size"]), str(one["e_tag"])) for some in batches for one in some
            )

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error."""
        try:
            with self._errors(""):
                self._obstore.delete(self._store, list(keys))
        except FileNotFoundError:  # some stores stop there
            for key in keys:
                with suppress(FileNotFoundError), self._errors(key):
                    self._obstore.delete(self._store, key)

    def upload(self, key: str, file: Path) -> str:
        """Write an object from a file, in parts where it is large; returns its tag."""
        with self._errors(key):
            return str(self._obstore.put(self._store, key, file)["e_tag"])

    def download(self, key: str, file: Path) -> str | None:
        """Write an object to a file that is there whole or not at all; returns its tag, None where there is none.

        Raises:
            OSError: the file cannot be written.
        """
        with self._errors(key):
            try:
                found = self._obstore.get(self._store, key)
            except FileNotFoundError as error:
                if _names_bucket(error):
                    raise
                return None
            with whole_file(file) as partial, partial.open("wb") as target:
                for chunk in found.stream():
                    target.write(chunk)
            return str(found.meta["e_tag"])

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            where = f"{self.url}/{key}".rstrip("/")
            text = str(error)
            if _names_bucket(error):
                bucket = self.url.partition("://")[2].partition("/")[0]
                raise StoreRefused(f"{self.url}: there is no bucket {bucket!r}") from None
            if isinstance(error, FileNotFoundError):
                raise
            line = _one_line(text)
            if any(code in text for code in REFUSED):
                raise StoreRefused(f"{where}: {line}") from None
            raise StoreAway(f"{where}: {line}") from None


def _open(url: str) -> Any:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    client: Any = {"connect_timeout": f"{CONNECT_SECONDS}s", "timeout": f"{REQUEST_SECONDS}s", "allow_http": plain}
    retries: Any = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    try:
        return from_url(url, client_options=client, retry_config=retries)
    except (BaseError, ValueError) as error:
        raise ValueError(f"{url}: {_one_line(str(error))}") from None


def _names_bucket(error: Exception) -> bool:
    """Whether what was not found is the bucket."""
    return any(code in str(error) for code in NO_BUCKET)


def _one_line(text: str) -> str:
    """What a store answered, without its XML: its code where it gives one, else its status, else what went wrong."""
    text = text.partition("\n\nDebug source")[0]
    status, code = STATUS.search(text), CODE.search(text)
    if code is not None:
        return f"the store answers {code[1]}"
    if status is not None:
        return f"the store answers {status[1].strip()}"
    return " ".join(text.rpartition(" - ")[2].split())[:200]
