"""What a program that calls pagepack sees of an end that nobody foresaw; real processes, a fault of the engine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import (
    DiskFull,
    DocumentRejected,
    NothingToDo,
    PageFailed,
    PagepackError,
    ProgramFault,
    StorageGone,
    Unavailable,
    UsageError,
    exit_code,
)
from pipeline.settings import Settings
from tests.running import ROOT, call, environment, pagepack, rows, start_worker, write_pdf


def worker(role: str, home: Path, **variables: str) -> tuple[int | None, str]:
    """To its end: its exit code and words."""
    log = home / "worker.log"
    log.unlink(missing_ok=True)
    code = start_worker(role, environment("UnstartableEngine", PAGEPACK_HOME=str(home), **variables), log).wait(200)
    return code, log.read_text()


def test_each_error_knows_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    codes = {UsageError: 2, NothingToDo: 3, ProgramFault: 70}
    others = [PagepackError, DocumentRejected, PageFailed, Unavailable, DiskFull, StorageGone]
    for error in [*codes, *others]:
        assert exit_code(error("why")) == codes.get(error, 4)
        assert capsys.readouterr().err == "pagepack: why\n"
    assert exit_code(ValueError("postgresql://me:secret@db/x\nsays no")) == 70
    said = capsys.readouterr().err
    assert "Traceback" not in said, "none was raised"
    assert said.splitlines()[-1].startswith("pagepack: ValueError: postgresql://me:***@db/x: this is a fault of the")
    assert "secret" not in said


def test_a_worker_whose_engine_raises_ends_with_a_code_of_its_own(settings: Settings, broker: str) -> None:
    code, said = worker("read", settings.home, PAGEPACK_BROKER_URL=broker)
    assert code == 70, said
    assert "Traceback" in said and "KeyError: 'no such kernel': this is a fault of the program" in said
    assert worker("read", settings.home, PAGEPACK_LEASE_SECONDS="0")[0] == 2


def test_a_run_whose_reader_cannot_start_says_whose_fault_it_is(tmp_path: Path) -> None:
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 1).parent
    ended = pagepack("run", folder, "--home", tmp_path / "home", engine="UnstartableEngine")
    assert ended.returncode == 70, ended.stderr
    assert "the read worker does not come up (exit code 70)" in ended.stderr and "no such kernel" in ended.stderr


def test_a_worker_without_the_package_of_its_runtime_ends_before_it_takes_a_page(tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 1).parent
    assert call("submit", folder, "--home", home).returncode == 0
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    absent = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PAGEPACK_INTERNAL_ENGINE": ""}
    said = "pagepack: openvino is not installed; pip install 'pagepack[openvino]', or leave --ocr-runtime openvino out"
    ended = call("worker", "--home", home, "--ocr-runtime", "openvino", **absent)
    assert (ended.returncode, ended.stderr) == (2, f"{said}\n")
    ended = call("run", folder, "--home", home, PAGEPACK_OCR_RUNTIME="openvino", **absent)
    assert (ended.returncode, ended.stderr) == (2, f"{said}\n")
    assert rows(home, "SELECT count(*) FROM attempts") == [(0,)]


def test_a_worker_whose_reader_cannot_load_ends_though_its_ingester_is_ready(tmp_path: Path) -> None:
    ended = pagepack("worker", "--home", tmp_path / "home", engine="UnfitEngine")
    assert ended.returncode == 2, ended.stderr
    assert "too little memory for one page" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("pagepack: the read worker does not come up (exit code 2)")


def test_an_engine_that_cannot_even_be_described_is_no_wrong_usage(tmp_path: Path) -> None:
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 1).parent
    ended = pagepack("run", folder, "--home", tmp_path / "home", engine="NoSuchEngine")
    assert ended.returncode == 70 and "NoSuchEngine" in ended.stderr, ended.stderr


def test_a_command_with_a_fault_does_not_end_as_if_some_pages_had_failed(settings: Settings, tmp_path: Path) -> None:
    """A library that breaks when it is first used, and one that breaks when the program is loaded."""
    for number, module in enumerate(("pipeline.query.batch_status", "pipeline.cli.query")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
        ended = pagepack("status", "--home", settings.home, fresh=True, PYTHONPATH=f"{folder}:{ROOT}")
        assert ended.returncode == 70, ended.stderr
        assert "Traceback" in ended.stderr and "this is a fault of the program" in ended.stderr
