"""Logits to tokens, on the device, by each request's own seed.

The random number of a token is a hash of (seed, position), not the next number of a stream. So it depends on neither
the batch, nor the device, nor on whether the token is computed a second time after preemption: the same request gives
the same draw (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", the idea of counters; the hash is
SplitMix64, Steele et al. 2014).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.planning.step_room import LOOKED_AT, SORTED, TOP
from workers.pixtral.model.transfer import to_device

_MASK = 2**64 - 1
LOGITS_AT_ONCE = 2**19  # on a CPU: 2 MB in float32; with fresh pages of memory 16 rows of 131,072 took 30 ms
NOT_FINITE = -1  # the token of a row whose logits hold NaN or infinity


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` of the request with `seed`; 53 bits of SplitMix64."""
    state = (_mix(seed & _MASK) + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    return float((_mix(state) >> 11) * 2.0**-53)


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def greedy(logits: Tensor) -> Tensor:
    """logits (R, V) → the first largest of each row (R,), or NOT_FINITE."""
    best = logits.max(dim=-1)
    return torch.where(torch.isfinite(best.values), best.indices, NOT_FINITE)


def constrain(logits: Tensor, rows: Sequence[int], masks: NDArray[np.int32]) -> None:
    """Take from these rows of logits (R, V) all tokens that may not follow, in place; other rows are not touched.

    `masks` (len(rows), ⌈V / 32⌉) holds a bit for each token, the lowest first. Each byte of them is looked up as eight
    numbers to add, 0 or -∞: on a CPU a fifth of the time of a fill, token by token.
    """
    some = to_device(np.asarray(rows), logits.device)
    octets = to_device(masks.view(np.uint8).astype(np.int32), logits.device)
    for group in _groups(len(rows), LOOKED_AT):
        less = F.embedding(octets[group], _addends(logits.device, logits.dtype)).flatten(1)  # (rows, 32 ⌈V / 32⌉)
        logits.index_add_(0, some[group], less[:, : logits.shape[1]])


@functools.cache
def _addends(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(256, 8): for each byte, what its bits add to the logits of eight tokens."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return torch.zeros(256, 8, dtype=dtype, device=device).masked_fill_(bits == 0, -torch.inf)


def choose(logits: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]) -> Tensor:
    """The next token of each row: greedy at temperature 0, else drawn from the smallest set of mass `top_p`.

    logits (R, V) in any dtype → (R,) int64. Drawing inverts the cumulative distribution over tokens sorted from likely
    to unlikely, at the row's own uniform number: rows do not see each other. Of a trained model's distribution the
    first `TOP` tokens are nearly all, so the whole vocabulary is sorted only for rows that they do not settle; on a GPU
    the host waits to hear whether there are any.
    """
    tokens = greedy(logits)
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if not drawn:
        return tokens
    rows = to_device(np.asarray(drawn), logits.device)
    numbers = [(temperatures[row], top_ps[row], uniforms[row]) for row in drawn]
    wanted = to_device(np.asarray(numbers, np.float64), logits.device)
    picked = torch.empty_like(rows)
    settled = torch.empty(len(drawn), dtype=torch.bool, device=logits.device)
    for group in _groups(len(drawn), LOOKED_AT):
        part = logits.index_select(0, rows[group])
        picked[group], settled[group] = _draw(part, wanted[group], min(TOP, logits.shape[1]))
    finite = tokens[rows] != NOT_FINITE
    left = torch.nonzero(finite & ~settled).squeeze(1)
    for group in _groups(len(left), SORTED):
        some = left[group]
        picked[some] = _draw(logits.index_select(0, rows[some]), wanted[some], logits.shape[1])[0]
    return tokens.index_copy(0, rows, torch.where(finite, picked, NOT_FINITE))


def log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """How likely the model held each row's token to be, at temperature 1: logits (R, V), tokens (R,) → float32 (R,).

    In float32 and a few rows at a time: of the whole batch there is never a second copy. NaN beside a token that is
    NOT_FINITE. 8 rows of 131,072 on one thread: 0.7 ms; as the logit less a logsumexp, which is many passes, 1.2.
    """
    at_once = max(1, LOGITS_AT_ONCE // logits.shape[1]) if logits.device.type == "cpu" else LOOKED_AT
    places = tokens.clamp_min(0)[:, None]
    parts = [
        F.log_softmax(logits[group].float(), -1).gather(1, places[group]) for group in _groups(len(logits), at_once)
    ]
    return torch.cat(parts).squeeze(1)


def _draw(logits: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Tokens of rows (R, V) drawn among the `count` likeliest, and whether they are what the whole row would give.

    `wanted` (R, 3) is temperature, mass and uniform number. Of equals the lower token comes first. Tokens as likely as
    the last of the count are left out, unless it is the whole row: their equals may lie beyond.
    """
    scale, mass, point = (column[:, None] for column in wanted.unbind(1))
    whole = count == logits.shape[1]
    if whole:
        values, order = logits.sort(dim=-1, descending=True, stable=True)
    else:
        values, order = logits.topk(count, dim=-1)
        order, by_token = order.sort(dim=-1)
        values, by_value = values.gather(1, by_token).sort(dim=-1, descending=True, stable=True)
        order = order.gather(1, by_value)
    norm = (logits.float() / scale.float()).logsumexp(dim=-1, keepdim=True)
    likely = torch.exp(values.double() / scale - norm)  # double: 131,072 float32 additions would bend the tail
    if not whole:
        likely = likely * (values > values[:, -1:])
    cumulative = likely.cumsum(dim=-1)
    inside = ((cumulative - likely) < mass) & (likely > 0)  # the first is always inside; what may not follow never is
    last = (inside.sum(dim=-1, keepdim=True) - 1).clamp_min(0)  # below 0 where nothing is a number
    total = torch.where(mass < 1, cumulative.gather(1, last), 1.0)
    target = point * total
    place = torch.searchsorted(cumulative, target, right=True)
    settled = (target < cumulative[:, -1:]) & ((mass >= 1) | (cumulative[:, -1:] >= mass))
    return order.gather(1, torch.minimum(place, last)).squeeze(1), settled.squeeze(1)


def _groups(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]
