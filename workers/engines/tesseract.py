"""Tesseract as an engine, where it is installed: the scripts that PP-OCR does not read.

Its command is a process for each page, on one core, as many at once as there are cores; a page past its deadline loses
its process. It says words with their boxes; lines are put in order, and judged, as those of the other CPU engine are.

Which way up a page lies Tesseract's own detector says (`--psm 0`), where its data are there and the page has some fifty
letters; a page of fewer that makes little sense is read the other three ways too.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.environment import without_credentials
from pipeline.errors import PageFailed, UsageError
from workers.engines import Answer
from workers.engines.ink import find_ink
from workers.engines.orientation import Turn
from workers.engines.page_answer import answer_of
from workers.engines.page_lines import Late, PageLines
from workers.engines.page_threads import PageThreads
from workers.engines.tesseract_tsv import lines_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INSTALL = "apt-get install -y tesseract-ocr"
# Part of the fingerprint: raise it when the same page would give other text (reading order, turning).
_VERSION = 1
# Print that lies right has 0.9 and more of 1 by Tesseract's own measure.
_SOUND_CONFIDENCE = 0.85
_DOUBTFUL, _FEW_LETTERS = 0.7, 200
_POLL_SECONDS = 0.2
_LEAST_ORIENTATION_CONFIDENCE = 2.0  # Tesseract's own scale; beneath it errs


class Installed(NamedTuple):
    command: str
    version: str
    folder: Path
    """Where its languages lie."""
    languages: frozenset[str]


class TesseractEngine(PageThreads):
    """Reads pages with the `tesseract` command; answers the prompt named `ocr` only."""

    name = "tesseract"

    def __init__(self, languages: str | None = None, num_threads: int | None = None) -> None:
        """`languages` as Tesseract names them, joined by + or a comma: rus+eng; by default English.

        Raises UsageError where the command or a language is not installed.
        """
        self._installed, self._languages = _find(languages)
        self.model = fingerprint(languages)
        super().__init__(num_threads)

    def _read(self, pixels: NDArray[np.uint8], is_late: Callable[[], bool]) -> Answer:
        import numpy as np

        started = time.monotonic()
        try:
            turn = self._orientation(pixels, is_late)
            page = self._read_turned(pixels, turn, is_late)
            if not turn and page.lines and _makes_little_sense(page):
                others = [self._read_turned(pixels, other, is_late) for other in Turn if other]
                page = max(page, *others, key=_sense)
            elif not page.lines and find_ink(np.asarray(pixels)) is None:
                page = PageLines([], is_blank=True)
        except Late:
            page = PageLines([], is_late=True)
        return answer_of(page, pixels, time.monotonic() - started, _SOUND_CONFIDENCE)

    def _orientation(self, pixels: NDArray[np.uint8], is_late: Callable[[], bool]) -> Turn:
        if "osd" not in self._installed.languages:
            return Turn.NONE
        said, _, code = self._run(pixels, ["-l", "osd", "--psm", "0"], is_late)
        rotate = re.search(r"^Rotate: (\d+)$", said, re.MULTILINE)
        sure = re.search(r"^Orientation confidence: ([\d.]+)$", said, re.MULTILINE)
        if code or not rotate or not sure or float(sure[1]) < _LEAST_ORIENTATION_CONFIDENCE:
            return Turn.NONE  # too few letters, for one
        return Turn(-int(rotate[1]) // 90 % 4)  # it says clockwise

    def _read_turned(self, pixels: NDArray[np.uint8], turn: Turn, is_late: Callable[[], bool]) -> PageLines:
        import numpy as np

        turned = np.ascontiguousarray(np.rot90(pixels, turn))
        told, error, code = self._run(turned, ["-l", "+".join(self._languages), "--psm", "3", "tsv"], is_late)
        if code:
            fact = (error.strip().splitlines() or [f"it ended with code {code}"])[-1]
            raise PageFailed(f"tesseract cannot read an image of shape {pixels.shape}: {fact}")
        lines, unread = lines_of(told)
        return PageLines(lines, turn, unread=unread)

    def _run(self, pixels: NDArray[np.uint8], how: list[str], is_late: Callable[[], bool]) -> tuple[str, str, int]:
        """What it said, what it complained of, and its exit code."""
        height, width = pixels.shape[:2]
        with tempfile.TemporaryFile() as image:  # `communicate` forgets what is left to write where it is called again
            image.write(f"P6 {width} {height} 255\n".encode() + pixels.tobytes())
            image.seek(0)
            process = subprocess.Popen(
                [self._installed.command, "stdin", "stdout", *how],
                stdin=image,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
            )
        try:
            while not is_late():
                with suppress(subprocess.TimeoutExpired):
                    said, complained = process.communicate(timeout=_POLL_SECONDS)
                    return said.decode(errors="replace"), complained.decode(errors="replace"), process.returncode
            raise Late
        finally:
            if process.returncode is None:
                process.kill()
                process.communicate()


def environment() -> dict[str, str]:
    return without_credentials("TESSDATA_PREFIX") | {"OMP_THREAD_LIMIT": "1"}  # the cores are taken: one page each


def _makes_little_sense(page: PageLines) -> bool:
    """Few letters, of which most are doubtful or stand in lines that run along the page."""
    num_letters = sum(len(line.text) for line in page.lines)
    return num_letters < _FEW_LETTERS and _sense(page) < _DOUBTFUL * num_letters


def _sense(page: PageLines) -> float:
    """Ties go to the page as it lies, which comes first. Tesseract reads a line that runs along the page, too."""
    across = [line for line in page.lines if line.quad[1][0] - line.quad[0][0] > line.quad[3][1] - line.quad[0][1]]
    return sum(line.confidence * len(line.text) for line in across)


def fingerprint(languages: str | None = None) -> str:
    """Tesseract's version, the languages in their order, a hash of their data. Raises UsageError as the engine does."""
    installed, names = _find(languages)
    digest = hashlib.sha256(f"{_VERSION} {'osd' in installed.languages}".encode())
    for name in names:
        digest.update(_hash_of(installed.folder / f"{name}.traineddata"))
    return f"tesseract-{installed.version}/{'+'.join(names)}/{digest.hexdigest()[:12]}"


