"""A page's text depends on that page alone: the first invariant, held token for token and, on a CPU, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.checkpoint import PRESETS, make_checkpoint, random_tensors
from tests import pixtral_reference as reference
from tests.conftest import examples
from workers.pixtral.cpu import attention
from workers.pixtral.cpu.attention import attend_in_strips, attend_packed, attend_past
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.cpu.threads import lanes_of
from workers.pixtral.cpu.tiles import TiledRunner, Tiles
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor
from workers.pixtral.model import vision
from workers.pixtral.model.kv_cache import PagedCache
from workers.pixtral.model.load import load_model
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.text.processor import Processor

SEED = 7
THREADS = torch.get_num_threads()
GRIDS = [(4, 6), (2, 2), (6, 4), (8, 3), (1, 1), (3, 8), (5, 5), (4, 6), (2, 7), (9, 9)]
QUESTIONS = ["read", "what is on this page?"]


class RecordingExecutor(Executor):
    """Keeps the hidden states that each token was drawn from, by sequence number. Its cache begins full of NaN."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for store in (*self.backend.cache.keys, *self.backend.cache.values):
            store.fill_(torch.nan)
        self.logits = {}

    def _sample(self, layout, hidden):
        for sequence, row in zip(layout.sample_sequences, hidden, strict=False):
            self.logits.setdefault(sequence.number, []).append(row.clone())
        return super()._sample(layout, hidden)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), "tiny", seed=SEED)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def processor(folder, model):
    return Processor(folder, model.config)


def page(number):
    rows, columns = GRIDS[number]
    return np.random.default_rng(number).integers(0, 256, (rows * 16, columns * 16, 3), dtype=np.uint8)


def read(
    model,
    processor,
    work,
    *,
    max_sequences=16,
    chunk=64,
    budget=64,
    blocks=4096,
    block_size=8,
    tile=32,
    sampling=None,
    max_context=4096,
    make_backend=CpuBackend,
):
    """Run (page number, question number) pairs through a fresh engine, all at once; results in their order."""
    limits = Limits(max_sequences, chunk, budget, max_context)
    executor = RecordingExecutor(make_backend(model, limits, blocks, block_size, tile), limits)
    scheduler = Scheduler(limits, BlockPool(blocks, block_size), expected_output_tokens=0)  # no caution: preempt
    engine = PackedEngine(executor, scheduler, processor.decode, processor.eos_id, lookahead=False)
    wanted = sampling or Sampling(max_tokens=8)
    try:
        requests = [processor.encode_page(f"p{p}", page(p), QUESTIONS[q], wanted) for p, q in work]
        with engine._wake:  # so that all wait before the first step
            futures = [engine.submit(request) for request in requests]
        results = [future.result(60) for future in futures]
    finally:
        engine.close()
    scheduler.pool.check([])
    scheduler.pool.drop_prefixes()
    assert scheduler.pool.num_free == blocks, "a block was not handed back"
    assert not executor.features, "features outlive their sequence"
    return results, executor, scheduler


@pytest.fixture(scope="module")
def alone(model, processor):
    """Every page and question in an engine of its own, with the hidden states that its tokens were drawn from."""
    texts = {}
    for p in range(len(GRIDS)):
        for q in range(len(QUESTIONS)):
            (result,), executor, _ = read(model, processor, [(p, q)])
            texts[p, q] = result, next(iter(executor.logits.values()))
    return texts


def test_engine_equals_the_plain_float64_reference(alone, processor):
    weights = reference.as_float64(random_tensors(PRESETS["tiny"], SEED))
    for p, q in [(0, 0), (3, 1), (4, 0)]:
        request = processor.encode_page("x", page(p), QUESTIONS[q], Sampling())
        result = alone[p, q][0]
        expected = reference.greedy(weights, PRESETS["tiny"], list(request.tokens), [page(p)], len(result.tokens))
        assert list(result.tokens) == expected


def test_pages_differ_so_that_a_leak_would_show(alone):
    assert len({result.tokens for result, _ in alone.values()}) > 0.8 * len(alone)


def work_lists(longest):
    pairs = st.tuples(st.integers(0, len(GRIDS) - 1), st.integers(0, len(QUESTIONS) - 1))
    return st.lists(pairs, min_size=1, max_size=longest)


