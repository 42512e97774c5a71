"""The process that draws pages, as its parent sees it: started with limits and without credentials, asked, killed.

The child's own side is `render_child`; what is drawn, and when a child is given up, is decided in `rasterize`.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from statistics import median
from typing import Any, BinaryIO

from PIL import Image

from pipeline.blobs import png
from pipeline.documents.pages.blank import is_blank
from pipeline.documents.pages.raster import MOST_CELL_PX
from pipeline.documents.render_child import SLOTS, length, pack
from pipeline.documents.text_layer.judge import judge
from pipeline.documents.text_layer.layer_lines import LayerLine
from pipeline.environment import without_credentials
from pipeline.errors import Unavailable
from pipeline.layout.lines import BOX_HEIGHT
from pipeline.layout.own_text import Found
from pipeline.layout.rulings import of_strokes
from pipeline.settings import Settings
from schemas.text_layers import Verdict

START_SECONDS = 60.0  # a child imports in 0.3 s; a machine that swaps may need long, and no page is to blame
MAX_CHILD_PAGES = 5_000  # then a fresh child: MuPDF's caches and the heap's holes do not grow for ever
PREFIX_BYTES = 4
KEPT_BYTES = 8 * 2**20  # of a slot; what a larger page took goes back to the system

_SHOWS_NOTHING = (None, Verdict.INVISIBLE, Verdict.COVERED)
"""Of a text layer: without one, or with one that nobody sees, the picture says whether anything is there."""

_HEAP = {  # glibc gives back every block above 128 KiB and asks for it anew: 2.3 of 4.9 ms a page went to page faults
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
}


# NumPy's OpenBLAS takes 40 MB of address space for each core of the machine, and the child's is limited.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class RasterizedPage:
    """One page as it is stored."""

    page_index: int
    width_px: int  # of the image, padding included: multiples of the model's square
    height_px: int
    image: bytes  # encoded, for ImageStore.put
    image_hash: str  # png.hash_pixels
    text_layer: str | None  # the PDF's own text in MuPDF's reading order; None where it has none
    warnings: str  # what MuPDF mended or left out, one line each
    width_pt: float | None  # of the page as it is shown; None for image files
    height_pt: float | None
    dpi: float | None  # at which it was drawn; None for image files that do not say it
    print_px: float | None  # font size of the small print in the image; None where none was found
    text_layer_verdict: str | None = None
    text_layer_found: Found | None = None  # its lines and rulings; None where they are not known
    is_blank: bool = False  # by its picture, and it carries no text that is drawn


class ChildGone(Exception):
    """The child died or was killed. `cause` is that of the page that it was drawing."""

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class Child:
    """The process of `render_child` and our end of its socket."""

    def __init__(self, settings: Settings) -> None:
        self._max_rss_bytes = settings.rasterize_memory_bytes // 2
        self._pages, self._rss_bytes, self._is_ready = 0, 0, False
        self.is_busy = False  # in the midst of what it was asked for: what it says next is for nobody else
        self._slot_bytes = slot_bytes(settings)
        setup = {
            "slot_bytes": self._slot_bytes,
            "memory_bytes": settings.rasterize_memory_bytes,
            "seconds": settings.rasterize_seconds,
            "parent_pid": os.getpid(),
            # Linux ties the signal to the thread that starts the child, so only the main thread may ask for it.
            "dies_with_parent": threading.current_thread() is threading.main_thread(),
            "limits": {
                "max_side_px": settings.max_side_px,
                "max_page_pixels": settings.max_page_pixels,
                "max_pages": settings.max_pages,
                "max_page_pt": settings.max_page_pt,
                "max_image_pixels": settings.max_image_pixels,
                "all_frames": settings.all_frames,
            },
        }
        # Anonymous memory that both see. Only the parent may size it: the child can write no file.
        with _anonymous_file() as shared:
            shared.truncate(SLOTS * self._slot_bytes)
            self._shared = mmap.mmap(shared.fileno(), SLOTS * self._slot_bytes)
            setup["shared_descriptor"] = shared.fileno()
            self._start(setup, shared.fileno())

    def _start(self, setup: dict[str, Any], shared_descriptor: int) -> None:
        variables = without_credentials() | _HEAP | _ONE_THREAD
        variables["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        command = [sys.executable, "-P", "-m", "pipeline.documents.render_child", json.dumps(setup)]
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=variables,
                pass_fds=[shared_descriptor],
            )
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"the rasterizing process cannot be started: {error}") from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until the child has imported what it needs."""
        if self._is_ready:
            return
        try:
            self.receive(START_SECONDS)
        except ChildGone as error:
            raise Unavailable(f"the rasterizing process does not start: {error}") from error
        self._is_ready = True

    def is_worn(self) -> bool:
        """Has it died, or used so much that a fresh one is better?"""
        if self._process.poll() is not None:
            return True
        return self._pages >= MAX_CHILD_PAGES or self._rss_bytes > self._max_rss_bytes

    def send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        """Send a request, with an open file if one is given."""
        try:
            socket.send_fds(self._socket, [pack(message)], [] if descriptor is None else [descriptor])
        except OSError as error:
            raise self._gone() from error

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next answer, within so many seconds from now; a child that takes longer is killed.

        The answer comes from a process that strangers' files may have turned, so its form is checked.
        """
        deadline = time.monotonic() + seconds
        try:
            size = length(self._read(PREFIX_BYTES, deadline))
            message: dict[str, Any] = json.loads(self._read(size, deadline))
            self._rss_bytes = int(message.get("rss_bytes", 0))
            self._pages += message["is"] == "page"
            return message
        except TimeoutError as error:
            self.kill()
            text = f"took longer than {seconds:g} s; raise PAGEPACK_RASTERIZE_SECONDS if it is no hostile file"
            raise ChildGone("timeout", text) from error
        except (OSError, EOFError) as error:
            raise self._gone() from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._nonsense(error) from error

    def take(self, page_index: int, message: dict[str, Any], *, is_laid_out: bool = False) -> RasterizedPage:
        """The page that a message announces; its slot is free again afterwards. `is_laid_out`: from text, by us."""
        try:
            mode, width, height = str(message["mode"]), int(message["width_px"]), int(message["height_px"])
            start = (0, self._slot_bytes)[message["slot"]]
            size = width * height * {"L": 1, "RGB": 3}[mode]
            if not 0 < size <= self._slot_bytes:
                raise ValueError(f"an image of {width} × {height} px")
            pixels = memoryview(self._shared)[start : start + size]
            picture = Image.frombytes(mode, (width, height), pixels)
            if size > KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
                self._shared.madvise(mmap.MADV_REMOVE, start, self._slot_bytes)
            page = _page(page_index, message, picture, is_laid_out)
            self._socket.sendall(b".")
            return page
        except OSError as error:
            raise self._gone() from error
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise self._nonsense(error) from error

    def _nonsense(self, error: Exception) -> ChildGone:
        self.kill()
        return ChildGone("crash", f"the rasterizing process sent nonsense: {error}")

    def kill(self) -> None:
        """End it now, and leave no zombie."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            received = self._socket.recv_into(view[done:])
            if not received:
                raise EOFError
            done += received
        return data

    def _gone(self) -> ChildGone:
        """Why the socket has ended, from how the process did."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            return ChildGone("crash", "the rasterizing process closed its socket")
        if code == -signal.SIGXCPU:
            return ChildGone("timeout", "used up its time on the processor; raise PAGEPACK_RASTERIZE_SECONDS")
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return ChildGone("crash", f"the rasterizing process {how}")


def _page(page_index: int, message: dict[str, Any], drawn: Image.Image, is_laid_out: bool) -> RasterizedPage:
    """A page as its child described it. Hash and encoding are made here: the child only ever hands over pixels."""
    text = None if message["text_layer"] is None else str(message["text_layer"])
    width_pt, height_pt, dpi, print_px = (
        None if message[name] is None else float(message[name]) for name in ("width_pt", "height_pt", "dpi", "print_px")
    )
    image = png.canonical(drawn)
    verdict, found = None, None
    if text is not None:
        sent, is_plain = message["text_lines"]
        lines = list(map(LayerLine.received, sent))
        verdict = judge(text, lines, None if is_plain else image, is_known=is_laid_out)
        found = found_on(lines, *(message["strokes"] or ([], []))) if len(lines) == text.count("\n") else None
    return RasterizedPage(
        page_index=page_index,
        width_px=image.width,
        height_px=image.height,
        image=png.encode(image),
        image_hash=png.hash_pixels(image),
        text_layer=text,
        warnings=str(message["warnings"]),
        width_pt=width_pt,
        height_pt=height_pt,
        dpi=dpi,
        print_px=print_px,
        text_layer_verdict=verdict,
        text_layer_found=found,
        is_blank=verdict in _SHOWS_NOTHING and is_blank(image),
    )


def found_on(lines: list[LayerLine], level: list[list[int]], upright: list[list[int]]) -> Found:
    """What puts the text in order, once it was judged."""
    sizes = [line.size for line in lines if line.size]
    rulings = of_strokes(level, upright, BOX_HEIGHT * median(sizes) if sizes else math.inf)
    sides = (rulings.level, rulings.upright)
    level, upright = ([[round(one.at), round(one.start), round(one.end)] for one in side] for side in sides)
    return {"lines": [line.stored for line in lines], "level": level, "upright": upright}


def slot_bytes(settings: Settings) -> int:
    """The largest page image, padding included, in whole pages of memory. What no page needs is never touched."""
    side = settings.max_side_px
    pixels = min(side * side, settings.max_page_pixels + 2 * MOST_CELL_PX * side)
    return -(-3 * pixels // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def _anonymous_file() -> BinaryIO:
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("pagepack-pages"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
