"""The CUDA executor's layout, metadata and Triton kernels, run by Triton's interpreter on a CPU.

FlashAttention is stood in for by SDPA, and there is no graph; what is held here is that the numbers handed to the
kernels, and the kernels' arithmetic, give the tokens that the CPU path gives. Runs in a process of its own, since
Triton reads TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Triton's interpreter is tested on Linux only"
)


@needs_triton
def test_interpreted_kernels_agree_with_the_cpu_path(tmp_path):
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    run = subprocess.run(
        [sys.executable, str(Path(__file__)), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]


def test_varlen_keywords_follow_the_installed_signature():
    from workers.pixtral.cuda.attention import varlen_options

    new = varlen_options(frozenset({"window_size", "enable_gqa", "num_splits"}), causal=True, grouped=True)
    assert new == {"window_size": (-1, 0), "enable_gqa": True, "num_splits": 1}
    middle = varlen_options(frozenset({"window_size", "enable_gqa"}), causal=False, grouped=False)
    assert middle == {"window_size": (-1, -1)}
    assert varlen_options(frozenset({"is_causal"}), causal=True, grouped=True) == {"is_causal": True}


def check_kernels() -> None:
    import torch

    from workers.pixtral.cpu.attention import attend_one
    from workers.pixtral.cuda import fused as fused_kernels
    from workers.pixtral.cuda import kernels
    from workers.pixtral.model import kv_cache
    from workers.pixtral.model.layers import Attention, Operations, RMSNorm
    from workers.pixtral.plan import batch

    torch.manual_seed(0)
    fused, plain = fused_kernels.FusedOperations(), Operations()
    norm = RMSNorm(80, 1e-5)
    norm.weight.data.normal_()
    rows, update = torch.randn(5, 80), torch.randn(5, 80)
    with torch.no_grad():
        torch.testing.assert_close(fused.rms_norm(rows, norm), plain.rms_norm(rows, norm))
        expected = plain.add_rms_norm(rows, update, norm)
        torch.testing.assert_close(fused.add_rms_norm(rows.clone(), update, norm), expected)
    both = torch.randn(3, 60)
    torch.testing.assert_close(fused.gate(both), plain.gate(both))
    heads, rotation = torch.randn(6, 8, 16)[:, :3], torch.randn(6, 8, 2)
    expected = plain.rotate(heads, rotation)
    torch.testing.assert_close(fused.rotate(heads, rotation), expected)
    attention = Attention(64, 4, 16, 2)
    attention.fused_qkv = torch.randn(8 * 16, 64)
    rows, own = torch.randn(6, 64), torch.randn(6, 2, 8, 2)  # queries have a rotation of their own, as in Ministral 3
    with torch.no_grad():
        torch.testing.assert_close(attention.qkv(rows, own, fused), attention.qkv(rows, own, plain))

    keys, values = torch.randn(60 * 64, 2, 16), torch.randn(60 * 64, 2, 16)
    blocks = torch.randperm(60)
    lengths = [1, 1500, 0, 1024]  # one key, across splits, a padding row, exactly one split
    tables = torch.zeros(4, 40, dtype=torch.int32)
    tables[0, :1], tables[1, :24], tables[3, :16] = blocks[:1], blocks[1:25], blocks[25:41]
    query, out = torch.randn(4, 8, 16), torch.full((4, 8, 16), torch.nan)
    paged = kernels.PagedKernels(4, 8, 2, 16, 2500, 64, torch.device("cpu"))
    paged.decode(query, kv_cache.Stored(keys, values), tables, torch.tensor(lengths, dtype=torch.int32), out)
    for row, length in enumerate(lengths):
        places = torch.from_numpy(batch.slots_of(tables[row].tolist(), 0, length, 64))
        expected = attend_one(query[row], keys[places], values[places]) if length else torch.zeros(8, 16)
        torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)

    # More splits than are joined at once; tables of another width give the same bits.
    keys, values = torch.randn(18 * 1024, 1, 16), torch.randn(18 * 1024, 1, 16)
    tables = torch.randperm(18 * 16).to(torch.int32)[None]
    for length in (17 * 1024 + 5, 1500):
        wide, narrow = (torch.full((1, 4, 16), torch.nan) for _ in range(2))
        for most, out in ((40_000, wide), (17 * 1024 + 64, narrow)):
            paged = kernels.PagedKernels(1, 4, 1, 16, most, 64, torch.device("cpu"))
            paged.decode(
                query[:1, :4], kv_cache.Stored(keys, values), tables, torch.tensor([length], dtype=torch.int32), out
            )
        assert torch.equal(wide, narrow)
        places = torch.from_numpy(batch.slots_of(tables[0].tolist(), 0, length, 64))
        expected = attend_one(query[0, :4], keys[places], values[places])
        torch.testing.assert_close(wide[0], expected, atol=1e-5, rtol=1e-5)

    # Tiles of two blocks: the same sum in another order.
    lengths, tables = [700, 1500, 0, 65], torch.stack([torch.randperm(60)[:40] for _ in range(4)]).to(torch.int32)
    cache = kv_cache.PagedCache(2, 60, 64, 2, 16, torch.device("cpu"), torch.float32, copy=kernels.copy_blocks)
    cache.stacked.normal_()
    for tile in (64, 128):
        out = torch.full((4, 8, 16), torch.nan)
        paged = kernels.PagedKernels(4, 8, 2, 16, 2500, 64, torch.device("cpu"))
        paged.tile = tile
        paged.decode(query, cache.layer(1), tables, torch.tensor(lengths, dtype=torch.int32), out)
        for row, length in enumerate(lengths):
            places = torch.from_numpy(batch.slots_of(tables[row].tolist(), 0, length, 64))
            parts = (x.double() for x in (query[row], cache.keys[1][places], cache.values[1][places]))
            expected = attend_one(*parts).float() if length else torch.zeros(8, 16)
            torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)

    # Narrow: e4m3 with a scale for each token's head, against float64 of what is stored.
    tight = kv_cache.PagedCache(1, 60, 64, 2, 16, torch.device("cpu"), torch.float32, narrow=True)
    rows = torch.randn(60 * 64, 4, 16) * torch.rand(60 * 64, 4, 1).exp2().pow(8)
    paged = kernels.PagedKernels(4, 8, 2, 16, 2500, 64, torch.device("cpu"))
    paged.store(rows[:9, :2], rows[:9, 2:], tight.layer(0), torch.tensor([5, 6, -1, 900, 9, 63, 64, 65, 66]))
    for place, theirs, scales in ((slice(0, 2), *tight.layer(0)[::2]), (slice(2, 4), *tight.layer(0)[1::2])):
        eight, scale = kv_cache.narrow(rows[:9, place])
        assert torch.equal(scales[5], scale[0]) and torch.equal(scales[66], scale[8])
        stored = theirs[[5, 6, 900, 9, 63, 64, 65, 66]].float()
        expected = eight[[0, 1, 3, 4, 5, 6, 7, 8]].float()
        whole = expected.abs().log2() % 1 == 0  # Triton's interpreter loses the carry of what rounds up to a power of 2
        assert torch.equal(stored[~whole], expected[~whole]) and (~whole).sum() > 100
    for half in range(2):
        tight.stacked[0, half], tight.scales[0, half] = (
            x.reshape(y.shape)
            for x, y in zip(
                kv_cache.narrow(rows[:, 2 * half : 2 * half + 2]),
                (tight.stacked[0, half], tight.scales[0, half]),
                strict=True,
            )
        )
    stored = tight.layer(0)
    out = torch.full((4, 8, 16), torch.nan)
    paged.decode(query, stored, tables, torch.tensor(lengths, dtype=torch.int32), out)
    for row, length in enumerate(lengths):
        places = torch.from_numpy(batch.slots_of(tables[row].tolist(), 0, length, 64))
        key, value = stored.rows(places, torch.float64)
        expected = attend_one(query[row].double(), key, value).float() if length else torch.zeros(8, 16)
        torch.testing.assert_close(out[row], expected, atol=1e-4, rtol=1e-4)

    expected = cache.stacked.clone()
    for source, target in ((3, 50), (0, 7)):
        expected[:, :, target * 64 : (target + 1) * 64] = expected[:, :, source * 64 : (source + 1) * 64]
    cache.copy_blocks([(3, 50), (0, 7)])
    assert torch.equal(cache.stacked, expected)

    both = torch.randn(3, 8, 16)
    store_keys, store_values = torch.zeros(10, 2, 16), torch.zeros(10, 2, 16)
    paged.store(both[:, 4:6], both[:, 6:], kv_cache.Stored(store_keys, store_values), torch.tensor([3, -1, 9]))
    assert torch.equal(store_keys[3], both[0, 4:6]) and torch.equal(store_values[9], both[2, 6:])
    assert (store_keys != 0).any(-1).any(-1).sum() == 2, "a padding row wrote"


def check_rows_of_drafts() -> None:
    import numpy as np
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    from benchmarks.gpu_draft_gates import check_runs

    dot = interpreter.InterpreterBuilder.create_dot

    def wide_dot(self, a, b, *more):
        """Triton's interpreter multiplies bfloat16 as the whole numbers that it keeps them in."""

        def wide(x):
            if x.dtype.scalar != tl.bfloat16:
                return x
            numbers = interpreter._convert_float(x.data, tl.bfloat16, tl.float32, None).view(np.float32)
            return interpreter.TensorHandle(numbers, tl.float32)

        return dot(self, wide(a), wide(b), *more)

    interpreter.InterpreterBuilder.create_dot = wide_dot
    cpu = torch.device("cpu")
    check_runs(cpu, 4, 1, 16, narrow_cache=False)
    check_runs(cpu, 4, 1, 16, narrow_cache=True)
    for heads, kv_heads, dtype in ((6, 2, torch.float32), (2, 2, torch.float16), (16, 1, torch.bfloat16)):
        check_runs(cpu, heads, kv_heads, 16, dtype, ((62, 5), (1023, 2)), narrow_cache=False)
    interpreter.InterpreterBuilder.create_dot = dot


