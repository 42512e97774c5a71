"""One model over two devices: two real processes on this CPU, which add up by gloo."""

from __future__ import annotations

import inspect
import multiprocessing
import re
import signal
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.checkpoint import PRESETS, make_checkpoint, random_tensors, tiny_tokenizer, write_checkpoint
from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.supervisor.process_slots import ProcessSlot, device_variables, process_slots
from schemas.prompts import OCR
from tests.engine import pair_processes
from tests.engine.pair_processes import FirstProcess
from tests.running import pagepack, processes_of, reconciles, rows, start, wait_until, write_pdf
from workers.choose import choose_engine
from workers.engines.pixtral import PixtralEngine
from workers.pixtral import start as engine_start
from workers.pixtral.cpu.backend import CpuBackend
from workers.pixtral.engine import PackedEngine
from workers.pixtral.executor import Executor
from workers.pixtral.model.config import read_config
from workers.pixtral.model.half import half_of
from workers.pixtral.model.load import load_model, weight_bytes
from workers.pixtral.pair.first import Second
from workers.pixtral.pair.second import has_ended
from workers.pixtral.plan.cache_blocks import BlockPool
from workers.pixtral.plan.draft_rows import Filled
from workers.pixtral.plan.scheduler import Limits, Scheduler
from workers.pixtral.plan.sequence import Sampling

pytestmark = pytest.mark.xdist_group("reader")  # one process, of which runs with a model are forked, imports torch

CPU = torch.device("cpu")
DEFAULTS = {"narrow_cache": False, "drafts": True}
LIMITS = Limits(16, 24, 64, 400)  # a page of 52 image tokens and its prompt come in chunks
BLOCK_SIZE, TILE = 8, 32


class RecordingExecutor(Executor):
    """Keeps the hidden states that each token was drawn from, by image and position. Its cache begins full of NaN."""

    def __init__(self, backend, limits):
        super().__init__(backend, limits)
        for store in (*backend.cache.keys, *backend.cache.values):
            store.fill_(torch.nan)
        self.hidden = {}

    def _sample(self, layout, hidden):
        places = zip(layout.sample_sequences, layout.sample_positions, layout.sample_drafts, hidden, strict=False)
        for sequence, position, draft, row in places:
            if draft is None:
                key = sequence.request.images[0].digest, sequence.request.tokens, position
                self.hidden[key] = row.clone()
        return super()._sample(layout, hidden)


@pytest.fixture(scope="module")
def model():
    return load_model(CHECKPOINT, "cpu", torch.float32)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Experts, and an adapter for a weight that is cut by rows, one by columns, one not at all."""
    params = PRESETS["tiny"] | {"moe": {"num_experts": 3, "num_experts_per_tok": 2}}
    folder = tmp_path_factory.mktemp("mixture")
    write_checkpoint(folder, params, random_tensors(params, seed=3), tiny_tokenizer())
    noise, pairs = torch.Generator().manual_seed(0), {}
    vision = "vision_encoder.transformer.layers.0"
    for base in ("layers.0.attention.wq", "layers.1.attention.wo", f"{vision}.attention.wq"):
        pairs[f"{base}.lora_A.weight"] = torch.randn(2, 64, generator=noise)
        pairs[f"{base}.lora_B.weight"] = torch.randn(64, 2, generator=noise) / 8
    save_file(pairs, folder / "lora.safetensors")
    return folder


@pytest.fixture(scope="module")
def pair():
    """The second process, and the half that is here."""
    second = Second(CPU)
    assert second.hear() > 0  # bytes that it may take
    yield second, second.load(CHECKPOINT, CPU, torch.float32)
    second.close()
    assert second.process.returncode == 0


@pytest.fixture(scope="module")
def pages():
    return draw_samples(3, (128, 48), seed=4, kinds=("words", "numbers", "random"))


def request(processor, page, text=OCR.text, draft="", max_tokens=60):
    made = processor.encode_page(page.image_hash, page.pixels, text, Sampling(max_tokens, page_lines=100))
    return replace(made, draft=processor.draft(draft))


def read(backend, processor, requests, limits, blocks):
    """Texts in order, hidden states, and the engine's figures; all blocks came back."""
    scheduler = Scheduler(limits, BlockPool(blocks, BLOCK_SIZE), expected_output_tokens=0)
    executor = RecordingExecutor(backend, limits)
    engine = PackedEngine(
        executor, scheduler, processor.decode, processor.eos_id, piece=processor.piece, lookahead=False
    )
    try:
        answers = [future.result(120) for future in [engine.submit(one) for one in requests]]
        stats = engine.stats()
    finally:
        engine.close()
    scheduler.pool.check([])
    return [answer.text for answer in answers], executor.hidden, stats


