"""Messages to tokens and pixels, by mistral-common, without its float copies.

mistral-common turns each page into 27 MB of normalised float32 on the host. A page rasterized at multiples of the
model's square (16 px for Pixtral, 28 px where four patches of 14 px are merged) needs no resize, so here it stays uint8
and is normalised on the device by the same three roundings; the tokens and, bit for bit, the pixels are
mistral-common's (held by `test_pixtral_processor.py`). White fills up a page that was drawn for another model. An image
of a conversation that does need its resize takes mistral-common's own path.

A page larger than the model's largest image is several images in one message, as `pipeline/documents/pages/tiles.py`
cuts it: the whole page, its tiles, then the text, which says first what they are. That stands after the images, not
between them: the model knows images before text, and all prompts of the page share them as one prefix.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mistral_common.protocol.instruct.chunk import ImageChunk, ImageURLChunk, TextChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.image import ImageEncoder, ImageEncoding, image_from_chunk
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from numpy.typing import NDArray
from PIL import Image as PillowImage

from pipeline.documents.pages.tiles import Tiling, num_tokens
from pipeline.errors import UsageError
from workers.pixtral.model.config import ModelConfig
from workers.pixtral.model.fingerprint import lacks
from workers.pixtral.plan.sequence import Image, Request, Sampling
from workers.pixtral.text.grammar import Grammars
from workers.pixtral.text.tile_images import about, cut, filled

logging.getLogger("mistral_common").setLevel(logging.WARNING)


class PixelKeeper(ImageEncoder):
    """mistral-common's image encoder, giving uint8 (H, W, 3) where no resize is due."""

    def __call__(self, content: ImageChunk | ImageURLChunk) -> ImageEncoding:
        image = image_from_chunk(content)
        columns, rows = self._image_to_num_tokens(image)
        cell = self.image_config.image_patch_size * self.image_config.spatial_merge_size
        if image.mode != "RGB" or image.size != (columns * cell, rows * cell):
            encoding = super().__call__(content)
            return ImageEncoding(encoding.tokens, np.ascontiguousarray(encoding.image.transpose(1, 2, 0)))
        tokens = ([self.special_ids.img] * columns + [self.special_ids.img_break]) * rows
        tokens[-1] = self.special_ids.img_end
        return ImageEncoding(tokens, np.array(image))  # a copy: torch wants it writable


def _chunks(content: str | Sequence[Mapping[str, Any]]) -> Any:
    if isinstance(content, str):
        return content
    return [
        TextChunk(text=part["text"]) if part["type"] == "text" else ImageURLChunk(image_url=part["image_url"]["url"])
        for part in content
    ]


