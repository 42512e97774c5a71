"""The engine thread: how answers end, who fails, what is given back; seeds; the adapter; memory."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.checkpoint import PRESETS, make_checkpoint, random_tensors, tiny_tokenizer, write_checkpoint
from pipeline.errors import PageFailed, Unavailable, UsageError
from pipeline.planning import card_room, step_room
from pipeline.settings import Settings
from schemas.prompts import Prompt
from workers.doctor import check_engines
from workers.engines.pixtral import PixtralEngine, fingerprint
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.device_errors import is_fatal, is_out_of_memory
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor
from workers.pixtral.model import sampling
from workers.pixtral.model.config import config_of, read_config
from workers.pixtral.model.load import load_model
from workers.pixtral.plan import sizes
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.text.processor import Processor

LIMITS = Limits(max_sequences=8, chunk_tokens=64, token_budget=256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), "tiny", seed=7)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def processor(folder, model):
    return Processor(folder, model.config)


class Rig:
    """An engine over an executor of the test's choice."""

    def __init__(self, model, processor, executor_class=Executor, blocks=200, limits=LIMITS, eos_id=None):
        self.executor = executor_class(CpuBackend(model, limits, blocks, 8, 32), limits)
        self.scheduler = Scheduler(limits, BlockPool(blocks, 8))
        eos = processor.eos_id if eos_id is None else eos_id
        self.engine = PackedEngine(self.executor, self.scheduler, processor.decode, eos, lookahead=False)
        self.processor = processor

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.close()
        self.scheduler.pool.check([])

    def request(self, number=0, text="read", **sampling_fields):
        fields = {"max_tokens": 10} | sampling_fields
        return self.processor.encode_page(f"p{number}", page(number), text, Sampling(**fields))

    def ask(self, number=0, text="read", **sampling_fields):
        return self.engine.submit(self.request(number, text, **sampling_fields))


def page(number, rows=4, columns=5):
    return np.random.default_rng(number).integers(0, 256, (rows * 16, columns * 16, 3), dtype=np.uint8)


class FailingExecutor(Executor):
    """Raises what it is told to for pages with a given digest, as often as they come."""

    guilty = "p1"
    error: Exception = ValueError("a wrong shape")

    def launch(self, step):
        for work in (*step.chunks, *step.decodes):
            if any(image.digest == self.guilty for image in work.sequence.request.images):
                raise self.error
        return super().launch(step)


class SmallExecutor(Executor):
    """Runs out of memory above a number of tokens a step."""

    most = 60

    def launch(self, step):
        if step.num_tokens > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().launch(step)


class NanExecutor(Executor):
    """One page's hidden states are not numbers, as an overflow would make them."""

    def _sample(self, layout, hidden):
        for row, sequence in enumerate(layout.sample_sequences):
            if sequence.request.images[0].digest == "p1":
                hidden[row] = torch.nan
        return super()._sample(layout, hidden)


class SlowExecutor(Executor):
    """Each step takes a while."""

    def launch(self, step):
        time.sleep(0.02)
        return super().launch(step)


class GoneExecutor(Executor):
    """The device fails for good at the third step."""

    steps = 0

    def launch(self, step):
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().launch(step)


@pytest.mark.parametrize("executor_class", [FailingExecutor, NanExecutor])
def test_a_request_that_fails_takes_only_itself(model, processor, executor_class):
    with Rig(model, processor) as rig:
        expected = [rig.ask(number).result(30).tokens for number in range(4)]
    with Rig(model, processor, executor_class) as rig:
        futures = [rig.ask(number) for number in range(4)]
        with pytest.raises(PageFailed):
            futures[1].result(30)
        assert [futures[i].result(30).tokens for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]
        assert rig.engine.stats()["failed"] == 1
        assert rig.ask(2).result(30).tokens == expected[2], "the engine goes on"


