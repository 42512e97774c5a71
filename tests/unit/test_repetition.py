"""An answer that loops is told from a page that repeats itself: both as text, in the tokens of Pixtral's vocabulary."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import pytest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from tests.dejavu import ENGLISH
from workers.pixtral.text.repetition import LINES, Loop, Watch, lines_of_page

pytestmark = pytest.mark.xdist_group("repetition")  # one test process reads the vocabulary, for a second

WORDS = " ".join(" ".join(ENGLISH).split()).split()


@cache
def tokenizer() -> Tekkenizer:
    found = MistralTokenizer.v3(is_tekken=True, is_mm=True).instruct_tokenizer.tokenizer
    assert isinstance(found, Tekkenizer)
    return found


@cache
def piece(token: int) -> bytes:
    return tokenizer().id_to_byte_piece(token)


def watched(text: str, lines: int = LINES) -> tuple[Loop | None, int, str]:
    """The loop that is found, after how many tokens, and the text that stays."""
    tokens = tokenizer().encode(text, bos=False, eos=False)
    watch = Watch(piece, lines)
    for count, token in enumerate(tokens, 1):
        if loop := watch.add(token):
            return loop, count, b"".join(map(piece, tokens[: loop.first])).decode(errors="replace")
    return None, len(tokens), text


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(rng: random.Random, cell: Callable[[], str], rows: int, columns: int) -> str:
    head = [rng.choice(WORDS) for _ in range(columns)]
    body = [row([cell() for _ in range(columns)]) for _ in range(rows)]
    return "\n".join([row(head), row(["---"] * columns), *body])


def number(rng: random.Random) -> str:
    return f"{rng.randrange(10 ** rng.randrange(1, 6)):,}.{rng.randrange(100):02}"


def empty_form(rng: random.Random) -> str:
    return markdown(rng, lambda: "", rng.randrange(10, 61), rng.randrange(2, 15))


def one_value(rng: random.Random) -> str:
    value = rng.choice(["N/A", "-", "0.00", "Yes", "x", "none", "…", "0", "not applicable"])
    return markdown(rng, lambda: value, rng.randrange(10, 61), rng.randrange(2, 9))


def few_values(rng: random.Random) -> str:
    values = rng.choice([["Yes", "No"], ["good", "fair", "poor", "none"], ["0", "1"], ["+", "-"]])
    return markdown(rng, lambda: rng.choice(values), rng.randrange(20, 61), rng.randrange(2, 9))


def figures(rng: random.Random) -> str:
    return markdown(rng, lambda: number(rng), rng.randrange(10, 61), rng.randrange(3, 13))


def html(rng: random.Random) -> str:
    rows, columns, value = rng.randrange(10, 61), rng.randrange(2, 9), rng.choice(["", "0", "total"])
    return "<table>\n" + f"<tr>{f'<td>{value}</td>' * columns}</tr>\n" * rows + "</table>"


def latex(rng: random.Random) -> str:
    line = " & ".join([rng.choice(["", "0", "--"])] * rng.randrange(3, 12)) + r" \\ \hline"
    return "\n".join([line] * rng.randrange(10, 61))


def contents(rng: random.Random) -> str:
    dot = rng.choice([".", ". ", " .", "…", "·"])
    lines = rng.randrange(20, 61)
    return "\n".join(
        f"{number + 1}. {rng.choice(WORDS)} {dot * rng.randrange(20, 120)} {number * 3}" for number in range(lines)
    )


def ruled(rng: random.Random) -> str:
    return "\n".join([rng.choice(["_", "-", ". ", "="]) * rng.randrange(40, 140)] * rng.randrange(5, 50))


def entries(rng: random.Random) -> str:
    line = rng.choice(
        ["Name: ________ Date: ________", "Signature ____ Name ____ Date ____ Place ____", "☐ Yes ☐ No ☐ "]
    )
    return "\n".join([line] * rng.randrange(10, 41))


def numbered(rng: random.Random) -> str:
    words = rng.choice(["", "N/A", "as above", "Item"])
    return "\n".join(f"{number + 1}. {words}" for number in range(rng.randrange(20, 90)))


def bullets(rng: random.Random) -> str:
    return "\n".join(f"- {' '.join(rng.choices(WORDS, k=rng.randrange(1, 5)))}" for _ in range(rng.randrange(20, 70)))


def labels(rng: random.Random) -> str:
    label = (
        "Joan Example\n12 Long Street\nExampleville"
        if rng.random() < 0.5
        else "Fragile! Handle with care, this side up"
    )
    return "\n\n".join([label] * rng.randrange(8, 61))


def matrix(rng: random.Random) -> str:
    digits = rng.choice(["0", "01", "0123456789"])
    columns = rng.randrange(8, 33)
    return "\n".join(" ".join(rng.choices(digits, k=columns)) for _ in range(rng.randrange(20, 71)))


def dump(rng: random.Random) -> str:
    lines, zeros = rng.randrange(20, 70), " 00" * 16
    return "\n".join(f"{16 * number:08x} {zeros}  |{'.' * 16}|" for number in range(lines))


def register(rng: random.Random) -> str:
    when, what = rng.randrange(24), rng.choice(["Connection refused by server", "retry", "OK"])
    return "\n".join(f"{when:02}:{number % 60:02}:{number:02} {what}" for number in range(rng.randrange(20, 80)))


def refrain(rng: random.Random) -> str:
    line = " ".join(rng.choices(WORDS, k=6))
    verse = "\n".join(" ".join(rng.choices(WORDS, k=7)) for _ in range(4))
    return "\n\n".join([verse, "\n".join([line] * 4)] * rng.randrange(3, 7))


DRAWN = [
    empty_form, one_value, few_values, figures, html, latex, contents, ruled, entries, numbered,
    bullets, labels, matrix, dump, register, refrain,
]  # fmt: skip


@pytest.mark.parametrize("draw", DRAWN)
def test_no_table_and_no_list_is_taken_for_a_loop(draw: Callable[[random.Random], str]) -> None:
    """13 of each of the 16 kinds, 208 in all, up to 90 lines; under a heading and before some more text."""
    for seed in range(13):
        text = f"# {' '.join(WORDS[:5])}\n\n{draw(random.Random(seed))}\n\n{' '.join(WORDS)}\n"
        loop, tokens, _ = watched(text)
        assert loop is None, (seed, loop, tokens, text)


PARAGRAPH = " ".join(f"{word}{number}" for number, word in enumerate(WORDS[:60] * 2))
LOOPS = {  # what the model writes again and again; at how many tokens it is caught at the latest
    "one word": ("the ", 400),
    "dots": (".", 400),
    "dots and blanks": (". ", 700),
    "noughts": ("0 ", 1100),
    "line ends": ("\n", 300),
    "blanks": ("        ", 400),
    "a short line": ("the cat\n", 500),
    "a sentence": ("The committee met on Tuesday and decided nothing at all. ", 1100),
    "a paragraph": (PARAGRAPH + "\n\n", 3500),
    "empty rows": ("|  |  |  |\n", 900),
    "rows of words": ("| alpha | beta | gamma | delta |\n", 1300),
    "cells": ("<td></td>", 900),
    "rows in HTML": ("<tr><td></td><td></td></tr>\n", 1600),
    "Chinese": ("这是一个很长的句子，用来测试重复的检测器。", 1100),
    "two lines in turn": ("first line of a song\nand the second one\n", 1100),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_caught_and_one_copy_stays(name: str) -> None:
    unit, latest = LOOPS[name]
    begin = "# Minutes\n\nHere it begins:\n"
    loop, tokens, kept = watched(begin + unit * max(3000, 40_000 // len(unit)))
    assert loop is not None and tokens <= latest, (loop, tokens)
    assert kept.startswith(begin.strip()) and len(kept) <= len(begin) + 2.1 * len(unit) + 128, "the longest token"
    assert loop.first + loop.tokens == tokens and loop.copies >= 4


@pytest.mark.parametrize("line", ["{}.\n", "Item {}\n", "| {} | 0.00 |\n"])
def test_a_list_that_counts_on_for_ever_is_caught(line: str) -> None:
    loop, _, kept = watched("Contents\n" + "".join(line.format(number) for number in range(1, 2000)))
    assert loop is not None and kept.count("\n") <= 4
    found, _, _ = watched("Contents\n" + "".join(line.format(number) for number in range(1, 250)))
    assert found is None


def test_a_loop_may_stumble_but_not_over_figures() -> None:
    """As one drawn with a temperature does: one word in 120 is another. Tickets that are numbered are no loop."""
    rng = random.Random(2)
    words = (
        "The committee met on Tuesday and decided nothing at all, as it had done before and will again. " * 4
    ).split()
    stumbles = " ".join(
        rng.choice(["house", "green", "seven"]) if place % 120 == 119 else words[place % 72] for place in range(4000)
    )
    loop, tokens, kept = watched(stumbles)
    assert loop is not None and tokens < 3200 and kept.startswith("The committee met")
    ticket = f"Ticket {{}}. {' '.join(words[:70])}\n"
    assert watched("".join(ticket.format(number) for number in range(137, 167)))[0] is None


def test_two_equal_halves_of_a_page_are_no_loop() -> None:
    """A sheet that is printed twice, side by side, of 2,400 tokens each; four small forms of 300."""
    page = " ".join(random.Random(4).choices(WORDS, k=2000))
    assert watched(f"{page}\n\n{page}")[0] is None
    form = " ".join(random.Random(5).choices(WORDS, k=200))
    assert watched("\n\n".join([form] * 4))[0] is None


def test_a_long_sheet_has_room_for_more_lines() -> None:
    rows = "| a | b |\n|---|---|\n" + "|  |  |\n" * 200
    assert watched(rows)[0] is not None
    assert lines_of_page(1024) == LINES and watched(rows, lines_of_page(5360))[0] is None
