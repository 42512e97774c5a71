"""Logits to tokens, on the device, by each request's own seed.

The random number of a token is a hash of (seed, position), not the next number of a stream. So it depends on neither
the batch, nor the device, nor on whether the token is computed a second time after preemption: the same request gives
the same draw (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", the idea of counters; the hash is
SplitMix64, Steele et al. 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from workers.pixtral.transfer import to_device

_MASK = 2**64 - 1
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


def choose(logits: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]) -> Tensor:
    """The next token of each row: greedy at temperature 0, else drawn from the smallest set of mass `top_p`.

    logits (R, V) in any dtype → (R,) int64. Drawing inverts the cumulative distribution over tokens sorted from likely
    to unlikely, at the row's own uniform number: rows do not see each other.
    """
    tokens = greedy(logits)
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if not drawn:
        return tokens
    rows = to_device(np.asarray(drawn), logits.device)
    numbers = [(temperatures[row], top_ps[row], uniforms[row]) for row in drawn]
    scale, mass, point = to_device(np.asarray(numbers, np.float64).T.copy(), logits.device)
    probabilities = torch.softmax(logits[rows].float() / scale[:, None].float(), dim=-1)
    likely, order = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = likely.double().cumsum(dim=-1)  # double: 131,072 float32 additions would bend the tail
    inside = (cumulative - likely) < mass[:, None]  # the first is always inside
    total = (likely.double() * inside).sum(dim=-1)
    place = torch.searchsorted(cumulative, (point * total)[:, None], right=True).squeeze(1)
    place = torch.minimum(place, inside.sum(dim=-1) - 1).clamp_min(0)  # below 0 where nothing is a number
    picked = order.gather(1, place[:, None]).squeeze(1)
    return tokens.index_copy(0, rows, torch.where(tokens[rows] == NOT_FINITE, NOT_FINITE, picked))
