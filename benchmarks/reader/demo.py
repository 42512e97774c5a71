"""Truth beside answer: `python -m benchmarks.reader.demo draw FOLDER`, then `pagepack run`, then `… compare FOLDER`.

`draw` writes FOLDER/pages (PNG files and PDFs of several pages) and FOLDER/truth.json; `compare` reads what
`pagepack run FOLDER/pages --home FOLDER/home` stored, by the public view `page_text`. `make demo-pixtral` does all
three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pymupdf
from PIL import Image

from benchmarks.reader.draw import UNSEEN, generator, lay_out, pdf_bytes, plain, render
from benchmarks.reader.evaluate import error_rate
from benchmarks.reader.lesson import STAGES

CANVASES = ((192, 64), (256, 128))  # of images in turn; PDFs take the last, since all PDFs are drawn equally wide
KINDS = ("words", "random", "numbers", "table", "words", "random", "blank", "words")
SEED = 2  # a seed of its own: neither training's nor the evaluation's
PAGES_A_PDF = 4


def draw(folder: Path, num_images: int, num_pdfs: int) -> None:
    """PNG files at their own size, PDFs at 1 px a point; the truth lies outside the folder that is read."""
    pages = folder / "pages"
    pages.mkdir(parents=True, exist_ok=True)
    layouts = [
        lay_out(
            generator(UNSEEN, SEED, index),
            CANVASES[index % len(CANVASES)] if index < num_images else CANVASES[-1],
            max_lines=STAGES[-1].max_lines,
            kind=KINDS[index // 2 % len(KINDS)],
        )
        for index in range(num_images + num_pdfs * PAGES_A_PDF)
    ]
    truth: dict[str, list[dict[str, str]]] = {}
    for index, layout in enumerate(layouts[:num_images]):
        name = f"{layout.kind}-{index:02}.png"
        Image.fromarray(render(layout)).save(pages / name)
        truth[name] = [{"ocr": layout.text, "describe": layout.description}]
    for number in range(num_pdfs):
        first = num_images + number * PAGES_A_PDF
        name = f"pages-{number:02}.pdf"
        with pymupdf.open() as document:
            for layout in map(plain, layouts[first : first + PAGES_A_PDF]):
                with pymupdf.open("pdf", pdf_bytes(layout)) as page:
                    document.insert_pdf(page)
                truth.setdefault(name, []).append({"ocr": layout.text, "describe": layout.description})
            document.save(pages / name)
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    print(f"{len(layouts)} pages in {len(truth)} files in {pages}")


def stored(home: Path) -> dict[tuple[str, int, str], str]:
    """(file name, page number, prompt) → text, by `pagepack sql`."""
    statement = "SELECT source_path, page_number, prompt, text FROM page_text"
    command = [sys.executable, "-m", "pipeline", "sql", "--home", str(home), "--format", "json", statement]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = json.loads(out) if out.lstrip().startswith("[") else [json.loads(line) for line in out.splitlines()]
    return {(Path(row["source_path"]).name, row["page_number"], row["prompt"]): row["text"] for row in rows}


def compare(folder: Path) -> int:
    """Print truth beside answer; 0 where nothing is missing."""
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    answers = stored(folder / "home")
    pairs, described, missing = [], [], 0
    print(f"{'file':16} {'page':>4}  {'truth':<31} {'read':<31}")
    for name, pages in truth.items():
        for number, page in enumerate(pages, 1):
            ocr, describe = (answers.get((name, number, prompt)) for prompt in ("ocr", "describe"))
            missing += (ocr is None) + (describe is None)
            pairs.append((page["ocr"], ocr or ""))
            described.append((page["describe"], describe or ""))
            lines = page["ocr"].split("\n"), (ocr or "").split("\n")
            for index in range(max(map(len, lines))):
                one, other = (part[index] if index < len(part) else "" for part in lines)
                head = f"{name:16} {number:>4}" if index == 0 else " " * 21
                print(f"{head}  {one:<31} {other:<31} {'' if one == other else '≠'}".rstrip())
            print(f"{'':21}  ({page['describe']})\n{'':21}  ({describe})")
    figures = {
        "pages": len(pairs),
        "missing": missing,
        "describe_exact": round(sum(one == other for one, other in described) / len(described), 4),
        "pages_without_error": sum(one == other for one, other in pairs),
        "character_error_rate": round(error_rate(pairs), 5),
    }
    print(json.dumps(figures))
    return 1 if missing else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("verb", choices=["draw", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--pdfs", type=int, default=4)
    args = parser.parse_args()
    if args.verb == "compare":
        return compare(args.folder)
    draw(args.folder, args.images, args.pdfs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
