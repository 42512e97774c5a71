"""`pagepack plan` against the run that it plans, on a CPU engine: pages and seconds.

    python -m benchmarks.bench_plan [--per-kind 1] [--seed 7] [--engine rapidocr]
    python -m benchmarks.bench_plan --engine pixtral [--pages 60]

Draws pages of twenty kinds, as `bench_quality` does, each a scan in a PDF or a picture. Plans a folder of them in a
home that knows nothing, and runs it; then plans and runs others in the same home, which by then knows how fast it
reads. Each plan comes right before its run, so that both see the same machine. `pixtral` is the small reader that the
repository ships: a first run of its pages, of which no plan says the time, then others, then larger ones. Ends in one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.quality.draw import KINDS, draw_all

ROOT = Path(__file__).parent.parent
SMALL = ["--model", str(ROOT / "benchmarks/reader/checkpoint")]  # of the reader that the repository ships


def pagepack(*arguments: str | Path) -> tuple[dict[str, Any], float]:
    """What a command prints as JSON, and the seconds that it took."""
    command = [sys.executable, "-P", "-m", "pipeline", *map(str, arguments), "--json"]
    started = time.monotonic()
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert done.returncode in (0, 1), f"{' '.join(command)} ended with {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


def compare(name: str, folder: Path, home: Path, engine: str) -> dict[str, Any]:
    options = ["--home", home, "--engine", engine, *(SMALL if engine == "pixtral" else [])]
    planned, plan_seconds = pagepack("plan", folder, *options)
    ran, seconds = pagepack("run", folder, *options)
    expected = planned["seconds"]
    if expected is None:
        print(f"{name:<24}{planned['pages']['expected']} pages planned, {ran['pages_total']} read in {seconds:.0f} s")
        return {"case": name, "pages": ran["pages_total"], "seconds": round(seconds, 1)}
    row = {
        "case": name,
        "pages_planned": planned["pages"]["expected"],
        "pages": ran["pages_total"],
        "seconds_planned": expected["expected"],
        "seconds_range": [expected["low"], expected["high"]],
        "seconds": round(seconds, 1),
        "ratio": round(expected["expected"] / seconds, 2),
        "plan_seconds": round(plan_seconds, 1),
        "load": [round(load, 1) for load in os.getloadavg()[:1]],
    }
    print(
        f"{name:<24}{row['pages_planned']} pages planned, {row['pages']} read; {expected['expected']:.0f} s planned "
        f"({expected['low']:.0f} to {expected['high']:.0f}), {seconds:.0f} s taken: {row['ratio']:.2f} ×; the plan "
        f"took {plan_seconds:.0f} s, load {row['load'][0]}",
        flush=True,
    )
    return row


def draw_small(folder: Path, pages: int, canvas: tuple[int, int], seed: int) -> None:
    from benchmarks.reader.evaluate import draw_samples

    folder.mkdir()
    for number, sample in enumerate(draw_samples(pages, canvas, seed)):
        Image.fromarray(sample.pixels).save(folder / f"{number:03}.png")


def cases(work: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """What is compared, drawn when its turn comes."""
    if arguments.engine != "pixtral":
        for number, name in enumerate(("nothing known", "a run before it known")):
            folder = work / f"in{number}"
            draw_all(folder, arguments.per_kind, arguments.seed + number, list(KINDS))
            (folder / "truth.json").unlink(missing_ok=True)
            yield name, folder
        return
    sizes = (("nothing known", (192, 64)), ("a run before it known", (192, 64)), ("larger pages", (256, 128)))
    for number, (name, canvas) in enumerate(sizes):
        folder = work / f"in{number}"
        draw_small(folder, arguments.pages, canvas, arguments.seed + number)
        yield name, folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-kind", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--engine", default="rapidocr")
    parser.add_argument("--pages", type=int, default=60, help="of each case, for pixtral")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        home = Path(work) / "home"
        rows = [compare(name, folder, home, arguments.engine) for name, folder in cases(Path(work), arguments)]
    print(json.dumps({"benchmark": "plan", "engine": arguments.engine, "cores": os.cpu_count(), "rows": rows}))


if __name__ == "__main__":
    main()