@pytest.mark.parametrize("stop", [(), ("never there",)], ids=["at the end", "while it is looked at for a stop string"])
def test_an_answer_that_is_no_text_fails_its_page_alone(tmp_path, stop):
    """A vocabulary of 400 over a tokenizer of 276 tokens: random weights pick what has no text sooner or later."""
    params = PRESETS["tiny"] | {"vocab_size": 400}
    folder = write_checkpoint(tmp_path / "wide", params, random_tensors(params), tiny_tokenizer())
    model = load_model(folder)
    processor = Processor(folder, model.config)
    with Rig(model, processor) as rig:
        futures = {number: rig.ask(number, max_tokens=number % 3 * 8 + 1, stop=stop) for number in range(24)}
        errors = {number: future.exception(30) for number, future in futures.items()}
        failed = [error for error in errors.values() if error is not None]
        assert 0 < len(failed) < len(futures), "no page, or every page, drew what the tokenizer does not know"
        assert {(type(error), error.cause) for error in failed} == {(PageFailed, "undecodable")}
        assert all("does not know" in str(error) for error in failed)
        assert rig.engine.stats()["failed"] == len(failed)
        good = next(number for number, error in errors.items() if error is None)
        again = rig.ask(good, max_tokens=good % 3 * 8 + 1, stop=stop).result(30)
        assert again.text == futures[good].result().text, "the engine goes on"


def test_an_answer_that_its_caller_cannot_take_fails_alone(model, processor):
    def refuse(_generation):
        raise LookupError("no such column")

    with Rig(model, processor) as rig:
        refused, other = rig.engine.submit(rig.request(0), refuse), rig.ask(1)
        with pytest.raises(PageFailed, match="no such column"):
            refused.result(30)
        assert other.result(30).tokens and rig.ask(0).result(30).tokens


def test_out_of_memory_splits_the_step_and_goes_on_smaller(model, processor):
    with Rig(model, processor) as rig:
        expected = [rig.ask(number).result(30).tokens for number in range(6)]
    with Rig(model, processor, SmallExecutor) as rig:
        futures = [rig.ask(number) for number in range(6)]
        assert [future.result(30).tokens for future in futures] == expected
        assert rig.scheduler.limits.token_budget < LIMITS.token_budget
        large = rig.processor.encode_page("large", page(9, 9, 9), "read", Sampling(max_tokens=4))
        with pytest.raises(PageFailed) as caught:
            rig.engine.submit(large).result(30)
        assert caught.value.cause == "memory"


@pytest.mark.parametrize(
    ("error", "out_of_memory", "fatal"),
    [
        (RuntimeError("Triton Error [CUDA]: out of memory"), True, False),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), True, False),
        (RuntimeError("CUDA driver error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True, False),
        (ValueError("a wrong shape"), False, False),
    ],
)
def test_errors_of_the_device_are_told_apart(error, out_of_memory, fatal):
    assert (is_out_of_memory(error), is_fatal(error)) == (out_of_memory, fatal)


def test_the_thread_that_launches_takes_the_models_device(model, processor, monkeypatch):
    """Triton launches on the thread's current device, which is the first unless it is set."""
    taken = []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: taken.append((threading.current_thread().name, device))
    )

    class SecondExecutor(Executor):
        def enter(self):
            self.device = torch.device("cuda:1")
            try:
                super().enter()
            finally:
                self.device = torch.device("cpu")

    with Rig(model, processor, SecondExecutor) as rig:
        assert rig.ask().result(30)
    assert taken == [("pagepack-engine", torch.device("cuda:1"))]


def test_a_device_that_is_gone_ends_the_engine_and_frees_the_callers(model, processor):
    rig = Rig(model, processor, GoneExecutor)
    future = rig.ask()
    with pytest.raises(Unavailable):
        future.result(30)
    with pytest.raises(Unavailable):
        rig.ask()
    rig.engine.close()


def test_close_fails_what_is_unfinished(model, processor):
    rig = Rig(model, processor, SlowExecutor)
    future = rig.ask(max_tokens=500)
    time.sleep(0.1)
    rig.engine.close()
    with pytest.raises(Unavailable):
        future.result(30)
    with pytest.raises(Unavailable):
        rig.ask()


def test_each_row_stops_at_its_own_eos(model, processor):
    """The token that some page emits third is declared the end of sequence."""
    with Rig(model, processor, eos_id=-1) as rig:
        free = [rig.ask(number, max_tokens=12).result(30).tokens for number in range(5)]
    eos = free[2][2]
    with Rig(model, processor, eos_id=eos) as rig:
        results = [future.result(30) for future in [rig.ask(number, max_tokens=12) for number in range(5)]]
    for tokens, result in zip(free, results, strict=True):
        expected = tokens[: tokens.index(eos)] if eos in tokens else tokens
        assert result.tokens == expected
        assert result.finish_reason == ("stop" if eos in tokens else "length")


