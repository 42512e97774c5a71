"""The home folder: one `pagepack run` or `worker` at a time, and never on a network file system."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pipeline.errors import UsageError

_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "fuse.sshfs", "9p")


def file_system(path: Path) -> str:
    """Type of the file system that a path lies on, as Linux names it; "" where that cannot be told."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kinds = [line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == wanted]
    return kinds[-1] if kinds else ""


def is_in_use(home: Path) -> bool:
    """Whether a `pagepack run` or `worker` has the home; yes, where the lock's file may not be opened."""
    try:
        with (home / "lock").open() as file:
            return not _lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _lock(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_LOOKS, _LOOK_SECONDS = 4, 0.05  # `is_in_use` holds the lock for an instant, which is no reason to give up


class HomeInUse(UsageError):
    """Another `pagepack run` or `worker` has the home."""


class HomeLock:
    """Held by the one `pagepack run` or `worker` of a home; the kernel lets go of it however the process ends."""

    def __init__(self, home: Path, command: str = "pagepack run") -> None:
        self._command = command
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._file = (home / "lock").open("a+")
        except OSError as error:
            raise UsageError(
                f"{home} cannot be written: {error.strerror}; give it write permission or choose another --home"
            ) from error
        self._home = home
        kind = file_system(home)
        if kind in _NETWORK_FILE_SYSTEMS:
            raise UsageError(
                f"{home} lies on a network file system ({kind}), where SQLite's locks do not hold; choose a --home on "
                "a local disk"
            )

    def __enter__(self) -> HomeLock:
        looks = 1
        while not _lock(self._file, fcntl.LOCK_EX):
            if looks < _LOOKS:
                looks += 1
                time.sleep(_LOOK_SECONDS)
                continue
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise HomeInUse(
                f"{self._home} is in use by {holder}; wait until it ends, or use another --home at the same time"
            )
        with suppress(OSError):  # a full disk has no room for the name; what frees some needs the lock
            os.ftruncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), f"`{self._command}` with process id {os.getpid()}".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            os.ftruncate(self._file.fileno(), 0)
        self._file.close()
