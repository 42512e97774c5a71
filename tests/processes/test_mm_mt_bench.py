"""MM-MT-Bench the whole way: a published file's form, answers of a real engine, a judge behind a real server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.reader.conversations import conversation, draw, judgement, picture, write
from benchmarks.reader.evaluate import CHECKPOINT, draw_samples
from pipeline.errors import UsageError
from pipeline.evaluation.mm_mt_bench import (
    PUBLISHED,
    JudgedTurn,
    Turn,
    judge_messages,
    means_of,
    read_dataset,
    score_of,
)
from pipeline.supervisor import conversing
from pipeline.supervisor.processes import WORKERS
from schemas.prompts import DESCRIBE, OCR
from tests.model_server import Exchange, ModelServer, completion, status
from tests.running import call, rows, start_module

pytestmark = pytest.mark.xdist_group("reader")


@pytest.fixture(autouse=True)
def forked_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's process is forked as `warm_start.py` says: half a second of imports, or two with torch."""

    def start(command: Sequence[str], env: dict[str, str], **streams: Any) -> subprocess.Popen[str]:
        assert tuple(command[:-1]) == WORKERS
        assert streams == dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"text": True}
        return start_module("workers", command[-1:], env, takes_words=True)

    monkeypatch.setattr(conversing, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE))


BLANK = picture(np.full((32, 32, 3), 255, np.uint8))


def parts_of(exchange: Exchange) -> str:
    return "".join(part.get("text", "<image>") for part in exchange.body["messages"][-1]["content"])


def fair(exchange: Exchange) -> None:
    """The judge that compares; of numbers it says nothing that counts."""
    of_numbers = "## Reference answer 1\n\n1234\n\n" in parts_of(exchange)
    said = "It is hard to say. [[0]] [[eleven]]" if of_numbers else judgement(exchange.body)
    exchange.send_json(completion(said))


def test_turns_are_answered_by_the_small_reader_and_scored_by_a_judge(tmp_path: Path) -> None:
    pages = draw_samples(2, (192, 64), 5)
    conversations = [
        conversation("ocr", picture(page.pixels), OCR.text, page.layout.text, DESCRIBE.text, page.layout.description)
        for page in pages
    ]
    conversations.append(conversation("numbers", picture(pages[0].pixels), OCR.text, "1234"))
    dataset = write(tmp_path / "MM-MT-Bench", conversations)
    with ModelServer(fair) as judge:
        told = ("--judge-url", judge.url, "--judge-model", "fair", "--home", tmp_path / "home")
        done = call("eval", "mm-mt-bench", dataset, "--model", CHECKPOINT, *told, "--json", PAGEPACK_INTERNAL_ENGINE="")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert (found["kind"], found["turns"], found["not_scored"]) == ("mm-mt-bench", 5, 1)
    assert found["categories"]["numbers"] == {"turns": 1, "not_scored": 1, "mean": None}
    assert found["by_turn"]["turn 1"]["mean"] >= 9, "it reads nearly all of them"
    assert found["by_turn"]["turn 2"]["turns"] == 2 and 1 <= found["by_turn"]["turn 2"]["mean"] <= 10
    assert found["answers"].startswith("model:pixtral-")
    assert found["published"]["models"][0] == {"model": "Pixtral 12B", "mm_mt_bench": 6.05, "lmsys_vision": 1076}
    view = "SELECT item, category, score, detail FROM evaluated_items ORDER BY item"
    items = rows(tmp_path / "home", view)
    assert [item for item, *_ in items] == [
        "conversation 1 turn 1",
        "conversation 1 turn 2",
        "conversation 2 turn 1",
        "conversation 2 turn 2",
        "conversation 3 turn 1",
    ]
    assert (
        items[0][3]
        == f"answer: {pages[0].layout.text}\n\njudge: 100% of the answer is that of the reference. Rating: [[10]]"
    )
    assert items[4][2] is None and "no score from 1 to 10" in items[4][3]
    second = [parts_of(exchange) for exchange in judge.exchanges if "## Question 2" in parts_of(exchange)]
    assert len(second) == 2 and all(text.count("<image>") == 1 and OCR.text in text for text in second)