def test_stop_strings_end_the_text_before_them(model, processor):
    with Rig(model, processor, eos_id=-1) as rig:
        whole = rig.ask(3, max_tokens=30).result(30)
        place = next(i for i in range(2, len(whole.text) - 2) if whole.text[i : i + 2].isascii())
        stop = whole.text[place : place + 2]
        cut = rig.ask(3, max_tokens=30, stop=("never there", stop)).result(30)
    assert cut.finish_reason == "stop" and len(cut.tokens) < 30
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_max_tokens_of_one_gives_one(model, processor):
    with Rig(model, processor, eos_id=-1) as rig:
        result = rig.ask(max_tokens=1).result(30)
        assert len(result.tokens) == 1 and result.finish_reason == "length"
        with pytest.raises(ValueError, match="max_tokens"):
            rig.ask(max_tokens=0)


def test_deadline_ends_with_what_is_there(model, processor):
    with Rig(model, processor, SlowExecutor, eos_id=-1) as rig:
        started = time.monotonic()
        late = replace(rig.request(max_tokens=400), deadline=started + 2)
        result = rig.engine.submit(late).result(30)
        assert result.finish_reason == "deadline" and 0 < len(result.tokens) < 400
        past = replace(rig.request(max_tokens=400), deadline=started)
        assert rig.engine.submit(past).result(30).tokens == ()


def test_cancel_gives_everything_back(model, processor):
    with Rig(model, processor, SlowExecutor, eos_id=-1) as rig:
        futures = [rig.ask(number, max_tokens=500) for number in range(12)]  # some run, some wait
        time.sleep(0.2)
        assert all(future.cancel() for future in futures)
        rig.ask(20, max_tokens=2).result(30)
        rig.scheduler.pool.drop_prefixes()
        assert rig.scheduler.pool.num_free == 200 and not rig.executor.features


def test_an_answer_ends_where_the_cache_is_full(model, processor):
    with Rig(model, processor, eos_id=-1, blocks=8) as rig:
        request = rig.request(max_tokens=4000)
        result = rig.engine.submit(request).result(30)
        assert result.finish_reason == "length" and len(result.tokens) == 64 - len(request.tokens)
        large = rig.processor.encode_page("large", page(9, 9, 9), "read", Sampling(max_tokens=4))
        with pytest.raises(PageFailed) as caught:
            rig.engine.submit(large).result(30)
        assert caught.value.cause == "too-large"


def test_sampling_follows_the_requests_seed_not_its_neighbours(model, processor):
    drawn = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 15}
    with Rig(model, processor, eos_id=-1) as rig:
        alone = {seed: rig.ask(0, seed=seed, **drawn).result(30).tokens for seed in range(4)}
        assert len(set(alone.values())) == 4
        futures = [rig.ask(number, seed=99, **drawn) for number in range(1, 4)]
        beside = {seed: rig.ask(0, seed=seed, **drawn) for seed in range(4)}
        assert {seed: future.result(30).tokens for seed, future in beside.items()} == alone
        assert [future.result(30) for future in futures]
        greedy = rig.ask(0, max_tokens=15).result(30).tokens
        assert rig.ask(0, temperature=1.0, top_p=1e-9, max_tokens=15).result(30).tokens == greedy


def test_the_same_run_twice_gives_the_same_text(model, processor):
    runs = []
    for _ in range(2):
        with Rig(model, processor) as rig:
            futures = [rig.ask(number, temperature=0.7, seed=number, max_tokens=20) for number in range(10)]
            runs.append([future.result(30).text for future in futures])
    assert runs[0] == runs[1]