@pytest.fixture(scope="module")
def over_two(pair, processor):
    """What two devices make of requests."""
    second, half = pair

    def run(requests, limits=LIMITS, blocks=400):
        backend = second.make_backend(half, limits, blocks, BLOCK_SIZE, TILE, **DEFAULTS)
        return read(backend, processor, requests, limits, blocks)

    return run


@pytest.fixture(scope="module")
def on_one(model, processor):
    """What one makes of them."""
    return lambda requests, blocks=400: read(
        CpuBackend(model, LIMITS, blocks, BLOCK_SIZE, TILE), processor, requests, LIMITS, blocks
    )


@pytest.fixture(scope="module")
def company(over_two, pages, processor):
    """What two devices make of all pages together."""
    return over_two([request(processor, page) for page in pages])


def test_each_process_holds_half_of_the_decoder_and_all_else(pair, model):
    second, half = pair
    assert (half.config.n_heads, half.config.n_kv_heads, half.config.hidden_dim) == (2, 1, 256)
    norms = sum(weight.nbytes for name, weight in half.layers.named_parameters() if "norm" in name)
    of_half, of_whole = (sum(weight.nbytes for weight in one.layers.parameters()) for one in (half, model))
    assert 2 * (of_half - norms) == of_whole - norms
    assert weight_bytes(half) == weight_bytes(model) - of_whole + of_half
    assert second.weight_bytes == weight_bytes(half)  # measured over there


def test_the_halves_are_the_files_weights(model):
    halves = [load_model(CHECKPOINT, "cpu", torch.float32, rank=rank) for rank in (0, 1)]
    for name, whole in model.named_parameters():
        parts = [dict(half.named_parameters())[name] for half in halves]
        if parts[0].shape == whole.shape:
            assert torch.equal(parts[0], whole) and torch.equal(parts[1], whole)
        else:
            side = 1 if name.endswith(("wo.weight", "w2.weight")) else 0
            assert torch.equal(torch.cat(parts, side), whole), name


def test_the_text_is_that_of_one_device_and_the_bits_are_those_of_the_page_alone(
    company, over_two, on_one, pages, processor
):
    requests = [request(processor, page) for page in pages]
    texts, hidden, _ = company
    expected, of_one, _ = on_one(requests)
    assert texts == expected and len(set(texts)) == len(pages)
    assert hidden.keys() == of_one.keys()
    differences = [(hidden[key] - of_one[key]).abs().max().item() for key in hidden]
    assert 0 < max(differences) < 1e-4  # other sums: near, and not the same
    for one, text in zip(requests, texts, strict=True):
        alone, of_alone, _ = over_two([one])
        assert alone == [text]
        assert all(torch.equal(hidden[key], row) for key, row in of_alone.items())


def test_prefixes_are_shared_and_who_came_last_gives_way(over_two, on_one, pages, processor):
    prompts = [OCR.text, "read the text, please"]
    requests = [request(processor, page, prompt) for page in pages for prompt in prompts]
    texts, hidden, stats = over_two(requests, blocks=28)
    expected, _, of_one = on_one(requests, blocks=28)
    assert texts == expected
    assert stats["prefix_hit_tokens"] > 0 and stats["preemptions"] > 0
    assert stats["preemptions"] == of_one["preemptions"]
    alone, of_alone, _ = over_two(requests[:1])
    assert alone == texts[:1] and all(torch.equal(hidden[key], row) for key, row in of_alone.items())


def test_drafts_are_tried_and_wrong_ones_leave_nothing(company, over_two, pages, processor):
    texts, hidden, _ = company
    drafted = [
        request(processor, page, draft=text[:8] + "§" + text[9:]) for page, text in zip(pages, texts, strict=True)
    ]
    again, of_drafted, stats = over_two(drafted, replace(LIMITS, drafts=Filled(16)))
    assert again == texts
    assert 0 < stats["accepted_tokens"] < stats["drafted_tokens"]
    assert all(torch.equal(hidden[key], row) for key, row in of_drafted.items())


def test_slots_are_cleared_in_both(pair, pages, processor):
    second, half = pair
    backend = second.make_backend(half, LIMITS, 400, BLOCK_SIZE, TILE, **DEFAULTS)
    for store in (*backend.cache.keys, *backend.cache.values):
        store.fill_(torch.nan)
    backend.clear(torch.arange(400 * BLOCK_SIZE).numpy())
    assert all(not store.any() for store in (*backend.cache.keys, *backend.cache.values))
    backend.make_room()
    texts, _, _ = read(backend, processor, [request(processor, pages[0])], LIMITS, 400)
    assert texts[0].strip()


