"""PostgreSQL and an MLflow server on it go away while a study runs, and nobody finds a password anywhere."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from mlflow.utils import find_free_port

from dmr.studies.storage.study_folder import StudyFolder

pytestmark = pytest.mark.slow

PASSWORD, TOKEN = "wOrd/of:a pass", "t0ken-of-mlflow"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAOFABUCKET",
    "AWS_SECRET_ACCESS_KEY": "s3cret/of+it",
    "AWS_SESSION_TOKEN": "t0ken-of-it",
}
TRIALS, EPOCHS = 10, 24
MLFLOW_OUTAGE, POSTGRESQL_OUTAGE = 30.0, 8.0


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
        self.binaries, self.data, self.port, self.password = binaries, folder / "data", find_free_port(), password
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
        return f"postgresql://dmr:{quote(password or self.password)}@127.0.0.1:{self.port}/{database}"

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
        self.port = find_free_port()
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

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where another user may go."""
    made = Path(tempfile.mkdtemp(prefix="dmr-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[PostgreSQL]:
    server = PostgreSQL(folder / "postgresql", PASSWORD)
    try:
        for name in ("mlflow", "optuna", "other"):
            server.execute(f"CREATE DATABASE {name}")
        yield server
    finally:
        server.kill()


def epochs_kept(place) -> int:
    lines = (place.path / "dmr_runs/small/journal.jsonl").read_text().splitlines(keepends=True)
    return sum(json.loads(line)["op"] == "metrics" for line in lines if line.endswith("\n"))


def assert_without_passwords(where: str, content: bytes) -> None:
    for secret in (PASSWORD, quote(PASSWORD), TOKEN, *KEYS.values()):
        assert secret.encode() not in content, where


@pytest.mark.timeout(900)
def test_both_servers_go_away_and_nothing_is_lost_or_doubled_and_no_password_is_kept(workplace, database, folder):
    mlflow = MlflowServer(database.uri("mlflow"), folder / "artifacts")
    workplace.write_slow(budget={"trials": TRIALS}, train__epochs=EPOCHS, resources__cpus=0.5, resources__concurrent=2)
    workplace.tracking_uri, workplace.optuna_url = mlflow.uri, database.uri("optuna")
    addresses = {
        "MLFLOW_TRACKING_URI": mlflow.uri.replace("//", f"//me:{TOKEN}@"),
        "DMR_OPTUNA_URL": workplace.optuna_url,
        "PGPASSWORD": PASSWORD,
        **KEYS,
        "RAY_TMPDIR": str(folder / "ray"),
    }
    workplace.environment |= addresses
    driver = None
    try:
        mlflow.start()
        workplace.wait_for(mlflow.listens)
        driver = workplace.start("run", "small.yaml")
        workplace.wait_for(lambda: workplace.epochs_of_running() > 6)
        for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
            listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            assert all(ip.removeprefix("::ffff:") == "127.0.0.1" for ip in listening), (process.name(), listening)
        for process in psutil.Process(driver.pid).children(recursive=True):
            environ = {name: value for name, value in process.environ().items() if name not in KEYS}  # trials need them
            assert_without_passwords(process.name(), f"{environ}{process.cmdline()}".encode())
        mlflow.kill()
        time.sleep(MLFLOW_OUTAGE)
        mlflow.start()
        workplace.wait_for(mlflow.listens)
        workplace.wait_for(lambda: workplace.epochs_of_running() > 6)
        database.kill()
        before = epochs_kept(workplace)
        time.sleep(POSTGRESQL_OUTAGE)
        assert epochs_kept(workplace) > before + 8, "trials waited for PostgreSQL"
        database.start()
        logs = [file for file in (folder / "ray").rglob("*") if file.is_file()]  # they go when the study has ended
        for file in logs:
            assert_without_passwords(str(file), file.read_bytes())
        assert "raylet.out" in {file.name for file in logs}, "Ray's logs were not searched"
        out, err = driver.communicate(timeout=300)
        assert driver.returncode == 0, err
        assert err.count("Optuna's storage cannot be reached") == err.count("Optuna's storage is back") == 1, err
        assert "Traceback" not in err
        workplace.assert_exact(TRIALS, EPOCHS)
        study = StudyFolder(workplace.path / "dmr_runs", "small")
        for file in [*study.path.rglob("*"), *(folder / "artifacts").rglob("*"), *(folder / "ray").rglob("*")]:
            if file.is_file():
                assert_without_passwords(str(file), file.read_bytes())
        assert not list((folder / "ray").rglob("raylet.out"))
        for name in ("mlflow", "optuna"):
            rows = database.all_text(name)
            assert "learning_rate" in rows
            assert_without_passwords(name, rows.encode())
        assert_without_passwords("what people saw", (out + err).encode())

        del workplace.environment["DMR_OPTUNA_URL"]
        assert workplace.run("status", "small").stdout.startswith(f"small: complete, {TRIALS} of {TRIALS} trials")
        workplace.environment["PGPASSWORD"] = ""
        refused = workplace.dmr("status", "small")
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
        assert "no password supplied; passwords are not stored: set DMR_OPTUNA_URL to the URI" in refused.stderr
    finally:
        if driver is not None and driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
        mlflow.kill()


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "DMR_OPTUNA_URL"])
@pytest.mark.parametrize("what", ["password", "server"])
def test_a_server_that_cannot_be_used_at_the_start(place, database, monkeypatch, variable, what):
    place.write()
    nobody = f"postgresql://dmr:{quote(PASSWORD)}@127.0.0.1:{find_free_port()}/other"
    monkeypatch.setenv(variable, nobody if what == "server" else database.uri("other", "not the pass"))
    started = time.monotonic()
    refused = place.dmr("run", "small.yaml")
    assert time.monotonic() - started < 15.0
    assert refused.exit_code == 2
    assert {"password": "password authentication failed", "server": "Connection refused"}[what] in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert_without_passwords("what people saw", refused.stderr.encode())
    assert not (place.path / "dmr_runs").exists()
