"""Whether a page is blank, from its picture alone.

What scanning leaves is no text: noise and texture of the paper, specks of dust, the lid beyond the sheet's edge, punch
holes, the shadow of a fold, print that shines through from the back. What somebody wrote is, however little: a page
number, a row of dots, a line in pencil, a stamp, a light watermark. In doubt a page is not blank, and is read.

What is darker than the paper around it, by more than the paper's own roughness, lies in blobs; each is judged by its
size, shape, place and contrast. Print from the back is faint and soft, for paper scatters light: print of the same
strength on this side has sharp edges.

    dust          a few pixels, or as wide as high and filled         a digit has holes, or is twice as high as wide
    a row of dots specks at even distances on one line                dust lies anywhere
    hole, lid     round and near an edge; begins at the edge
    fold          from edge to edge

Pillow alone tells most printed pages (0.3 ms); the others take numpy, which is not imported before the first of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, ImageFilter

from pipeline.documents.pages.ink_blobs import Blobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

_SIDE_PX = 1024  # a picture is looked at in at least this size, and less than twice of it
_LEAST_SIDE_PX = 48
_PRINT = 60  # a jump of brightness that print makes
_PRINTED_SHARE = 0.015  # of pixels beside such a jump: a page of print has 0.05 and more
_PADDING_PX = 15, 27  # white that makes a picture's sides multiples of 16, or of 28 (`raster.py`)
_EDGE_PX = 2
_CELL_PX = 8

_LEAST_PAPER = 128  # of 255: on a darker page, ink may be light
_DARK = 60  # darker than the paper: the lid
_MARGIN = 0.1  # so deep it reaches into a picture
_MAX_LID = 0.5  # of a side; where it reaches deeper in more rows, it is a picture
_BLUR_PX = 4
_LEAST_CONTRAST = 8
_DEPTH_OF_NOISE = 2.4  # standard deviations, the darkest of 64 pixels
_NUM_SIGMAS = 4.6
_MAX_CELLS = 0.25  # that hold something dark
_FAINT = 30  # print from the back is fainter than this
_SOFT = 64  # and where it is darker, it is soft
_SHARP = 0.85  # jump of brightness at the edge of a sharp stroke, of its contrast
_DUSTY = 12  # specks, before two of them touch
_IN_ROW = 8  # specks
_STEP_PX, _STRAY_PX = 16, 3  # from one to the next, and off the line
_MAX_SPECKS = 4000
_CLEAN = 1.0  # standard deviation of paper that was hardly scanned


def is_blank(picture: Image.Image) -> bool:
    """Of a picture in L or RGB, as it is stored. 1 to 2 ms at 1,024 px, less where the page is printed."""
    grey = _without_padding(_darkest(picture))
    if min(grey.size) < _LEAST_SIDE_PX:
        lowest, highest = grey.getextrema()
        return bool(highest - lowest < _LEAST_CONTRAST)  # type: ignore[operator]
    if _is_printed(grey):
        return False
    factor = max(grey.size) // _SIDE_PX
    return not _has_marks(grey.reduce(factor) if factor > 1 else grey)


def _darkest(picture: Image.Image) -> Image.Image:
    """The darkest channel: ink of any colour is dark in it."""
    if picture.mode == "L":
        return picture
    red, green, blue = picture.split()
    return ImageChops.darker(red, ImageChops.darker(green, blue))


def _without_padding(grey: Image.Image) -> Image.Image:
    box = ImageChops.invert(grey).getbbox()
    if box is None:
        return grey
    most = _PADDING_PX[any(side % 16 for side in grey.size)]
    right, bottom = (end if full - end <= most else full for end, full in zip(box[2:], grey.size, strict=True))
    return grey.crop((0, 0, right, bottom))


def _is_printed(grey: Image.Image) -> bool:
    rows = grey.resize((grey.width, max(1, grey.height // 8)), Image.Resampling.NEAREST)
    jumps = ImageChops.difference(rows.crop((2, 0, *rows.size)), rows.crop((0, 0, rows.width - 2, rows.height)))
    return sum(jumps.histogram()[_PRINT:]) > _PRINTED_SHARE * rows.width * rows.height


def _has_marks(picture: Image.Image) -> bool:
    import numpy as np

    rows, columns = ((side - 2 * _EDGE_PX) // _CELL_PX for side in (picture.height, picture.width))
    grey = np.asarray(picture)[_EDGE_PX : _EDGE_PX + rows * _CELL_PX, _EDGE_PX : _EDGE_PX + columns * _CELL_PX]
    paper = int(np.median(grey[::4, ::4]))
    if paper < _LEAST_PAPER:
        return True
    found = _without_lid(grey, paper)
    if found is None:
        return True
    grey, lid = found
    # Of each cell, how bright the paper is there, and its darkest pixel: most cells are looked at no closer.
    plain = Image.fromarray(np.ascontiguousarray(grey))
    around = plain.reduce(2 * _CELL_PX).filter(ImageFilter.MedianFilter(3))
    smooth = around.resize((columns, rows), Image.Resampling.BILINEAR, (0, 0, columns / 2, rows / 2))
    ground = np.asarray(smooth).astype(np.int16)
    darkest = grey.reshape(rows, _CELL_PX, -1).min(axis=1).reshape(rows, columns, _CELL_PX).min(axis=2)
    depth = ground - darkest
    sigma = max(0.0, float(np.median(depth)) / _DEPTH_OF_NOISE)
    threshold = round(_LEAST_CONTRAST + _NUM_SIGMAS * sigma)
    at = np.nonzero(depth >= threshold)
    if not at[0].size:
        return False
    if at[0].size > _MAX_CELLS * rows * columns:  # faint print all over is from the back, and where it is not is dark
        threshold = max(threshold, _FAINT)
        at = np.nonzero(depth >= threshold)
        if at[0].size > _MAX_CELLS * rows * columns:
            return True
    contrast = _contrast(grey, ground, at)
    if contrast.max() < threshold:
        return False
    blobs = Blobs(contrast, threshold)
    return bool(_marks(blobs, grey, lid, max(grey.shape) / _SIDE_PX, sigma).any())


def _contrast(grey: NDArray[np.uint8], ground: NDArray[np.int16], at: Any) -> NDArray[np.uint8]:
    """How much darker than the paper around it each pixel of some cells is; 0 elsewhere. The paper's brightness runs
    straight from the middle of a cell to that of the next."""
    import numpy as np

    rows, columns = ground.shape
    wide = np.pad(ground, 1, mode="edge").astype(np.float32)
    near = np.stack([wide[at[0] + down, at[1] + right] for down in range(3) for right in range(3)], axis=1)
    offset = (np.arange(_CELL_PX) + 0.5) / _CELL_PX - 0.5
    along = np.stack([np.maximum(-offset, 0), 1 - np.abs(offset), np.maximum(offset, 0)])  # weights of three cells
    weights = np.einsum("ay,bx->abyx", along, along).reshape(9, -1).astype(np.float32)
    paper = (near @ weights).reshape(-1, _CELL_PX, _CELL_PX)
    contrast = np.zeros((rows, _CELL_PX, columns, _CELL_PX), np.uint8)
    cells = grey.reshape(contrast.shape)[at[0], :, at[1], :]
    contrast[at[0], :, at[1], :] = np.clip(paper - cells, 0, 255)
    return contrast.reshape(grey.shape)


def _without_lid(grey: NDArray[np.uint8], paper: int) -> tuple[NDArray[np.uint8], Mask | None] | None:
    """What lies beyond the sheet, dark from the edge of the picture on in each row and column, made paper; and where.
    None where it reaches far into the picture, which fills the page."""
    import numpy as np

    limit = paper - _DARK
    if min(grey[0].min(), grey[-1].min(), grey[:, 0].min(), grey[:, -1].min()) >= limit:
        return grey, None
    grey, lid = grey.copy(), np.zeros(grey.shape, bool)
    for turns in range(4):  # each side in turn is the left one
        side, covered = np.rot90(grey, turns), np.rot90(lid, turns)
        margin = max(1, round(_MARGIN * side.shape[1]))
        dark = np.pad(side[:, :margin] < limit, ((0, 0), (0, 1)))
        lengths = dark.argmin(axis=1)
        if (lengths == margin).mean() > _MAX_LID:
            return None
        is_lid = (lengths > 0) & (lengths < margin)  # what reaches deeper is a fold, or another side's
        corner = side[:margin, :margin] < limit
        covered[:margin, :margin] |= corner.all(axis=0) & (lengths[:margin] == margin)[:, None]
        covered[:, :margin] |= np.arange(margin) < np.where(is_lid, lengths + _BLUR_PX, 0)[:, None]
        np.copyto(side[:, :margin], paper, where=covered[:, :margin])
    return grey, lid


def _marks(blobs: Blobs, grey: NDArray[np.uint8], lid: Mask | None, unit: float, sigma: float) -> Any:
    import numpy as np

    page_height, page_width = grey.shape
    whole, core = blobs.whole, blobs.core
    is_speck = _is_dot(blobs, unit) & (whole.longer <= 9 * unit + 2)
    at_edge = (whole.left == 0) | (whole.top == 0) | (whole.right == page_width - 1) | (whole.bottom == page_height - 1)
    if lid is not None:
        beside = np.zeros(blobs.count, bool)
        near = np.pad(lid, 1)
        near = near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:]
        np.logical_or.at(beside, blobs.labels, near[blobs.ys, blobs.xs])
        at_edge |= beside
    depth = np.minimum(
        np.minimum(whole.right, page_width - 1 - whole.left) / page_width,
        np.minimum(whole.bottom, page_height - 1 - whole.top) / page_height,
    )
    is_lid = at_edge & ((depth < 0.04) | (blobs.peaks < 64) | (whole.longer > 8 * whole.shorter))
    is_fold = ((whole.height > 0.85 * page_height) & (whole.width < 0.15 * page_width)) | (
        (whole.width > 0.85 * page_width) & (whole.height < 0.15 * page_height)
    )
    x, y = (core.left + core.right) / 2, (core.top + core.bottom) / 2
    from_edge = np.minimum(np.minimum(x, page_width - x) / page_width, np.minimum(y, page_height - y) / page_height)
    is_hole = (
        (core.longer > 0.011 * _SIDE_PX * unit)
        & (core.longer < 0.05 * _SIDE_PX * unit)
        & (core.longer < 1.35 * core.shorter)
        & (core.sizes > 0.6 * core.area)
        & (from_edge < 0.14)
    )
    is_mark = ~(is_speck | is_lid | is_fold | is_hole) & (core.sizes >= 6 * unit)
    small = np.flatnonzero(is_mark & (core.longer <= 12 * unit))
    if small.size and is_speck.sum() >= _DUSTY:
        is_mark[small] = [not _is_dust(blobs, blob, unit) for blob in small]
    if (is_mark & (blobs.peaks >= _SOFT)).any():
        return is_mark
    is_in_row = is_speck & ~at_edge & (blobs.peaks >= _FAINT)
    if not is_mark.any() and is_in_row.sum() < _IN_ROW:
        return is_mark
    is_sharp = _is_sharp(blobs, grey, sigma, unit)
    is_mark &= is_sharp & ~_is_ringing(blobs, unit)
    return is_mark | _in_row(blobs, is_in_row & is_sharp, unit)


def _is_dust(blobs: Blobs, blob: Any, unit: float) -> bool:
    """Whether a small blob is two specks or three that touch: its darker pixels lie in dots."""
    import numpy as np

    mine = blobs.labels == blob
    ys, xs, values = blobs.ys[mine], blobs.xs[mine], blobs.values[mine]
    window = np.zeros((int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1), np.uint8)
    window[ys - ys.min(), xs - xs.min()] = values
    pieces = Blobs(window, round(0.5 * int(values.max())))
    return pieces.count > 1 and bool(_is_dot(pieces, unit).all())


def _is_dot(blobs: Blobs, unit: float) -> Any:
    core = blobs.core
    is_round = core.longer < 1.7 * core.shorter
    is_filled = (blobs.fill >= 0.5) | ((blobs.fill >= 0.42) & (core.longer <= 5.6 * unit))  # print of 8 pt is higher
    return (core.longer <= 4.5 * unit) | ((core.longer <= 9 * unit) & is_round & is_filled)


def _is_sharp(blobs: Blobs, grey: NDArray[np.uint8], sigma: float, unit: float) -> Any:
    """Whether print stands on this side of the paper: it is dark, or has sharp edges."""
    import numpy as np

    largest = np.zeros(blobs.count, np.int16)
    np.maximum.at(largest, blobs.labels, _jumps(grey, blobs.ys, blobs.xs))
    is_sharp = largest >= _SHARP * blobs.peaks
    # The edge of a broad stroke is half of a thin one's; so large are letters of a watermark.
    is_sharp |= (blobs.core.sizes > 5 * unit * blobs.core.longer) & (largest >= 0.4 * blobs.peaks + 3 + 4 * sigma)
    return (blobs.peaks >= _SOFT) | (is_sharp & ((blobs.peaks >= _FAINT) | (sigma < _CLEAN)))


def _is_ringing(blobs: Blobs, unit: float) -> Any:
    """Small and faint beside something dark: JPEG leaves such."""
    import numpy as np

    is_dark = blobs.peaks >= _SOFT
    cell = 12 * unit
    stride = int(blobs.xs.max() // cell) + 4  # a cell beyond each edge
    ink = is_dark[blobs.labels]
    dark = np.unique((blobs.ys[ink] // cell + 1) * stride + blobs.xs[ink] // cell + 1)
    beside = [dark + down * stride + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
    y, x = (blobs.core.top + blobs.core.bottom) / 2 // cell, (blobs.core.left + blobs.core.right) / 2 // cell
    is_beside = np.isin((y + 1) * stride + x + 1, np.concatenate(beside))
    return is_beside & (blobs.peaks < _FAINT) & (blobs.whole.longer <= 16 * unit)


def _jumps(grey: NDArray[np.uint8], ys: Any, xs: Any) -> NDArray[np.int16]:
    """How much darker than both of its neighbours together a pixel is, across or down, whichever is more."""
    import numpy as np

    height, width = grey.shape

    def two(down: int, right: int) -> Any:
        before = grey[np.maximum(ys - down, 0), np.maximum(xs - right, 0)].astype(np.int16)
        return before + grey[np.minimum(ys + down, height - 1), np.minimum(xs + right, width - 1)]

    found: NDArray[np.int16] = np.maximum(two(0, 1), two(1, 0)) - 2 * grey[ys, xs].astype(np.int16)
    return found


def _in_row(blobs: Blobs, is_speck: Any, unit: float) -> Any:
    """Specks that follow each other closely on one line, so many that no dust lies so."""
    import numpy as np

    found = np.zeros(blobs.count, bool)
    which = np.flatnonzero(is_speck)
    if not _IN_ROW <= len(which) <= _MAX_SPECKS:
        return found
    x, y = (blobs.core.left + blobs.core.right)[which] / 2, (blobs.core.top + blobs.core.bottom)[which] / 2
    order = np.argsort(x)
    xs, ys = x[order].tolist(), y[order].tolist()
    longest = [1] * len(xs)  # of the row that ends here
    for here in range(len(xs)):
        for before in range(here - 1, -1, -1):
            step = xs[here] - xs[before]
            if step > _STEP_PX * unit:
                break
            if step >= 1 and abs(ys[here] - ys[before]) <= _STRAY_PX * unit:
                longest[here] = max(longest[here], longest[before] + 1)
    found[which[order]] = np.array(longest) >= _IN_ROW
    return found
