"""How well the reader reads: `python -m benchmarks.reader.evaluate`, by pages that training never drew.

Pages come from the seed space UNSEEN and go through the product: PNG pages as drawn, PDF pages through the sandboxed
rasterizer, all through `PixtralEngine`, packed. The character error rate is Levenshtein distance over all pages divided
by all characters of the truth, line ends counted. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.reader.draw import UNSEEN, Layout, generator, lay_out, pdf_bytes, plain, render
from benchmarks.reader.lesson import STAGES
from pipeline.blobs.png import hash_pixels
from schemas.prompts import DESCRIBE, OCR, Prompt
from workers.engines import Answer, Engine

CHECKPOINT = Path(__file__).parent / "checkpoint"
KINDS = ("words", "random", "numbers", "table", "inverse", "blank", "pdf")


@dataclass(frozen=True, slots=True)
class Sample:
    """An unseen page: what it shows, and its pixels as the engine gets them."""

    kind: str
    layout: Layout
    pixels: NDArray[np.uint8]

    @property
    def image_hash(self) -> str:
        return hash_pixels(Image.fromarray(self.pixels))


def draw_samples(
    count: int,
    canvas: tuple[int, int],
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    max_lines: int = STAGES[-1].max_lines,
) -> list[Sample]:
    """`count` pages, the kinds in turn; PDF pages are rasterized at 1 px a point."""
    layouts = []
    for index in range(count):
        kind = kinds[index % len(kinds)]
        rng = generator(UNSEEN, seed, index)
        drawn = str(rng.choice(["words", "random"])) if kind in ("inverse", "pdf") else kind
        layout = lay_out(rng, canvas, max_lines=max_lines, kind=drawn, inverse=kind == "inverse")
        layouts.append((kind, plain(layout) if kind == "pdf" else layout))
    vector = rasterized([layout for kind, layout in layouts if kind == "pdf"], max(canvas))
    pages = iter(vector)
    return [Sample(kind, layout, next(pages) if kind == "pdf" else render(layout)) for kind, layout in layouts]


def rasterized(layouts: Sequence[Layout], max_side_px: int) -> list[NDArray[np.uint8]]:
    """Each layout as a PDF file through the product's rasterizer, whose process starts only where there is one."""
    if not layouts:
        return []
    from pipeline.blobs.png import load
    from pipeline.documents.rasterize import Rasterizer
    from pipeline.documents.render_process import RasterizedPage
    from pipeline.settings import Settings

    pages = []
    with tempfile.TemporaryDirectory() as folder, Rasterizer(Settings(max_side_px=max_side_px)) as rasterizer:
        for index, layout in enumerate(layouts):
            path = Path(folder) / f"{index}.pdf"
            path.write_bytes(pdf_bytes(layout))
            with rasterizer.open(path, "pdf") as document:
                for page in document.pages():
                    assert isinstance(page, RasterizedPage), page
                    pages.append(np.array(load(page.image).convert("RGB")))
    return pages


def ask(engine: Engine, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> list[list[Answer]]:
    """Every prompt of every page, all at once."""
    futures = [engine.submit(sample.image_hash, sample.pixels, prompts) for sample in samples]
    return [[future.result() for future in page] for page in futures]


def distance(truth: str, read: str) -> int:
    """Levenshtein: insertions, deletions and substitutions."""
    row = list(range(len(read) + 1))
    for number, wanted in enumerate(truth, 1):
        diagonal, row[0] = row[0], number
        for place, found in enumerate(read, 1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (wanted != found)),
            )
    return row[-1]


def error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Over (truth, read)."""
    wrong = sum(distance(truth, read) for truth, read in pairs)
    return wrong / max(1, sum(len(truth) for truth, _ in pairs))


def report(samples: Sequence[Sample], answers: Sequence[Sequence[Answer]]) -> dict[str, object]:
    """The figures; `answers` hold `ocr` then `describe`."""
    read = [(sample.kind, sample.layout.text, ocr.text) for sample, (ocr, _) in zip(samples, answers, strict=True)]
    by_kind = {
        kind: round(error_rate([(truth, text) for of, truth, text in read if of == kind]), 5)
        for kind in dict.fromkeys(sample.kind for sample in samples)
        if kind != "blank"
    }
    blank = [text for kind, _, text in read if kind == "blank"]
    described = [(sample.layout.description, answer.text) for sample, (_, answer) in zip(samples, answers, strict=True)]
    return {
        "pages": len(samples),
        "characters": sum(len(truth) for _, truth, _ in read),
        "by_kind": by_kind,
        "blank_pages_answered_empty": f"{sum(not text for text in blank)}/{len(blank)}",
        "pages_without_error": round(sum(truth == text for _, truth, text in read) / len(read), 4),
        "stopped_by_themselves": sum(a.finish_reason == "stop" for page in answers for a in page) / (2 * len(samples)),
        "describe_exact": round(sum(truth == text for truth, text in described) / len(described), 4),
        "describe_lines_right": round(sum(_part(a, 0) == _part(b, 0) for a, b in described) / len(described), 4),
        "describe_tone_right": round(sum(_part(a, 2) == _part(b, 2) for a, b in described) / len(described), 4),
        "character_error_rate": round(error_rate([(truth, text) for _, truth, text in read]), 5),
    }


def _part(description: str, index: int) -> str:
    return [*description.split(", "), "", "", ""][index]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", type=Path, default=CHECKPOINT)
    parser.add_argument("--pages", type=int, default=420, help="of each canvas")
    parser.add_argument("--canvas", default="192x64,256x128", help="width x height in px, multiples of 16; several")
    parser.add_argument("--max-lines", type=int, default=STAGES[-1].max_lines, help="training ended at this many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", help="default: the checkpoint's own, bfloat16")
    parser.add_argument("--quantize", default="off", help="comma-separated: off, int8, int4, fp8; each in turn")
    parser.add_argument("--show", type=int, default=0, help="print this many wrong pages")
    args = parser.parse_args()
    from workers.engines.pixtral import PixtralEngine

    canvases = {name: tuple(map(int, name.split("x"))) for name in args.canvas.split(",")}
    samples = [
        page
        for width, height in canvases.values()
        for page in draw_samples(args.pages, (width, height), args.seed, max_lines=args.max_lines)
    ]
    for quantize in args.quantize.split(","):
        evaluate(PixtralEngine(args.model, "cpu", args.dtype, quantize=quantize), samples, list(canvases), args)


def evaluate(engine: Engine, samples: Sequence[Sample], canvases: Sequence[str], args: argparse.Namespace) -> None:
    """Read all, and print the figures."""
    began = time.monotonic()
    answers = ask(engine, samples, [replace(prompt, max_tokens=400) for prompt in (OCR, DESCRIBE)])
    seconds = time.monotonic() - began
    engine.close()
    wrong = [
        (sample, page) for sample, page in zip(samples, answers, strict=True) if page[0].text != sample.layout.text
    ]
    for sample, (ocr, describe) in wrong[: args.show]:
        print(f"{sample.kind}: {sample.layout.text!r}\n   read {ocr.text!r} ({ocr.finish_reason}); {describe.text!r}")
    by_canvas = {}
    for number, name in enumerate(canvases):
        part = slice(number * args.pages, (number + 1) * args.pages)
        by_canvas[name] = report(samples[part], answers[part])["character_error_rate"]
        print(f"{name}: {json.dumps(report(samples[part], answers[part]))}")
    figures = {"model": engine.model, "seconds": round(seconds, 1), "by_canvas": by_canvas}
    print(json.dumps(figures | report(samples, answers)))


if __name__ == "__main__":
    main()
