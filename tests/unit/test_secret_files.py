"""Settings that may hold a password come from a file, as secrets of containers do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.settings import load_settings

URL = "postgresql://pagepack:secret@db/pagepack"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE", "BROKER", "IMAGES"):
        monkeypatch.delenv(f"PAGEPACK_{name}_URL", raising=False)
    monkeypatch.setenv("PAGEPACK_DATABASE_URL_FILE", str(tmp_path / "url"))
    (tmp_path / "url").write_text(f"{URL}\n")
    return tmp_path / "url"


def test_a_url_is_read_from_the_file_that_a_variable_names(file: Path) -> None:
    assert load_settings().database_url == URL
    assert load_settings(database_url="postgresql://other/db").database_url == "postgresql://other/db"


def test_a_variable_and_its_file_together_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEPACK_DATABASE_URL", URL)
    with pytest.raises(UsageError) as error:
        load_settings()
    assert str(error.value) == "PAGEPACK_DATABASE_URL and PAGEPACK_DATABASE_URL_FILE are both set; unset one of them"


def test_a_file_that_is_missing_empty_or_no_text_is_named(file: Path) -> None:
    said = {}
    for what, content in {"empty": b" \n", "no text": b"\xff\xfe"}.items():
        file.write_bytes(content)
        with pytest.raises(UsageError) as error:
            load_settings()
        said[what] = str(error.value)
    file.unlink()
    with pytest.raises(UsageError) as error:
        load_settings()
    said["missing"] = str(error.value)
    name = f"PAGEPACK_DATABASE_URL_FILE names {file}, which"
    assert said == {
        "empty": f"{name} is empty; write the URL into it",
        "no text": f"{name} cannot be read: it is no UTF-8 text",
        "missing": f"{name} cannot be read: No such file or directory",
    }


def test_only_what_may_be_secret_has_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEPACK_ENGINE_FILE", str(file))
    with pytest.raises(UsageError, match="PAGEPACK_ENGINE_FILE is not a setting of pagepack"):
        load_settings()


def test_what_does_not_fit_is_told_without_the_password(file: Path) -> None:
    file.write_text("mysql://pagepack:secret@db/pagepack")
    with pytest.raises(UsageError, match="PAGEPACK_DATABASE_URL") as error:
        load_settings()
    assert "secret" not in str(error.value)
