"""Whether drafts change what is read on a device; `bench_engine_gpu` asks, and tests on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks import gpu_gates, gpu_kernel_gates
from pipeline.planning.step_room import FEWER_ROWS
from workers.pixtral.cpu.attention import attend_one
from workers.pixtral.model import kv_cache
from workers.pixtral.model.kv_cache import PagedCache
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.plan.batch import slots_of
from workers.pixtral.plan.scheduler import Limits


def check_runs(
    device: torch.device,
    heads: int = 32,
    kv_heads: int = 8,
    head_dim: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    pages: Sequence[tuple[int, int]] = ((1, 4), (62, 4), (1022, 4), (700, 1), (2047, 4)),
    *,
    narrow_cache: bool | None = None,
) -> None:
    """Rows that share the reading of their page's keys, to the bit as each alone: at edges of tiles and splits.

    Each alone is within KERNEL_ERROR of float64, so that not two wrong sums agree.
    `pages` are the keys that each one's first row sees, and how many rows it has. With `narrow_cache` None both kinds
    of cache are tried, where the GPU has the narrow one.
    """
    if narrow_cache is None:
        kinds = (False, True) if torch.cuda.get_device_capability(device) >= (8, 9) else (False,)
        for kind in kinds:
            check_runs(device, heads, kv_heads, head_dim, dtype, pages, narrow_cache=kind)
        return
    from workers.pixtral.cuda.kernels import PagedKernels

    torch.manual_seed(3)
    cache = PagedCache(1, 130, 64, kv_heads, head_dim, device, dtype, narrow=narrow_cache)
    rows = torch.randn(2, 130 * 64, kv_heads, head_dim, device=device).to(dtype)
    for half in range(2):
        if cache.scales is None:
            cache.stacked[0, half] = rows[half]
        else:
            cache.stacked[0, half], scales = kv_cache.narrow(rows[half])
            cache.scales[0, half] = scales[..., None]
    width = max(-(-(keys + count) // 64) for keys, count in pages)
    blocks = torch.randint(130, (len(pages), width), dtype=torch.int32)
    kernels = PagedKernels(40, heads, kv_heads, head_dim, width * 64, 64, device)
    lengths, of_rows, runs, of_runs = [], [], [], []
    for page, (keys, count) in enumerate(pages):
        runs += [(len(lengths) + first, min(kernels.run, count - first)) for first in range(0, count, kernels.run)]
        of_runs += [page] * (len(runs) - len(of_runs))
        lengths += range(keys, keys + count)
        of_rows += [page] * count
    lengths, of_rows, runs, of_runs = [*lengths, 0], [*of_rows, 0], [*runs, (0, 0)], [*of_runs, 0]  # and of nobody
    if kernels.run > 1:  # else a run is the row of its place. The last first: what one writes beyond its rows stays
        runs, of_runs = runs[::-1], of_runs[::-1]
    seen = torch.tensor(lengths, dtype=torch.int32, device=device)
    query = torch.randn(len(lengths), heads, head_dim, device=device).to(dtype)
    alone, together = (torch.full_like(query, torch.nan) for _ in range(2))
    kernels.decode(query, cache.layer(0), blocks[of_rows].to(device), seen, alone)
    kernels.partial.fill_(torch.nan)
    firsts = torch.tensor(runs, dtype=torch.int32).T.contiguous().to(device)
    kernels.decode(query, cache.layer(0), blocks[of_runs].to(device), seen, together, firsts)
    for row, keys in enumerate(lengths[:-1]):
        places = torch.from_numpy(slots_of(blocks[of_rows[row]].tolist(), 0, keys, 64)).to(device)
        key, value = (x.double().cpu() for x in cache.layer(0).rows(places, torch.float64))
        error = gpu_kernel_gates.relative(alone[row].cpu(), attend_one(query[row].double().cpu(), key, value))
        assert error < gpu_kernel_gates.KERNEL_ERROR, (row, keys, error)
    assert not alone[-1].any(), "a row of length 0 must be zeros"
    assert torch.equal(alone, together), f"{(alone != together).sum()} of {alone.numel()} numbers differ"


def check_drafts(model: Pixtral, max_tokens: int = 40) -> dict[str, float]:
    """Drafts that are right, that have every fifth token wrong, and that are another page's: the same answers.

    A page alone is computed in rows that there are anyway, so its tokens must be the same: with 128 sequences, for
    whose step 31 drafted rows take no larger graph. With all pages at once products may have more rows, and in bfloat16
    near-equal tokens may swap: there the logits are held.
    """
    requests = [gpu_gates.page_request(i, *grid, max_tokens=max_tokens) for i, grid in enumerate(gpu_gates.GRIDS)]
    limits, exact = Limits(FEWER_ROWS, 512, 2048, 4096), gpu_gates.exact_model(model)
    plain, _ = gpu_gates.read(model, exact, requests, limits, 400, {})
    drafted = []
    for number, request in enumerate(requests):
        own, other = plain[number], plain[number - 1]
        wrong = tuple(5 if place % 5 == 4 else token for place, token in enumerate(own))
        drafted.append(replace(request, draft=(own, wrong, other)[number % 3]))
    for number, request in enumerate(drafted[:3]):
        alone, _ = gpu_gates.read(model, exact, [replace(request, draft=())], limits, 400, {})
        tokens, _ = gpu_gates.read(model, exact, [request], limits, 400, {"drafts": True})
        assert tokens == alone, f"draft {number} changed a page that is read alone"
    found = {}
    texts, found["drafted, logits"] = gpu_gates.read(model, exact, drafted, limits, 400, {"drafts": True})
    found["drafted, same text"] = float(np.mean([a == b for a, b in zip(texts, plain, strict=True)]))
    assert found["drafted, logits"] < gpu_gates.allowed_error(model), found
    return found
