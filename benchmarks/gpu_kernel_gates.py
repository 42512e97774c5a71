"""Whether kernels are right on a device, each by itself, against float64: what `bench_engine_gpu` asks first of all.

Each check raises AssertionError where an error is above KERNEL_ERROR.
"""

from __future__ import annotations

import torch

from workers.pixtral.cpu.attention import attend_one, attend_past
from workers.pixtral.cuda import attention
from workers.pixtral.model.kv_cache import Stored
from workers.pixtral.model.packed import attend_packed
from workers.pixtral.plan.batch import cumulative, slots_of

KERNEL_ERROR = 1e-2  # relative, the size of bfloat16's own rounding


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """‖ours − reference‖ / ‖reference‖; NaN fails every comparison."""
    return float((ours.double() - reference.double()).norm() / reference.double().norm())


def check_kernels(device: torch.device) -> dict[str, float]:
    """bf16 kernels against float64 on the host; each must lie under KERNEL_ERROR."""
    from workers.pixtral.cuda.fused import FusedOperations
    from workers.pixtral.cuda.kernels import PagedKernels
    from workers.pixtral.model.layers import Operations, RMSNorm

    fused, plain, errors = FusedOperations(), Operations(), {}
    torch.manual_seed(0)
    rows, update = (torch.randn(777, 5120, device=device, dtype=torch.bfloat16) for _ in range(2))
    norm = RMSNorm(5120, 1e-5).to(device, torch.bfloat16)
    reference = RMSNorm(5120, 1e-5).double()
    with torch.no_grad():
        expected = plain.rms_norm(rows.cpu().double() + update.cpu().double(), reference)
        errors["add_rms_norm"] = relative(fused.add_rms_norm(rows.clone(), update, norm)[1].cpu(), expected)
    both = torch.randn(777, 2 * 14336, device=device, dtype=torch.bfloat16)
    errors["gate"] = relative(fused.gate(both).cpu(), plain.gate(both.cpu().double()))
    qkv = torch.randn(777, 48, 128, device=device, dtype=torch.bfloat16)
    angles = torch.rand(777, 64, device=device) * 1000
    rotation = torch.stack((angles.cos(), angles.sin()), dim=-1)
    with torch.inference_mode():
        expected = plain.rotate(qkv[:, :32].cpu().double(), rotation.cpu().double())
        errors["rotate"] = relative(fused.rotate(qkv[:, :32], rotation).cpu(), expected)
    keys, values = (torch.randn(400 * 64, 8, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
    lengths = [1, 64, 65, 1023, 1024, 1025, 3500, 0]
    tables = torch.zeros(len(lengths), 136, dtype=torch.int32)
    blocks = iter(torch.randperm(400).tolist())
    for row, length in enumerate(lengths):
        for place in range(-(-length // 64)):
            tables[row, place] = next(blocks)
    query = torch.randn(len(lengths), 32, 128, device=device, dtype=torch.bfloat16)
    out = torch.full_like(query, torch.nan)
    kernels = PagedKernels(len(lengths), 32, 8, 128, 136 * 64, 64, device)
    kernels.decode(
        query, Stored(keys, values), tables.to(device), torch.tensor(lengths, dtype=torch.int32, device=device), out
    )
    worst = 0.0
    for row, length in enumerate(lengths):
        if length:
            places = torch.from_numpy(slots_of(tables[row].tolist(), 0, length, 64))
            expected = attend_one(*(x.double() for x in (query[row].cpu(), keys.cpu()[places], values.cpu()[places])))
            worst = max(worst, relative(out[row].cpu(), expected))
    errors["paged decode"] = worst
    assert not out[-1].any(), "a row of length 0 must be zeros"
    assert all(error < KERNEL_ERROR for error in errors.values()), errors
    return errors


def check_varlen(device: torch.device, heads: int = 32, kv_heads: int = 8) -> dict[str, float]:
    """FlashAttention over packs against float64: whole sequences, and chunks that see their past."""
    torch.manual_seed(0)
    chunks = [(100, 100), (1, 77), (64, 1000), (300, 2300), (128, 128)]  # queries, keys
    queries, keys = [q for q, _ in chunks], [k for _, k in chunks]
    query = torch.randn(sum(queries), heads, 128, device=device, dtype=torch.bfloat16)
    key, value = (torch.randn(sum(keys), kv_heads, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
    cu_q, cu_k = (torch.tensor(cumulative(lengths), dtype=torch.int32, device=device) for lengths in (queries, keys))
    out = attention.attend_varlen(query, key, value, cu_q, cu_k, max(queries), max(keys), causal=True)
    q, k, v = (x.cpu().double() for x in (query, key, value))
    spans = list(zip(cumulative(queries), cumulative(keys), chunks, strict=False))
    past = [attend_past(q[a : a + n], k[b : b + m], v[b : b + m]) for a, b, (n, m) in spans]
    errors = {"varlen with a past": relative(out.cpu(), torch.cat(past))}
    inside = attention.attend_varlen(value, key, value, cu_k, cu_k, max(keys), max(keys), causal=False)
    errors["varlen inside images"] = relative(inside.cpu(), attend_packed(v, k, v, keys, causal=False))
    assert all(error < KERNEL_ERROR for error in errors.values()), errors
    return errors
