"""Models that truly loop, decoded by the engine: each loop is caught, it harms no neighbour, and nothing else ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.checkpoint import PRESETS, random_tensors, tiny_tokenizer, write_checkpoint
from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from tests.chain_checkpoint import chain_checkpoint
from workers.pixtral.plan.sequence import Sampling
from workers.pixtral.start import Built, build_engine
from workers.pixtral.text.repetition import LINES

pytestmark = pytest.mark.xdist_group("reader")
MEMORY = 700_000_000
PAGE = np.full((64, 192, 3), 255, np.uint8)


def requests_for(built: Built, pages: list[np.ndarray], **sampling):
    wanted = Sampling(**{"max_tokens": 4096, "page_lines": LINES} | sampling)
    return [built.processor.encode_page(f"p{number}", page, "read", wanted) for number, page in enumerate(pages)]


def write(built: Built, pages: list[np.ndarray], **sampling):
    """All pages at once; their generations."""
    futures = [built.engine.submit(request) for request in requests_for(built, pages, **sampling)]
    return [future.result(300) for future in futures]


LOOPS = {  # what stands before, and what comes for ever; at how many tokens it is caught at the latest
    "empty rows": ((), ("|  |", "\n"), 215),
    "rows": (("Heading",), ("| alpha |", "\n"), 215),
    "a sentence": (("It ", "was "), ("the ", "committee ", "met ", "again ", "today ", ".\n"), 1050),
    "one line": ((), ("aaaaaaaa", " "), 270),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_model_that_writes_the_same_for_ever_is_stopped_and_one_copy_stays(name, tmp_path):
    before, loop, latest = LOOPS[name]
    built = build_engine(chain_checkpoint(tmp_path / "m", before, loop), torch.device("cpu"), memory_bytes=MEMORY)
    try:
        (request,) = requests_for(built, [PAGE])
        if name == "a sentence":  # a thousand tokens need not be as many steps: it is known beforehand
            request = replace(request, draft=tuple(range(276 + len(before), 276 + len(before) + len(loop))) * 200)
        future = built.engine.submit(request)
        if name == "rows":
            (unwatched,) = requests_for(built, [PAGE], page_lines=0, max_tokens=230)
            free = built.engine.submit(unwatched).result(300)
            assert (free.finish_reason, free.loop) == ("length", None) and len(free.tokens) == 230 > latest
        found = future.result(300)
        assert built.engine.stats()["running"] == 0
    finally:
        built.engine.close()
    assert found.finish_reason == "repetition" and found.loop is not None
    assert found.loop.first + found.loop.tokens <= latest
    assert found.text == "".join((*before, *loop)) and len(found.tokens) == found.loop.first
    assert found.confidence.mean > 0.9, "a loop is sure of itself"


def test_every_loop_of_random_models_is_caught(tmp_path):
    """Two models whose next token hangs on the last alone: a random walk that must come back to where it was.

    Half of their tokens are long, so that a line soon is longer than any that is printed.
    """
    caught = []
    words = tuple(f"-{number:03}----" for number in range(276))
    for seed in range(2):
        params = PRESETS["tiny"] | {"vocab_size": 276 + len(words), "n_layers": 1}
        tensors = random_tensors(params, seed=seed)
        for name, tensor in tensors.items():
            if name.endswith((".wo.weight", ".feed_forward.w2.weight")) and name.startswith("layers."):
                tensor.zero_()
        tensors["output.weight"][2] = 0.0  # of 552 logits some are above 0, so EOS never comes
        folder = write_checkpoint(tmp_path / str(seed), params, tensors, tiny_tokenizer(words=words))
        built = build_engine(folder, torch.device("cpu"), memory_bytes=MEMORY)
        try:
            (found,) = write(built, [PAGE], max_tokens=1000)
        finally:
            built.engine.close()
        caught.append((found.finish_reason, found.loop is not None))
    assert caught == [("repetition", True)] * 2


def test_no_drawn_table_or_list_of_the_reader_is_stopped():
    """16 pages with tables, figures and lists through the trained reader: each ends by itself, with its text."""
    samples = draw_samples(16, (192, 64), seed=77, kinds=("table", "numbers", "words", "random"))
    built = build_engine(CHECKPOINT, torch.device("cpu"), memory_bytes=2 * MEMORY)
    try:
        watched = write(built, [sample.pixels for sample in samples], max_tokens=400)
    finally:
        built.engine.close()
    assert {generation.finish_reason for generation in watched} == {"stop"}


def test_a_neighbour_of_a_loop_writes_what_it_writes_alone(tmp_path):
    """One model, in which only pages on their side are read to the end."""
    folder = chain_checkpoint(tmp_path / "m", ("Heading",), ("| ", "beta", " |", "\n"), ends="turned", closeness=0.8)
    built = build_engine(folder, torch.device("cpu"), memory_bytes=MEMORY)
    upright = np.ascontiguousarray(np.rot90(PAGE))
    try:
        alone = write(built, [upright])[0]
        beside = write(built, [PAGE, upright, PAGE, upright])
    finally:
        built.engine.close()
    assert [one.finish_reason for one in beside] == ["repetition", "stop", "repetition", "stop"]
    assert alone.tokens == beside[1].tokens == beside[3].tokens and alone.text == "Heading| beta |\n"