def test_draws_follow_the_distribution():
    """10,000 draws from four logits, by seed: each share within 4 standard deviations."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    for top_p, kept in ((1.0, [0, 1, 2, 3]), (0.85, [1, 2])):
        probabilities = torch.zeros(4)
        probabilities[kept] = logits.softmax(-1)[0][kept]
        probabilities /= probabilities.sum()
        count = 10_000
        uniforms = [sampling.uniform(seed, 17) for seed in range(count)]
        tokens = sampling.choose(logits.expand(count, -1), [1.0] * count, [top_p] * count, uniforms)
        shares = torch.bincount(tokens, minlength=4) / count
        assert ((shares - probabilities).abs() < 4 * (probabilities * (1 - probabilities) / count).sqrt() + 1e-9).all()


def distribution(logits, temperature, top_p):
    """The plain definition, float64: softmax, tokens sorted from likely to unlikely, the smallest set of mass top_p."""
    probabilities = (logits.double() / temperature).softmax(-1)
    likely, order = probabilities.sort(descending=True, stable=True)
    size = min(int((likely.cumsum(0) < top_p).sum()) + 1, len(order))
    kept = torch.zeros_like(probabilities)
    kept[order[:size]] = likely[:size] / likely[:size].sum()
    return kept, order[:size]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.2, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 1.0])
def test_draws_are_those_of_the_plain_definition(spread, top_p, dtype):
    """At 400 points between 0 and 1, of 1,500 tokens: some settled by the likeliest, some by the whole vocabulary.

    Sums in another order move a border between two tokens by 1e-6 at most (float32's softmax), so a point that lies
    so near to one may fall on either side; bfloat16 has many equals, of which the lower token comes first.
    """
    logits = (torch.randn(1500, generator=torch.Generator().manual_seed(3)) * spread).to(dtype)
    kept, order = distribution(logits, 0.8, top_p)
    points = (torch.arange(400).double() + 0.5) / 400
    tokens = sampling.choose(logits.expand(400, -1), [0.8] * 400, [top_p] * 400, points.tolist())
    cumulative = kept[order].cumsum(0)
    low, high = (order[torch.searchsorted(cumulative, points + by).clamp_max(len(order) - 1)] for by in (-1e-6, 1e-6))
    assert ((tokens == low) | (tokens == high)).all()
    assert (low == high).float().mean() > 0.95


def test_a_row_is_drawn_the_same_beside_others_and_alone():
    """Settled rows and those that need the whole vocabulary, in any group."""
    spread = torch.tensor([0.1, 4.0] * 40)[:, None]
    logits = torch.randn(80, 1000, generator=torch.Generator().manual_seed(1)) * spread
    points = [sampling.uniform(1, row) for row in range(80)]
    together = sampling.choose(logits, [1.0] * 80, [0.95] * 80, points)
    for row in range(80):
        assert sampling.choose(logits[row : row + 1], [1.0], [0.95], points[row : row + 1]) == together[row]


@pytest.mark.parametrize("spread", [0.1, 4.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drawing_takes_the_memory_that_is_counted(spread, dtype):
    rows, vocabulary = 40, 20_000
    logits = (torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(1)) * spread).to(dtype)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        sampling.choose(logits, [0.7] * rows, [0.9] * rows, [0.3] * rows)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    assert len(events) > 20 and held.max() <= step_room.draw_bytes(rows, vocabulary)
    assert step_room.draw_bytes(10 * rows, vocabulary) == step_room.draw_bytes(rows, vocabulary)


def test_most_rows_of_a_trained_models_kind_sort_no_vocabulary(monkeypatch):
    sorted_rows = []
    whole = torch.Tensor.sort

    def sort(values, **options):
        sorted_rows.extend([values.shape[1]] * values.shape[0])
        return whole(values, **options)

    monkeypatch.setattr(torch.Tensor, "sort", sort)
    logits = torch.randn(16, 4000, generator=torch.Generator().manual_seed(1)) * 6
    sampling.choose(logits, [0.7] * 16, [0.95] * 16, [0.5] * 16)
    assert sorted_rows and max(sorted_rows) <= step_room.TOP
    sampling.choose(logits[:1] * 0.01, [0.7], [0.95], [0.5])
    assert max(sorted_rows) == 4000


def test_uniform_numbers_look_uniform_and_differ_by_position():
    numbers = np.array([sampling.uniform(seed, position) for seed in range(100) for position in range(100)])
    assert numbers.min() >= 0 and numbers.max() < 1 and len(set(numbers)) == 10_000
    assert abs(numbers.mean() - 0.5) < 0.015 and abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05


def test_logits_that_are_no_numbers_are_told_apart():
    logits = torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [torch.inf, 0.0]])
    assert sampling.choose(logits, [0.0, 0.0, 1.0], [1.0] * 3, [0.5] * 3).tolist() == [1, -1, -1]


def test_conversations_with_images_turns_and_a_system_prompt(model, processor):
    image = [ImageChunk(image=Image.fromarray(page(number))) for number in range(3)]
    messages = [
        SystemMessage(content="You read pages."),
        UserMessage(content=[image[0], TextChunk(text="and"), image[1], TextChunk(text="differ?")]),
        AssistantMessage(content="Yes."),
        UserMessage(content=[image[2], TextChunk(text="And this?")]),
    ]
    request = processor.encode(messages, Sampling(max_tokens=3))
    from tests import pixtral_reference as reference

    with Rig(model, processor, eos_id=-1) as rig:
        futures = [rig.ask(number) for number in range(3)]
        result = rig.engine.submit(request).result(30)
        assert [future.result(30) for future in futures]
    weights = reference.as_float64(random_tensors(PRESETS["tiny"], 7))
    images = [page(number) for number in range(3)]
    expected = reference.greedy(weights, PRESETS["tiny"], list(request.tokens), images, len(result.tokens))
    assert list(result.tokens) == expected


def test_many_threads_may_submit(model, processor):
    with Rig(model, processor) as rig:
        expected = [rig.ask(number).result(30).tokens for number in range(6)]
        results = {}

        def submit(number):
            results[number] = rig.ask(number).result(60).tokens

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [results[number] for number in range(6)] == expected
        assert 0 < rig.engine.stats()["packing_efficiency"] <= 1


# The adapter


@pytest.fixture(scope="module")
def adapter(folder):
    engine = PixtralEngine(folder, device="cpu", memory_bytes=400_000_000)
    yield engine
    engine.close()


def test_adapter_answers_every_prompt_of_a_page_and_shares_its_prefix(adapter, folder):
    prompts = [Prompt("ocr", "read", max_tokens=6), Prompt("describe", "describe it", max_tokens=4)]
    before = adapter.stats()
    answers = [future.result(30) for future in adapter.submit("h", page(1), prompts)]
    assert [answer.output_tokens <= prompt.max_tokens for answer, prompt in zip(answers, prompts, strict=True)]
    assert answers[0].prompt_tokens > 20 and answers[0].seconds > 0
    assert adapter.stats()["images"] == before["images"] + 1
    assert adapter.model == fingerprint(folder) and adapter.capacity >= 16 and adapter.supports(prompts[0])


def test_adapter_passes_sampling_stop_and_deadline(adapter):
    prompt = Prompt("p", "read", max_tokens=30, temperature=0.8, top_p=0.9, seed=3)
    first, second = (adapter.submit("h", page(2), [prompt])[0].result(30) for _ in range(2))
    assert first.text == second.text and first.temperature == 0.8
    late = adapter.submit("h", page(2), [prompt], deadline=time.monotonic() - 1)[0].result(30)
    assert late.finish_reason == "deadline" and late.text == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(UsageError, match="cuda"):
        PixtralEngine(folder, device="cuda")


def with_cpu(monkeypatch, *instructions):
    """As on a processor that has these instructions alone."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True} | dict.fromkeys(instructions, True))


@pytest.mark.parametrize(
    ("stored", "instructions", "expected"),
    [
        ("bfloat16", (), "float32"),
        ("bfloat16", ("avx512_bf16",), "bfloat16"),
        ("bfloat16", ("bf16",), "bfloat16"),
        ("float16", ("avx512_bf16",), "float32"),
        ("float32", (), "float32"),
    ],
)
def test_a_cpu_without_arithmetic_of_the_type_computes_in_float32_and_doctor_says_so(
    tmp_path, monkeypatch, caplog, stored, instructions, expected
):
    folder = make_checkpoint(tmp_path / "tiny", "tiny", dtype=getattr(torch, stored))
    with_cpu(monkeypatch, *instructions)
    with caplog.at_level("INFO", "workers.pixtral"):
        engine = PixtralEngine(folder, device="cpu", memory_bytes=400_000_000)
    engine.close()
    assert engine._built.engine.executor.backend.model.dtype == getattr(torch, expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fact = next(c["fact"] for c in check_engines(Settings(model=folder)) if c["name"] == "attention")
    assert f"(cpu, {expected})" in fact and any(record.message.startswith(fact) for record in caplog.records)


def test_where_float32_does_not_fit_the_type_stays(tmp_path, monkeypatch, caplog):
    folder = make_checkpoint(tmp_path / "tiny", "tiny", dtype=torch.bfloat16)
    with_cpu(monkeypatch)
    least = next(n for n in range(1_000_000, 10**9, 1_000_000) if fits(folder, n, 2))
    assert not fits(folder, least, 4)
    engine = PixtralEngine(folder, device="cpu", memory_bytes=least)
    engine.close()
    assert engine._built.engine.executor.backend.model.dtype == torch.bfloat16 and "do not fit" in caplog.text


def fits(folder, granted, itemsize):
    config = read_config(folder)
    try:
        sizes.size_engine(config, 250_000 * itemsize, granted, itemsize, on_gpu=False)
    except UsageError:
        return False
    return True


def test_too_little_memory_is_told_with_the_sum(folder):
    with pytest.raises(UsageError, match="blocks of 64 tokens"):
        PixtralEngine(folder, device="cpu", memory_bytes=1_000_000)


# Memory


@pytest.mark.parametrize("granted", [60e9, 76e9, 130e9])
def test_sizes_of_pixtral_12b_stay_within_what_is_granted(granted):
    config = config_of(PRESETS["12b"])
    weights = 25_400_000_000
    fit = sizes.size_engine(config, weights, int(granted), 2, on_gpu=True)
    cache = fit.num_blocks * card_room.BLOCK_SIZE * sizes.token_bytes(config, 2)
    assert sizes.token_bytes(config, 2) == 163_840
    room = step_room.gpu_step_bytes(sizes.shape_of(config), fit.limits, card_room.TILED_TOKENS)
    assert weights + cache + room <= granted
    assert fit.limits.max_sequences % 8 == 0
    assert fit.limits.max_context + fit.limits.tile_tokens == card_room.TILED_TOKENS
    assert fit.limits.step_keys >= card_room.TILED_TOKENS, "a chunk at the end of the largest page would never run"
    with pytest.raises(UsageError, match="too little memory"):
        sizes.size_engine(config, weights, 26_000_000_000, 2, on_gpu=True)


def test_a_card_that_holds_one_small_page_says_to_what_large_ones_are_shrunk():
    config, weights = config_of(PRESETS["12b"]), 25_400_000_000
    fit = sizes.size_engine(config, weights, 29_000_000_000, 2, on_gpu=True)
    room = fit.num_blocks * card_room.BLOCK_SIZE
    assert card_room.LONGEST_TOKENS <= room < card_room.TILED_TOKENS
    assert f"larger pages are shrunk to {room - card_room.TEXT_TOKENS:,} tokens of images" in fit.arithmetic
    assert room <= fit.limits.max_context + fit.limits.tile_tokens


def test_a_smaller_step_is_taken_where_it_holds_a_quarter_more_pages_and_not_for_less(monkeypatch):
    config, weights, budgets, whole = config_of(PRESETS["12b"]), 25_400_000_000, set(), card_room.STEPS
    for granted in range(27_500_000_000, 60_000_000_000, 500_000_000):
        monkeypatch.setattr(card_room, "STEPS", whole)
        fit = sizes.size_engine(config, weights, granted, 2, on_gpu=True)
        monkeypatch.setattr(card_room, "STEPS", whole[:1])
        try:
            usual = sizes.size_engine(config, weights, granted, 2, on_gpu=True).limits.max_sequences
        except UsageError:
            usual = 0
        budgets.add(fit.limits.token_budget)
        if fit.limits.token_budget == 8192:
            assert fit.limits.max_sequences == usual
        else:
            assert fit.limits.max_sequences >= 1.25 * usual
        assert fit.most < 4 * max(2, fit.limits.max_sequences), "room in the step for pages that the cache lacks"
    assert budgets >= {2048, 8192} and fit.limits.token_budget == 8192


def test_memory_of_a_run_stays_within_what_was_granted(tmp_path):
    """A process of its own: peak resident memory above what torch and the imports take.

    Nor does a CPU import torch's compiler, which is a second of processor time at each start, or an implementation that
    the tests compare with; and nothing is printed.
    """
    import subprocess
    import sys
    from pathlib import Path

    code = """
import resource, sys, threading
import numpy as np
from pathlib import Path
from benchmarks.checkpoint import make_checkpoint
from schemas.prompts import Prompt
from workers.engines.pixtral import PixtralEngine
import workers.pixtral.start
folder = make_checkpoint(Path(sys.argv[1]), "tiny")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, granted = peak(), 300_000_000
engine = PixtralEngine(folder, device="cpu", memory_bytes=granted)
pages = [np.full((16 * (8 + i % 20), 16 * (30 - i % 20), 3), i, np.uint8) for i in range(30)]
futures = [f for i, p in enumerate(pages) for f in engine.submit(str(i), p, [Prompt("a", "x", max_tokens=20)])]
assert all(f.result(100) for f in futures)
used = peak() - before
engine.close()
assert used < granted, used
assert not {"torch._dynamo", "transformers", "mistral_inference", "xformers"} & set(sys.modules)
"""
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=root)
    assert run.returncode == 0 and not run.stdout and not run.stderr, run.stdout + run.stderr
