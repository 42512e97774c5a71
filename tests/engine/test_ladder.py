"""What is tried where an answer loops, by models that truly loop and end where a rung helps; cancelling, closing."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.errors import Unavailable
from schemas.prompts import Prompt
from tests.chain_checkpoint import chain_checkpoint
from workers.engines import Answer, Begun, pixtral_ladder
from workers.engines.pixtral import PixtralEngine
from workers.engines.pixtral_ladder import LADDER, Climb

READ = Prompt("read", "read")  # short, that the images weigh something beside it
WIDE = np.full((64, 192, 3), 255, np.uint8)
LARGE = np.full((256, 512, 3), 255, np.uint8)
SMALL = np.full((32, 32, 3), 255, np.uint8)  # too few rows for a model that ends where there are many
TEXT = "Ahb\n"
CHAIN = (("A", "h"), ("b", "\n"))  # a short line: more lines than a page has room for are soon written
LOOP = Begun(draft="Ah" + "b\n" * 120)  # where it is known beforehand, a loop takes a few steps and not 200


def engine_of(folder, **ends) -> PixtralEngine:
    return PixtralEngine(chain_checkpoint(folder / "m", *CHAIN, **ends), "cpu", memory_bytes=700_000_000)


def read(engine, pixels=WIDE, prompt=READ, image_hash="page"):
    return engine.submit(image_hash, pixels, [prompt])[0].result(120)


def read_at_once(folder, pages, begun=None, **ends):
    """Side by side, for a loop of each costs no more steps than one."""
    engine = engine_of(folder, **ends)
    try:
        futures = [engine.submit(name, pixels, [READ], begun=[begun])[0] for name, pixels in pages]
        answers = [future.result(120) for future in futures]
        assert engine.stats()["running"] == 0
    finally:
        engine.close()
    return answers


@pytest.fixture(scope="module")
def turned_and_hopeless(tmp_path_factory):
    """A page that ends where it is turned, and one beside it that never does."""
    pages = [("page", WIDE), ("small", SMALL)]
    return read_at_once(tmp_path_factory.mktemp("turned"), pages, LOOP, ends="turned", closeness=0.5)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("chance", ["repetition", "good"]),
        ("turned", ["repetition"] * 4 + ["good"]),
        ("tiles", ["repetition"] * 6 + ["good"]),
    ],
    ids=["a temperature", "turned", "smaller tiles"],
)
def test_the_rung_that_helps_is_the_answer_and_every_try_is_kept(request, tmp_path, ends, expected):
    if ends == "turned":
        answer = again = request.getfixturevalue("turned_and_hopeless")[0]
    elif ends == "tiles":
        (answer,) = (again,) = read_at_once(tmp_path, [("page", LARGE)], LOOP, ends=ends, closeness=-2.0)
    else:
        answer, again = read_at_once(tmp_path, [("page", WIDE)] * 2, ends=ends, closeness=0.95)
    assert [one.verdict for one in answer.tries] == expected
    assert answer.finish_reason == "stop" and answer.text.startswith(TEXT)
    assert [one.is_chosen for one in answer.tries] == [False] * (len(expected) - 1) + [True]
    rungs = LADDER[: len(expected)]
    assert [one.temperature for one in answer.tries] == [rung.warmer for rung in rungs]
    assert [one.angle for one in answer.tries] == [90.0 * rung.quarter_turns or None for rung in rungs]
    assert [one.tiles is not None for one in answer.tries] == [rung.smaller_tiles for rung in rungs]
    assert all(one.text == TEXT and one.output_tokens == 4 for one in answer.tries[:-1]), "of a loop one copy"
    assert all(one.prompt_tokens > 50 and one.seconds > 0 for one in answer.tries)
    assert answer.seconds == pytest.approx(sum(one.seconds for one in answer.tries))
    chosen = answer.tries[-1]
    assert (answer.temperature, answer.angle, answer.output_tokens) == (
        chosen.temperature,
        chosen.angle,
        chosen.output_tokens,
    )
    assert [replace(one, seconds=0) for one in again.tries] == [replace(one, seconds=0) for one in answer.tries]


def test_where_nothing_helps_the_surest_text_stays_and_says_repetition(turned_and_hopeless):
    answer = turned_and_hopeless[1]
    assert (answer.finish_reason, answer.text) == ("repetition", TEXT)
    assert [one.verdict for one in answer.tries] == ["repetition"] * 6, "the page is too small for smaller tiles"
    assert sum(one.is_chosen for one in answer.tries) == 1 and answer.details["loop"]["copies"] > 7


def test_an_answer_without_a_loop_has_one_try_and_none_is_kept(tmp_path):
    engine = engine_of(tmp_path, ends="turned", closeness=0.8)
    try:
        answer = read(engine, np.ascontiguousarray(np.rot90(WIDE)))
        cut = read(engine, prompt=replace(READ, max_tokens=40), image_hash="cut")
    finally:
        engine.close()
    assert (answer.finish_reason, answer.text, answer.tries) == ("stop", TEXT, ())
    assert (cut.finish_reason, cut.output_tokens, cut.tries) == ("length", 40, ())


def test_time_that_is_over_ends_the_climb_with_what_there_is(tmp_path, monkeypatch):
    engine = engine_of(tmp_path)
    late_at_the_second = SimpleNamespace(monotonic=lambda: math.inf if engine.stats()["finished"] >= 2 else 0.0)
    monkeypatch.setattr(pixtral_ladder, "time", late_at_the_second)
    try:
        answer = engine.submit("page", WIDE, [READ], time.monotonic() + 600, [LOOP])[0].result(120)
    finally:
        engine.close()
    assert answer.finish_reason == "repetition" and 2 <= len(answer.tries) <= 3


def test_cancelling_in_the_middle_of_a_climb_frees_the_engine(tmp_path):
    engine = engine_of(tmp_path)
    try:
        future = engine.submit("page", WIDE, [READ])[0]
        while engine.stats()["finished"] < 1:
            time.sleep(0.01)
        assert future.cancel()
        until = time.monotonic() + 30
        while engine.stats()["running"] + engine.stats()["waiting"] and time.monotonic() < until:
            time.sleep(0.02)
        assert engine.stats()["finished"] <= 2 and not engine.stats()["running"]
    finally:
        engine.close()


def test_closing_in_the_middle_of_a_climb_gives_the_page_back(tmp_path):
    engine = engine_of(tmp_path)
    future = engine.submit("page", WIDE, [READ])[0]
    while engine.stats()["finished"] < 1:
        time.sleep(0.01)
    engine.close()
    with pytest.raises(Unavailable):
        future.result(30)


def test_a_page_that_was_set_upright_and_then_turned_for_a_try_says_the_sum():
    from concurrent.futures import Future

    from workers.engines import Answer
    from workers.engines.orientation import Turn
    from workers.engines.page_lie import Lie
    from workers.engines.upright import _Turned

    inner: Future[Answer] = Future()
    outer = _Turned(inner, Lie(Turn.HALF), "m")
    inner.set_result(Answer("x", "stop", 0.1, angle=270.0))
    assert outer.result().angle == 90.0 and outer.result().model == "m+turned"


def test_a_try_that_ends_for_an_unknown_reason_has_failed_and_the_page_goes_on():
    ends = iter(["repetition", "error", "stop"])

    def ask(rung: int) -> Future[Answer]:
        future: Future[Answer] = Future()
        future.set_result(Answer(f"text of {rung}", next(ends), 1.0))
        return future

    with ThreadPoolExecutor(1) as pool:
        answer = Climb(ask, pool, None).begin().result(10)
    assert [one.verdict for one in answer.tries] == ["repetition", "failed", "good"]
    assert answer.text == "text of 2" and answer.tries[1].error == "it ended with 'error'"
