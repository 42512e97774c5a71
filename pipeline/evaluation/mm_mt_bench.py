"""MM-MT-Bench as it is published: a Parquet file of conversations about a picture, and how their turns are scored.

    image          the picture's bytes, as {"bytes": …, "path": …}
    conversation   JSON: {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", …}]},
                                       {"role": "assistant", "content": "the reference answer"}, …]}
    category       chart_understanding, table…

Each turn is asked by itself, with the reference answers of the turns before it as history, and scored by a judge from 1
to 10 who sees the conversation, the reference and the answer (arXiv:2410.07073, section 3; github.com/mistralai/
mistral-evals). So turn 3 of a conversation has two questions and two reference answers before its own question.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.errors import UsageError
from pipeline.evaluation.evaluate import Item

MOST_TOKENS = 4096  # of an answer, as the benchmark has it
_COLUMNS = ("image", "conversation", "category")
_SCORE = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}

JUDGE_PROMPT = """You are an impartial judge of an assistant's answer to the latest question of a conversation about \
an image. Judge how correct and how helpful it is. You are given the conversation, a reference answer to its latest \
question, and the assistant's answer. First compare that answer with the reference, and name what is wrong or missing \
in it; be objective. Then rate it from 1 to 10, and end with the rating in two pairs of square brackets, like this: \
Rating: [[5]]."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question of a conversation. `messages` end with it; their images are data URLs, as OpenAI's API takes them."""

    conversation: int  # from 1
    number: int  # from 1
    category: str
    messages: list[dict[str, Any]]
    reference: str

    @property
    def name(self) -> str:
        return f"conversation {self.conversation} turn {self.number}"


@dataclass(frozen=True, slots=True)
class JudgedTurn:
    """What was answered, and what the judge said; `score` is None where it gave none, or was not asked."""

    turn: Turn
    answer: str | None
    score: float | None
    said: str  # by the judge, or why there is no score

    def item(self) -> Item:
        answer = "" if self.answer is None else f"answer: {self.answer}\n\n"
        return Item(self.turn.name, self.turn.category, self.score, f"{answer}judge: {self.said}")


