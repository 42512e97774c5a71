"""Pages of a TIFF: the pictures that are no copies of others, each decoded by itself. Runs only in the sandbox."""

from __future__ import annotations

from contextlib import suppress

from PIL import Image, UnidentifiedImageError

from pipeline.documents.images import tiff_directories as tiff
from pipeline.documents.images.dots import TURNS
from pipeline.documents.images.flatten import flatten
from pipeline.documents.images.frames import Shrunk, check_size, finished, shrink
from pipeline.documents.images.tiff_directories import Directory, TiffReader
from pipeline.documents.images.tiff_samples import Unknown, decode_pieces, decode_samples, is_pillows
from pipeline.documents.pages.drawn import Drawn, Limits, translated
from pipeline.errors import DocumentRejected, PageFailed

_FAX = (2, 3, 4)  # compressions
_EDGE = 0.02  # of the height: what is black below is an edge
_TURNED_OVER = (5, 6, 7, 8)  # orientations that change width and height


class TiffPages:
    """Every picture of a TIFF that is no thumbnail, mask or level of a pyramid."""

    def __init__(self, path: str, limits: Limits, detail: str = "auto") -> None:
        self._limits, self._detail = limits, detail
        self._file = open(path, "rb")  # noqa: SIM115  # as long as this object lives
        Image.MAX_IMAGE_PIXELS = None  # counted below, against our own limit and before any pixel is decoded
        try:
            self._reader = TiffReader(self._file)
            self._pages, self._notes = self._reader.pages(limits.max_pages)
            why = "" if self._pages else self._reader.why_empty()
        except ValueError as error:
            self._pages, why = [], str(error)
        if not self._pages:
            raise DocumentRejected(f"the TIFF image cannot be opened: {why}", cause="damaged")
        self.page_count = len(self._pages)
        if self.page_count == 1:  # else the one picture fails, not the document
            check_size(self._pages[0].size, limits, DocumentRejected)

    def draw(self, page_index: int) -> Drawn:
        page, notes = self._pages[page_index], list(self._notes)
        check_size(page.size, self._limits, PageFailed)
        try:
            shrunk = self._decode(page, notes)
            return finished(flatten(shrunk.picture, notes), shrunk, notes, self._limits)
        except PageFailed:
            raise
        except Exception as error:  # Pillow's decoders raise whatever their parsing trips over
            raise translated(error, PageFailed, "the image cannot be decoded") from error

    def plain(self, page_index: int) -> tuple[Image.Image, None]:
        """A picture that is not decoded yet; Pillow stands it upright. Raises whatever Pillow does."""
        page = self._pages[page_index]
        check_size(page.size, self._limits, PageFailed)
        if not is_pillows(page):
            raise Unknown
        return Image.open(self._reader.beginning_with(page), formats=("TIFF",)), None

    def decoded(self, page_index: int) -> Shrunk:
        """As it is drawn. Raises whatever Pillow does."""
        return self._decode(self._pages[page_index], [])

    def _decode(self, page: Directory, notes: list[str]) -> Shrunk:
        """By its samples where Pillow takes them for something else, else by Pillow, else piece by piece."""
        if not is_pillows(page):
            with suppress(Unknown):
                return self._shrunk(decode_samples(self._reader, page, notes), page, notes)
        try:
            whole = Image.open(self._reader.beginning_with(page), formats=("TIFF",))
            decoded = _decoded_of_fax(whole, page, notes)
            return shrink(whole, self._detail, self._limits, notes, decoded)
        except MemoryError:
            raise
        except Exception as error:
            found = decode_pieces(self._reader, page)
            if found is None or found[1] >= 1:
                return self._shrunk(self._last_try(page, notes, error), page, notes)
            image, missing = found
            share = f"{missing * 100:.0f} %" if missing >= 0.095 else f"{missing * 100:.1f} %"
            notes.append(f"the image file is damaged: {share} of the picture is missing")
            return self._shrunk(image, page, notes)

    def _last_try(self, page: Directory, notes: list[str], error: Exception) -> Image.Image:
        """By its samples, though Pillow should know them; else what Pillow said is the reason."""
        try:
            return decode_samples(self._reader, page, notes)
        except Unknown:
            if not isinstance(error, UnidentifiedImageError):
                raise error from None
            kind = ", ".join(
                f"{name} {page.value(tag, default)}"
                for name, tag, default in (
                    ("bits a sample", tiff.BITS, 1),
                    ("samples", tiff.SAMPLES, 1),
                    ("compression", tiff.COMPRESSION, 1),
                    ("photometric interpretation", tiff.PHOTOMETRIC, 0),
                )
            )
            raise PageFailed(f"the image is of a kind that is not decoded: {kind}", cause="damaged") from error

    def _shrunk(self, image: Image.Image, page: Directory, notes: list[str]) -> Shrunk:
        """As `shrink` does it for what Pillow opened itself."""
        orientation = page.value(tiff.ORIENTATION, 1)
        across, down = page.values(tiff.X_RESOLUTION), page.values(tiff.Y_RESOLUTION)
        if len(across) == len(down) == 2 and across[1] and down[1]:
            dots = (across[0] / across[1], down[0] / down[1])
            image.info["resolution"] = dots[::-1] if orientation in _TURNED_OVER else dots
        if orientation in TURNS:
            info = image.info
            image = image.transpose(TURNS[orientation])
            image.info.update(info)
        return shrink(image, self._detail, self._limits, notes)


def _decoded_of_fax(image: Image.Image, page: Directory, notes: list[str]) -> tuple[float, float]:
    """From which to which share of its height a fax was decoded: libtiff leaves the end of a cut one black, without a
    word. The black edge of a scan, which is taken for the same, holds nothing to read."""
    if page.value(tiff.COMPRESSION) not in _FAX or page.value(tiff.ORIENTATION, 1) != 1:
        return 0.0, 1.0
    image.load()
    box = image.im.getbbox(False)
    last = box[3] / image.height if box is not None else 0.0
    if not 0 < last < 1 - _EDGE:
        return 0.0, 1.0
    notes.append(f"the lowest {(1 - last) * 100:.0f} % of the picture is black: it may be missing, and is drawn white")
    return 0.0, last