def check_engine(folder: Path) -> None:
    from dataclasses import replace

    import torch
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
    from mistral_common.protocol.instruct.messages import UserMessage
    from PIL import Image

    from benchmarks.bench_narrow_cache import rounded_cache
    from benchmarks.checkpoint import make_checkpoint
    from tests.engine import test_pixtral_isolation as isolation
    from tests.engine import test_pixtral_tiles as tiles
    from workers.pixtral.cpu.attention import attend_packed, attend_past
    from workers.pixtral.cuda import attention, graph, kernels
    from workers.pixtral.cuda.graph import CudaBackend
    from workers.pixtral.model import kv_cache
    from workers.pixtral.model.load import load_model
    from workers.pixtral.plan.sequence import Sampling
    from workers.pixtral.text.processor import Processor

    def attend_varlen(query, key, value, cu_q, cu_k, _max_q, _max_k, *, causal):
        q, k = cu_q.tolist(), cu_k.tolist()
        if not causal:
            assert q == k
            return attend_packed(query, key, value, [last - first for first, last in pairwise(q)], causal=False)
        spans = [(slice(q[i], q[i + 1]), slice(k[i], k[i + 1])) for i in range(len(q) - 1)]
        return torch.cat([attend_past(query[rows], key[keys], value[keys]) for rows, keys in spans])

    def interpreted(model, limits, blocks, block_size, _tile):
        return CudaBackend(model, limits, blocks, block_size, use_graph=False)

    graph.FEWER_ROWS = 2  # steps of up to two pages have a shape of their own
    attention.attend_varlen = attend_varlen
    model = load_model(make_checkpoint(folder / "tiny", "tiny", seed=isolation.SEED))
    processor = Processor(folder / "tiny", model.config)
    work = [(4, 0), (1, 1), (4, 1)]
    settings = {"max_sequences": 3, "sampling": Sampling(max_tokens=4), "max_context": 80}
    expected, _, _ = isolation.read(model, processor, work, **settings)
    more = {"chunk": 20, "budget": 40, "blocks": 10}  # in pieces, and preempted
    results, executor, scheduler = isolation.read(model, processor, work, make_backend=interpreted, **settings, **more)
    assert [r.tokens for r in results] == [r.tokens for r in expected] and scheduler.preemptions
    assert [executor.backend.decode_rows(count) for count in (0, 1, 2, 3)] == [2, 2, 2, 3]
    for ours, theirs in zip(results, expected, strict=True):  # float32, through other kernels
        assert abs(ours.confidence.mean - theirs.confidence.mean) < 1e-4

    # A cache in e4m3, against the CPU path with what it stores rounded so. The interpreter's own rounding is wrong
    # where it carries (see above), so rows are stored by torch; all that reads them is the GPU's.
    def store(self, key, value, stored, slots):
        written = slots >= 0
        for rows, eight, scales in zip((key, value), stored[:2], stored[2:], strict=True):
            eight[slots[written]], scales[slots[written]] = kv_cache.narrow(rows[written])

    def narrow(model, limits, blocks, block_size, _tile):
        return CudaBackend(model, limits, blocks, block_size, use_graph=False, narrow_cache=True)

    with rounded_cache(on=True):
        expected, _, _ = isolation.read(model, processor, work[:2], chunk=7, budget=14, **settings)
    stored_by_kernel, kernels.PagedKernels.store = kernels.PagedKernels.store, store
    results, _, _ = isolation.read(model, processor, work[:2], make_backend=narrow, chunk=7, budget=14, **settings)
    kernels.PagedKernels.store = stored_by_kernel
    assert [r.tokens for r in results] == [r.tokens for r in expected]
    for ours, theirs in zip(results, expected, strict=True):
        assert abs(ours.confidence.mean - theirs.confidence.mean) < 1e-4

    # A page of several images needs wider block tables than the one beside it, which goes on in its own afterwards.
    chunks = [ImageChunk(image=Image.fromarray(isolation.page(number))) for number in (4, 1, 2)]
    several = processor.encode([UserMessage(content=[*chunks, TextChunk(text="x")])], Sampling(max_tokens=2))
    asked = [
        processor.encode_page("s", isolation.page(1), "x", Sampling(max_tokens=4)),
        replace(several, tile_tokens=len(several.tokens) - 24),
    ]
    narrow = {"max_context": 32, "max_sequences": 2}
    expected, _, _ = tiles.read(model, asked, **narrow)
    results, executor, _ = tiles.read(model, asked, **narrow, tile_tokens=64, make_backend=interpreted)
    assert [r.tokens for r in results] == [r.tokens for r in expected]
    assert [tables.blocks for tables in executor.backend.tables] == [4, 12] and len(several.tokens) > 32

    check_drafts(model, processor)


