"""A checkpoint's shape, and what its weights and a token of its cache take.

The engine counts the weights of the module tree that it loads, and both come to the same within two thousandths
(`tests/engine/test_quantize.py`): biases and the like are left out here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.documents.pages.raster import read_raster
from pipeline.errors import UsageError

KINDS = {8: "int8", 4: "int4"}  # narrow weights by their bits; fp8 takes 12 bytes less for each output
INT4_GROUP, INT4_BLOCK = 64, 64  # numbers with one scale; outputs that are packed together


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
    def products(self) -> list[tuple[int, int]]:
        """Outputs and inputs of a layer's products as they are quantized: queries, keys and values, out, gate, down."""
        queries, keys = self.n_heads * self.head_dim, 2 * self.n_kv_heads * self.head_dim
        attention = [(queries, self.dim), (keys, self.dim), (self.dim, queries)]
        return [*attention, (2 * self.hidden_dim, self.dim), (self.dim, self.hidden_dim)]

    @property
    def decoder_params(self) -> int:
        return self.n_layers * sum(outs * ins for outs, ins in self.products)

    @property
    def head_params(self) -> int:
        return self.dim * self.vocab_size

    @property
    def vision_params(self) -> int:
        layers = self.vision_layers * (4 * self.vision_dim**2 + 3 * self.vision_dim * self.vision_hidden)
        return layers + self.dim * (self.vision_dim + self.dim) + self.channels * self.patch_px**2 * self.vision_dim

    def token_bytes(self, itemsize: int = 2, *, narrow_cache: bool = False) -> int:
        """Of the cache: keys and values of every layer; narrow ones have one byte each, and four a head."""
        head = self.head_dim + 4 if narrow_cache else self.head_dim * itemsize
        return 2 * self.n_layers * self.n_kv_heads * head

    def weight_bytes(self, bits: int) -> int:
        """Of the whole; the tower of vision, the table of tokens, the head and the norms keep two bytes."""
        norms = 2 * (self.n_layers * self.dim + self.vision_layers * self.vision_dim)
        return self.decoder_bytes(bits) + 2 * ((2 - self.is_tied) * self.head_params + self.vision_params + norms)

    def half(self) -> Shape:
        """What each of two GPUs holds of a model over both: half of every layer, and all that is in none."""
        return replace(
            self, n_heads=self.n_heads // 2, n_kv_heads=self.n_kv_heads // 2, hidden_dim=self.hidden_dim // 2
        )

    def decoder_bytes(self, bits: int) -> int:
        """Of the layers' weights."""
        if bits not in KINDS:
            return self.decoder_params * bits // 8
        return self.n_layers * sum(narrow_bytes(KINDS[bits], *product) for product in self.products)


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
