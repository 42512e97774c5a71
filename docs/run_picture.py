"""docs/run.svg, drawn anew from real runs: `python docs/run_picture.py`, from the repository root.

The samples are copied to archive/ in a new folder, and the commands run on a terminal there. The folder is called
/srv in the picture. Of the progress bar one frame is kept, from the middle of the run.
"""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
COLUMNS = 105
COMMANDS = (
    ["run", "archive/"],
    ["search", "annual", "report"],
    ["sql", "SELECT file_name, page_count, pages_done, state FROM files"],
)


def said_on_a_terminal(words: list[str], folder: Path) -> str:
    """All that the command writes to a terminal, with its codes for colours and for drawing lines again."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "LINES": "40", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "pipeline", *words]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # the other side is closed
            break
        parts.append(part)
    assert process.wait() in (0, 1), words  # 1: two of the samples are broken on purpose
    return b"".join(parts).decode().replace("\r\n", "\n")


def with_one_frame(said: str) -> list[str]:
    """The lines, of which those that were drawn again and again are one."""
    lines, frames = [], []
    for line in said.split("\n"):
        *drawn_over, last = line.replace("\x1b[2K", "\r").replace("\x1b[1A", "\r").split("\r")
        frames += [one for one in (*drawn_over, last) if "pages" in one and "\u2501" in one]
        if "\u2501" not in last and (last or not drawn_over):
            if frames and "files seen" in last:
                lines += [frames[len(frames) // 2], "…"]
            lines.append(last)
    return lines


def main() -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="256")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        shutil.copytree(ROOT / "samples", folder / "archive", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        for words in COMMANDS:
            shown = " ".join(f'"{word}"' if " FROM " in word else word for word in words)
            console.print(Text(f"$ pagepack {shown}", style="bold"))
            for line in with_one_frame(said_on_a_terminal(words, folder)):
                console.print(Text.from_ansi(line.replace(str(folder), "/srv")), overflow="fold")
    svg = console.export_svg(title="pagepack", unique_id="pagepack")
    web_fonts = svg[svg.index("    @font-face") : svg.index("    .pagepack-matrix")]  # a page would fetch them
    svg = svg.replace(web_fonts, "").replace("Fira Code, monospace", "DejaVu Sans Mono, monospace")
    (ROOT / "docs/run.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


if __name__ == "__main__":
    main()