@examples(12)
@example(work=[(number % 10, number % 2) for number in range(14)], max_sequences=16, budget=64, blocks=26)  # preempts
@given(
    work=work_lists(14),
    max_sequences=st.just(16),
    budget=st.sampled_from([64, 128, 1024]),
    blocks=st.sampled_from([26, 40, 4096]),
)
def test_text_is_bitwise_the_same_in_any_pack_and_order(model, processor, alone, work, max_sequences, budget, blocks):
    """Same chunks, any neighbours, prefix sharing, preemption (few blocks): the same bits before the head."""
    results, executor, _ = read(model, processor, work, max_sequences=max_sequences, budget=budget, blocks=blocks)
    states = list(executor.logits.values())
    by_number = dict(sorted(executor.logits.items()))
    for (p, q), result, rows in zip(work, results, by_number.values(), strict=True):
        expected, expected_rows = alone[p, q]
        assert result.tokens == expected.tokens
        assert result.finish_reason == expected.finish_reason
        assert all(torch.equal(a, b) for a, b in zip(rows, expected_rows, strict=True))
    assert len(states) == len(work)


@examples(9)
@example(work=[(0, 0), (7, 0), (9, 1), (0, 1)], chunk=16, block_size=4, max_sequences=3)  # two pages of one size
@given(
    work=work_lists(7),
    chunk=st.sampled_from([5, 16, 33]),
    block_size=st.sampled_from([1, 4, 16]),
    max_sequences=st.sampled_from([1, 3, 16]),
)
def test_text_is_the_same_in_other_chunks_and_blocks(model, processor, alone, work, chunk, block_size, max_sequences):
    """Other chunk lengths change the order of sums, so tokens are compared, not bits: float32."""
    results, _, _ = read(
        model, processor, work, chunk=chunk, budget=chunk, block_size=block_size, max_sequences=max_sequences
    )
    for (p, q), result in zip(work, results, strict=True):
        assert result.tokens == alone[p, q][0].tokens


def test_preemption_happens_and_changes_nothing(model, processor, alone):
    work = [(9, 0), (3, 1), (5, 0), (6, 0), (0, 0), (7, 1)]
    results, _, scheduler = read(model, processor, work, blocks=26, budget=1024)
    assert scheduler.preemptions > 0
    for (p, q), result in zip(work, results, strict=True):
        assert result.tokens == alone[p, q][0].tokens


def test_two_prompts_of_a_page_compute_its_prefix_and_image_once(model, processor, alone):
    work = [(9, 0), (9, 1)]
    results, executor, scheduler = read(model, processor, work)
    assert executor.images_encoded == 1
    assert scheduler.prefix_hit_tokens == 2 + 9 * 10
    for (p, q), result in zip(work, results, strict=True):
        assert result.tokens == alone[p, q][0].tokens


def test_pages_of_one_size_do_not_share_a_prefix(model, processor, alone):
    """All image tokens have one id, so only the image's hash tells two pages of 4 × 6 patches apart."""
    results, executor, scheduler = read(model, processor, [(0, 0), (7, 0)])
    assert executor.images_encoded == 2 and scheduler.prefix_hit_tokens == 0
    assert [r.tokens for r in results] == [alone[0, 0][0].tokens, alone[7, 0][0].tokens]


def test_chunks_that_end_inside_an_image_encode_it_once(model, processor):
    _, executor, _ = read(model, processor, [(9, 0)], chunk=7, budget=7)
    assert executor.images_encoded == 1


def test_features_alone_equal_features_in_a_pack(model):
    images = [torch.from_numpy(page(number)) for number in range(len(GRIDS))]
    runner = CpuBackend(model, Limits(4, 64, 64), 8, 8, 32).runner()
    with torch.inference_mode():
        packed = vision.encode_images(model, images, runner)
        single = torch.cat([vision.encode_images(model, [image], runner) for image in images])
    assert torch.equal(packed, single)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_bitwise_the_same_with_any_number_of_lanes(folder, dtype, monkeypatch):
    """Tiles of rows and, in bfloat16, blocks of attention go to whichever lane is free."""
    monkeypatch.setattr(attention, "suits_strips", lambda _device, dtype: dtype == torch.bfloat16)
    model = load_model(folder, dtype=dtype)
    images = [torch.from_numpy(page(number)) for number in (0, 1, 9)]
    images.append(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (26 * 16, 24 * 16, 3), np.uint8)))
    with torch.inference_mode():
        one, two, five = (
            vision.encode_images(model, images, TiledRunner(Tiles(32), lanes_of(count))) for count in (1, 2, 5)
        )
    assert torch.equal(one, two) and torch.equal(one, five)


