"""Files without a name for what is fetched or unpacked: the system takes them back however the process ends."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.errors import DiskFull
from pipeline.settings import Settings


def scratch_folder(settings: Settings) -> Path:
    """The home, which has the room; or the system's own place where the home is not ours to write."""
    return settings.home if os.access(settings.home, os.W_OK) else Path(tempfile.gettempdir())


def scratch_file(settings: Settings) -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile(dir=scratch_folder(settings)))


def free_bytes(settings: Settings) -> int:
    return shutil.disk_usage(scratch_folder(settings)).free


@contextmanager
def room_for(name: str, settings: Settings) -> Iterator[None]:
    """Raises DiskFull where a copy of this file found none."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        folder = scratch_folder(settings)
        raise DiskFull(f"no room left in {folder} for a copy of {name}: free some and run again") from error
