"""Settings come from flags, variables, files and defaults, in this order; each message says where the value stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.settings import Settings, explain_settings, load_settings
from pipeline.supervisor.processes import child_environment
from tests.running import ROOT, call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with no setting from outside."""
    for name in [name for name in os.environ if name.startswith("PAGEPACK_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pagepack.toml").write_text(text, encoding="utf-8")
    return folder / "pagepack.toml"


def refused(**flags: object) -> str:
    with pytest.raises(UsageError) as error:
        load_settings(**flags)
    assert "Input should" not in str(error.value) and "pydantic" not in str(error.value)
    return str(error.value)


def test_a_flag_beats_a_variable_that_beats_the_files_that_beat_the_default(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = here.parent / "home"
    mine = write(here, 'home = "../home"\nengine = "pixtral"\nlease_seconds = 5\nmax_pages = 7\n')
    its = write(home, 'engine = "pixtral"\nlease_seconds = 6\nmax_pages = 8\nmax_attempts = 9\n')
    monkeypatch.setenv("PAGEPACK_ENGINE", "rapidocr")
    monkeypatch.setenv("PAGEPACK_LEASE_SECONDS", "4")
    settings = load_settings(engine="auto")
    assert (settings.engine, settings.lease_seconds, settings.max_pages, settings.max_attempts) == ("auto", 4, 7, 9)
    assert settings.max_crashes == 3 and settings.home.resolve() == home
    origins = {name: origin for name, _, origin in explain_settings(engine="auto")}
    assert origins["engine"] == "--engine" and origins["lease_seconds"] == "PAGEPACK_LEASE_SECONDS"
    assert origins["max_pages"] == origins["home"] == str(mine)
    assert origins["max_attempts"] == str(its) and origins["max_crashes"] == "default"


def test_every_kind_of_value_may_stand_in_a_file(here: Path) -> None:
    write(
        here,
        'database_url = "postgresql://me:secret@db/x"\nkeep_images = 30\nmax_file_bytes = 1_000\ngrace_seconds = 1.5\n'
        "celery_events = true\n",
    )
    settings = load_settings()
    assert (settings.database_url, settings.keep_images) == ("postgresql://me:secret@db/x", "30")
    assert (settings.max_file_bytes, settings.grace_seconds, settings.celery_events) == (1_000, 1.5, True)


def test_a_path_in_a_file_begins_at_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = here.parent / "home"
    write(home, 'model = "model"\nimages_url = "pictures"\ninputs_url = "s3://bucket/in"\n')
    settings = load_settings(home=home)
    assert (settings.model, settings.images_url) == (home / "model", f"{home}/pictures")
    assert settings.inputs_url == "s3://bucket/in"
    monkeypatch.setenv("HOME", "/home/somebody")
    write(here, 'home = "~/archive"')
    assert load_settings().home == Path("/home/somebody/archive")


def test_the_file_of_a_home_says_nothing_of_where_the_home_is(here: Path) -> None:
    file = write(here.parent / "home", 'home = "elsewhere"')
    assert refused(home=here.parent / "home") == (
        f"{file}: home is set, and the file lies in a home already; write it into the pagepack.toml of the working "
        "folder, or set PAGEPACK_HOME or --home"
    )
    write(here, 'home = "."\nmax_pages = 5')
    assert load_settings().max_pages == 5, "one file for both is read once"


def test_a_misspelt_name_is_told_with_the_near_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(here, "lease_second = 5")
    assert refused() == f"{file}: lease_second is not a setting of pagepack; did you mean lease_seconds?"
    write(here, "PAGEPACK_MAX-PAGES = 5")
    assert refused() == f"{file}: PAGEPACK_MAX-PAGES is not a setting of pagepack; did you mean max_pages?"
    write(here, "xyzzy = 5")
    assert refused().startswith(f"{file}: xyzzy is not a setting of pagepack; known are all_frames, attachments, ")
    monkeypatch.setenv("PAGEPACK_LEASE", "5")
    assert refused() == "PAGEPACK_LEASE is not a setting of pagepack; did you mean PAGEPACK_LEASE_SECONDS?"
    monkeypatch.delenv("PAGEPACK_LEASE")
    monkeypatch.setenv("PAGEPACK_XYZZY", "5")
    known = "known are PAGEPACK_ALL_FRAMES, PAGEPACK_ATTACHMENTS, "
    assert refused().startswith(f"PAGEPACK_XYZZY is not a setting of pagepack; {known}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"max_pages = 5\nhome = /data", ", line 2, column 8: Invalid value; write `name = value`, a text in quotes"),
        (
            b"# one\nhome",
            ", line 2: Expected '=' after a key in a key/value pair; write `name = value`, a text in quotes",
        ),
        (b"max_pages = " + b"[" * 5_000, ": "),
        (b"max_pages = " + b"9" * 5_000, ": "),
        (b'home = "\xff"', " cannot be read: it is no UTF-8 text"),
        (b"max_pages = [5]", ": max_pages is a list, a table or a date; give a text, a number, true or false"),
        (b"max_pages = 2026-01-01", ": max_pages is a list, a table or a date; give a text, a number, true or false"),
        (b"[home]\nx = 1", ": home is a list, a table or a date; give a text, a number, true or false"),
        (b'home = "a\\u0000b"', ": home holds a NUL; remove it"),
        (b'"\\u001b[31mred" = 1', ": '\\x1b[31mred' is not a setting of pagepack; "),
        (b'home = ""', ": home is empty; is a shell variable unset?"),
    ],
)
def test_a_broken_file_is_named_with_its_line(here: Path, text: bytes, said: str) -> None:
    (here / "pagepack.toml").write_bytes(text)
    assert refused().startswith(f"{here}/pagepack.toml{said}")


def test_a_file_that_is_a_folder_is_named(here: Path) -> None:
    (here / "pagepack.toml").mkdir()
    assert refused() == f"{here}/pagepack.toml cannot be read: Is a directory"


MISFITS = {
    "lease_seconds": ("soon", " is 'soon'; give a number"),
    "max_pages": ("1.5", " is '1.5'; give a whole number"),
    "max_attempts": ("0", " is '0'; give a number from 1 up"),
    "max_file_bytes": ("0", " is '0'; give a number above 0"),
    "metrics_port": ("70000", " is '70000'; give a number up to 65535"),
    "max_side_px": ("100", " is '100'; give a multiple of 16"),
    "celery_events": ("often", " is 'often'; give true or false"),
    "engine": ("pixtrall", " is 'pixtrall'; did you mean pixtral? give auto, pixtral, rapidocr, tesseract or endpoint"),
    "log_format": ("xml", " is 'xml'; give text or json"),
    "keep_images": ("a while", " is 'a while': neither keep, nor until-read, nor a number of days above 0"),
    "broker_url": ("me:secret@host", ": not a URL like redis://host:6379/0"),
    "inputs_url": (
        "s3://me:secret@host/x",
        " holds a password; give it as AWS_SECRET_ACCESS_KEY or FSSPEC_<PROTOCOL>_PASSWORD",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_value_that_does_not_fit_is_told_in_our_words(here: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, said = MISFITS[name]
    file = write(here, f'{name} = "{value}"')
    assert refused() == f"{file}: {name}{said}"
    file.unlink()
    monkeypatch.setenv(f"PAGEPACK_{name.upper()}", value)
    assert refused() == f"PAGEPACK_{name.upper()}{said}"


def test_a_file_that_was_written_on_windows_is_read(here: Path) -> None:
    (here / "pagepack.toml").write_bytes(b"\xef\xbb\xbfmax_pages = 4\r\nmax_crashes = 5\r\n")
    assert (load_settings().max_pages, load_settings().max_crashes) == (4, 5)


def test_no_number_is_true(here: Path) -> None:
    file = write(here, "lease_seconds = true")
    assert refused() == f"{file}: lease_seconds is 'true'; give a number"


def test_a_home_that_is_a_file_is_named_with_whoever_says_so(here: Path) -> None:
    (here / "pagepack-data").write_text("")
    assert refused() == f"the default home: {here}/pagepack-data is a file; choose a folder"
    assert refused(home=Path("pagepack-data")) == "--home: pagepack-data is a file; choose a folder"


def test_a_home_that_nobody_typed_is_told_as_an_absolute_path(here: Path) -> None:
    absent = call("status")
    assert absent.returncode == 2
    assert absent.stderr.startswith(f"pagepack: no database at {here}/pagepack-data/pagepack.db; ")


def test_config_shows_each_setting_its_value_and_its_origin(here: Path) -> None:
    file = write(here, 'broker_url = "redis://:secret@host/0"\ncelery_events = true\n')
    url = here / "url"
    url.write_text("postgresql://me:secret@db/x")
    variables = {"PAGEPACK_DATABASE_URL_FILE": str(url), "PAGEPACK_MAX_PAGES": "5"}
    plain = call("config", "--home", here.parent / "home", **variables)
    assert plain.returncode == 0 and "secret" not in plain.stdout, plain.stderr
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in plain.stdout.splitlines()}
    assert list(rows) == list(Settings.model_fields)
    assert rows["home"] == [str(here.parent / "home"), "--home"]
    assert rows["database_url"] == ["postgresql://me:***@db/x", f"PAGEPACK_DATABASE_URL_FILE ({url})"]
    assert rows["broker_url"] == ["redis://:***@host/0", str(file)]
    assert rows["max_pages"] == ["5", "PAGEPACK_MAX_PAGES"]
    assert rows["celery_events"] == ["true", str(file)]
    assert rows["model"] == ["-", "default"] and rows["lease_seconds"] == ["60.0", "default"]
    told = json.loads(call("config", "--json", "--engine", "rapidocr", **variables).stdout)
    assert [row["setting"] for row in told] == list(Settings.model_fields)
    by_name = {row["setting"]: row for row in told}
    assert by_name["engine"] == {
        "setting": "engine", "variable": "PAGEPACK_ENGINE", "value": "rapidocr", "from": "--engine"
    }  # fmt: skip
    assert by_name["model"]["value"] is None and by_name["max_pages"]["value"] == 5
    assert by_name["database_url"]["value"] == "postgresql://me:***@db/x"


@pytest.mark.parametrize(
    ("name", "url", "shown"),
    [
        ("database_url", "postgresql://u:1234/x@h/db", "postgresql://u:***@h/db"),
        ("database_url", "postgresql://u:a:b@c@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("database_url", "postgresql://h:5432/db?user=u&password=s3cret", "postgresql://h:5432/db?user=u&password=***"),
        ("broker_url", "redis://TOKEN@h:6379/0", "redis://***@h:6379/0"),
        ("broker_url", "redis://:1234@h", "redis://:***@h"),
        ("broker_url", "redis://h:6379/0", "redis://h:6379/0"),
        ("images_url", "s3://key:1234/x@bucket/in", "s3://key:***@bucket/in"),
        ("images_url", "/pictures/me@home", "/pictures/me@home"),
    ],
)
def test_config_shows_of_a_url_no_more_than_the_user(here: Path, name: str, url: str, shown: str) -> None:
    write(here, f'{name} = "{url}"')
    assert {name: value for name, value, _ in explain_settings()}[name] == shown


def test_a_child_process_has_the_settings_of_its_parent_wherever_it_stands(here: Path) -> None:
    write(here, 'home = "archive"\nmodel = "model"\nlease_seconds = 5\n')
    write(here / "archive", "max_pages = 5\nkeep_images = 'until-read'\n")
    settings = load_settings()
    other = here.parent / "other"
    write(other, 'lease_seconds = 7\nmax_attempts = 8\nbroker_url = "redis://elsewhere/0"\n')
    code = "from pipeline.settings import load_settings; print(load_settings().model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(settings) | {"PYTHONPATH": str(ROOT)},
        cwd=other,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Settings(**json.loads(done.stdout)) == settings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serch", "tides"], "'search'"),
        (["runn"], "No such command 'runn'. Did you mean 'run'?"),
        (["run", "x", "--bacth", "b"], "--batch"),
        (["run", "x", "--prompt", "orc"], "; did you mean ocr?"),
        (["run", "x", "--engine", "rapidor"], "; did you mean rapidocr?"),
    ],
)
def test_a_misspelt_command_or_option_is_told_with_the_near_one(arguments: list[str], said: str) -> None:
    wrong = call(*arguments)
    assert wrong.returncode == 2 and said in wrong.stderr.splitlines()[-1], "in click's own words"
