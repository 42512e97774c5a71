"""How much memory a CPU's engine counts on: the machine's, or less where a control group has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.pixtral import host_memory

GB = 10**9


def a_group(folder: Path, limit: str, taken: int, **cached: int) -> None:
    """As the kernel shows one: version 1 where the folder is below `memory`, else version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    if "memory" not in folder.parts:
        names = ("memory.max", "memory.current")
    for name, number in zip(names, (limit, str(taken)), strict=True):
        (folder / name).write_text(f"{number}\n")
    (folder / "memory.stat").write_text("".join(f"{name} {number}\n" for name, number in cached.items()))


def limits(root: Path, lines: str) -> list[tuple[int, int]]:
    of = root / "cgroup"
    of.write_text(lines)
    return list(host_memory.limits(of, root / "mount"))


def test_a_container_shows_its_own_group_at_the_root_of_the_tree(tmp_path: Path) -> None:
    """Files that were read into memory are given up for others, and are not taken."""
    a_group(tmp_path / "mount", str(8 * GB), 3 * GB, anon=GB, active_file=GB // 2, inactive_file=GB)
    assert limits(tmp_path, "0::/\n") == [(8 * GB, 3 * GB // 2)]


def test_each_group_above_may_have_the_smaller_limit(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    a_group(mount / "batch.slice" / "read.service", "max", GB)
    a_group(mount / "batch.slice", str(4 * GB), 2 * GB)
    (mount / "memory.stat").write_text("anon 5\n")  # the root has no limit
    assert limits(tmp_path, "0::/batch.slice/read.service\n") == [(4 * GB, 2 * GB)]


def test_the_older_tree_is_read_too_also_below_a_path_that_is_not_shown(tmp_path: Path) -> None:
    a_group(tmp_path / "mount" / "memory", str(2 * GB), GB, total_active_file=GB // 4, active_file=7)
    found = limits(tmp_path, "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/docker/1f\n")
    assert found == [(2 * GB, 3 * GB // 4)]


@pytest.mark.parametrize("lines", ["", "0::/\n", "4:memory:/\n", "1:name=systemd:/\n"])
def test_without_groups_there_is_no_limit(tmp_path: Path, lines: str) -> None:
    assert limits(tmp_path, lines) == []


def test_the_least_of_all_is_what_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    free, whole = host_memory.free_bytes(), host_memory.whole_bytes()
    assert 0 < free <= whole
    monkeypatch.setattr(host_memory, "limits", lambda: iter([(2_000_000, 500_000), (3_000_000, 2_000_000)]))
    assert (host_memory.free_bytes(), host_memory.whole_bytes()) == (1_000_000, 2_000_000)
