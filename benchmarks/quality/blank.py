"""Sheets with nothing on them as scanners deliver them, and sheets with next to nothing: which of them are blank?

Each is drawn at 200 dpi from a seed: paper (white, yellowed, textured), what scanning leaves (noise, speckle, a black
edge, punch holes, the shadow of the fold, print that shines through from the back, JPEG), and one small thing to read,
or none.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.quality.paper import font

_SIZES = (1654, 2339), (1700, 2200), (1165, 1654)  # A4, Letter, A5
_DPI = 200
Grey = NDArray[np.float32]
WORDS = ["the", "archive", "of", "harbour", "holds", "forty", "one", "boxes", "letters", "ledgers", "and", "drawings"]


def _face(size_px: float, name: str = "tiro") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(font(name).buffer), size_px)


def _stamped(size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw], None], blur: float = 0.0) -> Grey:
    """Ink from 0 to 1."""
    image = Image.new("L", size, 0)
    draw(ImageDraw.Draw(image))
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(image, np.float32) / 255


class Sheet:
    def __init__(self, rng: random.Random, *, is_clean: bool = False) -> None:
        self.rng = rng
        self.noise = np.random.default_rng(rng.randrange(2**32))
        self.width, self.height = size = rng.choice(_SIZES)
        self.size = size
        self.tint = (1.0, 1.0, 1.0)
        self.grey = np.full((self.height, self.width), 255.0 if is_clean else rng.uniform(235, 255), np.float32)

    def ink(self, ink: Grey, strength: float) -> None:
        """`strength` in grey levels."""
        self.grey -= ink * strength

    def mm(self, millimetres: float) -> float:
        return millimetres * _DPI / 25.4

    # What scanning leaves

    def grain(self, most: float = 7.0) -> None:
        self.grey += self.noise.normal(0, self.rng.uniform(1, most), self.grey.shape)

    def texture(self) -> None:
        small = self.noise.normal(0, 1, (self.height // 3 + 1, self.width // 3 + 1)).astype(np.float32)
        rough = np.asarray(Image.fromarray(small).resize(self.size, Image.Resampling.BICUBIC))
        self.grey += rough * self.rng.uniform(1, 4)
        coarse = self.noise.normal(0, 1, (12, 9)).astype(np.float32)
        self.grey += np.asarray(Image.fromarray(coarse).resize(self.size, Image.Resampling.BICUBIC)) * 6

    def yellow(self) -> None:
        self.tint = (1.0, self.rng.uniform(0.9, 0.97), self.rng.uniform(0.65, 0.88))
        down = np.linspace(0, self.rng.uniform(-25, 0), self.height, dtype=np.float32)[:, None]
        self.grey += down

    def speckle(self, most: int = 250) -> None:
        def draw(on: ImageDraw.ImageDraw) -> None:
            for _ in range(self.rng.randrange(20, most)):
                x, y, r = self.rng.uniform(0, self.width), self.rng.uniform(0, self.height), self.rng.uniform(0.4, 3)
                on.ellipse((x - r, y - r * self.rng.uniform(0.7, 1), x + r, y + r), fill=self.rng.randrange(90, 256))

        self.ink(_stamped(self.size, draw), 230)

    def edge(self) -> None:
        """The scanner's black lid beyond the sheet, straight or as a wedge."""
        sides = self.rng.sample(range(4), self.rng.randrange(1, 4))

        def draw(on: ImageDraw.ImageDraw) -> None:
            for side in sides:
                a, b = self.rng.uniform(2, 50), self.rng.uniform(2, 50)
                w, h = self.width, self.height
                on.polygon(
                    [
                        [(0, 0), (a, 0), (b, h), (0, h)],
                        [(w, 0), (w - a, 0), (w - b, h), (w, h)],
                        [(0, 0), (0, a), (w, b), (w, 0)],
                        [(0, h), (0, h - a), (w, h - b), (w, h)],
                    ][side],
                    fill=255,
                )

        self.ink(_stamped(self.size, draw, self.rng.uniform(0.3, 2)), self.rng.uniform(150, 250))

    def holes(self) -> None:
        count = self.rng.choice((2, 2, 4))
        x = self.mm(self.rng.uniform(9, 13))
        r = self.mm(self.rng.uniform(2.6, 3.1))
        step = self.mm(80)

        def draw(on: ImageDraw.ImageDraw) -> None:
            for number in range(count):
                y = self.height / 2 + (number - (count - 1) / 2) * step
                on.ellipse((x - r, y - r, x + r, y + r), fill=255)

        self.ink(_stamped(self.size, draw, 0.8), self.rng.uniform(90, 240))

    def fold(self) -> None:
        """The shadow of a book's fold, at a side or in the middle."""
        at = self.rng.choice((0.0, 1.0, self.rng.uniform(0.4, 0.6))) * self.width
        width = self.mm(self.rng.uniform(4, 15))
        across = np.exp(-(((np.arange(self.width) - at) / width) ** 2)) * self.rng.uniform(40, 140)
        self.grey -= across.astype(np.float32)[None, :]

    def through(self) -> None:
        """Print from the back: mirrored, faint, and soft, for paper scatters light."""
        size = self.rng.uniform(9, 13) * _DPI / 72

        def draw(on: ImageDraw.ImageDraw) -> None:
            face, y = _face(size), self.mm(25)
            while y < self.height - self.mm(25):
                words = " ".join(self.rng.choices(WORDS, k=14))
                on.text((self.mm(22), y), words, fill=255, font=face)
                y += size * 1.4
            if self.rng.random() < 0.3:
                on.text((self.mm(22), self.mm(8)), "HARBOUR OFFICE", fill=255, font=_face(size * 1.7, "tibo"))

        ink = _stamped(self.size, draw, self.rng.uniform(1.6, 4))[:, ::-1]
        self.ink(ink, self.rng.uniform(20, 55))

    # What is there to read

    def number(self) -> None:
        size = self.rng.uniform(8, 13) * _DPI / 72
        text = self.rng.choice(("{}", "{}", "– {} –", "[{}]", "Page {}")).format(self.rng.randrange(1, 600))
        if self.rng.random() < 0.4:
            text = str(self.rng.randrange(1, 10))
        x = self.rng.choice((self.width / 2, self.mm(20), self.width - self.mm(25)))
        y = self.rng.choice((self.height - self.mm(18), self.mm(15)))
        face = _face(size, self.rng.choice(("tiro", "helv", "cour")))
        self.ink(_stamped(self.size, lambda on: on.text((x, y), text, fill=255, font=face), 0.4), self._dark())

    def _dark(self) -> float:
        return self.rng.uniform(110, 235)

    def leader(self) -> None:
        """A row of pencil dots."""
        y, x, step, r = self.rng.uniform(0.2, 0.8) * self.height, self.mm(25), self.rng.uniform(9, 20), 1.7

        def draw(on: ImageDraw.ImageDraw) -> None:
            for number in range(self.rng.randrange(30, 60)):
                left, top = x + number * step + self.rng.uniform(-1, 1), y + self.rng.uniform(-1.5, 1.5)
                on.ellipse((left - r, top - r, left + r, top + r), fill=255)

        self.ink(_stamped(self.size, draw, 0.5), self.rng.uniform(80, 160))

    def pencil(self) -> None:
        """A line of handwriting in pencil."""
        x, y = self.mm(self.rng.uniform(20, 60)), self.rng.uniform(0.1, 0.9) * self.height
        height = self.mm(self.rng.uniform(2, 4))

        def draw(on: ImageDraw.ImageDraw) -> None:
            at = x
            for _ in range(self.rng.randrange(2, 6)):
                points = []
                for step in range(self.rng.randrange(12, 30)):
                    at += height * self.rng.uniform(0.1, 0.35)
                    points.append((at, y + height * self.rng.uniform(-0.5, 0.5) * (1.8 if step % 5 == 0 else 1)))
                on.line(points, fill=255, width=3, joint="curve")
                at += height

        self.ink(_stamped(self.size, draw, 0.7), self.rng.uniform(55, 110))

    def stamp(self) -> None:
        w, h = self.mm(self.rng.uniform(18, 35)), self.mm(self.rng.uniform(8, 14))
        x, y = self.rng.uniform(0.1, 0.6) * self.width, self.rng.uniform(0.05, 0.9) * self.height
        is_round = self.rng.random() < 0.4
        face = _face(h * 0.35, "hebo")

        def draw(on: ImageDraw.ImageDraw) -> None:
            box = (x, y, x + (h * 1.6 if is_round else w), y + (h * 1.6 if is_round else h))
            (on.ellipse if is_round else on.rectangle)(box, outline=255, width=3)
            on.text((box[0] + h * 0.2, (box[1] + box[3]) / 2 - h * 0.2), "PAID 12", fill=255, font=face)

        self.ink(_stamped(self.size, draw, 0.8), self.rng.uniform(60, 150))

    def watermark(self) -> None:
        face = _face(self.mm(self.rng.uniform(15, 30)), self.rng.choice(("helv", "hebo", "tiro")))
        layer = Image.new("L", self.size, 0)
        at = self.width / 2, self.height / 2
        ImageDraw.Draw(layer).text(at, self.rng.choice(("DRAFT", "COPY", "VOID")), fill=255, font=face, anchor="mm")
        layer = layer.rotate(self.rng.choice((0, 30, 45, 55)), Image.Resampling.BICUBIC)
        self.ink(np.asarray(layer, np.float32) / 255, self.rng.uniform(14, 40))

    def small_words(self) -> None:
        """A line of light grey print, as makers of forms leave it at the foot."""
        face = _face(self.rng.uniform(7, 9) * _DPI / 72, "helv")
        at = self.mm(20), self.height - self.mm(14)
        text = "Form 12/B – this page is left empty on purpose"
        self.ink(_stamped(self.size, lambda on: on.text(at, text, fill=255, font=face)), self.rng.uniform(60, 150))

    def picture(self) -> Image.Image:
        grey = np.clip(self.grey, 0, 255)
        if self.tint == (1.0, 1.0, 1.0):
            image = Image.fromarray(grey.astype(np.uint8))
        else:
            image = Image.fromarray(np.stack([grey * share for share in self.tint], axis=2).astype(np.uint8))
        if self.rng.random() < 0.6:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=self.rng.choice((40, 60, 75, 85)))
            image = Image.open(file)
            image.load()
        return image


