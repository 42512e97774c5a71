"""A checkpoint's shape, and how many of its pages the memory of a GPU holds at once.

The sum is the engine's own (`workers/pixtral/plan/`, which needs more than is installed where plans are made):

    92 % of the memory − weights − room for one step = cache;  cache / 3,600 tokens of a usual page = pages at once

with the step as large as leaves room for pages. `tests/engine/test_quantize.py` holds both to the same numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.documents.pages.raster import read_raster
from pipeline.documents.pages.tiles import MOST_TOKENS
from pipeline.errors import UsageError

MOST_SEQUENCES = 256
GRANTED = 0.92  # of a GPU's memory
_STEPS = ((2048, 8192), (2048, 2048), (1024, 1024), (512, 512))  # tokens of one prompt, and of all in a step
_SEQUENCES = (4, 8, 16, 32, 64, 128, MOST_SEQUENCES)
_SMALLER_FOR = 1.25
TYPICAL_TOKENS = 3600
_FULL_PAGE = 64 * 65 + 300
_LONGEST, _LEAST = _FULL_PAGE + 4096, _FULL_PAGE + 2048
INT4_GROUP, INT4_BLOCK = 64, 64  # numbers with one scale; outputs that are packed together
_KEPT_BYTES, _AT_ONCE, _FEWER_ROWS, _MOST_ROWS, _SPLIT, _BLOCK = 128 * 2**20, 1024, 128, 512, 1024, 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a checkpoint; the defaults are those of Pixtral 12B."""

    name: str = "Pixtral 12B"
    dim: int = 5120
    n_layers: int = 40
    head_dim: int = 128
    hidden_dim: int = 14336
    n_heads: int = 32
    n_kv_heads: int = 8
    vocab_size: int = 131_072
    vision_dim: int = 1024
    vision_layers: int = 24
    vision_hidden: int = 4096
    patch_px: int = 16
    merged: int = 1
    side_px: int = 1024
    is_tied: bool = False  # the head is the table of tokens
    channels: int = 3  # of an image

    @property
    def cell_px(self) -> int:
        """Side of the square that is one token."""
        return self.patch_px * self.merged

    @property
    def image_patches(self) -> int:
        """Of the largest image."""
        return (self.side_px // self.patch_px) ** 2

    @property
    def decoder_params(self) -> int:
        attention = self.dim * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        return self.n_layers * (attention + 3 * self.dim * self.hidden_dim)

    @property
    def head_params(self) -> int:
        return self.dim * self.vocab_size

    @property
    def vision_params(self) -> int:
        layers = self.vision_layers * (4 * self.vision_dim**2 + 3 * self.vision_dim * self.vision_hidden)
        return layers + self.dim * (self.vision_dim + self.dim) + 3 * self.patch_px**2 * self.vision_dim

    def token_bytes(self, itemsize: int = 2, *, narrow_cache: bool = False) -> int:
        """Of the cache: keys and values of every layer; narrow ones have one byte each, and four a head."""
        head = self.head_dim + 4 if narrow_cache else self.head_dim * itemsize
        return 2 * self.n_layers * self.n_kv_heads * head

    def weight_bytes(self, bits: int) -> float:
        """Of the whole; the tower of vision, the table of tokens, the head and the norms keep two bytes."""
        norms = 2 * (self.n_layers * self.dim + self.vision_layers * self.vision_dim)
        return self.decoder_bytes(bits) + 2.0 * ((2 - self.is_tied) * self.head_params + self.vision_params + norms)

    def half(self) -> Shape:
        """What each of two GPUs holds of a model over both: half of every layer, and all that is in none."""
        return replace(
            self, n_heads=self.n_heads // 2, n_kv_heads=self.n_kv_heads // 2, hidden_dim=self.hidden_dim // 2
        )

    def decoder_bytes(self, bits: int) -> float:
        """Of the layers' weights: those of four bits have a scale and an offset, two bytes each, for 64.

        Those of eight have 16 bytes an output beside them, as int8 does (fp8: 4).
        """
        outs = (self.n_heads + 2 * self.n_kv_heads) * self.head_dim + 2 * self.dim + 2 * self.hidden_dim
        scales = 16 * self.n_layers * outs if bits == 8 else 0
        return self.decoder_params * (4.5 if bits == 4 else bits) / 8 + scales

    def pages_at_once(self, memory_bytes: float, bits: int, *, narrow_cache: bool = False) -> int:
        """On a GPU with nothing else in its memory; 0 where not even one fits."""
        left = memory_bytes * GRANTED - self.weight_bytes(bits)
        best, is_whole = 0, False
        for chunk, budget in _STEPS:
            fits = [self._beside(left, bits, chunk, budget, most, narrow_cache=narrow_cache) for most in _SEQUENCES]
            pages, whole = max(fits)
            if (pages > 0) and (best == 0 or (whole > is_whole) or (is_whole and pages >= _SMALLER_FOR * best)):
                best, is_whole = pages, whole
        return best

    def _beside(
        self, left: float, bits: int, chunk: int, budget: int, most: int, *, narrow_cache: bool
    ) -> tuple[int, bool]:
        """Pages beside a step of so many tokens and sequences, and whether a full page's answer has all of its room."""
        a_token = self.token_bytes(narrow_cache=narrow_cache)
        room = self._step_bytes(bits, chunk, budget, most, _LONGEST, narrow_cache=narrow_cache)
        longest = max(_LONGEST, min(_LONGEST + MOST_TOKENS, int((left - room) // a_token)))
        cache = left - self._step_bytes(bits, chunk, budget, most, longest, narrow_cache=narrow_cache)
        tokens = int(cache // (a_token * _BLOCK)) * _BLOCK
        if tokens < _LEAST:
            return 0, False
        pages = max(1, min(most, tokens // TYPICAL_TOKENS))
        return pages - (pages % 8 if pages >= 16 else 0), tokens >= _LONGEST

    def _step_bytes(self, bits: int, chunk: int, budget: int, most: int, longest: int, *, narrow_cache: bool) -> float:
        """`workers/pixtral/plan/step_room.py` says what is what."""
        run = 1 if bits == 4 else 16 // (self.n_heads // self.n_kv_heads)
        if run > 1:  # rows of drafts
            least, limit = min(most, _FEWER_ROWS), max(most, min(run * most, _MOST_ROWS))
            most = max(most, least << (limit // least).bit_length() - 1)
        rows = budget + most
        attention, heads = self.n_heads * self.head_dim, 2 * self.n_kv_heads * self.head_dim
        stream = 4 * self.dim + 2 * attention + heads
        row = 2 * (stream + 3 * self.hidden_dim)
        aside = (rows + min(rows, _AT_ONCE) * 16) * self.hidden_dim if bits == 8 else 0
        gathered = longest * heads // 2 * (9 if narrow_cache else 4)
        decoder = max(rows * row + aside, rows * 2 * (stream + attention) + gathered)
        image, merged = (self.side_px // self.patch_px) ** 2, self.merged**2
        layer = 2 * (8 * self.vision_dim + 3 * self.vision_hidden)
        adapter = 2 * (self.vision_dim + 2 * self.dim // merged)
        encoder = max(budget, image) * max(layer, adapter, 12 * 3 * self.patch_px**2)
        features = 2 * self.dim * (2 * max(1, budget // chunk) * image // merged + budget)
        drawn = max(min(most, 32) * (self.vocab_size * 12 + 20480), min(most, 4) * self.vocab_size * 56)
        widths = {_LONGEST, longest}
        splits = sum(-(-tokens // _SPLIT) for tokens in widths) * most * self.n_heads * (self.head_dim + 1) * 4
        recorded = len(widths) * most * row
        widest = max(decoder, encoder, most * self.vocab_size * 2 + drawn)
        return widest + features + splits + recorded + _KEPT_BYTES


_DECODER = ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "vocab_size")
_TOWER = {
    "hidden_size": "vision_dim",
    "num_hidden_layers": "vision_layers",
    "intermediate_size": "vision_hidden",
    "patch_size": "patch_px",
}


def read_shape(folder: Path) -> Shape:
    """By the params.json of a checkpoint folder.

    Raises:
        UsageError: it has none, or none with the sizes that are needed.
    """
    path = folder / "params.json"
    try:
        given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        vision = given["vision_encoder"]
        sizes = {name: int(given[name]) for name in _DECODER} | {
            ours: int(vision[name]) for name, ours in _TOWER.items()
        }
        raster, is_tied = read_raster(vision), bool(given.get("tied_embeddings"))
        merged = raster.cell_px // sizes["patch_px"]
        return Shape(folder.absolute().name, side_px=raster.side_px, merged=merged, is_tied=is_tied, **sizes)
    except OSError as error:
        raise UsageError(f"--model {folder}: {path.name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        fact = f"has no {error}" if isinstance(error, KeyError) else "is no params.json of the Pixtral family"
        raise UsageError(
            f"--model {folder}: {path.name} {fact}; give a checkpoint folder in Mistral's format"
        ) from error


def narrow_bytes(kind: str, outs: int, ins: int) -> int:
    """Of a weight (outs, ins) that `workers/pixtral/model/quantize.py` keeps as `kind`, with its scales."""
    if kind == "int4" and fits_int4(outs, ins):
        return outs * ins // 2 + outs * (ins // INT4_GROUP) * 2 * 2
    return outs * ins + outs * (4 if kind == "fp8" else 16)  # int8: also a zero and what oneDNN takes off its sums


def fits_int4(outs: int, ins: int) -> bool:
    """Whether torch's kernels take the shape in four bits; else it has eight."""
    return outs % INT4_BLOCK == 0 and ins % INT4_GROUP == 0
