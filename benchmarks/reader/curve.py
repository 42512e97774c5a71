"""The training curve as a picture: `python -m benchmarks.reader.curve curve.json curve.png`."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.reader.lesson import STAGES


def plot(curve: list[dict[str, Any]], path: Path) -> None:
    """Errors over training time on a logarithmic scale; vertical lines where the curriculum moves on."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    for name, label in (
        ("error", "characters wrong (truth before each)"),
        ("unseen", "glyphs wrong in a patch (helper)"),
        ("describe", "tokens of `describe` wrong"),
    ):
        points = [(point["seconds"] / 60, max(point[name], 1e-4)) for point in curve if _counts(point, name)]
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
    for before, after in pairwise(curve):
        if before["stage"] != after["stage"]:
            axes.axvline(after["seconds"] / 60, color="grey", linewidth=0.8, linestyle=":")
            width, height = STAGES[after["stage"]].canvas
            axes.text(after["seconds"] / 60, 1.05, f" {width} × {height}", fontsize=8)
    axes.set(yscale="log", xlabel="minutes", ylabel="share wrong, pages never seen before")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def _counts(point: dict[str, Any], name: str) -> bool:
    return name in point and (name != "error" or "text" in point)  # the alphabet's error is the helper's


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
