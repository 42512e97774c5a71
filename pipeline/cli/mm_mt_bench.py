"""`pagepack eval mm-mt-bench DATASET`: conversations about pictures, answered by an engine and scored by a judge."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import EXIT_DONE, EXIT_FAILED, engine_options, home_option, json_option, one_line, path
from pipeline.errors import ProgramFault, UsageError

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.evaluation.judge import Judge
    from pipeline.evaluation.mm_mt_bench import JudgedTurn, Means, Turn
    from pipeline.settings import Settings

NAME = "mm-mt-bench"


@click.command(NAME)
@click.argument("dataset", type=path)
@home_option
@engine_options
@click.option("--judge-url", metavar="URL", help="The judge: a server that answers as OpenAI's does.")
@click.option("--judge-model", metavar="NAME", help="The judge's name there. Its key is PAGEPACK_JUDGE_KEY.")
@click.option("--judge-prompt", type=path, help="What the judge is told, from a file; it must ask for [[n]].")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many conversations.")
@json_option
def mm_mt_bench(
    dataset: Path, home: Path | None, judge_prompt: Path | None, limit: int | None, as_json: bool, **flags: Any
) -> int:
    """Have the conversations of MM-MT-Bench answered, and scored from 1 to 10.

    \b
      pagepack eval mm-mt-bench MM-MT-Bench/ --model /models/pixtral-12b \\
        --judge-url https://host/v1 --judge-model NAME

    DATASET is the published Parquet file, or its folder. Each turn is asked with the reference answers of those before
    it. Means by category, by turn and over all stand beside the published figures; docs/evaluation.md says what makes
    them comparable. Turns are rows of the view evaluated_items, with the answer and the judge's words.
    """
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.evaluation.judge import Judge, judge_of
    from pipeline.evaluation.keep import keep
    from pipeline.evaluation.mm_mt_bench import JUDGE_PROMPT, means_of, read_dataset
    from pipeline.ingest.submission import open_or_make
    from pipeline.settings import load_settings
    from pipeline.supervisor.engine_choice import describe_engine

    settings = load_settings(home=home, **flags)
    judge_of(settings)
    instruction = JUDGE_PROMPT if judge_prompt is None else _read(judge_prompt)
    turns, complaints = read_dataset(dataset)
    turns = [turn for turn in turns if limit is None or turn.conversation <= limit]
    choice = describe_engine(settings)
    click.echo(f"engine {choice.engine} ({choice.model}): {choice.reason}", err=True)
    db = open_or_make(settings)
    with Judge(settings, instruction) as judge:
        judge.check(turns[0])
        answered = _answer(settings, choice.model, turns, judge)
        with click.progressbar(length=len(turns), label="judged", file=sys.stderr) as bar:
            judged = judge.judge(answered, lambda: bar.update(1))
    found = Evaluation(NAME, dataset.name, f"model:{choice.model}", None, complaints=complaints)
    found.items = [one.item() for one in judged]
    key = keep(db, found)
    means = means_of(judged)
    if as_json:
        click.echo(json.dumps(_as_json(found, key, means, judged), ensure_ascii=False))
    else:
        _say(found, key, means, judged)
    return EXIT_FAILED if any(one.score is None for one in judged) else EXIT_DONE


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"--judge-prompt {file} cannot be read: {reason}") from error
    if "[[" not in text:
        raise UsageError(f"--judge-prompt {file} does not ask for a score in double brackets, like [[5]]")
    return text


def _answer(settings: Settings, model: str, turns: Sequence[Turn], judge: Judge) -> list[tuple[Turn, str | None, str]]:
    """Each turn with its answer, or why it has none: where the engine dies, the answers so far are judged.

    Answers are kept as they come, so that a command that is repeated asks for none of them again.

    Raises EndpointGone: the judge is.
    """
    from pipeline.evaluation.kept_answers import KeptAnswers
    from pipeline.evaluation.mm_mt_bench import MOST_TOKENS
    from pipeline.supervisor.conversing import converse

    kept = KeptAnswers(settings.home / "conversations", model, MOST_TOKENS)
    known = [kept.find(turn.messages) for turn in turns]
    given: dict[int, tuple[str | None, str]] = {
        number: (text, "") for number, text in enumerate(known) if text is not None
    }
    if given:
        click.echo(f"{len(given):,} of {len(turns):,} answers were made before, and are judged as they are", err=True)
    open_ones = [number for number, text in enumerate(known) if text is None]
    died = "it ended before"
    with click.progressbar(length=len(open_ones), label="answered", file=sys.stderr) as bar:
        try:
            asked = [turns[number].messages for number in open_ones]
            for place, text, why in converse(settings, asked, MOST_TOKENS) if asked else ():
                given[open_ones[place]] = text, why
                if text is not None:
                    kept.keep(asked[place], text)
                judge.raise_if_gone()
                bar.update(1)
        except ProgramFault as error:
            if not given:
                raise
            died = str(error)
    nothing = (None, f"the engine gave no answer; {died}")
    return [(turn, *given.get(number, nothing)) for number, turn in enumerate(turns)]


def _say(found: Evaluation, key: int, means: Means, judged: Sequence[JudgedTurn]) -> None:
    from pipeline.evaluation.mm_mt_bench import PUBLISHED, SOURCE
    from pipeline.query.formats import write_table

    click.echo(f"evaluation {key}: {found.name}, {found.answers}, {len(judged):,} turns")
    for complaint in found.complaints:
        click.echo(f"  {one_line(complaint)}")
    if unscored := [one for one in judged if one.score is None]:
        first = one_line(unscored[0].said)[:200]
        click.echo(f"  {len(unscored):,} turns without a score, such as {unscored[0].turn.name}: {first}")
    click.echo()
    rows: list[tuple[str, int | None, int | None, str]] = [
        (name, count, left, _mean(mean)) for name, count, left, mean in [*means.categories, *means.turns]
    ]
    rows.append(("mean of the categories", len(judged), len(unscored), _mean(means.category_macro_average)))
    rows.append(("overall", len(judged), len(unscored), _mean(means.overall)))
    write_table(sys.stdout, ("group", "turns", "without a score", "mean score"), rows)
    click.echo(f"\npublished: {SOURCE}")
    published = [(found.answers, _mean(means.overall), "")]
    published += [(name, f"{score:.2f}", "" if elo is None else f"{elo:,}") for name, score, elo in PUBLISHED]
    write_table(sys.stdout, ("model", "MM-MT-Bench", "LMSys-Vision"), published)


def _mean(mean: float | None) -> str:
    return "–" if mean is None else f"{mean:.2f}"


def _as_json(found: Evaluation, key: int, means: Means, judged: Sequence[JudgedTurn]) -> dict[str, Any]:
    from pipeline.evaluation.mm_mt_bench import PUBLISHED, SOURCE

    def grouped(rows: Sequence[tuple[str, int, int, float | None]]) -> dict[str, Any]:
        return {name: {"turns": count, "not_scored": left, "mean": mean} for name, count, left, mean in rows}

    return {
        "evaluation_id": key,
        "kind": found.kind,
        "name": found.name,
        "answers": found.answers,
        "turns": len(judged),
        "not_scored": sum(one.score is None for one in judged),
        "overall": means.overall,
        "category_macro_average": means.category_macro_average,
        "categories": grouped(means.categories),
        "by_turn": grouped(means.turns),
        "complaints": found.complaints,
        "published": {"source": SOURCE, "models": [dict(zip(_PUBLISHED, row, strict=True)) for row in PUBLISHED]},
    }


_PUBLISHED = ("model", "mm_mt_bench", "lmsys_vision")
