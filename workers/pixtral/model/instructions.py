"""What this processor can multiply, by torch's own word."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def has_fast_products() -> bool:
    """Whether plain bfloat16 products beat torch's attention: not where it uses a matrix unit (AMX)."""
    has = cpu_capabilities()
    return bool(has.get("avx512_bf16")) and not has.get("amx_tile")


# Any of these instructions multiplies the type; x86 and ARM by torch's names for them.
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}


def computes(dtype: torch.dtype) -> bool:
    """Whether this CPU has arithmetic of the type; elsewhere oneDNN converts at every product.

    One thread, 512 × 512 × 512: float16 without arithmetic takes 193 ms, float32 2.6 ms, bfloat16 with it 1.2 ms.
    """
    has = cpu_capabilities()
    return dtype not in _INSTRUCTIONS or not has or any(has.get(name) for name in _INSTRUCTIONS[dtype])


def multiplies_whole_numbers() -> bool:
    """Whether it adds products of 8 bits in 32 bits at once: VNNI, AMX; any ARM that torch asks about."""
    has = cpu_capabilities()
    names = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "avx10_2")
    return has.get("architecture", "x86_64") != "x86_64" or any(has.get(name) for name in names)


def cpu_capabilities() -> Mapping[str, object]:
    """What torch itself asks the processor for; empty where it cannot say."""
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found
