"""The rapidocr engine against a bare RapidOCR loop: same pages, same cores, one run.

    python benchmarks/bench_rapidocr.py [--pages 8] [--quality]

Pages are A4 at 1024 px on the long side, drawn here: English and Chinese, 9 to 12 pt, full pages. `bare default` is
`RapidOCR()` called page after page: one call at a time, ONNX Runtime spreads it over all cores. `bare best` is
the same loop with what we found fastest for it (no orientation classifier, one line a batch, all cores in each call).
Where they are installed, the engine also reads with OpenVINO, and Tesseract reads the same pixels, one process a core.
Pages per second count from the first submit to the last answer; models are loaded and warm before. The answers'
character error rate stands beside, since speed at the cost of text is no speed. `--quality` compares settings.
Ends in one line of JSON; the goal is a ratio of 1.0 or more to the faster loop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pymupdf
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quality.readers import has_tesseract
from pipeline.cores import num_cores
from pipeline.layout.lines import Line
from pipeline.layout.reading_order import text_in_reading_order
from schemas.prompts import OCR
from workers.engines.rapidocr import RapidOcrEngine
from workers.engines.rapidocr_models import choose_models

ENGLISH = """The archive of the harbour office holds forty-one boxes of letters, ledgers and drawings, most of them
unread since 1913. Each box was opened in order; its papers were flattened, numbered and photographed under a lamp of
constant colour. Damp had reached the lowest shelf, and about 6.5% of the sheets there could not be separated without
loss. Sums are in pounds, shillings and pence: "£12 4s. 6d." means what it did then. A clerk named J. Whitfield signed
1,284 receipts between March and October; his successor signed none. We compared the ledger's totals with the customs
returns (Appendix B, tables 3-7) and found differences below 0.4% in all years but one. Readers who need the images may
write to archive@example.org and quote the shelf mark, e.g. HX-204/17. Quick brown foxes jump over lazy dogs; jinxed
wizards pluck ivy from the big quilt. Nothing here replaces the originals, which remain the property of the town."""
CHINESE = """港务局档案共四十一箱，内有信件、账簿与图纸，自一九一三年以来大多无人查阅。整理时依次开箱，
将纸张展平、编号，并在恒定色温的灯下拍摄。最底层架子曾受潮，约百分之六点五的纸页无法完整分离。
同一页上若有两人笔迹，后写者置于括号之内。书记员王志远在三月至十月间签收了一千二百八十四张收据，
其继任者一张未签。我们将账簿总额与海关报表逐年核对，除一年之外差异均低于千分之四。
需要图像的读者可以来信索取，并注明架号。本文不能代替原件，原件仍归市镇所有。
春江潮水连海平，海上明月共潮生。"""
LOOK = [("english", 9.0, "helv"), ("chinese", 10.5, "china-s"), ("english", 10.5, "tiro"), ("chinese", 9.0, "china-s"),
        ("english", 12.0, "tiro"), ("chinese", 12.0, "china-s")]  # fmt: skip
LANGUAGES = {"english": "eng", "chinese": "chi_sim"}  # as Tesseract calls them
ORT = "EngineConfig.onnxruntime."
BEST = {"Global.use_cls": False, "Rec.rec_batch_num": 1, ORT + "intra_op_num_threads": num_cores()}


def draw_page(index: int) -> tuple[NDArray[np.uint8], str]:
    """A full A4 page and its text; seeded, every second one with scanner noise and turned by 0.6°."""
    language, size_pt, font_name = LOOK[index % len(LOOK)]
    words = (ENGLISH.split() if language == "english" else list(CHINESE.replace("\n", ""))) * 10
    words = words[random.Random(index).randrange(100) :]
    space = " " if language == "english" else ""
    font, document = pymupdf.Font(font_name), pymupdf.open()
    page = document.new_page(width=595, height=842)
    writer, y_pt, line, lines = pymupdf.TextWriter(page.rect), 72.0, "", list[str]()
    for word in words:
        if font.text_length(line + space + word, size_pt) > 451:
            writer.append((72, y_pt), line, font, size_pt)
            lines.append(line)
            line, y_pt = word, y_pt + 1.35 * size_pt
            if y_pt > 770:
                break
        else:
            line = line + space + word if line else word
    writer.write_text(page)
    zoom = 1024 / 842
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(zoom, zoom).prerotate(0.6 * (index % 2)), alpha=False)
    drawn = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)[:1024, :736]
    pixels = np.full((1024, 736, 3), 255, np.float64)
    pixels[: drawn.shape[0], : drawn.shape[1]] = drawn
    if index % 2:
        pixels += np.random.default_rng(index).normal(0, 10, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), "".join(lines)


def character_error_rate(expected: str, got: str) -> float:
    """Edit distance over length; white space, and half or full width of punctuation, do not count."""
    fold = str.maketrans("，；：（）“”’", ',;:()""\'', " \n")
    a, b = ([ord(char) for char in text.translate(fold)] for text in (expected, got))
    steps = np.arange(len(b) + 1)
    row, target = steps.copy(), np.array(b)
    for i, char in enumerate(a):
        new = np.concatenate(([i + 1], np.minimum(row[1:] + 1, row[:-1] + (target != char))))
        row = np.minimum.accumulate(new - steps) + steps
    return float(row[-1]) / max(1, len(a))


def bare_loop(params: dict[str, Any]) -> Callable[[list[NDArray[np.uint8]]], list[str]]:
    from rapidocr import RapidOCR

    reader: Any = RapidOCR(params={"Global.log_level": "critical", **params})

    def read(pages: list[NDArray[np.uint8]]) -> list[str]:
        texts = []
        for pixels in pages:
            found = reader(np.ascontiguousarray(pixels[:, :, ::-1]))
            quads: Any = [] if found.txts is None else zip(found.boxes.tolist(), found.txts, strict=True)
            texts.append(text_in_reading_order([Line(box, text) for box, text in quads]))
        return texts

    return read


def measure_engine(name: str, runtime: str, pages: list[Any]) -> dict[str, float]:
    def read(images: list[NDArray[np.uint8]]) -> list[str]:
        futures = [engine.submit(str(index), pixels, [OCR])[0] for index, pixels in enumerate(images)]
        return [future.result().text for future in futures]

    with closing(RapidOcrEngine(models=choose_models(runtime=runtime))) as engine:
        return measure(name, read, pages)


def tesseract_loop() -> Callable[[list[NDArray[np.uint8]]], list[str]]:
    """Told each page's language by its place among the pages, which the engine finds out."""
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}

    def read_one(number: int, pixels: NDArray[np.uint8]) -> str:
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            Image.fromarray(pixels).save(file, "png", compress_level=1)
            file.flush()
            command = ["tesseract", file.name, "-", "-l", LANGUAGES[LOOK[number % len(LOOK)][0]]]
            return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout

    def read(pages: list[NDArray[np.uint8]]) -> list[str]:
        with ThreadPoolExecutor(num_cores()) as pool:
            return list(pool.map(read_one, range(len(pages)), pages))

    return read


