"""Results of torch's operators on tensors without memory, of which torch works out each one's shape in Python."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


@cache
def _only_makes_or_changes(func: Any) -> bool:
    """One tensor of its own, no part of another; or its first argument, in place."""
    schema = func._schema
    if len(schema.returns) != 1 or str(schema.returns[0].type) != "Tensor":
        return False
    if schema.is_mutable:
        is_in_place = schema.name.endswith("_") and schema.name != "aten::resize_"
        return is_in_place and not any(value.is_out for value in schema.arguments)
    return not any(value.alias_info for value in (*schema.returns, *schema.arguments))


_MADE: dict[Any, tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = {}


def _alike(func: Any, args: Any, kwargs: Any) -> Any:
    """The same for calls whose results have the same shape; None where a result is told otherwise."""
    if kwargs or not _only_makes_or_changes(func):
        return None
    told: list[Any] = []
    for arg in args:
        if isinstance(arg, torch.Tensor) and arg.device == META:
            told.append((arg.shape, arg.stride(), arg.dtype))
        elif any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(arg)):
            return None
        else:
            told.append(str(arg))
    return func, *told


def made_sooner(func: Any, args: Any, kwargs: Any) -> Any:
    """What the operator returns; where torch has worked it out for the same shapes and types, without asking it."""
    alike = _alike(func, args, kwargs)
    if made := _MADE.get(alike):
        return args[0] if func._schema.is_mutable else torch.empty_strided(made[0], made[1], dtype=made[2], device=META)
    out = func(*args, **(kwargs or {}))
    if alike and type(out) is torch.Tensor and out.device == META:
        _MADE[alike] = out.shape, out.stride(), out.dtype
    return out
