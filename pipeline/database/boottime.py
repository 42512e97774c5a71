"""The clock of whoever asks "did I sleep, or was I stopped?": it moves on while the machine is suspended.

`time.monotonic()` does not on Linux, and leases run out by the wall clock, which does: a laptop that was closed for an
hour would find all that its own workers hold expired, before one of them had the chance to renew it.
"""

from __future__ import annotations

import time

# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC counts sleep, which Python's time.monotonic() there does not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds since some moment, suspended ones too; no clock that is set changes it."""
    return time.clock_gettime(_CLOCK)
