"""Which arithmetic a machine gets, in a line for people."""

from __future__ import annotations

import torch

from workers.pixtral.cpu.attention import suits_strips
from workers.pixtral.cuda.attention import has_varlen, uses_flash
from workers.pixtral.model.instructions import computes


def describe_path(device: torch.device, dtype: torch.dtype) -> str:
    """One line for people: which path this machine gets, and why.

    | device and dtype        | packed (vision, prefill)                  | decode over paged blocks            |
    |-------------------------|-------------------------------------------|-------------------------------------|
    | CUDA, bfloat16, float16 | torch's varlen FlashAttention             | Triton, grouped-query, fixed splits |
    | CUDA float32; CPU       | scaled_dot_product_attention per sequence | the same, one grouped query a row   |
    | CPU with bf16, no AMX   | long sequences: plain products            | the same                            |
    """
    name = str(dtype).removeprefix("torch.")
    if uses_flash(device, dtype):
        return f"varlen FlashAttention of torch {torch.__version__} and Triton paged decode ({device}, {name})"
    if suits_strips(device, dtype):
        return f"plain products for long sequences, scaled_dot_product_attention for short ones ({device.type}, {name})"
    if device.type == "cpu" and not computes(torch.bfloat16) and dtype == torch.float32:
        return f"scaled_dot_product_attention per sequence (cpu, {name}): this CPU has no arithmetic of bfloat16"
    if device.type != "cuda":
        return f"scaled_dot_product_attention per sequence ({device.type}, {name}): FlashAttention needs CUDA"
    reason = f"FlashAttention has no {name}" if has_varlen() else "this torch has no varlen_attn"
    return f"scaled_dot_product_attention per sequence ({device}, {name}): {reason}"
