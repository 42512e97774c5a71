"""The image of a page, as large as models look at it."""

from __future__ import annotations

import base64
import io

from mcp_types import ImageContent
from PIL import Image

from pipeline.blobs.page_images import open_images
from pipeline.blobs.png import load
from pipeline.errors import UsageError
from pipeline.settings import Settings

_LONG_SIDE_PX = 1_568  # models that are asked in chats look at no larger one
_MAX_PNG_BYTES = 1_000_000  # a scan with noise is far smaller as JPEG


def page_image(settings: Settings, image_hash: str | None) -> ImageContent:
    """Raises PagepackError: there is none, or it is gone."""
    if image_hash is None:
        raise UsageError("the page could not be drawn")
    data = open_images(settings).get(image_hash)
    image = load(data)
    if max(image.size) <= _LONG_SIDE_PX and len(data) <= _MAX_PNG_BYTES:
        return _content(data, "image/png")
    image.thumbnail((_LONG_SIDE_PX, _LONG_SIDE_PX), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85)
    return _content(written.getvalue(), "image/jpeg")


def _content(data: bytes, mime_type: str) -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(data).decode(), mime_type=mime_type)