def test_long_attention_goes_head_by_head_to_the_lanes_and_is_the_same():
    """float32, where SDPA computes it: bitwise as on one lane; 1e-5 from the formula in float64 (sums of 520 terms)."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1040, heads, 16) for heads in (4, 2, 2))
    two = [520, 520]
    for causal in (False, True):
        out = attend_packed(query, key, value, two, causal=causal, lanes=lanes_of(2))
        assert torch.equal(out, attend_packed(query, key, value, two, causal=causal))
        exact = [x.double() for x in (query, key, value)]
        torch.testing.assert_close(out.double(), attend_packed(*exact, two, causal=causal), atol=1e-5, rtol=0)
    past = attend_past(query[520:], key, value, lanes_of(2))
    assert torch.equal(past, attend_past(query[520:], key, value))
    whole = attend_packed(query, key, value, [1040], causal=True)
    torch.testing.assert_close(past, whole[520:], atol=1e-5, rtol=0)


def test_an_error_in_a_lane_is_raised_and_the_lanes_go_on():
    """What fails in a step must reach the engine, which then goes on smaller."""
    lanes, done = lanes_of(3), []

    def work(item):
        if item == 4:
            raise MemoryError("no room for item 4")
        done.append(item)

    with pytest.raises(MemoryError, match="item 4"):
        lanes.run(work, range(9))
    done.clear()
    lanes.run(done.append, range(9))
    assert sorted(done) == list(range(9))
    assert torch.get_num_threads() == THREADS  # the lanes' own number stays theirs


def test_long_pages_in_bfloat16_are_bitwise_the_same_in_any_pack(folder, processor, monkeypatch):
    """The strips of `cpu/attention.py`, which few CPUs take by themselves, over pages of more than 512 tokens."""
    monkeypatch.setattr(attention, "suits_strips", lambda _device, dtype: dtype == torch.bfloat16)
    model = load_model(folder, dtype=torch.bfloat16)
    monkeypatch.setitem(globals(), "GRIDS", [(24, 24), (30, 20), (3, 4), (24, 24)])
    work = [(0, 0), (1, 0), (2, 1), (3, 0), (0, 1)]
    settings = {"chunk": 1024, "budget": 1024, "sampling": Sampling(max_tokens=4)}
    packed, executor, _ = read(model, processor, work, **settings)
    states = [rows for _, rows in sorted(executor.logits.items())]
    for item, result, rows in zip(work, packed, states, strict=True):
        (expected,), single, _ = read(model, processor, [item], **settings)
        assert result.tokens == expected.tokens
        assert all(torch.equal(a, b) for a, b in zip(rows, next(iter(single.logits.values())), strict=True))


@pytest.mark.parametrize(("num_q", "num_k", "causal"), [(700, 700, False), (700, 700, True), (130, 900, True)])
def test_attention_in_strips_equals_the_plain_formula(num_q, num_k, causal):
    query, key, value = draw(num_q, num_k)
    check_attention(attend_in_strips(query, key, value, causal=causal), query, key, value, causal)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("num_k", [1, 15, 513, 3008, 3027])
def test_softmax_may_write_over_what_it_reads(dtype, num_k):
    """PyTorch does not say so, and strips of scores rely on it; some keys are hidden, as in a causal strip."""
    torch.manual_seed(0)
    room = torch.randn(256 * 3027).to(dtype) * 8
    scores = room[: 256 * num_k].view(256, num_k)
    scores[:, num_k // 2 :].masked_fill_(torch.rand(256, num_k - num_k // 2) < 0.5, -torch.inf)
    scores[:, 0] = 0.0
    expected = torch.softmax(scores.clone(), dim=-1)
    torch.softmax(scores, dim=-1, out=scores)
    assert torch.equal(scores, expected)


def test_strips_in_lanes_are_bitwise_those_of_one_lane():
    query, key, value = (x.bfloat16() for x in draw(1500, 1500))
    for causal in (False, True):
        out = attend_in_strips(query, key, value, causal=causal, lanes=lanes_of(3))
        assert torch.equal(out, attend_in_strips(query, key, value, causal=causal))


def test_attention_over_very_many_keys_goes_in_smaller_pieces_and_is_the_same(monkeypatch):
    """As after the tiles of a large page: neither scores nor masks may take more memory than a small page's."""
    query, key, value = draw(130, 900)
    monkeypatch.setattr(attention, "LONGEST_TOKENS", 200)
    assert attention.strip_rows(200) == 256 and attention.strip_rows(900) == 48 and attention.strip_rows(90_000) == 16
    check_attention(attend_in_strips(query, key, value, causal=True), query, key, value, True)
    widest = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, *rest, **more):
        widest.append(query.shape[-2] * key.shape[-2])
        return plain(query, key, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(attention, "MOST_MASKED", 9000)
    check_attention(attend_past(query, key, value), query, key, value, True)
    assert max(widest) <= 9000


def draw(num_q, num_k):
    torch.manual_seed(0)
    return [torch.randn(rows, heads, 16).double() for rows, heads in ((num_q, 4), (num_k, 2), (num_k, 2))]


def check_attention(out, query, key, value, causal):
    """float64, so that only the order of sums differs: 1e-12."""
    num_q, num_k = len(query), len(key)
    for head in range(4):
        scores = query[:, head] @ key[:, head // 2].T / 4
        if causal:
            scores.masked_fill_(torch.ones(num_q, num_k, dtype=torch.bool).triu(num_k - num_q + 1), -torch.inf)
        expected = scores.softmax(-1) @ value[:, head // 2]
        torch.testing.assert_close(out[:, head], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.xdist_group("reader")  # whose test process imports mistral-inference, and torch's compiler with it
def test_stock_mistral_inference_leaks_between_packed_pages(folder, monkeypatch):
    """The reason for all this: its encoder drops the mask, so a page's features change with the neighbour."""
    import mistral_inference.transformer_layers as theirs
    from mistral_inference.transformer import Transformer

    def attend_by_mask(query, key, value, bias):
        mask = None if bias is None else bias.materialize((query.shape[1], key.shape[1]), dtype=query.dtype)
        out = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (query, key, value)), attn_mask=mask
        )
        return out.transpose(1, 2).contiguous()

    monkeypatch.setattr(theirs, "memory_efficient_attention", attend_by_mask)
    images = [vision.normalise(torch.from_numpy(page(number))).permute(2, 0, 1) for number in (0, 7, 3)]
    model = Transformer.from_folder(folder, device="cpu")
    with torch.inference_mode():
        alone = model.vision_encoder(images[:1])
        beside = model.vision_encoder(images)[: alone.shape[0]]
    assert (alone - beside).abs().max() > 0.1 * alone.std(), "upstream is fixed: the README's claim must go"


def test_width_and_height_are_not_confused(processor):
    wide = processor.encode_page("a", np.zeros((768, 1024, 3), np.uint8), "x", Sampling())
    tall = processor.encode_page("b", np.zeros((1024, 768, 3), np.uint8), "x", Sampling())
    assert wide.image_end - 2 == 64 * 48 + 48 and tall.image_end - 2 == 48 * 64 + 64  # 16 tokens apart


@pytest.mark.parametrize("by_head", [False, True])
def test_cache_copies_blocks_in_every_layer(by_head):
    cache = PagedCache(2, 24, 4, 3, 2, torch.device("cpu"), torch.float32, by_head=by_head)
    for store in (*cache.keys, *cache.values):
        store.normal_()
    before = cache.stacked.clone()
    cache.copy_blocks([(block, 23 - block) for block in range(12)])
    assert all(store.shape == (96, 3, 2) for store in (*cache.keys, *cache.values))
    assert torch.equal(cache.stacked[:, :, :48], before[:, :, :48])
    for block in range(12):
        there = slice((23 - block) * 4, (24 - block) * 4)
        assert torch.equal(cache.stacked[:, :, there], before[:, :, block * 4 : block * 4 + 4])
