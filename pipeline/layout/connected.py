"""What belongs together because each touches another of it."""

from __future__ import annotations

from collections.abc import Iterable


def connected(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers below `count`, in groups that the links connect; groups and numbers in rising order (union-find)."""
    leads_to = list(range(count))

    def root(i: int) -> int:
        while leads_to[i] != i:
            leads_to[i] = i = leads_to[leads_to[i]]  # a long way is halved each time that it is gone
        return i

    for i, j in links:
        leads_to[root(i)] = root(j)
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
