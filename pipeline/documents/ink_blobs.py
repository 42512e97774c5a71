"""Blobs of ink in a picture of contrast: which pixels hang together, and the shape of each blob."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CORE = 0.35  # of its darkest pixel


class Blobs:
    """Pixels of a contrast that hang together, also at a corner; arrays with a value for each."""

    def __init__(self, contrast: NDArray[np.uint8], threshold: int) -> None:
        import numpy as np

        height, width = contrast.shape
        ink = np.zeros((height, width + 2), bool)
        ink[:, 1:-1] = contrast >= threshold
        flat = ink.ravel()
        ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts, stops = ends[::2], ends[1::2]
        rows, left = np.divmod(starts, width + 2)
        lengths = stops - starts
        of_run = _joined(rows.tolist(), left.tolist(), (left + lengths).tolist())
        self.labels = labels = np.repeat(of_run, lengths)
        self.count = count = int(of_run.max()) + 1
        at = np.flatnonzero(flat)
        self.ys, self.xs = at // (width + 2), at % (width + 2) - 1
        self.values = values = contrast[self.ys, self.xs]
        self.peaks = np.zeros(count, np.uint8)
        np.maximum.at(self.peaks, labels, values)
        self.whole = Shapes(labels, self.ys, self.xs, count)
        # Without the blur around it.
        core = values >= _CORE * self.peaks[labels]
        self.core = Shapes(labels[core], self.ys[core], self.xs[core], count)
        self.fill = np.bincount(labels[core], values[core], count) / (self.core.area * self.peaks)


class Shapes:
    """The box around each blob, and how many pixels it has."""

    def __init__(self, labels: Any, ys: Any, xs: Any, count: int) -> None:
        import numpy as np

        self.left, self.top = np.full(count, 1 << 20), np.full(count, 1 << 20)
        self.right, self.bottom = np.zeros(count, int), np.zeros(count, int)
        np.minimum.at(self.left, labels, xs)
        np.maximum.at(self.right, labels, xs)
        np.minimum.at(self.top, labels, ys)
        np.maximum.at(self.bottom, labels, ys)
        self.sizes = np.bincount(labels, minlength=count)
        self.width, self.height = self.right - self.left + 1, self.bottom - self.top + 1
        self.area = self.width * self.height
        self.longer, self.shorter = np.maximum(self.width, self.height), np.minimum(self.width, self.height)


def _joined(rows: list[int], left: list[int], right: list[int]) -> NDArray[np.int64]:
    """Runs of pixels, row by row, by the blob that each belongs to."""
    import numpy as np

    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    above = 0
    for run, row in enumerate(rows):
        while above < run and (rows[above] < row - 1 or (rows[above] == row - 1 and right[above] < left[run])):
            above += 1
        other = above
        while other < run and rows[other] == row - 1 and left[other] <= right[run]:
            parent[root(run)] = root(other)
            other += 1
    return np.unique([root(run) for run in range(len(rows))], return_inverse=True)[1]
