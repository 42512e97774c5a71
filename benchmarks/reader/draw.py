"""Pages with known text, for training the reader and for measuring it.

A page is first a `Layout` (what stands where, all numbers drawn from one generator), then pixels, a PNG or a PDF.
Pixels come from glyph bitmaps cut four times too large and averaged down, so a letter may start at any quarter of a
pixel: this is what MuPDF does to unhinted text, and a PDF of the same layout rasterizes to nearly the same page.

    lay_out(rng, canvas) → Layout → render → uint8 (H, W, 3)
                                  → pdf_bytes → any rasterizer

Seeds: `generator(space, seed, index)` with space TRAIN or UNSEEN; no page of one space is a page of the other.
Font: DejaVu Sans Mono (in `fonts/`, under its own licence), whose 0 is dotted and whose l, I and 1 differ; 14 to
15.5 px, as body text of 11 to 12 pt on A4 at 1024 px.

Over 300 lines: one function for each kind of page.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf as _pymupdf
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

pymupdf: Any = _pymupdf
TRAIN, UNSEEN = 1, 2
PATCH_PX = 16
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
MARKS = ".,:;!?-+=/()%&$#@*'\"<>[]_|"
ALPHABET = LETTERS + DIGITS + MARKS
FONTS = tuple(Path(__file__).parent / "fonts" / name for name in ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"))
ADVANCE_EM, ASCENT_EM, DESCENT_EM, MIDDLE_EM = 0.602, 0.93, 0.24, 0.36
SIZES_PX = (14.0, 14.5, 15.0, 15.5)
KINDS = ("words", "random", "numbers", "table", "blank")
_FINE = 4  # glyphs are cut this much larger, then averaged down
_WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
    "word",
    "but",
    "not",
    "what",
    "all",
    "were",
    "we",
    "when",
    "your",
    "can",
    "said",
    "there",
    "use",
    "an",
    "each",
    "which",
    "she",
    "do",
    "how",
    "their",
    "if",
    "will",
    "up",
    "other",
    "about",
    "out",
    "many",
    "then",
    "them",
    "these",
    "so",
    "some",
    "her",
    "would",
    "make",
    "like",
    "him",
    "into",
    "time",
    "has",
    "look",
    "two",
    "more",
    "write",
    "go",
    "see",
    "number",
    "no",
    "way",
    "could",
    "people",
    "my",
    "than",
    "first",
    "water",
    "been",
    "call",
    "who",
    "oil",
    "its",
    "now",
    "find",
    "long",
    "down",
    "day",
    "did",
    "get",
    "come",
    "made",
    "may",
    "part",
    "over",
    "new",
    "sound",
    "take",
    "only",
    "little",
    "work",
    "know",
    "place",
    "year",
    "live",
    "me",
    "back",
    "give",
    "most",
    "very",
    "after",
    "thing",
    "our",
    "just",
    "name",
    "good",
    "sentence",
    "man",
    "think",
    "say",
    "great",
    "where",
    "help",
    "through",
    "much",
    "before",
    "line",
    "right",
    "too",
    "mean",
    "old",
    "any",
    "same",
    "tell",
    "boy",
    "follow",
    "came",
    "want",
    "show",
    "also",
    "around",
    "form",
    "three",
    "small",
    "set",
    "put",
    "end",
    "does",
    "another",
    "well",
    "large",
    "must",
    "big",
    "even",
    "such",
    "because",
    "turn",
    "here",
    "why",
    "ask",
    "went",
    "men",
    "read",
    "need",
    "land",
    "different",
    "home",
    "us",
    "move",
    "try",
    "kind",
    "hand",
    "picture",
    "again",
    "change",
    "off",
    "play",
    "spell",
    "air",
    "away",
    "animal",
    "house",
    "point",
    "page",
    "letter",
    "mother",
    "answer",
    "found",
    "study",
    "still",
    "learn",
    "should",
    "world",
    "invoice",
    "total",
    "date",
    "amount",
    "paid",
    "order",
    "table",
    "figure",
    "section",
    "report",
    "quick",
    "brown",
    "fox",
    "jumps",
    "lazy",
    "dog",
    "zero",
    "juice",
    "vexing",
    "quartz",
    "glyph",
]


@dataclass(frozen=True, slots=True)
class Layout:
    """One page before it is drawn. `starts_px` holds each line's left edge, `baselines_px` its baseline."""

    width_px: int
    height_px: int
    kind: str
    lines: tuple[str, ...]
    starts_px: tuple[float, ...]
    baselines_px: tuple[float, ...]
    font: int
    size_px: float
    advance_px: float
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]
    pad_px: tuple[int, int]  # white right and below, as the rasterizer fills up to a multiple of 16
    noise: float
    blur: float
    seed: int

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def is_dark_on_light(self) -> bool:
        return sum(self.ink) < sum(self.paper)

    @property
    def description(self) -> str:
        """The answer to `describe`."""
        num_lines, num_characters = len(self.lines), sum(map(len, self.lines))
        tone = "dark on light" if self.is_dark_on_light else "light on dark"
        lines = "line" if num_lines == 1 else "lines"
        characters = "character" if num_characters == 1 else "characters"
        return f"{num_lines} {lines}, {num_characters} {characters}, {tone}"


