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

        # Where there is none, which is most of a page, costs nothing below.
        rows_of_ink = np.flatnonzero(contrast.max(axis=1) >= threshold)
        columns = np.flatnonzero(contrast.max(axis=0) >= threshold)
        top, first_column = int(rows_of_ink[0]), int(columns[0])  # there is some
        contrast = contrast[top : int(rows_of_ink[-1]) + 1, first_column : int(columns[-1]) + 1]
        height, width = contrast.shape
        ink = np.zeros((height, width + 2), bool)
        ink[:, 1:-1] = contrast >= threshold
        flat = ink.ravel()
        ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts, stops = ends[::2], ends[1::2]
        of_run = np.unique(joined_runs(starts, stops, width + 2), return_inverse=True)[1]
        self.labels = labels = np.repeat(of_run, stops - starts)
        self.count = count = int(of_run.max()) + 1
        at = np.flatnonzero(flat)
        self.ys, self.xs = at // (width + 2), at % (width + 2) - 1
        self.values = values = contrast[self.ys, self.xs]
        self.ys += top
        self.xs += first_column
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


def joined_runs(starts: NDArray[np.int64], stops: NDArray[np.int64], stride: int) -> NDArray[np.int64]:
    """For each level run of ink one run of its blob, the same for all of it.

    Runs are places in a picture that was laid out row after row, each of `stride` pixels, of which the first and the
    last are blank. A run has an edge to each that touches it in the row below, also at a corner. Each takes one run
    above it for its parent; where it touches several, whole trees are united (union-find, all edges at once).
    """
    import numpy as np

    first, last = np.searchsorted(stops, starts + stride), np.searchsorted(starts, stops + stride, "right")
    counts = last - first  # of the runs below that touch
    above = np.repeat(np.arange(len(starts)), counts)
    below = np.arange(counts.sum()) + np.repeat(first - (counts.cumsum() - counts), counts)
    root = np.arange(len(starts))
    root[below] = above
    root = _flat(root)
    while (differ := root[above] != root[below]).any():
        one, other = root[above[differ]], root[below[differ]]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        root = _flat(root)
    return root


def _flat(root: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each run's parent becomes the root of its tree."""
    while (further := root[root]).tobytes() != root.tobytes():
        root = further
    return root
