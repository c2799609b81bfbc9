"""The Ray that a study starts on this machine: whether it can start, who can reach it, and what it leaves behind."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from dmr.studies.errors import StudyError
from dmr.studies.storage.store_passwords import without_secrets

TEMPORARY = ("RAY_TMPDIR", "TMPDIR")  # where Ray's sessions lie, the first that is set; else /tmp
LONGEST_SOCKET = "session_2026-01-31_00-00-00_000000_{process}/sockets/plasma_store"
BYTES_NEEDED = 2**20  # of logs, before the first trial
LATEST = "session_latest"
TOKEN = "RAY_AUTH_TOKEN"
STARTS = 3  # on a busy machine: Ray dies where one of its processes takes over 15 s (ray-project/ray#65983)


def check_can_start() -> None:
    """Look before there is a study: Ray itself fails late, some of it after half a minute.

    Raises:
        StudyError: Ray cannot use the path of its folder, or cannot write there.
    """
    from ray._private.utils import validate_socket_filepath

    folder = _folder()
    source = next((f"{name}={os.environ[name]}" for name in TEMPORARY if name in os.environ), str(folder.parent))
    if not str(folder).isascii():
        raise StudyError(
            f"{source}: Ray takes a path of ASCII letters only; set RAY_TMPDIR to another folder, such as /tmp"
        )
    try:
        validate_socket_filepath(str(folder / LONGEST_SOCKET.format(process=os.getpid())))
    except OSError:
        raise StudyError(
            f"{source}: too long a path for Ray's sockets; set RAY_TMPDIR to a folder with a short one, such as /tmp"
        ) from None
    try:
        with TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())) as file:
            file.write(bytes(BYTES_NEEDED))
    except OSError as error:
        raise StudyError(
            f"{source}: Ray keeps its files there, and they cannot be written: {error.strerror}; set RAY_TMPDIR to a "
            "folder that can be written and has room"
        ) from None


@contextmanager
def local_ray(**settings: Any) -> Iterator[Any]:
    """Start a Ray and end it; its session's files go with it, except where it fails. Yields what `ray.init` returns.

    Raises:
        StudyError: it does not start.
    """
    import ray

    with ExitStack() as stack:
        stack.enter_context(_a_token())
        for tries in range(STARTS):
            try:
                with without_secrets(), _on_loopback():
                    started = ray.init(address="local", dashboard_host="127.0.0.1", **settings)
                break
            except Exception as error:  # Ray passes on whatever its parts raise
                ray.shutdown()
                if tries + 1 == STARTS:
                    text = " ".join(str(error).split())[:200]
                    raise StudyError(f"Ray does not start here: {text} (logs: {_folder() / LATEST / 'logs'})") from None
        try:
            yield started
        finally:
            ray.shutdown()
        _remove_session(Path(started.address_info["session_dir"]))


def _folder() -> Path:
    from ray._common.utils import get_default_ray_temp_dir

    return Path(get_default_ray_temp_dir())


def _remove_session(session: Path) -> None:
    shutil.rmtree(session, ignore_errors=True)
    latest = session.with_name(LATEST)
    with suppress(OSError):  # there is none, or another Ray has just made its own
        if os.readlink(latest) == str(session):
            latest.unlink()


@contextmanager
def _a_token() -> Iterator[None]:
    """Whoever has none gets one for this Ray alone: Ray would write one to the home, which may not be writable."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    loader = AuthenticationTokenLoader.instance()
    if loader.has_token(ignore_auth_mode=True):
        yield
        return
    os.environ[TOKEN] = secrets.token_hex(32)
    loader.reset_cache()
    try:
        yield
    finally:
        del os.environ[TOKEN]
        loader.reset_cache()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray started here listens on 127.0.0.1 alone. Ray's switch for that is a variable that `import ray` reads, and
    its import may lie behind us.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]
        if before[1] is not None:
            os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = before[1]