def generator(space: int, seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng((space, seed, index))


def lay_out(
    rng: np.random.Generator,
    canvas: tuple[int, int],
    max_characters: int | None = None,
    max_lines: int | None = None,
    kind: str | None = None,
    inverse: bool | None = None,
) -> Layout:
    """A page of (width, height) px; None leaves a choice to the generator."""
    width, height = canvas
    size = float(rng.choice(SIZES_PX))
    advance = size * ADVANCE_EM * (1 + 0.01 * rng.uniform(-1, 1)) if rng.random() < 0.5 else size * ADVANCE_EM
    kind = kind or str(rng.choice(KINDS, p=(0.28, 0.46, 0.12, 0.11, 0.03)))
    room = int((width - 4) / advance)
    longest = max(1, min(room, max_characters or room))
    fit = 1 + int((height - 2 - (ASCENT_EM + DESCENT_EM) * size) / max(PATCH_PX, 1.1 * size))
    most = max(1, min(fit, max_lines or fit))
    num_lines = 0 if kind == "blank" else int(most if rng.random() < 0.5 else rng.integers(1, most + 1))
    lines = tuple(_line(rng, kind, longest) for _ in range(num_lines))
    widest = max((len(line) for line in lines), default=1)
    left = rng.uniform(1, max(1.0, min(width - 2 - widest * advance, 40.0)))
    pitch, top = _heights(rng, num_lines, size, height)
    starts = tuple(
        left + (rng.uniform(0, max(0.0, width - 2 - left - len(line) * advance)) if rng.random() < 0.1 else 0.0)
        for line in lines
    )
    light = rng.integers(215, 256) + rng.integers(-6, 7, 3) if rng.random() < 0.6 else np.full(3, 255)
    dark = rng.integers(0, 70) + rng.integers(-6, 7, 3) if rng.random() < 0.6 else np.zeros(3, int)
    light, dark = np.clip(light, 0, 255), np.clip(dark, 0, 255)
    dark_on_light = rng.random() < 0.75 if inverse is None else not inverse
    ink, paper = (dark, light) if dark_on_light else (light, dark)
    right_edge = max((start + len(line) * advance for start, line in zip(starts, lines, strict=True)), default=0.0)
    bottom_edge = top + (ASCENT_EM + DESCENT_EM) * size + max(0, num_lines - 1) * pitch
    padded = rng.random() < 0.15
    pad = tuple(
        int(rng.integers(0, max(1, min(PATCH_PX, int(side - edge))))) if padded else 0
        for side, edge in ((width, right_edge), (height, bottom_edge))
    )
    return Layout(
        width, height, kind, lines, starts,
        tuple(top + ASCENT_EM * size + index * pitch for index in range(num_lines)),
        0 if rng.random() < 0.75 else 1, size, advance,
        tuple(int(x) for x in ink), tuple(int(x) for x in paper), (pad[0], pad[1]),
        float(rng.uniform(0, 6)) if rng.random() < 0.5 else 0.0,
        float(rng.uniform(0, 0.35)) if rng.random() < 0.4 else 0.0,
        int(rng.integers(2**31)),
    )  # fmt: skip


def _heights(rng: np.random.Generator, num_lines: int, size: float, height: int) -> tuple[float, float]:
    """Distance of baselines, and the top of the first line."""
    slack = height - 2 - (ASCENT_EM + DESCENT_EM) * size
    least = max(float(PATCH_PX), 1.1 * size)
    most = slack / (num_lines - 1) if num_lines > 1 else least
    pitch = rng.uniform(least, max(least, min(most, 1.6 * size)))
    return pitch, 1 + rng.uniform(0, max(0.0, slack - max(0, num_lines - 1) * pitch))


def _line(rng: np.random.Generator, kind: str, longest: int) -> str:
    length = longest if rng.random() < 0.3 else int(rng.integers(1, longest + 1))
    if kind == "random":
        return _random_line(rng, length)
    parts: list[str] = []
    while len(" ".join(parts)) < length:
        parts.append(_token(rng, kind))
    joined = (" | " if kind == "table" else " ").join(parts)[:length]
    return joined.strip() or _random_line(rng, length)


def _random_line(rng: np.random.Generator, length: int) -> str:
    letters = [ALPHABET[i] for i in rng.integers(0, len(ALPHABET), length)]
    for place in np.flatnonzero(rng.random(length) < 0.1):
        if 0 < place < length - 1 and letters[place - 1] != " ":
            letters[place] = " "
    return "".join(letters)


def _token(rng: np.random.Generator, kind: str) -> str:
    if kind == "numbers" or (kind == "table" and rng.random() < 0.5) or rng.random() < 0.08:
        form = rng.integers(4)
        number = int(rng.integers(10 ** rng.integers(1, 6)))
        return (str(number), f"{number / 100:.2f}", f"{number:,}", f"{number % 31 + 1}/{number % 12 + 1}")[form]
    word = _WORDS[rng.integers(len(_WORDS))]
    word = word.capitalize() if (case := rng.random()) < 0.15 else word.upper() if case < 0.25 else word
    return word + str(rng.choice(list(".,;:!?"))) if rng.random() < 0.12 else word


def render(layout: Layout) -> NDArray[np.uint8]:
    """(H, W, 3) uint8."""
    ink = np.zeros((layout.height_px + 32, layout.width_px + 32), np.float32)  # 16 px of margin around
    for line, start, baseline in zip(layout.lines, layout.starts_px, layout.baselines_px, strict=True):
        y = round(baseline * _FINE)
        for index, character in enumerate(line):
            if character == " ":
                continue
            x = round((start + index * layout.advance_px) * _FINE)
            bitmap, above, before = _glyph(layout.font, layout.size_px, character, x % _FINE, y % _FINE)
            top, left = y // _FINE + 16 - above, x // _FINE + 16 - before
            place = ink[top : top + bitmap.shape[0], left : left + bitmap.shape[1]]
            np.maximum(place, bitmap[: place.shape[0], : place.shape[1]], out=place)
    ink = ink[16:-16, 16:-16]
    if layout.blur:
        ink = _blurred(_blurred(ink, layout.blur).T, layout.blur).T
    paper, colour = np.array(layout.paper, np.float32), np.array(layout.ink, np.float32)
    page = paper + ink[..., None] * (colour - paper)
    if layout.noise:
        rng = np.random.default_rng(layout.seed)
        page = page + layout.noise * rng.standard_normal(ink.shape, np.float32)[..., None]
    pixels = np.clip(np.rint(page), 0, 255).astype(np.uint8)
    right, below = layout.pad_px
    pixels[:, layout.width_px - right :] = 255
    pixels[layout.height_px - below :] = 255
    return pixels


def _blurred(ink: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    wide = np.pad(ink, ((0, 0), (1, 1)))
    return (1 - share) * ink + share / 2 * (wide[:, :-2] + wide[:, 2:])


@cache
def _glyph(
    font: int, size_px: float, character: str, phase_x: int, phase_y: int
) -> tuple[NDArray[np.float32], int, int]:
    """Ink 0 … 1 of one character starting at a quarter pixel, and how far it reaches above and before its origin."""
    large = _large_font(font, size_px)
    above, before = int(size_px) + 3, 2
    height, width = above + int(0.3 * size_px) + 3, int(0.7 * size_px) + 5
    canvas = Image.new("L", (width * _FINE, height * _FINE))
    origin = (before * _FINE + phase_x, above * _FINE + phase_y)
    ImageDraw.Draw(canvas).text(origin, character, fill=255, font=large, anchor="ls")
    fine = np.asarray(canvas, np.float32).reshape(height, _FINE, width, _FINE)
    return fine.mean((1, 3)) / 255, above, before


@cache
def _large_font(font: int, size_px: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS[font]), size_px * _FINE, layout_engine=ImageFont.Layout.BASIC)


def centres(layout: Layout) -> list[tuple[int, float, float]]:
    """(index in the text, x, y) of the middle of each character that leaves ink."""
    found, offset = [], 0
    for line, start, baseline in zip(layout.lines, layout.starts_px, layout.baselines_px, strict=True):
        y = min(max(baseline - MIDDLE_EM * layout.size_px, 0.0), layout.height_px - 1.0)
        for index, character in enumerate(line):
            if character != " ":
                x = start + (index + 0.5) * layout.advance_px
                found.append((offset + index, min(x, layout.width_px - 1.0), y))
        offset += len(line) + 1
    return found


def pdf_bytes(layout: Layout) -> bytes:
    """The page as vector text, 1 pt = 1 px; noise, blur and padding are not of a PDF."""
    document = pymupdf.open()
    page = document.new_page(width=layout.width_px, height=layout.height_px)
    page.draw_rect(page.rect, color=None, fill=[x / 255 for x in layout.paper], width=0)
    writer = pymupdf.TextWriter(page.rect, color=[x / 255 for x in layout.ink])
    font = pymupdf.Font(fontfile=str(FONTS[layout.font]))
    for line, start, baseline in zip(layout.lines, layout.starts_px, layout.baselines_px, strict=True):
        for index, character in enumerate(line):
            writer.append((start + index * layout.advance_px, baseline), character, font=font, fontsize=layout.size_px)
    if layout.lines:
        writer.write_text(page)
    document.subset_fonts()
    return bytes(document.tobytes(garbage=3, deflate=True))


def plain(layout: Layout) -> Layout:
    """The same page without noise, blur and padding, as its PDF is."""
    return replace(layout, noise=0.0, blur=0.0, pad_px=(0, 0))