@cache
def _hash_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def find_tesseract() -> Installed:
    """Raises UsageError where the command is not there, or does not run."""
    command = shutil.which("tesseract")
    if command is None:
        raise UsageError(f"tesseract is not installed; `{INSTALL}`")
    try:
        version = _ask(command, "--version")
        languages = _ask(command, "--list-langs")
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{command} does not run ({error}); `{INSTALL}`") from error
    number = re.search(r"tesseract v?(\d\S*)", version)
    folder = re.search(r'"(.+)"', languages.partition("\n")[0])
    return Installed(
        command,
        number[1] if number else "unknown",
        Path(folder[1]) if folder else Path(),
        frozenset(languages.splitlines()[1:]),
    )


def _ask(command: str, what: str) -> str:
    done = subprocess.run([command, what], capture_output=True, text=True, timeout=30, check=True, env=environment())
    return done.stdout or done.stderr  # version 4.0 says its version on standard error


def _find(languages: str | None) -> tuple[Installed, list[str]]:
    """The command, and the languages that shall be read, all of which it has."""
    installed = find_tesseract()
    names = [name for name in re.split(r"[+,\s]+", languages or "eng") if name]
    missing = [name for name in names if name not in installed.languages]
    if missing or not names:
        has = ", ".join(sorted(installed.languages - {"osd"})) or "none"
        raise UsageError(
            f"tesseract has no data for the language {', '.join(missing)}; it has {has}. "
            f"`apt-cache search tesseract-ocr-` lists what can be installed; or put its .traineddata into "
            f"{installed.folder}"
        )
    return installed, names
