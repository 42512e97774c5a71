"""How much of a page is read, and how well: words found, words right, errors in reading order, cells of tables.

    python -m benchmarks.bench_quality                    all kinds of drawn pages: a quarter of an hour on one core
    python -m benchmarks.bench_quality --quick            two of each kind
    python -m benchmarks.bench_quality --pages FOLDER     any folder with a truth.json: [{"file": …, "text": …}, …]
    python -m benchmarks.bench_quality --born-digital rows --set text_layer=auto
                                                          drawn pages as PDFs that carry their text, in that order

The repository draws the pages itself, the same ones for the same seed, and each as a picture, so that no text layer
answers. They are read as `pagepack run` reads them: the sandboxed rasterizer with the product's settings, then the
engine that they choose. PAGEPACK_* and `--set` change them: `--set detail=page`, `--set fast=true`; where
`text_layer` is set, a page's own text answers as that says. Tesseract reads the same files where it is installed.
`--keep FOLDER` keeps the pages, the truth, and what was read; Tesseract is then not asked twice.
`pipeline/evaluation/measures.py` says what the figures are, docs/quality.md has today's. Ends in a line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.quality.draw import KINDS, Page, draw_all, load
from benchmarks.quality.readers import Pagepack, Reader, Reading, Tesseract, has_tesseract
from benchmarks.quality.score import Score, score
from pipeline.evaluation.doubt import doubt, worst_tenth_share
from pipeline.settings import load_settings

Result = tuple[Page, Reading, Score]
COLUMNS = "recall", "precision", "error", "cells", "false_tables", "upright", "review", "seconds"


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    with tempfile.TemporaryDirectory() as temporary:
        kept = arguments.keep or Path(temporary)
        folder = arguments.pages or kept / "pages"
        kinds = arguments.kind or list(KINDS)
        if arguments.pages is None:
            pages = draw_all(
                folder, 2 if arguments.quick else arguments.per_kind, arguments.seed, kinds, arguments.born_digital
            )
        else:
            pages = [page for page in load(folder) if arguments.kind is None or page.kind in kinds]
        pages = pages[: arguments.limit]
        found: dict[str, Any] = {"benchmark": "quality", "pages": len(pages)}
        found |= {"seed": arguments.seed} if arguments.pages is None else {}
        for make in _readers(arguments):
            started, children = time.monotonic(), _children_seconds()
            reader = make()
            results = list(_read(reader, folder, pages, kept / "read"))
            reader.close()
            summary = _summary(results)
            if isinstance(reader, Pagepack):
                facts = [reading.facts for _, reading, _ in results if "png_bytes" in reading.facts]
                summary["drawing_seconds"] = round((_children_seconds() - children) / max(len(results), 1), 3)
                summary["png_kilobytes"] = round(fmean([fact["png_bytes"] for fact in facts]) / 1000) if facts else None
            found[reader.name] = {"model": reader.model, **summary}
            print(f"\n{reader.name}: {reader.model}, {time.monotonic() - started:.0f} s")
            _print(summary, results, arguments.worst)
        print(json.dumps(found, ensure_ascii=False))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, help="a folder with a truth.json, instead of drawn pages")
    parser.add_argument("--quick", action="store_true", help="two pages of each kind")
    parser.add_argument("--per-kind", type=int, default=12, help="drawn pages of each kind")
    parser.add_argument("--kind", action="append", help=f"only this kind; may be repeated: {', '.join(KINDS)}")
    parser.add_argument("--limit", type=int, help="so many pages at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--born-digital", choices=("drawn", "rows", "shuffled"), help="as PDFs, in this order of lines")
    parser.add_argument("--engine", choices=("pagepack", "tesseract"), help="only this one reads")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of pagepack")
    parser.add_argument("--keep", type=Path, help="a folder for pages, truth and readings")
    parser.add_argument("--worst", type=int, default=0, help="also name the pages with the highest error rate")
    return parser.parse_args(argv)


def _readers(arguments: argparse.Namespace) -> list[Any]:
    settings = load_settings(**dict(pair.split("=", 1) for pair in arguments.set))
    readers: list[Any] = [] if arguments.engine == "tesseract" else [lambda: Pagepack(settings)]
    if arguments.engine != "pagepack":
        if has_tesseract():
            readers.append(Tesseract)
        else:
            print("tesseract is not installed: pagepack alone is measured", file=sys.stderr)
    return readers


def _read(reader: Reader, folder: Path, pages: list[Page], kept: Path) -> Iterable[Result]:
    """Pages as they are read. What pagepack read before is read again: its code may have changed."""
    for page in pages:
        path = folder / page.file
        digest = hashlib.sha256(path.read_bytes() + reader.model.encode()).hexdigest()[:16]
        text, facts = (kept / reader.name / f"{path.stem}.{end}" for end in ("txt", "json"))
        known = json.loads(facts.read_text()) if facts.exists() and reader.name == "tesseract" else {}
        if known.get("digest") == digest:
            reading = Reading(text.read_text(), known["seconds"], known["facts"])
        else:
            reading = reader.read(path, page)
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(reading.text)
            facts.write_text(json.dumps({"digest": digest, **asdict(reading)}, ensure_ascii=False))
        yield page, reading, score(page, reading.text)


def _summary(results: list[Result]) -> dict[str, Any]:
    kinds: dict[str, list[Result]] = {}
    for result in results:
        kinds.setdefault(result[0].kind, []).append(result)
    readable = [result for result in results if result[0].language != "other"]
    return {**_means(readable), "kinds": {kind: _means(some) for kind, some in sorted(kinds.items())}}


def _means(results: list[Result]) -> dict[str, float | int | None]:
    """Means over pages. `false_tables` is a share of the pages without a table, `upright` of those that lie wrong;
    `review` is the share that the reader itself calls worth a look."""
    scores = [score for _, _, score in results]
    means: dict[str, float | int | None] = {"pages": len(results)}
    for name, field in (*((name, name) for name in COLUMNS[:4]), ("false_tables", "is_false_table")):
        values = [value for value in (getattr(score, field) for score in scores) if value is not None]
        means[name] = round(fmean(values), 4) if values else None
    turned = [score.is_upright for page, _, score in results if page.turn]
    means["upright"] = round(fmean(turned), 4) if turned else None
    said = [bool(reading.facts["review"]) for _, reading, _ in results if "review" in reading.facts]
    means["review"] = round(fmean(said), 4) if said else None
    doubts = [(_doubt(reading), score.character_errors) for _, reading, score in results if "review" in reading.facts]
    share = worst_tenth_share(doubts)
    means["worst_tenth"] = None if share is None else round(share, 4)
    means["seconds"] = round(fmean([reading.seconds for _, reading, _ in results]), 3) if results else None
    return means


def _doubt(reading: Reading) -> float:
    known = reading.facts
    return doubt(known["review"], known.get("review_score"), known.get("finish_reason", ""), known.get("confidence"))


def _print(summary: dict[str, Any], results: list[Result], num_worst: int) -> None:
    print(f"{'':16}{'pages':>6}" + "".join(f"{name:>{len(name) + 3}}" for name in COLUMNS))
    for kind, means in [*summary["kinds"].items(), ("all (readable)", summary)]:
        cells = ["–" if means[name] is None else f"{means[name]:.3f}" for name in COLUMNS]
        print(
            f"{kind:16}{means['pages']:6}" + "".join(f"{c:>{len(n) + 3}}" for n, c in zip(COLUMNS, cells, strict=True))
        )
    if summary["worst_tenth"] is not None:
        print(f"of all wrong characters, on the most doubted tenth of the pages: {summary['worst_tenth']:.3f}")
    for page, reading, one in sorted(results, key=lambda result: -result[2].error)[:num_worst]:
        cells = "–" if one.cells is None else f"{one.cells:.3f}"
        print(f"{page.file:34} error {one.error:.3f}  recall {one.recall:.3f}  cells {cells}  {reading.facts}")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
