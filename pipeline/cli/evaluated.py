"""What `pagepack eval` prints: figures, documents and pages, the worst first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from pipeline.cli.options import one_line

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import Evaluation, JudgedPage
    from pipeline.settings import Settings

_NAMED, _COMPLAINTS = 5, 20
_RATES = ("character_error_rate", "word_error_rate", "recall", "precision")
_TITLES = ("characters wrong", "words wrong", "recall", "precision")


def say_evaluation(
    settings: Settings,
    found: Sequence[Evaluation],
    ids: Sequence[int | None],
    worst: int,
    changes: bool,
    stream: TextIO,
) -> None:
    from pipeline.cli.where import looking_words
    from pipeline.query.go_on import shell_quoted

    for one, key in zip(found, ids, strict=True):
        for line in _head(one, key):
            click.echo(line)
        if one.pages:
            _documents(one, worst, stream)
            _worst(one, worst, changes, stream)
        if one.items:
            _items(one, stream)
    if len(found) == 2 and found[0].pages and found[1].pages:
        _against(found[0], found[1], worst, stream)
    if (key := next((key for key in ids if key is not None), None)) is not None:
        where = "".join(f" {shell_quoted(word)}" for word in looking_words(settings))
        view = "evaluated_pages" if found[0].pages else "evaluated_items"
        order = "character_error_rate DESC" if found[0].pages else "score"
        click.echo(f'rows:  pagepack sql{where} "SELECT * FROM {view} WHERE evaluation_id = {key} ORDER BY {order}"')


def _head(one: Evaluation, key: int | None) -> list[str]:
    of = Counter(page.truth for page in one.pages)
    truths = ", ".join(f"{count:,} by {kind}" for kind, count in of.most_common())
    lines = [f"evaluation {key}: {one.name}, {one.answers}"] if key is not None else []
    if one.pages or one.without_truth:
        total = len(one.pages) + len(one.without_truth)
        answered = "1 page" if total == 1 else f"{total:,} pages"
        lines.append(f"{answered} with an answer; {len(one.pages):,} judged{f' ({truths})' if truths else ''}")
    if one.without_truth:
        named = ", ".join(map(one_line, one.without_truth[:_NAMED]))
        more = f", and {len(one.without_truth) - _NAMED:,} more" if len(one.without_truth) > _NAMED else ""
        lines.append(f"  without a truth, not judged: {named}{more}")
    if one.equal_files:
        equal = [" = ".join([path, *others]) for path, others in one.equal_files.items()]
        more = f", and {len(equal) - _NAMED:,} more" if len(equal) > _NAMED else ""
        lines.append(f"  equal files count once, by the first name: {', '.join(map(one_line, equal[:_NAMED]))}{more}")
    lines += [f"  {one_line(complaint)}" for complaint in one.complaints[:_COMPLAINTS]]
    if len(one.complaints) > _COMPLAINTS:
        lines.append(f"  and {len(one.complaints) - _COMPLAINTS:,} more such lines; --json has all")
    if one.pages:
        figures = one.figures()
        lines.append("   ".join(f"{title} {_rate(figures[name])}" for name, title in zip(_RATES, _TITLES, strict=True)))
        if figures["table_score"] is not None:
            lines.append(f"tables (TEDS) {_rate(figures['table_score'])}")
        if (share := figures["worst_tenth_share"]) is not None:
            words = figures["worst_tenth_words_share"]
            missed = "" if words is None else f", and {words:.0%} of all words that were not read"
            where = "on the tenth of the pages that the engine doubts most"
            lines.append(f"{where} stand {share:.0%} of all wrong characters{missed}")
    return lines


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _documents(one: Evaluation, worst: int, stream: TextIO) -> None:
    from pipeline.query.formats import write_table

    documents = one.documents()
    if len(documents) < 2 or not worst:
        return
    rows = [(path, figures["pages"], *(_rate(figures[name]) for name in _RATES)) for path, figures in documents[:worst]]
    click.echo()
    write_table(stream, ("document", "pages", *_TITLES), rows)


def _worst(one: Evaluation, worst: int, changes: bool, stream: TextIO) -> None:
    from pipeline.cli.versions import coloured
    from pipeline.query.formats import write_table

    pages = one.pages[:worst]
    if not pages:
        return
    click.echo()
    write_table(stream, ("worst pages", "page", *_TITLES, "doubt"), [_row(page) for page in pages])
    if changes:
        for page in pages:
            if page.changes:
                click.echo(click.style(f"{one_line(page.path)}:{page.page_number}", bold=True))
                click.echo(f"    {coloured(page.changes)}", color=False if os.environ.get("NO_COLOR") else None)


def _row(page: JudgedPage) -> tuple[Any, ...]:
    measured = page.measured
    rates = (measured.error_rate, measured.word_error_rate, measured.recall, measured.precision)
    return (page.path, page.page_number, *map(_rate, rates), f"{page.doubt:.2f}")


def _items(one: Evaluation, stream: TextIO) -> None:
    """Means of each category; those that were not judged are counted beside."""
    from pipeline.query.formats import write_table

    click.echo()
    rows = [(category, count, left, _rate(mean)) for category, count, left, mean in one.categories()]
    write_table(stream, ("category", "questions", "not judged", "mean score"), rows)
    if (mean := overall(one)) is not None:
        click.echo(f"overall {_rate(mean)}: the mean of the categories; what is not judged is left out")


def overall(one: Evaluation) -> float | None:
    """Of a benchmark of tests: the mean of its categories' means, as olmOCR-bench has it."""
    means = [mean for *_, mean in one.categories() if mean is not None]
    return sum(means) / len(means) if one.kind == "olmocr-bench" and means else None


