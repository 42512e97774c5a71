"""What a CPU's engine may count on: the host's memory, or less where a control group has a limit.

/proc/meminfo knows the machine alone. In a container of 8 GB on a host of 64 the kernel kills what goes over the 8,
without a word to the process; so each group from this process's own up to the root is asked for its limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
# Of a group: where it lies below the mount, and the names of its limit, of what is taken, and of the files read into
# memory, which the kernel gives up for others. In version 2 all controllers have one tree.
V1 = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
V2 = "", "memory.max", "memory.current", ""


def whole_bytes() -> int:
    """All that this process and its neighbours may take together."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *(limit for limit, _ in limits())])


def free_bytes() -> int:
    """What may still be taken."""
    return min([_free_of_host(), *(max(0, limit - taken) for limit, taken in limits())])


def _free_of_host() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def limits(of: Path = Path("/proc/self/cgroup"), mount: Path = GROUPS) -> Iterator[tuple[int, int]]:
    """Limit and what is taken of each group that has one, in bytes."""
    try:
        lines = of.read_text().splitlines()
    except OSError:  # no control groups, or none that we can read
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        tree, *names = V1 if controllers else V2
        own = mount / tree / path.strip("/")
        for folder in (own, *own.parents):
            if folder == mount.parent:
                break
            yield from _limit(folder, *names)


def _limit(group: Path, limit: str, taken: str, prefix: str) -> Iterator[tuple[int, int]]:
    try:
        most, used = ((group / name).read_text().strip() for name in (limit, taken))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        if most != "max":
            yield int(most), int(used) - cached
    except (OSError, ValueError):
        pass  # a folder above the groups, or one that a container does not show
