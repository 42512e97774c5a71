"""LibreOffice, where it is installed, turns office documents into PDFs: their own layout, and old kinds too.

It is a large program that reads strangers' files. So it runs on its own for each document: in a folder of its own with
a profile that forbids macros and links, without our credentials, with limits on memory, files and time, and a network
proxy that leads nowhere. What outlives its time is ended, with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from pipeline.documents.files import OFFICE, rejected
from pipeline.documents.scratch import room_for, scratch_file, scratch_folder
from pipeline.environment import without_credentials
from pipeline.settings import Settings

_MEMORY_BYTES = 4 * 2**30  # of address space; it maps 1 GiB before it opens anything
_LARGEST_FILE_BYTES = 2 * 2**30
_PROGRAMS = ("soffice", "libreoffice")
_CHUNK_BYTES = 1 << 20

_LIMITED = """
import os, resource, sys
memory, size, seconds = map(int, sys.argv[1:4])
for what, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size), (resource.RLIMIT_CORE, 0),
                    (resource.RLIMIT_CPU, seconds)):
    resource.setrlimit(what, (limit, limit))
os.execv(sys.argv[4], sys.argv[4:])
"""

_ITEM = '<item oor:path="/org.openoffice.{}"><prop oor:name="{}" oor:op="fuse"><value>{}</value></prop></item>'
_PROFILE = (
    '<?xml version="1.0" encoding="UTF-8"?><oor:items xmlns:oor="http://openoffice.org/2001/registry">'
    + "".join(
        _ITEM.format(*one)
        for one in (
            ("Office.Common/Security/Scripting", "MacroSecurityLevel", "3"),
            ("Office.Common/Security/Scripting", "DisableMacrosExecution", "true"),
            ("Office.Common/Security/Scripting", "DisableActiveContent", "true"),
            ("Office.Common/Security/Scripting", "BlockUntrustedRefererLinks", "true"),
            ("Office.Writer/Content/Update", "Link", "0"),  # never
            ("Office.Calc/Content/Update", "Link", "1"),  # never
            ("Inet/Settings", "ooInetProxyType", "2"),
            ("Inet/Settings", "ooInetHTTPProxyName", "127.0.0.1"),
            ("Inet/Settings", "ooInetHTTPProxyPort", "9"),
            ("Inet/Settings", "ooInetHTTPSProxyName", "127.0.0.1"),
            ("Inet/Settings", "ooInetHTTPSProxyPort", "9"),
        )
    )
    + "</oor:items>"
)


def find_suite(settings: Settings) -> str | None:
    """Its program, where it is installed and wanted."""
    if settings.office == "text":
        return None
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


def as_shown(file: BinaryIO, kind: str, name: str, settings: Settings) -> tuple[BinaryIO, str]:
    """An office document as the PDF that LibreOffice makes of it, and its kind; what else there is, as it is.

    The file is closed where another one is given, or an error is raised. Raises as `as_pdf`.
    """
    if kind not in OFFICE or (program := find_suite(settings)) is None:
        return file, kind
    try:
        pdf = as_pdf(program, file, kind, name, settings)
    except BaseException:
        file.close()
        raise
    if pdf is None:
        return file, kind
    file.close()
    return pdf, "pdf"


def as_pdf(program: str, file: BinaryIO, kind: str, name: str, settings: Settings) -> BinaryIO | None:
    """The document as a PDF; None where the program makes none, as of a broken file.

    Raises:
        DocumentRejected: it took too long.
        DiskFull: there is no room for what it writes.
    """
    with (
        tempfile.TemporaryDirectory(dir=scratch_folder(settings), prefix="office-") as folder,
        room_for(name, settings),
    ):
        work = Path(folder)
        (work / "profile" / "user").mkdir(parents=True)
        (work / "out").mkdir()
        (work / "profile" / "user" / "registrymodifications.xcu").write_text(_PROFILE, encoding="utf-8")
        source = work / f"document.{kind}"
        with source.open("wb") as copy:
            file.seek(0)
            shutil.copyfileobj(file, copy, _CHUNK_BYTES)
        _run(program, work, source, name, settings)
        made = work / "out" / "document.pdf"
        if not made.is_file() or not made.stat().st_size:
            return None
        pdf = scratch_file(settings)
        with made.open("rb") as written:
            shutil.copyfileobj(written, pdf, _CHUNK_BYTES)
        pdf.flush()
        pdf.seek(0)
        return pdf


def _run(program: str, work: Path, source: Path, name: str, settings: Settings) -> None:
    seconds = settings.office_seconds
    limits = (_MEMORY_BYTES, _LARGEST_FILE_BYTES, int(seconds) + 1)
    command = [sys.executable, "-I", "-c", _LIMITED, *map(str, limits), os.path.realpath(program)]
    command += [f"-env:UserInstallation={(work / 'profile').as_uri()}", "--headless", "--norestore", "--nolockcheck"]
    command += ["--nodefault", "--convert-to", "pdf", "--outdir", str(work / "out"), str(source)]
    nowhere = {f"{key}_proxy": "http://127.0.0.1:9" for key in ("http", "https", "ftp", "all")}
    process = subprocess.Popen(
        command,
        cwd=work,
        env=without_credentials() | nowhere | {"HOME": str(work), "TMPDIR": str(work)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that all of it can be ended
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        fact = f"took LibreOffice longer than {seconds:g} s; raise PAGEPACK_OFFICE_SECONDS if it is no hostile file"
        raise rejected("timeout", name, fact) from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
