"""The CUDA executor's layout, metadata and Triton kernels, run by Triton's interpreter on a CPU.

FlashAttention is stood in for by SDPA, and there is no graph; what is held here is that the numbers handed to the
kernels, and the kernels' arithmetic, give the tokens that the CPU path gives. Runs in a process of its own, since
Triton reads TRITON_INTERPRET when it is imported; forked from one that has torch, but not Triton (`warm_start.py`).
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.running import HANGS_AFTER_SECONDS, environment, start_into

needs_triton = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Triton's interpreter is tested on Linux only"
)


@needs_triton
def test_interpreted_kernels_agree_with_the_cpu_path(tmp_path):
    said = tmp_path / "said"
    run = start_into(
        said, said, ["--model", tmp_path], environment("InstantEngine"), "tests.engine.test_pixtral_cuda_logic"
    )
    try:
        assert run.wait(HANGS_AFTER_SECONDS) == 0, said.read_text()[-6000:]
    finally:
        run.kill()


def test_varlen_keywords_follow_the_installed_signature():
    from workers.pixtral.cuda.attention import varlen_options

    new = varlen_options(frozenset({"window_size", "enable_gqa", "num_splits"}), causal=True, grouped=True)
    assert new == {"window_size": (-1, 0), "enable_gqa": True, "num_splits": 1}
    middle = varlen_options(frozenset({"window_size", "enable_gqa"}), causal=False, grouped=False)
    assert middle == {"window_size": (-1, -1)}
    assert varlen_options(frozenset({"is_causal"}), causal=True, grouped=True) == {"is_causal": True}


def check_engine(folder: Path) -> None:
    from dataclasses import replace

    import torch
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
    from mistral_common.protocol.instruct.messages import UserMessage
    from PIL import Image

    from benchmarks.checkpoint import make_checkpoint
    from tests.engine import test_pixtral_isolation as isolation
    from tests.engine import test_pixtral_tiles as tiles
    from workers.pixtral.cpu.attention import attend_packed, attend_past
    from workers.pixtral.cuda import attention, graph
    from workers.pixtral.cuda.graph import CudaBackend
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
    isolation.QUESTIONS = ["x", "y"]  # each row of a prompt is a program of the interpreter's
    attention.attend_varlen = attend_varlen
    model = load_model(make_checkpoint(folder / "tiny", "tiny", seed=isolation.SEED))
    processor = Processor(folder / "tiny", model.config)
    work = [(4, 0), (1, 1), (4, 1)]
    settings = {"max_sequences": 3, "sampling": Sampling(max_tokens=4), "max_context": 80}
    expected, _, _ = isolation.read(model, processor, work, **settings)
    more = {"chunk": 4, "budget": 8, "blocks": 4}  # in pieces, and preempted
    results, executor, scheduler = isolation.read(model, processor, work, make_backend=interpreted, **settings, **more)
    assert [r.tokens for r in results] == [r.tokens for r in expected] and scheduler.preemptions
    assert [executor.backend.decode_rows(count) for count in (0, 1, 2, 3)] == [2, 2, 2, 3]
    for ours, theirs in zip(results, expected, strict=True):  # float32, through other kernels
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
    assert all(tables.recorded for tables in executor.backend.tables)

    check_drafts(model, processor)


def check_drafts(model, processor) -> None:
    """Pages with a right draft, a wrong one, half of each and none, planned as on a GPU: before tokens are read."""
    from dataclasses import replace

    from benchmarks.bench_narrow_cache import rounded_cache
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

    def read(requests, blocks, chunk, budget, narrow_cache=False):
        limits = Limits(3, chunk, budget, 80)
        backend = CudaBackend(model, limits, blocks, 8, use_graph=False, narrow_cache=narrow_cache, drafts=True)
        assert backend.buckets[-1] > 3 and backend.run_rows == 8  # two query heads a group
        scheduler = Scheduler(replace(limits, drafts=backend.drafts), BlockPool(blocks, 8), 0)
        executor = Watched(backend, limits)
        engine = PackedEngine(executor, scheduler, processor.decode, processor.eos_id, lookahead=True)
        Watched.rows = 0
        with engine._wake:  # so that all wait before the first step
            futures = [engine.submit(request) for request in requests]
        generations = [future.result(300) for future in futures]
        engine.close()
        scheduler.pool.check([])
        return generations, scheduler.preemptions

    def half(tokens):
        return *tokens[:3], 7, 7, *tokens[5:]

    sampling, work = Sampling(max_tokens=7), [(4, 0), (1, 0), (4, 1)]
    asked = [
        processor.encode_page(f"p{page}", isolation.page(page), isolation.QUESTIONS[question], sampling)
        for page, question in work
    ]
    settings = {"max_sequences": 3, "max_context": 80, "sampling": sampling}
    for narrow_cache, blocks, chunk, budget in ((False, 4, 20, 40), (True, 40, 7, 14)):
        with rounded_cache(on=narrow_cache):  # the CPU path, with what it stores rounded as e4m3 is
            expected, _, _ = isolation.read(model, processor, work, chunk=chunk, budget=budget, **settings)
        right, _, other = (one.tokens for one in expected)
        drafts = (half(right), (7,) * 7, ()) if narrow_cache else (right, (7,) * 7, half(other))
        drafted = [replace(one, draft=draft) for one, draft in zip(asked, drafts, strict=True)]
        results, preemptions = read(drafted, blocks, chunk, budget, narrow_cache)
        assert [one.tokens for one in results] == [one.tokens for one in expected]
        assert Watched.rows > 3 and bool(preemptions) == (blocks == 4), (Watched.rows, preemptions)
        assert results[0].accepted > (0 if narrow_cache else 3), results
        assert results[1].drafted > results[1].accepted == 0, results
        for ours, theirs in zip(results, expected, strict=True):
            assert abs(ours.confidence.mean - theirs.confidence.mean) < 1e-4


if __name__ == "__main__":
    assert "triton" not in sys.modules
    os.environ["TRITON_INTERPRET"] = "1"
    from tests.engine import interpreted_kernels

    interpreted_kernels.check_all()
    check_engine(Path(sys.argv[-1]))
