"""How people name a set of answers: `tesseract`, `describe`, `1913`, `batch:1913`, `current`.

A word is looked for among engines, models, prompts, versions of prompts and batches, first as a whole, then as the
beginning or a part of one. Where it is several, its kind goes before it; where it is none, the message lists what
there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.database.looking import Look, Looking
from pipeline.errors import UsageError, did_you_mean
from pipeline.store.answer_sets import CURRENT, AnswerSet

_KINDS = ("engine", "model", "prompt", "version", "batch")
_SHORTEST_PART = 3
_LISTED = 6


def find_answers(db: Looking, word: str) -> AnswerSet:
    """What a word on the command line names.

    Raises:
        UsageError: none or several; the message lists what there is.
    """
    if word == CURRENT.name:
        return CURRENT
    kind, _, name = word.partition(":")
    kinds, name = ((kind,), name) if kind in _KINDS and name else (_KINDS, word)
    with db.looking() as look:
        known = {kind: list(_known(look, kind)) for kind in _KINDS}
    if not known["engine"]:
        raise UsageError(f"{db.name} has no answers yet; `pagepack run PATH` makes some")
    found = _fitting(known, kinds, name)
    if len(found) == 1:
        return found[0]
    if found:
        listed = [one.name for one in found]
        raise UsageError(f"{word!r} is several sets of answers; say which: {_list(listed)}")
    named = {kind: list(dict.fromkeys(name for name, _ in known[kind])) for kind in kinds}
    near = did_you_mean(name, [name for names in named.values() for name in names]) or ";"
    there = "; ".join(f"{kind} {_list(names)}" for kind, names in named.items() if names)
    raise UsageError(f"no answers are called {word!r}{near} there are {there}; and {CURRENT.name}")


def _known(look: Look, kind: str) -> Iterator[tuple[str, AnswerSet]]:
    """(name, what it names); a batch has two names."""
    if kind == "batch":
        for row in look.rows("SELECT id, public_id, name FROM batches ORDER BY id DESC"):
            answers = AnswerSet("batch", row.public_id, row.id)
            yield row.name, answers
            yield row.public_id, answers
        return
    for value in look.values(_NAMES[kind]):
        yield value, AnswerSet(kind, value)


_NAMES = {
    "engine": """SELECT DISTINCT engine FROM answer_versions
UNION SELECT 'text-layer' WHERE EXISTS (SELECT 1 FROM text_layers) ORDER BY 1""",
    # Of a text layer each text is a model; the engine's name stands for all of them
    "model": "SELECT DISTINCT model FROM answer_versions WHERE engine <> 'text-layer' ORDER BY 1",
    "prompt": "SELECT DISTINCT name FROM prompt_versions ORDER BY 1",
    "version": "SELECT prompt_version FROM prompts ORDER BY created_at DESC",
}


def _fitting(known: dict[str, list[tuple[str, AnswerSet]]], kinds: Sequence[str], word: str) -> list[AnswerSet]:
    folded = word.casefold()
    tests: list[Callable[[str], bool]] = [word.__eq__]
    if len(word) >= _SHORTEST_PART:
        tests += [lambda name: name.casefold().startswith(folded), lambda name: folded in name.casefold()]
    for fits in tests:
        if found := [answers for kind in kinds for name, answers in known[kind] if fits(name)]:
            return list(dict.fromkeys(found))
    return []


def _list(names: Sequence[str]) -> str:
    more = f", … ({len(names) - _LISTED} more)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