def check_drafts(model, processor) -> None:
    """Pages with a right draft, a wrong one and half of each, planned as on a GPU: before the last tokens are read."""
    from dataclasses import replace

    from tests.engine import test_pixtral_isolation as isolation
    from workers.pixtral.cuda.graph import CudaBackend
    from workers.pixtral.engine import PackedEngine
    from workers.pixtral.executor import Executor
    from workers.pixtral.plan.cache_blocks import BlockPool
    from workers.pixtral.plan.scheduler import Limits, Scheduler
    from workers.pixtral.plan.sequence import Sampling

    class Watched(Executor):
        rows = 0

        def launch(self, step):
            launched = super().launch(step)
            Watched.rows = max(Watched.rows, 0 if step.chunks else launched.computed_rows)
            return launched

    def read(requests, blocks, narrow_cache=False):
        limits = Limits(3, 20, 40, 80)
        backend = CudaBackend(model, limits, blocks, 8, use_graph=False, narrow_cache=narrow_cache, drafts=True)
        assert backend.buckets[-1] > 3 and backend.run_rows == 8  # two query heads a group
        scheduler = Scheduler(replace(limits, drafts=backend.drafts), BlockPool(blocks, 8), 0)
        executor = Watched(backend, limits)
        engine = PackedEngine(executor, scheduler, processor.decode, processor.eos_id, lookahead=True)
        with engine._wake:  # so that all wait before the first step
            futures = [engine.submit(request) for request in requests]
        generations = [future.result(300) for future in futures]
        engine.close()
        scheduler.pool.check([])
        return generations, scheduler.preemptions

    sampling = Sampling(max_tokens=8)
    plain = [
        processor.encode_page(f"p{i}", isolation.page(i), text, sampling) for i, text in ((4, "x"), (1, "x"), (4, "y"))
    ]
    for blocks, narrow_cache in ((4, False), (40, True)):
        expected, _ = read(plain, blocks, narrow_cache)
        answers = [one.tokens for one in expected]
        drafts = answers[0], (7,) * 8, (*answers[2][:3], 7, 7, *answers[2][4:])
        Watched.rows = 0
        drafted = [replace(one, draft=draft) for one, draft in zip(plain, drafts, strict=True)]
        results, preemptions = read(drafted, blocks, narrow_cache)
        assert [one.tokens for one in results] == answers
        assert Watched.rows > 3 and bool(preemptions) == (blocks == 4), (Watched.rows, preemptions)
        assert results[0].accepted > 4 and results[1].drafted > results[1].accepted == 0, results
        for ours, theirs in zip(results, expected, strict=True):
            assert abs(ours.confidence.mean - theirs.confidence.mean) < 1e-4


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    check_kernels()
    check_rows_of_drafts()
    check_engine(Path(sys.argv[1]))
