"""On how many GPUs a worker reads with pixtral, by its name, as `task_attempts.worker` has it.

host:read-0-5f3a…/      one, that --devices named; read-0+1 is one model over two, read-cpu+cpu over none
host:read-5f3a…/        what torch finds: a GPU where this host has one
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

_NAME = re.compile(r"(?P<host>.*):read(?:-(?P<device>.+))?-[0-9a-f]{32}/?")
_DEVICES = Path("/dev")  # nvidia0 and so on; of Windows beneath Linux dxg


def gpus_of(worker: str, this_host: str | None = None) -> int:
    """0 where it reads on a CPU, or on another host whose devices are not told.

    >>> gpus_of(f"gpu1:read-0+1-{'5f' * 16}/"), gpus_of(f"gpu1:read-cpu+cpu-{'5f' * 16}/"), gpus_of("gpu1:ingest")
    (2, 0, 0)
    """
    found = _NAME.fullmatch(worker)
    if found is None:
        return 0
    if found["device"] is not None:
        return sum(name != "cpu" for name in found["device"].split("+"))
    return int(found["host"] == (this_host or socket.gethostname()) and has_gpu())


def has_gpu(devices: Path = _DEVICES) -> bool:
    """Whether CUDA may find one here, without torch, which takes seconds to say it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return (devices / "dxg").exists() or any(devices.glob("nvidia[0-9]*"))