def read_dataset(path: Path) -> tuple[list[Turn], list[str]]:
    """All turns, and a line for each conversation that is left out.

    Raises:
        UsageError: it is no such dataset; or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError as error:
        raise UsageError(
            "MM-MT-Bench is read by pyarrow, which is not installed: pip install 'pagepack[eval]'"
        ) from error
    if not path.exists():
        raise UsageError(f"{path} is not there; name the dataset's folder, or its .parquet")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"no .parquet lies below {path}; MM-MT-Bench is published as data/eval-….parquet")
    turns: list[Turn] = []
    complaints: list[str] = []
    number = 0
    for file in files:
        try:
            table = parquet.read_table(file)
        except (OSError, ArrowException) as error:
            raise UsageError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        if missing := [name for name in _COLUMNS if name not in table.column_names]:
            there = ", ".join(table.column_names[:10])
            raise UsageError(f"{file} is no MM-MT-Bench: it lacks {', '.join(missing)}; it has {there}")
        for row in table.select(list(_COLUMNS)).to_pylist():
            number += 1
            try:
                turns += _turns(number, row)
            except ValueError as error:
                complaints.append(f"conversation {number} of {os.path.basename(file)} is left out: {error}")
    if not turns:
        raise UsageError(f"{path} has no conversation: {complaints[0] if complaints else 'it is empty'}")
    return turns, complaints


def _turns(number: int, row: dict[str, Any]) -> Iterator[Turn]:
    try:
        said = json.loads(row["conversation"])
    except (TypeError, ValueError):
        raise ValueError("its conversation is no JSON") from None
    messages = said.get("messages") if isinstance(said, dict) else said
    if not isinstance(messages, list) or len(messages) < 2:
        raise ValueError("its conversation has no messages, or no answer to the first")
    image = _data_url(row["image"])
    asked = [_message(message, image) for message in messages]
    roles = [message["role"] for message in asked]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError("user and assistant do not take turns in it, or the last question has no answer")
    for at in range(0, len(asked), 2):
        reference = text_of(asked[at + 1]["content"])
        yield Turn(number, at // 2 + 1, str(row["category"] or "other"), asked[: at + 1], reference)


def _data_url(image: Any) -> str:
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes) or not data:
        raise ValueError("it has no image")
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    if kind is None:
        raise ValueError("its image is no PNG, JPEG, WebP or GIF")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _message(message: Any, image: str) -> dict[str, Any]:
    if not isinstance(message, dict) or "role" not in message or "content" not in message:
        raise ValueError("one of its messages has no role and content")
    content = message["content"]
    if isinstance(content, list):
        content = [
            {"type": "image_url", "image_url": {"url": image}}
            if isinstance(part, dict) and part.get("type") in ("image", "image_url")
            else {"type": "text", "text": str(part.get("text", "")) if isinstance(part, dict) else str(part)}
            for part in content
        ]
    elif not isinstance(content, str):
        raise ValueError("the content of one of its messages is neither a text nor a list")
    return {"role": str(message["role"]), "content": content}


def text_of(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def judge_messages(turn: Turn, answer: str, instruction: str = JUDGE_PROMPT) -> list[dict[str, Any]]:
    """What the judge is asked: the conversation with its pictures, the reference to its last question, the answer."""
    parts: list[dict[str, Any]] = []

    def say(text: str) -> None:
        if parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += text
        else:
            parts.append({"type": "text", "text": text})

    references = [text_of(m["content"]) for m in turn.messages if m["role"] == "assistant"] + [turn.reference]
    questions = [message for message in turn.messages if message["role"] == "user"]
    say("# The conversation\n\n")
    for number, (question, reference) in enumerate(zip(questions, references, strict=True), 1):
        say(f"## Question {number}\n\n")
        content = question["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                say(part["text"])
            else:
                parts.append(part)
        say(f"\n\n## Reference answer {number}\n\n{reference}\n\n")
    say(f"# The assistant's answer to question {len(questions)}\n\n{answer}\n")
    return [{"role": "system", "content": instruction}, {"role": "user", "content": parts}]


def score_of(said: str) -> float | None:
    """The first rating from 1 to 10 in double brackets; None where there is none."""
    scores = (float(found) for found in _SCORE.findall(said))
    return next((score for score in scores if 1 <= score <= 10), None)


@dataclass(frozen=True, slots=True)
class Means:
    """(name, turns, turns without a score, mean) of each group, and of all."""

    categories: list[tuple[str, int, int, float | None]]
    turns: list[tuple[str, int, int, float | None]]
    overall: float | None
    category_macro_average: float | None


def means_of(judged: Sequence[JudgedTurn]) -> Means:
    categories = _grouped([(one.turn.category, one.score) for one in judged])
    turns = _grouped([(f"turn {one.turn.number}", one.score) for one in judged])
    scores = [one.score for one in judged if one.score is not None]
    means = [mean for *_, mean in categories if mean is not None]
    return Means(categories, turns, fmean(scores) if scores else None, fmean(means) if means else None)


def _grouped(scored: list[tuple[str, float | None]]) -> list[tuple[str, int, int, float | None]]:
    groups: dict[str, list[float | None]] = {}
    for name, score in scored:
        groups.setdefault(name, []).append(score)
    rows = []
    for name, scores in sorted(groups.items()):
        judged = [score for score in scores if score is not None]
        rows.append((name, len(scores), len(scores) - len(judged), fmean(judged) if judged else None))
    return rows


SOURCE = "Agrawal et al. 2024, Pixtral 12B, arXiv:2410.07073v2, table 2; judged by GPT-4o"
PUBLISHED: list[tuple[str, float, int | None]] = [  # model, MM-MT-Bench, LMSys-Vision (October 2024)
    ("Pixtral 12B", 6.05, 1076),
    ("Qwen-2-VL 7B", 5.45, 1040),
    ("Llama-3.2 11B", 4.79, 1032),
    ("Molmo-D 7B", 3.72, None),
    ("LLaVA-OneVision 7B", 4.12, None),
    ("Claude-3 Haiku", 5.46, 1000),
    ("Gemini-1.5-Flash 8B (0827)", 5.93, 1111),
    ("Molmo 72B", 3.51, None),
    ("LLaVA-OneVision 72B", 4.95, 992),
    ("Qwen-2-VL 72B", 6.59, 1104),
    ("Llama-3.2 90B", 5.50, 1071),
    ("GPT-4o (0513)", 7.72, 1208),
    ("Claude-3.5 Sonnet", 7.50, 1189),
]