def test_an_endpoint_answers_with_the_reference_answers_as_history_and_a_judge_may_be_gone(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [conversation("chart", BLANK, "what?", "a bar", "how high?", "four")])
    with (
        ModelServer(lambda exchange: exchange.send_json(completion("five"))) as model,
        ModelServer(fair, status(401, "no such key")) as judge,
    ):
        engine = ("--engine", "endpoint", "--endpoint-url", model.url, "--endpoint-model", "m")
        told = ("--judge-url", judge.url, "--judge-model", "j", "--home", tmp_path / "home")
        done = call("eval", "mm-mt-bench", dataset, *engine, *told, PAGEPACK_INTERNAL_ENGINE="")
    assert done.returncode == 1, done.stderr
    assert "2 turns without a score, such as conversation 1 turn 1:" in done.stdout and "no such key" in done.stdout
    assert "Pixtral 12B" in done.stdout and "1,076" in done.stdout
    asked = sorted((exchange.body["messages"] for exchange in model.exchanges), key=len)
    assert [message["role"] for message in asked[1]] == ["user", "assistant", "user"]
    assert asked[1][1]["content"] == "a bar" and asked[1][2]["content"] == "how high?"
    assert asked[0][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    kept = rows(tmp_path / "home", "SELECT detail FROM evaluated_items")
    assert all(detail.startswith("answer: five\n\njudge: ") for (detail,) in kept), "answers that cost something stay"


def test_a_judge_that_refuses_is_found_first_and_answers_that_were_made_are_only_judged(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [conversation("chart", BLANK, "what?", "a bar", "how high?", "four")])

    def evaluate(model: ModelServer, judge: ModelServer):
        engine = ("--engine", "endpoint", "--endpoint-url", model.url, "--endpoint-model", "m")
        told = ("--judge-url", judge.url, "--judge-model", "j", "--home", tmp_path / "home")
        return call("eval", "mm-mt-bench", dataset, *engine, *told, PAGEPACK_INTERNAL_ENGINE="")

    with ModelServer(lambda exchange: exchange.send_json(completion("five"))) as model:
        with ModelServer(status(401, "no such key")) as judge:
            refused = evaluate(model, judge)
        assert refused.returncode == 4 and "no such key" in refused.stderr and model.exchanges == []
        with ModelServer(fair, status(401, "no such key any more")) as judge:
            assert evaluate(model, judge).returncode == 1
        assert len(model.exchanges) == 2
        with ModelServer(fair) as judge:
            again = evaluate(model, judge)
        assert len(model.exchanges) == 2, "none is asked for twice"
    assert again.returncode == 0 and "2 of 2 answers were made before" in again.stderr, again.stderr
    scores = "SELECT count(*), min(score) IS NULL FROM evaluated_items GROUP BY evaluation_id ORDER BY evaluation_id"
    assert rows(tmp_path / "home", scores) == [(2, 1), (2, 0)]


def test_answers_so_far_are_judged_where_the_engine_dies(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [conversation("chart", BLANK, "what?", "a bar", "how high?", "four")])
    with ModelServer(fair) as judge:
        told = ("--judge-url", judge.url, "--judge-model", "fair", "--home", tmp_path / "home")
        done = call("eval", "mm-mt-bench", dataset, *told, engine="MortalConverser")
    assert done.returncode == 1, done.stderr
    kept = rows(tmp_path / "home", "SELECT score, detail FROM evaluated_items ORDER BY item")
    assert kept[0][0] == 10 and kept[0][1].startswith("answer: a bar")
    assert kept[1] == (None, "judge: the engine gave no answer; the engine's process ended with 139: no word from it")


def test_an_engine_that_reads_pages_only_is_refused(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", [conversation("chart", BLANK, "what?", "a bar")])
    with ModelServer(fair) as judge:
        told = ("--judge-url", judge.url, "--judge-model", "j", "--home", tmp_path / "home")
        done = call("eval", "mm-mt-bench", dataset, *told, engine="InstantEngine")
    assert done.returncode == 2 and "the engine instant reads pages only" in done.stderr
    done = call("eval", "mm-mt-bench", dataset, "--home", tmp_path / "home")
    assert done.returncode == 2 and "a judge scores the answers, and --judge-url URL is not given" in done.stderr


def test_options_may_stand_before_the_benchmark_s_name(tmp_path: Path) -> None:
    told = ("--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "j")
    done = call("eval", "--home", tmp_path / "home", "mm-mt-bench", tmp_path / "none", *told)
    assert done.returncode == 2 and "none is not there; name the dataset's folder" in done.stderr
    for words in (("--home", "mm-mt-bench", tmp_path), (tmp_path, "mm-mt-bench"), ("--changes", "mm-mt-bench")):
        done = call("eval", *words, *told)
        assert done.returncode == 2 and "No such option '--judge-url'" in done.stderr, "it is a value or a path"


# The dataset and the scores


def test_a_conversation_that_is_none_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    good = conversation("chart", BLANK, "what?", "a bar")
    bad = [
        good | {"conversation": "{"},
        good | {"image": {"bytes": b"", "path": ""}},
        good | {"image": {"bytes": b"<svg/>", "path": ""}},
        conversation("chart", BLANK, "what?", "a bar", "and then?"),
        good | {"conversation": json.dumps({"messages": [{"role": "user"}, {}]})},
    ]
    turns, complaints = read_dataset(write(tmp_path / "set", [*bad, good]))
    assert [turn.name for turn in turns] == ["conversation 6 turn 1"]
    reasons = [complaint.partition("is left out: ")[2] for complaint in complaints]
    assert reasons == [
        "its conversation is no JSON",
        "it has no image",
        "its image is no PNG, JPEG, WebP or GIF",
        "user and assistant do not take turns in it, or the last question has no answer",
        "one of its messages has no role and content",
    ]


def test_what_is_no_dataset_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there; name the dataset's folder"):
        read_dataset(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no .parquet lies below"):
        read_dataset(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        read_dataset(tmp_path / "a.parquet")
    pq.write_table(pa.table({"question": ["?"], "answer": ["!"]}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match="it lacks image, conversation, category; it has question, answer"):
        read_dataset(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("Good. Rating: [[7]]", 7),
        ("Rating: [[6.5]], not [[9]]", 6.5),
        ("[[ 10 ]]", 10),
        ("[[0]] and [[11]]", None),
        ("7/10", None),
        ("", None),
    ],
)
def test_a_score_is_the_first_rating_in_double_brackets(said: str, score: float | None) -> None:
    assert score_of(said) == score


def test_means_leave_out_what_has_no_score() -> None:
    def judged(category: str, number: int, score: float | None) -> JudgedTurn:
        return JudgedTurn(Turn(1, number, category, [], ""), "a", score, "")

    found = means_of([judged("chart", 1, 8), judged("chart", 2, 4), judged("table", 1, None), judged("pdf", 1, 3)])
    assert found.categories == [("chart", 2, 0, 6.0), ("pdf", 1, 0, 3.0), ("table", 1, 1, None)]
    assert found.turns == [("turn 1", 3, 1, 5.5), ("turn 2", 1, 0, 4.0)]
    assert (found.overall, found.category_macro_average) == (5.0, 4.5)


def test_a_judge_sees_the_conversation_the_references_and_the_answer(tmp_path: Path) -> None:
    turns, _ = read_dataset(
        write(tmp_path / "set", [conversation("chart", BLANK, "what?", "a bar", "how high?", "four")])
    )
    system, user = judge_messages(turns[1], "five", "judge it")
    assert system == {"role": "system", "content": "judge it"}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text"]
    assert user["content"][2]["text"] == (
        "what?\n\n## Reference answer 1\n\na bar\n\n## Question 2\n\nhow high?\n\n## Reference answer 2\n\nfour\n\n"
        "# The assistant's answer to question 2\n\nfive\n"
    )


def test_conversations_can_be_drawn_for_who_wants_to_see_the_whole_way(tmp_path: Path) -> None:
    turns, complaints = read_dataset(draw(tmp_path / "set", 3))
    assert [turn.name for turn in turns] == [
        f"conversation {n} turn {m}" for n, m in ((1, 1), (1, 2), (2, 1), (3, 1), (3, 2))
    ]
    assert complaints == [] and judgement({"messages": judge_messages(turns[0], turns[0].reference)}).endswith("[[10]]")


def test_published_figures_are_those_of_the_paper() -> None:
    assert len(PUBLISHED) == 13 and max(PUBLISHED, key=lambda one: one[1]) == ("GPT-4o (0513)", 7.72, 1208)