class Processor:
    """The tokenizer of one checkpoint folder."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        """Load and check tekken.json.

        Raises:
            UsageError: it is absent, damaged, knows no images, or does not belong to the model.
        """
        path = folder / "tekken.json"
        if not path.is_file():
            raise UsageError(lacks(folder, "tekken.json"))
        try:
            self.tokenizer = MistralTokenizer.from_file(str(path))
        except MemoryError as error:
            raise UsageError(f"too little memory to load {path}; free some") from error
        except Exception as error:
            raise UsageError(f"{path} is damaged or no tokenizer of mistral-common: {error}") from error
        instruct = self.tokenizer.instruct_tokenizer
        self.text = instruct.tokenizer
        encoder = instruct.image_encoder
        vision = config.vision_encoder
        if not isinstance(encoder, ImageEncoder):
            raise UsageError(f"{path} is a tokenizer without images; take the tekken.json of the same checkpoint")
        if self.text.n_words > config.vocab_size or encoder.special_ids.img != vision.image_token_id:
            raise UsageError(
                f"{path} does not belong to this model: {self.text.n_words} tokens and image token "
                f"{encoder.special_ids.img}, params.json says {config.vocab_size} and {vision.image_token_id}"
            )
        if encoder.image_config.image_patch_size != vision.patch_size:
            raise UsageError(
                f"{path} cuts patches of {encoder.image_config.image_patch_size} px, not {vision.patch_size}"
            )
        if encoder.image_config.spatial_merge_size != vision.spatial_merge_size:
            raise UsageError(
                f"{path} merges {encoder.image_config.spatial_merge_size} patches, not {vision.spatial_merge_size}"
            )
        for name, given, own in (
            ("image_break_token_id", vision.image_break_token_id, encoder.special_ids.img_break),
            ("image_end_token_id", vision.image_end_token_id, encoder.special_ids.img_end),
        ):
            if given not in (None, own):
                raise UsageError(f"{path} does not belong to this model: {name} is {own}, params.json says {given}")
        instruct.image_encoder = PixelKeeper(encoder.image_config, encoder.special_ids)
        self.image_end_id = encoder.special_ids.img_end
        self.eos_id = self.text.eos_id
        self.grammars = Grammars(self.tokenizer, config.vocab_size)
        self.cell = vision.patch_size * vision.spatial_merge_size
        largest = min(encoder.image_config.max_image_size, vision.image_size)
        self.max_side_px = largest - largest % self.cell
        assert isinstance(self.text, Tekkenizer), type(self.text)  # what a tekken.json makes
        self._tekken = self.text
        self._pieces: dict[int, bytes] = {}

    def encode(
        self,
        messages: Sequence[Any],
        sampling: Sampling,
        digests: Sequence[str] = (),
        deadline: float | None = None,
    ) -> Request:
        """Chat messages of mistral-common → a request; `digests` name the images in order, else their pixels do.

        Raises:
            ValueError, mistral_common exceptions: roles out of order, an image out of range.
        """
        encoded = self.tokenizer.encode_chat_completion(ChatCompletionRequest(messages=list(messages)))
        tokens = tuple(encoded.tokens)
        images = []
        for index, pixels in enumerate(encoded.images):
            if max(pixels.shape[:2]) > self.max_side_px:
                raise ValueError(f"an image of {pixels.shape[1]} × {pixels.shape[0]} px, over {self.max_side_px}")
            digest = digests[index] if index < len(digests) else hashlib.sha256(pixels.tobytes()).hexdigest()
            images.append(Image(digest, pixels))
        ends = [place for place, token in enumerate(tokens) if token == self.image_end_id] if images else []
        image_end = ends[-1] + 1 if ends else 0
        prefix = image_end if image_end < len(tokens) else 0  # a prefix leaves at least one token to compute
        return Request(tokens, tuple(images), prefix, image_end, sampling, deadline)

    def encode_conversation(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling) -> Request:
        """Messages as OpenAI's API has them, images as data URLs. Raises as `encode`."""
        kinds = {"user": UserMessage, "assistant": AssistantMessage, "system": SystemMessage}
        known = [kinds[message["role"]](content=_chunks(message["content"])) for message in messages]
        return self.encode(known, sampling)

    def encode_page(
        self,
        digest: str,
        pixels: NDArray[np.uint8],
        question: str,
        sampling: Sampling,
        deadline: float | None = None,
        tiling: Tiling | None = None,
    ) -> Request:
        """One page and what to do with it: the image, or the images of `tiling`, then the text."""
        images = cut(pixels, tiling) if tiling else [PillowImage.fromarray(filled(pixels, self.cell))]
        digests = [f"{digest} {tiling.scaled} {part}" for part in ("whole", *tiling.boxes)] if tiling else [digest]
        content: list[Any] = [*(ImageChunk(image=image) for image in images), TextChunk(text=about(tiling) + question)]
        request = self.encode([UserMessage(content=content)], sampling, digests, deadline)
        if tiling is None:
            return request
        placed = list(request.images)
        if tiling.scaled == tiling.page:  # the tiles' pixels are the page's: no copy waits beside it
            for place, (left, top, right, bottom) in enumerate(tiling.boxes, start=1):
                if placed[place].pixels.dtype == np.uint8:
                    placed[place] = Image(digests[place], pixels[top:bottom, left:right])
        tile_tokens = num_tokens(tiling.sizes[1:], self.cell)
        return dataclasses.replace(request, images=tuple(placed), tile_tokens=tile_tokens)

    def draft(self, text: str) -> tuple[int, ...]:
        """A text as the tokens of an answer, without its end: that is for the model to say."""
        return tuple(self._tekken.encode(text, bos=False, eos=False))

    def piece(self, token: int) -> bytes:
        """The bytes of one token, which may be a part of a character; none of a control token. Raises as `decode`."""
        found = self._pieces.get(token)
        if found is None:
            if token >= self.text.n_words:
                raise ValueError(f"the tokenizer has {self.text.n_words:,} tokens and does not know {token:,}")
            found = self._pieces[token] = self._tekken.id_to_byte_piece(token)
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens to text, control tokens left out.

        Raises:
            ValueError: a token that the tokenizer does not know; a model may have a larger vocabulary.
        """
        unknown = [token for token in tokens if token >= self.text.n_words]
        if unknown:
            raise ValueError(f"the tokenizer has {self.text.n_words:,} tokens and does not know {unknown[0]:,}")
        return self.text.decode(list(tokens))