def test_who_makes_the_caches_of_both_is_told_what_one_device_would_be(model, processor):
    told = {}

    def make(*given, **how):
        told.update(how)
        return engine_start.make_backend(*given)

    engine_start.start_engine(model, processor, 10**9, drafts=False, narrow_cache=True, make=make).close()
    assert told == {"narrow_cache": True, "drafts": False}
    assert set(told) <= set(inspect.signature(Second.make_backend).parameters)


def test_what_two_cannot_share_is_refused_by_its_key():
    config = read_config(CHECKPOINT)
    for key in ("n_heads", "n_kv_heads", "hidden_dim"):
        with pytest.raises(UsageError, match=rf"params.json: {key} is 3, an odd number, .*; name one of them"):
            half_of(replace(config, **{key: 3}), CHECKPOINT)


def test_devices_are_single_ones_or_twos():
    assert process_slots("read", "0+1,2+3") == [ProcessSlot("read", "0+1"), ProcessSlot("read", "2+3")]
    assert process_slots("read", " cpu + cpu ") == [ProcessSlot("read", "cpu+cpu")]
    assert device_variables(["2+3", "0+1"]) == {
        "CUDA_VISIBLE_DEVICES": "2,3,0,1",
        "PAGEPACK_INTERNAL_DEVICE": "2+3,0+1",
    }
    assert device_variables(["cpu+cpu"]) == {"CUDA_VISIBLE_DEVICES": "", "PAGEPACK_INTERNAL_DEVICE": "cpu+cpu"}
    for wrong in ("0+0", "0+1,1+2", "cpu", "cpu+0", "0+", "cpu+cpu,cpu+cpu"):
        with pytest.raises(UsageError, match=r"write each GPU once, .* or two for a model over both, like 0\+1"):
            process_slots("read", wrong)
    for wrong in ("0+1+2", "0,1+2"):
        with pytest.raises(UsageError, match="a model is on one GPU or over two, and so are all"):
            process_slots("read", wrong)


