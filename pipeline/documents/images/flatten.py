"""Pixels of any mode as 8-bit grey or colour on paper: samples of 16 bits and more, transparency, CMYK and Lab."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

from PIL import Image, ImageCms, ImageOps

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_LIGHT, _DARK = 200, 96  # of 255: what vanishes on white, and on black
_MUCH, _FEW = 0.25, 0.02  # shares of the visible pixels: to be a part of the print, and to be its edges at most
WHITE: dict[str, str | int | tuple[int, ...]] = {  # of the modes that `resampled_mode` gives
    "L": 255,
    "LA": (255, 255),
    "RGB": (255, 255, 255),
    "RGBA": (255, 255, 255, 255),
    "CMYK": (0, 0, 0, 0),
    "LAB": (255, 128, 128),
}


def resampled_mode(image: Image.Image) -> Image.Image:
    """Palette, 1-bit, 16-bit and float samples as 8-bit grey or colour, alpha kept.

    16-bit samples are divided by 257. 32-bit integers and floats have no agreed white, so their range is stretched.
    """
    mode = image.mode
    if mode in _SIXTEEN_BIT:
        grey = image.convert("I").point(lambda sample: sample * (1 / 257) + 0.5).convert("L")
        is_inverted = getattr(image, "tag_v2", {}).get(262) == 0  # WhiteIsZero, which Pillow minds at 8 bits only
        return ImageOps.invert(grey) if is_inverted else grey
    if mode in ("I", "F"):
        samples = image.convert("F")
        low, high = (float(end) for end in samples.getextrema())  # type: ignore[arg-type]
        step = 255 / (high - low) if high > low else 0.0
        return samples.point(lambda sample: sample * step + (0.5 - low * step)).convert("L")
    if mode in ("PA", "La", "RGBa") or (mode in ("P", "L", "RGB") and "transparency" in image.info):
        return image.convert("RGBA")
    if mode == "1":
        return image.convert("L")
    return image if mode in ("L", "LA", "RGB", "RGBA", "CMYK", "LAB") else image.convert("RGB")


def flatten(image: Image.Image, notes: list[str]) -> Image.Image:
    """RGB or L: transparency laid on paper, CMYK and Lab through the profile of the file where it is usable.

    A profile of an RGB or grey file is left aside: it shifts colours a little and no letter.
    """
    if image.mode in ("LA", "RGBA"):
        transparent = image.convert("RGBA")
        if transparent.getchannel("A").getextrema() == (0, 0) and _has_shades(transparent):
            notes.append("the picture is transparent throughout, which cannot be meant: it is drawn as if it were not")
            return transparent.convert("RGB")
        paper = _paper(transparent)
        if paper != "white":
            notes.append(f"the picture is transparent, and light print on it would vanish on white: it lies on {paper}")
        return Image.alpha_composite(Image.new("RGBA", image.size, paper), transparent).convert("RGB")
    if image.mode not in ("CMYK", "LAB"):
        return image
    embedded = image.info.get("icc_profile")
    with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a damaged profile is no reason to lose a page
        if embedded or image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(BytesIO(embedded)) if embedded else ImageCms.createProfile("LAB")
            turned = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if turned is not None:
                return turned
    return image.convert("RGB")


def _has_shades(image: Image.Image) -> bool:
    """Is a picture more than one colour, whatever is seen of it?"""
    return any(low != high for low, high in (band.getextrema() for band in image.split()[:3]))


def _paper(image: Image.Image) -> str:
    """What to lay a transparent RGBA picture on, so that its print is seen.

    White, unless there is much light on it: then black, or grey where there is dark on it, too. A white card with
    black letters, and a photograph cut out at its edges, stay legible on either.
    """
    alpha = image.getchannel("A")
    visible = alpha.point(lambda value: 255 if value >= 128 else 0)
    counts = image.convert("L").histogram(mask=visible)
    total = sum(counts)
    if total == 0 or total > 0.95 * image.width * image.height:
        return "white"
    light, dark = sum(counts[_LIGHT:]) / total, sum(counts[:_DARK]) / total
    if light <= _MUCH:
        return "white"
    return "black" if dark < _FEW else "grey"
