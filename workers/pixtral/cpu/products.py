"""Weights of both towers' layers as oneDNN multiplies them fastest, in the place of those that were read.

oneDNN lays a plain weight out anew at every product: a tenth of the time of 128 rows, a quarter and more of that of the
8 rows of a decode step. A weight that is laid out once gives the same floats, for any number of rows; the plain one is
let go, so no weight is held twice. The feed-forward's gate is computed where the products leave their sums, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workers.pixtral.cpu.tiles import prepared_bytes
from workers.pixtral.model.layers import Attention, FeedForward, Operations, Product
from workers.pixtral.model.quantize import has_products

LAID_OUT_FOR = 128  # rows; oneDNN's layout is the same for 8 and for 512


class Prepared(Product):
    """A weight (outs, ins) in oneDNN's own layout."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(*weight.shape)
        self.nbytes = prepared_bytes(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), LAID_OUT_FOR)
        product = torch.ops.mkldnn._linear_pointwise
        self._product, self._product_times = product.default, product.binary  # which of them, is not asked at each call

    def prepare(self, rows: Tensor) -> Tensor:
        return rows

    def multiply(self, prepared: Tensor, after: str = "none") -> Tensor:
        """`after` is done to each sum before it is rounded."""
        product: Tensor = self._product(prepared, self.weight, None, after, [], "")
        return product

    def multiply_into(self, prepared: Tensor, other: Tensor) -> Tensor:
        """The product times `other` (T, outs), number by number."""
        product: Tensor = self._product_times(prepared, other, self.weight, None, "mul")
        return product


class PreparedGate(Product):
    """w1 and w3."""

    def __init__(self, w1: Tensor, w3: Tensor) -> None:
        super().__init__(2 * w1.shape[0], w1.shape[1])
        self.w1, self.w3 = Prepared(w1), Prepared(w3)
        self.nbytes = 0  # those of its parts

    def prepare(self, rows: Tensor) -> Tensor:
        return rows

    def multiply(self, prepared: Tensor) -> Tensor:
        return torch.cat((self.w1.multiply(prepared), self.w3.multiply(prepared)), dim=-1)

    def gated(self, rows: Tensor, ops: Operations) -> Tensor:
        return self.w3.multiply_into(rows, self.w1.multiply(rows, "swish"))


@torch.no_grad()
def lay_out_layers(model: nn.Module) -> None:
    """Lay out every layer's weights that are plain, where oneDNN multiplies their type. The model stays so."""
    for module in model.modules():
        if not isinstance(module, Attention | FeedForward) or has_products(module):
            continue
        last = module.wo if isinstance(module, Attention) else module.w2
        assert isinstance(last, nn.Linear)
        if not prepared_bytes(last.weight):
            continue
        if isinstance(module, Attention):
            key_value = torch.cat((module.wk.weight, module.wv.weight))
            module.product_q, module.product_kv = Prepared(module.wq.weight), Prepared(key_value)
            module.wo = Prepared(last.weight)
            del module.wq, module.wk, module.wv
            module.fused_qkv = None
        else:
            module.product_w1_w3 = PreparedGate(module.w1.weight, module.w3.weight)
            module.w2 = Prepared(last.weight)
            del module.w1, module.w3
            module.fused_w1_w3 = None
