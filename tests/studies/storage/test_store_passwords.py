"""Passwords in URIs: hidden, and found again in the environment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dmr.studies.storage.locations import StoreUris
from dmr.studies.storage.store_passwords import ask_for_password, mask_password, with_password, without_secrets
from dmr.studies.storage.study_folder import StudyFolder


@pytest.mark.parametrize(
    ("uri", "shown", "without"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql+psycopg2://me:s:e/c@host/db", "postgresql+psycopg2://me:***@host/db", None),
        ("postgresql://me:se@cret@host/db", "postgresql://me:***@host/db", "postgresql://me@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db", "postgresql://me@host/db"),
        (
            "postgresql://host/db?user=me&password=secret&sslmode=require",
            None,
            "postgresql://host/db?user=me&sslmode=require",
        ),
        ("postgresql://host/db?password=secret", "postgresql://host/db?password=***", "postgresql://host/db"),
        ("postgresql://host/db?password=a&sslmode=require", None, "postgresql://host/db?sslmode=require"),
        ("http://me:sec@ret@host:5000", "http://me:***@host:5000", "http://me@host:5000"),
        ("http://token@host:5000", "http://***@host:5000", "http://host:5000"),
        ("http://host:5000/a@b", "http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////tmp/a:b@c/mlflow.db", "sqlite:////tmp/a:b@c/mlflow.db", "sqlite:////tmp/a:b@c/mlflow.db"),
    ],
)
def test_a_uri_is_kept_without_its_password_and_found_again(
    uri: str, shown: str | None, without: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = mask_password(uri)
    assert shown is None or masked == shown
    assert mask_password(masked) == masked
    monkeypatch.setenv("DMR_OPTUNA_URL", uri)
    assert with_password(masked, "DMR_OPTUNA_URL") == uri
    for other in ("", "postgresql://me:secret@elsewhere/db"):
        monkeypatch.setenv("DMR_OPTUNA_URL", other)
        assert without is None or with_password(masked, "DMR_OPTUNA_URL") == without


def test_a_study_of_an_earlier_version_takes_a_new_password_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DMR_OPTUNA_URL", raising=False)
    assert with_password("postgresql://me:old@host/db", "DMR_OPTUNA_URL") == "postgresql://me:old@host/db"
    monkeypatch.setenv("DMR_OPTUNA_URL", "postgresql://me:new@host/db")
    assert with_password("postgresql://me:old@host/db", "DMR_OPTUNA_URL") == "postgresql://me:new@host/db"


def test_a_study_folder_has_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    places = StoreUris("http://me:secret1@host:5000", "postgresql://me:secret2@host/db")
    folder.remember(places)
    file = folder.path / "places.json"
    assert "secret" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setenv("MLFLOW_TRACKING_URI", places.tracking_uri)
    monkeypatch.setenv("DMR_OPTUNA_URL", places.optuna_url)
    assert folder.store_uris() == places


def test_what_to_set_is_said_only_where_a_password_is_missing() -> None:
    line = 'connection to server at "host", port 5432 failed: fe_sendauth: no password supplied'
    assert ask_for_password(line, "DMR_OPTUNA_URL").endswith("set DMR_OPTUNA_URL to the URI with its password")
    assert ask_for_password("connection refused", "DMR_OPTUNA_URL") == "connection refused"


def test_processes_started_without_secrets_do_not_inherit_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    with without_secrets():
        assert "PGPASSWORD" not in os.environ
    assert os.environ["PGPASSWORD"] == "secret"