LEFT_BY_SCANNING = ("speckle", "edge", "holes", "fold", "through", "yellow", "texture", "grain")
TO_READ = ("number", "leader", "pencil", "stamp", "watermark", "small_words")


def blank_sheet(kind: str, seed: int) -> Image.Image:
    """Nothing is on it but what `kind` names: one of LEFT_BY_SCANNING, `several` of them, or `clean`."""
    rng = random.Random(f"{kind} {seed}")
    sheet = Sheet(rng, is_clean=kind == "clean" or (kind != "several" and rng.random() < 0.25))
    kinds = {"clean": [], "several": rng.sample(LEFT_BY_SCANNING, rng.randrange(2, 6))}.get(kind, [kind])
    for name in sorted(kinds, key=["yellow", "through", "fold", "holes", "speckle", "edge", "texture", "grain"].index):
        getattr(sheet, name)()
    if kind not in ("clean", "grain") and rng.random() < 0.6:
        sheet.grain(4.0)
    return sheet.picture()


def nearly_blank_sheet(kind: str, seed: int) -> Image.Image:
    """The same with one of TO_READ on it."""
    rng = random.Random(f"{kind} {seed} read")
    is_clean = rng.random() < 0.35
    sheet = Sheet(rng, is_clean=is_clean)
    left = [] if is_clean else rng.sample(LEFT_BY_SCANNING, rng.randrange(0, 4))
    if kind == "watermark":  # light print on rough paper, or among print from the back, is told from neither
        left = [name for name in left if name not in ("texture", "grain", "through")]
    before = [name for name in left if name in ("yellow", "through")]
    for name in before:
        getattr(sheet, name)()
    getattr(sheet, kind)()
    for name in left:
        if name not in before:
            getattr(sheet, name)()
    return sheet.picture()
