"""LibreOffice, or what stands at its place: what it is given, and what happens when it hangs or fails."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import psutil
import pymupdf
import pytest

from pipeline.documents.office_suite import as_pdf, find_suite
from pipeline.errors import DocumentRejected
from pipeline.settings import Settings
from tests.office_files import docx, words
from tests.running import write_pdf


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "home").mkdir()
    return Settings(home=tmp_path / "home", office_seconds=1.5)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script on PATH, to be written."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    script = folder / "soffice"
    script.touch(mode=0o755)
    return script


def left_over(word: str) -> list[str]:
    found = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [command for command in found if word in command]


def test_a_converter_that_hangs_is_ended_with_all_that_it_started(program: Path, settings: Settings) -> None:
    program.write_text("#!/bin/sh\nsleep 98765 &\nsleep 98765\n")
    started = time.monotonic()
    with pytest.raises(DocumentRejected, match=r"a\.docx took LibreOffice longer than 1\.5 s") as raised:
        as_pdf(str(program), io.BytesIO(docx("")), "docx", "a.docx", settings)
    assert raised.value.cause == "timeout" and time.monotonic() - started < 30
    deadline = time.monotonic() + 10
    while left_over("sleep 98765") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_over("sleep 98765") == []
    assert list(settings.home.iterdir()) == [], "nothing of its folder is left"


def test_it_is_given_the_file_limits_and_no_secret(
    program: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    made = write_pdf(tmp_path / "made.pdf", 2)
    told = tmp_path / "told"
    program.write_text(
        f"""#!/bin/sh
        {{ env; ulimit -v; ulimit -f; echo "$@"; cat profile/user/registrymodifications.xcu; }} > {told}
        cmp document.docx {tmp_path}/given || exit 1
        cp {made} out/document.pdf
        """
    )
    (tmp_path / "given").write_bytes(docx(words("given")))
    pdf = as_pdf(str(program), (tmp_path / "given").open("rb"), "docx", "a.docx", settings)
    assert pdf is not None and pdf.read() == made.read_bytes()
    said = told.read_text()
    assert "secret" not in said and "unlimited" not in said and "https_proxy=http://127.0.0.1:9" in said
    assert "--convert-to pdf --outdir" in said and "-env:UserInstallation=file://" in said
    assert "DisableMacrosExecution" in said


def test_one_that_makes_nothing_or_is_not_wanted_leaves_the_text(program: Path, settings: Settings) -> None:
    program.write_text("#!/bin/sh\nexit 1\n")
    assert as_pdf(str(program), io.BytesIO(b"x"), "docx", "a.docx", settings) is None
    assert find_suite(settings) == str(program)
    assert find_suite(settings.model_copy(update={"office": "text"})) is None


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed here")
@pytest.mark.parametrize("kind", ["docx", "rtf"])
def test_the_real_one_draws_documents(kind: str, settings: Settings) -> None:
    data = docx(words("Quarterly words")) if kind == "docx" else rb"{\rtf1 Quarterly words}"
    program = find_suite(settings)
    assert program is not None
    patient = settings.model_copy(update={"office_seconds": 120.0})
    pdf = as_pdf(program, io.BytesIO(data), kind, f"a.{kind}", patient)
    assert pdf is not None
    with pymupdf.open(stream=pdf.read(), filetype="pdf") as document:
        assert "Quarterly words" in document[0].get_text()
