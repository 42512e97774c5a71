"""Figures that are not known exactly, and totals of a folder from a sample of it.

A total is estimated by expansion: with `n` of `N` files looked at, which had `x` each on average, there are N · x in
all. Its range is that of 95 % by the spread between the files, and shrinks to nothing where all were looked at (the
finite population's correction). What the sample itself holds is there in any case.

    10 of 100 files looked at, with 1 to 9 pages, 4.0 on average, standard deviation 2.0
    100 · 4.0 = 400 pages     1.96 · 100 · 2.0 / √10 · √(1 − 0.1) = 118     282 to 518

With few files of very different lengths the true range is wider: a file of 5,000 pages that the sample missed is in
none of its figures.

Cochran 1977, "Sampling Techniques", chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_SIGMAS = 1.96  # 95 % of a normal distribution


class Range(NamedTuple):
    """`low` and `high` are bounds of 95 % where a sample gives them, else what a text beside them says."""

    low: float
    expected: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Range:
        return cls(value, value, value)

    @property
    def is_exact(self) -> bool:
        return self.low == self.high

    def plus(self, other: Range) -> Range:
        """Of two that may be wrong in the same direction."""
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, other: Range | float) -> Range:
        """Of two that are wrong independently of each other: relative errors add as the sides of a triangle do."""
        other = other if isinstance(other, Range) else Range.exact(other)
        value = self.expected * other.expected
        if not value:
            return Range(self.low * other.low, value, self.high * other.high)
        below, above = (
            math.hypot(*(abs(one[end] - one.expected) / one.expected for one in (self, other))) for end in (0, 2)
        )
        return Range(max(value * (1 - below), self.low * other.low), value, value * (1 + above))


def total(values: Sequence[float], population: int) -> Range:
    """Of a population of which these were drawn at random, each at most once."""
    count = len(values)
    if not count:
        return Range.exact(0.0)
    seen = math.fsum(values)
    expected = population * seen / count
    if count == population:
        return Range.exact(expected)
    if count == 1:
        return Range(seen, expected, expected * 3)  # one value has no spread
    spread = math.sqrt(math.fsum((value - seen / count) ** 2 for value in values) / (count - 1))
    error = _SIGMAS * population * spread / math.sqrt(count) * math.sqrt(1 - count / population)
    return Range(max(seen, expected - error), expected, expected + error)


def mean(values: Sequence[float], weights: Sequence[float], *, is_all: bool = False) -> Range:
    """Of what these stand for, each for as much as its weight; exact where they are all that there is."""
    whole = math.fsum(weights)
    if not whole:
        return Range.exact(0.0)
    average = math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / whole
    count = len(values)
    if is_all or count < 2:
        return Range.exact(average)
    squares = math.fsum((weight * (value - average)) ** 2 for value, weight in zip(values, weights, strict=True))
    error = _SIGMAS * math.sqrt(squares * count / (count - 1)) / whole
    return Range(max(average - error, 0.0), average, average + error)


def systematic(population: int, count: int, start: float) -> list[int]:
    """So many of `population` places, equally far from each other; `start` (0 to 1) says where the first one lies.

    Each place has the same chance, so what lies at them stands for all without weights.

    >>> systematic(10, 4, 0.5)
    [1, 3, 6, 8]
    """
    if count >= population:
        return list(range(population))
    return [int((number + start) * population / count) for number in range(count)]
