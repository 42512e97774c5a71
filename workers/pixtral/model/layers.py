"""What both towers stack: attention and a gated feed-forward, each on a normed copy of the residual stream.

A layer has two halves with attention between them, which alone looks at other rows: `Layer.project` gives queries,
keys and values, `Layer.finish` takes what was attended. The residual stream and the last update travel apart, so that
adding them and the norm that follows can be one kernel. Modules hold weights by the checkpoint's names; `Operations`
computes with them, and a backend may bring its own. Everything here is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.pixtral.model.config import MixtureConfig

Reduce = Callable[[Tensor], Tensor]
"""An update (T, dim) that this device's part of a layer made → that of all parts."""


def whole(update: Tensor) -> Tensor:
    """`Reduce` of a layer that is all here."""
    return update


class RMSNorm(nn.Module):
    """Scales by the root of the mean square; `Operations.rms_norm` computes it."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))


class Operations:
    """The row-wise arithmetic: PyTorch's own operations, on any device, with gradients."""

    def rms_norm(self, rows: Tensor, norm: RMSNorm) -> Tensor:
        """Mean of squares in float32 (float64 stays), cast back before the weight, as the checkpoint was trained."""
        return F.rms_norm(rows, rows.shape[-1:], None, norm.eps) * norm.weight

    def add_rms_norm(self, rows: Tensor, update: Tensor, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """(rows + update, its norm): the residual stream and what the next half of a layer reads."""
        rows = rows + update
        return rows, self.rms_norm(rows, norm)

    def add_norm(self, rows: Tensor, update: Tensor | None, norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """The same where there may be no update yet: before the first layer."""
        return (rows, self.rms_norm(rows, norm)) if update is None else self.add_rms_norm(rows, update, norm)

    def gate(self, both: Tensor) -> Tensor:
        """both (T, 2 × hidden), w1's half then w3's → silu(first) × second (T, hidden)."""
        first, second = both.chunk(2, dim=-1)
        silu = F.silu(first)
        return silu * second if torch.is_grad_enabled() else silu.mul_(second)

    def rotate(self, heads: Tensor, rotation: Tensor) -> Tensor:
        """RoPE over interleaved pairs (2i, 2i + 1), in float32: heads (T, H, D), rotation (T, D/2, 2) = cos, sin.

        As complex numbers: a fifth of the time of the four real products on a CPU, with the same bits. Without
        gradients it works in place where no cast makes a copy.
        """
        wide = heads.to(rotation.dtype)
        pairs = torch.view_as_complex(wide.view(*heads.shape[:-1], -1, 2))  # (T, H, D/2)
        turn = torch.view_as_complex(rotation)[:, None]
        if not torch.is_grad_enabled():
            pairs.mul_(turn)
            return wide.to(heads.dtype)
        return torch.view_as_real(pairs * turn).flatten(-2).to(heads.dtype)


class Product(nn.Module):
    """A weight (outs, ins) that is kept in a form of its own; `model/quantize.py` and `cpu/products.py` have them."""

    nbytes: int  # of device memory

    def __init__(self, outs: int, ins: int) -> None:
        super().__init__()
        self.outs, self.ins = outs, ins

    def prepare(self, rows: Tensor) -> Any:
        """What is made of rows (T, ins) once, for all weights of one kind that they are multiplied with."""
        raise NotImplementedError

    def multiply(self, prepared: Any) -> Tensor:
        """(T, outs)."""
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        return self.multiply(self.prepare(rows))

    def gated(self, rows: Tensor, ops: Operations) -> Tensor:
        """Of w1 and w3 side by side: silu(w1 x) × (w3 x), (T, outs / 2)."""
        return ops.gate(self(rows))


class Attention(nn.Module):
    """The projections around attention; `fused_qkv` holds wq, wk and wv side by side once loading laid them so.

    Weights in another form (quantized, or laid out for a processor) are `product_q`, and `product_kv` for keys and
    values, instead of the three.
    """

    fused_qkv: Tensor | None = None

    def __init__(self, dim: int, n_heads: int, head_dim: int, n_kv_heads: int) -> None:
        super().__init__()
        self.product_q: Product | None = None
        self.product_kv: Product | None = None
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, head_dim
        self.wq = nn.Linear(dim, n_heads * head_dim, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * head_dim, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * head_dim, bias=False)
        self.wo: nn.Linear | Product = nn.Linear(n_heads * head_dim, dim, bias=False)

    def qkv(self, rows: Tensor, rotation: Tensor, ops: Operations) -> tuple[Tensor, Tensor, Tensor]:
        """(T, dim) → query (T, H, D) and key (T, H_kv, D), rotated, and value (T, H_kv, D)."""
        heads, kv_heads, head_dim = self.n_heads, self.n_kv_heads, self.head_dim
        of_query, of_key = _of_query(rotation), _of_key(rotation)
        if self.fused_qkv is not None:  # one product, and one rotation where queries turn as keys do
            both = F.linear(rows, self.fused_qkv).view(rows.shape[0], -1, head_dim)
            value = both[:, heads + kv_heads :]
            if of_query is not of_key:
                return ops.rotate(both[:, :heads], of_query), ops.rotate(both[:, heads:-kv_heads], of_key), value
            rotated = ops.rotate(both[:, : heads + kv_heads], rotation)
            return rotated[:, :heads], rotated[:, heads:], value
        if self.product_q is not None and self.product_kv is not None:
            same = self.product_q.prepare(rows)
            query = self.product_q.multiply(same).view(rows.shape[0], -1, head_dim)
            both = self.product_kv.multiply(same).view(rows.shape[0], -1, head_dim)
            return ops.rotate(query, of_query), ops.rotate(both[:, :kv_heads], of_key), both[:, kv_heads:]
        query, key, value = (linear(rows).view(rows.shape[0], -1, head_dim) for linear in (self.wq, self.wk, self.wv))
        return ops.rotate(query, of_query), ops.rotate(key, of_key), value

    def query(self, rows: Tensor, rotation: Tensor, ops: Operations) -> Tensor:
        """The queries alone: (R, dim) → (R, H, D)."""
        query: Tensor = self.wq(rows) if self.product_q is None else self.product_q(rows)
        return ops.rotate(query.view(rows.shape[0], -1, self.head_dim), _of_query(rotation))

    def key_value(self, rows: Tensor, rotation: Tensor, ops: Operations) -> tuple[Tensor, Tensor]:
        """Keys and values alone, of laid out weights: (T, dim) → (T, H_kv, D) each."""
        if self.product_kv is not None:
            both: Tensor = self.product_kv(rows)
        else:
            assert self.fused_qkv is not None
            both = F.linear(rows, self.fused_qkv[self.n_heads * self.head_dim :])
        both = both.view(rows.shape[0], -1, self.head_dim)
        return ops.rotate(both[:, : self.n_kv_heads], _of_key(rotation)), both[:, self.n_kv_heads :]


def _of_query(rotation: Tensor) -> Tensor:
    """Of (T, D/2, 2), that; of (T, 2, D/2, 2), in which queries have their own, theirs."""
    return rotation if rotation.ndim == 3 else rotation[:, 0].contiguous()


def _of_key(rotation: Tensor) -> Tensor:
    return rotation if rotation.ndim == 3 else rotation[:, 1].contiguous()


class FeedForward(nn.Module):
    """w2(silu(w1 x) × w3 x); `fused_w1_w3` holds w1 and w3 side by side once loading laid them so.

    In another form they are `product_w1_w3`.
    """

    fused_w1_w3: Tensor | None = None

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.product_w1_w3: Product | None = None
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2: nn.Linear | Product = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, rows: Tensor, ops: Operations) -> Tensor:
        """(T, dim) → (T, dim)."""
        if self.product_w1_w3 is not None:
            gated = self.product_w1_w3.gated(rows, ops)
        elif self.fused_w1_w3 is None:
            gated = ops.gate(torch.cat((self.w1(rows), self.w3(rows)), dim=-1))
        else:
            gated = ops.gate(F.linear(rows, self.fused_w1_w3))
        hidden: Tensor = self.w2(gated)
        return hidden


class Mixture(nn.Module):
    """Each row through its top experts, weighted by the softmax (float32) over those chosen.

    Every expert computes every row: the shapes then do not depend on which rows chose it, at num_experts /
    num_experts_per_tok times the arithmetic. Exact first; a grouped product would pay from a few hundred rows on.
    """

    def __init__(self, dim: int, hidden_dim: int, config: MixtureConfig) -> None:
        super().__init__()
        self.num_chosen = config.num_experts_per_tok
        self.experts = nn.ModuleList(FeedForward(dim, hidden_dim) for _ in range(config.num_experts))
        self.gate = nn.Linear(dim, config.num_experts, bias=False)

    def forward(self, rows: Tensor, ops: Operations) -> Tensor:
        """(T, dim) → (T, dim)."""
        chosen, experts = torch.topk(self.gate(rows), self.num_chosen)
        wide = torch.promote_types(rows.dtype, torch.float32)
        weights = torch.softmax(chosen, dim=1, dtype=wide).to(rows.dtype)
        result = torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            share = (weights * (experts == index)).sum(dim=1, keepdim=True)  # 0 where the row did not choose it
            result = result + share * expert(rows, ops)
        return result


class Layer(nn.Module):
    """One layer of either tower. Over two devices it holds half of its weights, and `reduce` sums (`model/half.py`)."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        norm_eps: float,
        moe: MixtureConfig | None = None,
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, n_heads, head_dim, n_kv_heads)
        self.attention_norm = RMSNorm(dim, norm_eps)
        self.ffn_norm = RMSNorm(dim, norm_eps)
        self.feed_forward = Mixture(dim, hidden_dim, moe) if moe else FeedForward(dim, hidden_dim)
        self.reduce: Reduce = whole

    def project(
        self, hidden: Tensor, update: Tensor | None, rotation: Tensor, ops: Operations
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What comes before attention: the residual stream (T, dim) with the update added, query, key and value."""
        hidden, normed = ops.add_norm(hidden, update, self.attention_norm)
        return hidden, *self.attention.qkv(normed, rotation, ops)

    def finish(self, hidden: Tensor, attended: Tensor, ops: Operations) -> tuple[Tensor, Tensor]:
        """What follows attention: the residual stream and its last update, not yet added, (T, dim) each."""
        hidden, normed = ops.add_rms_norm(hidden, self.reduce(self.attention.wo(attended)), self.ffn_norm)
        return hidden, self.reduce(self.feed_forward(normed, ops))