def test_narrow_weights_over_two_are_refused(monkeypatch):
    monkeypatch.setenv("PAGEPACK_INTERNAL_DEVICE", "0+1")
    with pytest.raises(UsageError, match=r"--devices 0\+1 --quantize int8: halves of a layer are not quantized"):
        choose_engine(Settings(model=CHECKPOINT, quantize="int8"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_two_gpus_that_are_not_there_end_a_run_with_2(tmp_path):
    document = write_pdf(tmp_path / "a.pdf", 1)
    more = ("--model", CHECKPOINT, "--devices", "0+1", "--home", tmp_path / "home")
    ended = pagepack("run", document, *more, PAGEPACK_INTERNAL_ENGINE="")
    assert ended.returncode == 2
    assert "--devices 0+1" in ended.stderr and "GPU" in ended.stderr and "Traceback" not in ended.stderr


def seconds_of(home):
    """Processes with half of a model, of the readers of a home."""
    found = {}
    for reader in processes_of(home):
        with suppress(psutil.NoSuchProcess):  # it ends just now
            for one in (reader, *reader.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    found |= {one.pid: one} if "second" in one.cmdline()[-1:] else {}
    return list(found.values())


def test_a_killed_second_process_ends_the_first_and_every_page_is_read_once(tmp_path_factory, tmp_path):
    """Stopped before the first page, so that it is in a step when it is killed."""
    model = make_checkpoint(tmp_path_factory.mktemp("model") / "tiny", "tiny")
    document = write_pdf(tmp_path / "a.pdf", 3)
    home, question = tmp_path / "home", tmp_path / "question.txt"
    question.write_text("What is it?")
    prompt = ["--prompt-file", str(question), "--max-tokens", "64"]
    arguments = ["run", str(document), "--model", str(model), "--devices", "cpu+cpu", *prompt, "--home", str(home)]
    variables = {"PAGEPACK_INTERNAL_ENGINE": "", "PAGEPACK_MAX_SIDE_PX": "64", "PAGEPACK_LEASE_SECONDS": "600"}
    variables["PAGEPACK_TURN_PAGES"] = "false"  # how a page lies is not looked at: that would load other models
    begun = start(*arguments, engine="", **variables)
    log = home / "logs" / "read-cpu+cpu.log"
    wait_until(lambda: len(seconds_of(home)) == 1)
    (second,) = seconds_of(home)
    wait_until(lambda: log.exists() and " two processes: " in log.read_text())  # both are loaded
    second.send_signal(signal.SIGSTOP)
    wait_until(lambda: rows(home, "SELECT count(*) FROM page_tasks WHERE state = 'leased'") > [(0,)])
    second.send_signal(signal.SIGKILL)
    _, said = begun.communicate(timeout=600)
    assert begun.returncode == 0, said
    assert "the read-cpu+cpu worker died (exit code 4); starting it again" in said
    _, log_of_first, _ = log.read_text().split(" two processes: ")  # loaded twice
    bad = (" CRITICAL ", " ERROR ", "Traceback")
    told = [line for line in log_of_first.splitlines() if any(word in line for word in bad)]
    assert len(told) == 1 and "was killed by signal 9; the process of its other half ends, too" in told[0], told
    assert rows(home, "SELECT count(*), count(DISTINCT page_number) FROM page_text") == [(3, 3)]
    reconciles(home)
    wait_until(lambda: not second.is_running() and not seconds_of(home))


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def reading(mixture, pages, tmp_path_factory):
    """A process that has read pages over two devices in float64, the other of it, and the texts."""
    pixels = [page.pixels for page in pages]
    first = FirstProcess(tmp_path_factory.mktemp("first"), pair_processes.read, mixture, pixels, "float64", 24)
    yield first.process, first.hear(), first.hear()
    first.process.kill()
    first.end()


def test_experts_are_halved_each_and_adapters_with_their_weights(reading, mixture, pages):
    _, _, texts = reading
    engine = PixtralEngine(mixture, "cpu", "float64", memory_bytes=2_000_000_000, most_tokens=24)
    answers = [engine.submit(page.image_hash, page.pixels, [OCR])[0] for page in pages]
    assert texts == [answer.result(120).text for answer in answers] and len(set(texts)) == len(pages)
    engine.close()


def test_the_second_process_ends_with_the_first(reading):
    """Killed between two pages, when nothing goes over the sockets."""
    first, second, _ = reading
    assert not is_gone(second)
    first.kill()
    first.wait()
    wait_until(lambda: is_gone(second))


def test_steps_that_were_sent_ahead_do_not_hide_an_error_of_the_second_process():
    first, second = multiprocessing.Pipe()
    first.send(("clear", None))
    assert not has_ended(second)
    first.send(("clear", None))
    first.close()
    assert has_ended(second)


OVER_TWO = "the process of half of the model, on cpu, ended with exit code 70; the process of its other half ends, too"
HERE = "a step over two devices failed (TypeError: 'NoneType' object is not callable); both processes end"


@pytest.mark.parametrize(
    ("fault", "line"), [(pair_processes.no_step, HERE), (pair_processes.no_step_there, OVER_TWO)], ids=["here", "there"]
)
def test_a_step_that_fails_in_either_ends_both_with_one_line(fault, line, tmp_path):
    first = FirstProcess(tmp_path, pair_processes.read_with, CHECKPOINT, fault)
    second = first.hear()
    code, said = first.end()
    assert code == 4, said
    assert [told for told in said.splitlines() if told.startswith("CRITICAL ")] == [f"CRITICAL {line}"]
    assert is_gone(second)


STEP = r"over two devices a step of 4,096 tokens of prompts and \d+ sequences does not fit the memory of cpu"
WAY_OUT = r"free some on both, .*: --quantize int8 or int4"


HERE_FULL = r"\(CUDA out of memory\. Tried to allocate 2\.00 GiB\.\)"
THERE_FULL = r"\(.*can't allocate memory.*\)"
IN_EITHER = pytest.mark.parametrize(
    ("fault", "what"),
    [(pair_processes.no_memory, HERE_FULL), (pair_processes.no_memory_there, THERE_FULL)],
    ids=["here", "there"],
)


def ends_with(code: int, words: str, first: FirstProcess) -> str:
    """Both processes end, the first with this code and one line in these words; all that it said."""
    second = first.hear()
    ended, said = first.end()
    assert ended == code, said
    (told,) = [line for line in said.splitlines() if line.startswith("CRITICAL ")]
    assert re.fullmatch(rf"CRITICAL {STEP} {words}", told), told
    assert is_gone(second)
    return said


@IN_EITHER
def test_a_worst_step_that_does_not_fit_ends_with_what_and_the_way_out(fault, what, tmp_path):
    """Without a wait for ever, and with the code of a wrong setting, so that nobody starts it again and again."""
    said = ends_with(2, f"{what}; {WAY_OUT}", FirstProcess(tmp_path, pair_processes.measure_with, CHECKPOINT, fault))
    assert "Traceback" not in said


@IN_EITHER
def test_out_of_memory_while_pages_are_read_is_an_end_that_is_started_again(fault, what, tmp_path):
    again = f"{what}, and both processes end; if it happens again, {WAY_OUT}"
    ends_with(4, again, FirstProcess(tmp_path, pair_processes.read_with, CHECKPOINT, fault))
