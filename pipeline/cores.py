"""How many cores this process has."""

from __future__ import annotations

import os
from pathlib import Path


def num_cores() -> int:
    """Cores this process may use: its affinity, or less where its control group has a smaller quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        v2 = Path("/sys/fs/cgroup/cpu.max")
        v1 = [Path("/sys/fs/cgroup/cpu") / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        quota, period = v2.read_text().split() if v2.exists() else [path.read_text() for path in v1]
        if quota != "max" and int(quota) > 0:
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no control groups, or none that we can read
    return cores
