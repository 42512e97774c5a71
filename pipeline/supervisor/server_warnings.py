"""What workers say of a server that they ask, for whoever looks at a run: their logs lie in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

_LOGGER = "pagepack.endpoint"
_MOST_BYTES = 65_536  # of a log, at a look


class ServerWarnings:
    """Of readers whose logs are in a folder, from now on."""

    def __init__(self, logs: Path, say: Callable[[str], None]) -> None:
        self._logs = logs
        self._say = say
        self._read = {log: log.stat().st_size for log in self._files()}

    def look(self) -> None:
        """Say what came since the last look. A line that is not whole yet is the next one's."""
        for log in self._files():
            start = self._read.get(log, 0)
            if log.stat().st_size <= start:
                continue
            with log.open("rb") as file:
                file.seek(start)
                content = file.read(_MOST_BYTES)
            whole = content[: content.rfind(b"\n") + 1] or (content if len(content) == _MOST_BYTES else b"")
            self._read[log] = start + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                if (words := warning_of(line)) is not None:
                    self._say(words)

    def _files(self) -> list[Path]:
        return sorted(self._logs.glob("read*.log"))


def warning_of(line: str) -> str | None:
    """The message, where it is such; of a log in either form."""
    if _LOGGER not in line or "WARNING" not in line:
        return None
    if not line.startswith("{"):
        _, level, logger, *message = line.split(" ", 3)
        return message[0] if message and (level, logger) == ("WARNING", _LOGGER) else None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return str(said["message"]) if (said.get("level"), said.get("logger")) == ("WARNING", _LOGGER) else None
