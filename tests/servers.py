"""Real servers for tests, on 127.0.0.1: a PostgreSQL and an MLflow on it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def postgresql_binaries() -> Path | None:
    found = shutil.which("postgres")
    newest = sorted(glob("/usr/lib/postgresql/*/bin/postgres"), key=lambda path: float(Path(path).parts[4]))
    found = found or (newest[-1] if newest else None)
    return None if found is None else Path(found).parent


class PostgreSQL:
    """A server in a folder of its own; it refuses to run as root, and then runs as `postgres`."""

    def __init__(self, folder: Path, password: str) -> None:
        binaries = postgresql_binaries()
        if binaries is None:
            pytest.skip("there is no PostgreSQL here")
        self.binaries, self.data, self.port, self.password = binaries, folder / "data", free_port(), password
        self.user: dict[str, Any] = {}
        folder.mkdir()
        secret = folder / "password"
        secret.write_text(password)
        if os.geteuid() == 0:
            try:
                entry = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL refuses root, and there is no user `postgres`")
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            for path in (folder, secret):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        self._run("initdb", "-D", self.data, "-U", "dmr", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync")
        secret.unlink()
        self.start()

    def uri(self, database: str, password: str | None = None) -> str:
        return f"postgresql+psycopg2://dmr:{quote(password or self.password)}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self._run("pg_ctl", "-D", self.data, "-o", options, "-l", self.data / "server.log", "-w", "start")

    def kill(self) -> None:
        """As by a power cut."""
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        from sqlalchemy import create_engine, text

        engine = create_engine(self.uri(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                done = connection.execute(text(statement))
                return list(done) if done.returns_rows else []
        finally:
            engine.dispose()

    def all_text(self, database: str) -> str:
        """Every row of every table of a database."""
        tables = self.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'", database
        )
        return "\n".join(str(row) for (table,) in tables for row in self.execute(f'SELECT * FROM "{table}"', database))

    def _run(self, program: str, *arguments: Any) -> None:
        command = [str(part) for part in (self.binaries / program, *arguments)]
        done = subprocess.run(
            command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False, **self.user
        )
        assert done.returncode == 0, command


class MlflowServer:
    """A server on a database, with its artifacts in a folder."""

    def __init__(self, store_uri: str, artifacts: Path) -> None:
        self.port = free_port()
        self.command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        self.command += ["--port", str(self.port), "--artifacts-destination", str(artifacts)]
        self.environment = os.environ | {
            "MLFLOW_BACKEND_STORE_URI": store_uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=quiet, stderr=quiet, start_new_session=True
        )
        wait_for(lambda: listens(self.port))

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