def missing_languages() -> list[str]:
    """Debian's packages that Tesseract lacks for these pages."""
    if not has_tesseract():
        return ["tesseract-ocr", "tesseract-ocr-chi-sim"]
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True).stdout.split()
    return [f"tesseract-ocr-{name.replace('_', '-')}" for name in LANGUAGES.values() if name not in listed]


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(name: str, read: Callable[[list[NDArray[np.uint8]]], list[str]], pages: list[Any]) -> dict[str, float]:
    """Pages per second and per second of processor, cores busy, mean character error rate; prints its row."""
    read([pages[0][0][:256]])
    wall, cpu = time.perf_counter(), cpu_seconds()
    texts = read([pixels for pixels, _ in pages])
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    error = sum(character_error_rate(expected, text) for (_, expected), text in zip(pages, texts, strict=True))
    row = {"pages_per_second": len(pages) / wall, "cores": cpu / wall, "character_error_rate": error / len(pages)}
    row["pages_per_processor_second"] = len(pages) / cpu
    print(
        f"{name:34}{row['pages_per_second']:9.3f}{row['cores']:8.2f}{row['pages_per_processor_second']:17.3f}"
        f"{row['character_error_rate']:10.2%}",
        flush=True,
    )
    return {key: round(value, 4) for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--quality", action="store_true", help="compare settings, one bare loop each")
    arguments = parser.parse_args()
    pages = [draw_page(index) for index in range(arguments.pages)]
    best = BEST
    print(f"{num_cores()} cores, {platform.machine()}, {len(pages)} pages, load {os.getloadavg()[0]:.1f}")
    print(f"{'':34}{'pages/s':>9}{'cores':>8}{'/s of processor':>17}{'CER':>10}")
    if arguments.quality:
        page_size = {"Det.limit_type": "max", "Det.limit_side_len": 1024}
        measure("ours", bare_loop({**best, **page_size}), pages)
        measure("detection at 736 px short side", bare_loop(best), pages)
        measure("detection at 768 px", bare_loop({**best, **page_size, "Det.limit_side_len": 768}), pages)
        measure("detection enlarged 1.5 x", bare_loop({**best, "Det.limit_side_len": 1104}), pages)
        measure("orientation classifier", bare_loop({**best, **page_size, "Global.use_cls": True}), pages)
        measure("no dilation", bare_loop({**best, **page_size, "Det.use_dilation": False}), pages)
        measure("six lines a batch", bare_loop({**best, **page_size, "Rec.rec_batch_num": 6}), pages)
        return
    results = {"bare_default": measure("bare default", bare_loop({}), pages)}
    results["bare_best"] = measure("bare best", bare_loop(best), pages)
    results["engine"] = measure_engine("engine", "onnxruntime", pages)
    if find_spec("openvino"):
        results["engine_openvino"] = measure_engine("engine, OpenVINO", "openvino", pages)
    missing = missing_languages()
    if not missing:
        results["tesseract"] = measure("tesseract", tesseract_loop(), pages)
    else:
        print(f"no row of Tesseract: install {' and '.join(missing)}")
    fastest = max(results["bare_default"]["pages_per_second"], results["bare_best"]["pages_per_second"])
    ratio = round(results["engine"]["pages_per_second"] / fastest, 3)
    print(json.dumps({"benchmark": "rapidocr", "cores": num_cores(), "pages": len(pages), **results, "ratio": ratio}))


if __name__ == "__main__":
    main()