def _against(one: Evaluation, other: Evaluation, worst: int, stream: TextIO) -> None:
    """Pages that both judged, where the second is worst against the first, or better."""
    from pipeline.query.formats import write_table

    first = {page.page_id: page for page in one.pages}
    pairs = [(first[page.page_id], page) for page in other.pages if page.page_id in first]
    better = sum(b.measured.character_errors < a.measured.character_errors for a, b in pairs)
    worse = sum(b.measured.character_errors > a.measured.character_errors for a, b in pairs)
    click.echo()
    click.echo(
        f"{other.answers} against {one.answers}: better on {better:,}, worse on {worse:,} of {len(pairs):,} pages that "
        f"both have; what differs: pagepack diff {_word(one.answers)} {_word(other.answers)}"
    )
    pairs.sort(key=lambda pair: -abs(pair[1].measured.character_errors - pair[0].measured.character_errors))
    rows = [
        (a.path, a.page_number, a.measured.character_errors, b.measured.character_errors, a.measured.characters)
        for a, b in pairs[:worst]
        if a.measured.character_errors != b.measured.character_errors
    ]
    if rows:
        titles = ("differ most", "page", f"wrong: {one.answers}", f"wrong: {other.answers}", "characters")
        write_table(stream, titles, rows)


def _word(answers: str) -> str:
    from pipeline.query.go_on import shell_quoted

    return shell_quoted(answers)


def shown_json(one: Evaluation, key: int | None, worst: int, changes: bool) -> dict[str, Any]:
    from pipeline.query.word_diff import marked

    def page_json(page: JudgedPage) -> dict[str, Any]:
        measured = page.measured
        return {
            "source_path": page.path,
            "page_number": page.page_number,
            "truth": page.truth,
            "characters": measured.characters,
            "character_errors": measured.character_errors,
            "character_error_rate": measured.error_rate,
            "word_error_rate": measured.word_error_rate,
            "recall": measured.recall,
            "precision": measured.precision,
            "table_score": page.table_score,
            "doubt": page.doubt,
        } | ({"changes": marked(page.changes)} if changes else {})

    return {
        "evaluation_id": key,
        "kind": one.kind,
        "name": one.name,
        "answers": one.answers,
        "prompt": one.prompt,
        **one.figures(),
        "not_judged": one.without_truth,
        "complaints": one.complaints,
        "equal_files": [[path, *others] for path, others in one.equal_files.items()],
        "documents": [{"source_path": path, **figures} for path, figures in one.documents()],
        "worst_pages": [page_json(page) for page in one.pages[:worst]],
        "overall": overall(one),
        "categories": [
            {"category": name, "questions": count, "not_judged": left, "mean_score": mean}
            for name, count, left, mean in one.categories()
        ],
    }
