"""`pagepack eval`: how well pages are read, held against truths that are there; the benchmarks' own forms."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.evaluated import say_evaluation, shown_json
from pipeline.cli.mm_mt_bench import NAME, mm_mt_bench
from pipeline.cli.options import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING,
    Choice,
    cli,
    detail_option,
    devices_option,
    engine_options,
    exit_code_of,
    home_option,
    json_option,
    pages_option,
    path,
    path_or_url,
    quoted,
)
from pipeline.errors import NothingToDo, UsageError
from schemas.prompts import CATALOGUE, Prompt

if TYPE_CHECKING:
    from pipeline.database.engine import Database
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.settings import Settings
    from pipeline.store.answer_sets import AnswerSet

_TRUTHS = "*.gt.txt"


class _EvalCommand(click.Command):
    """`eval mm-mt-bench …` is a command of its own; a folder of that name is ./mm-mt-bench."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        if (at := _place_of_name(args)) is not None:
            return mm_mt_bench.make_context(f"{info_name} {NAME}", [*args[:at], *args[at + 1 :]], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _place_of_name(args: list[str]) -> int | None:
    """Where the first word that is no option, nor an option's value, is the command's name."""
    at = args.index(NAME) if NAME in args else None
    if at:
        try:
            before, *_ = mm_mt_bench.make_parser(click.Context(mm_mt_bench)).parse_args(args[:at])
        except click.UsageError:
            return None
        return None if isinstance(before.get("dataset"), str) else at
    return at


@cli.command("eval", cls=_EvalCommand)
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=path_or_url)
@home_option
@engine_options
@devices_option
@detail_option
@pages_option
@click.option("--max-cost", metavar="NUMBER", help="With --engine endpoint: pages are read until they cost so much.")
@click.option("--prompt", type=Choice(sorted(CATALOGUE)), help="What is asked of each page.  [ocr]")
@click.option("--prompt-file", type=path, help="A prompt of your own that transcribes.")
@click.option(
    "--answers",
    multiple=True,
    metavar="A",
    help="Judge answers that are there, named as for `diff`, and read nothing. Twice: one against the other.",
)
@click.option("--worst", default=10, show_default=True, type=click.IntRange(0, 10_000), help="So many pages are named.")
@click.option("--changes", is_flag=True, help="Of these, show what is wrong: [-truth-] {+read+}.")
@click.option("--plot", multiple=True, type=path, metavar="FILE", help="Draw a .png, or write an .html, of the pages.")
@json_option
def eval_pages(
    paths: tuple[str | Path, ...],
    home: Path | None,
    devices: str | None,
    pages: str | None,
    prompt: str | None,
    prompt_file: Path | None,
    answers: tuple[str, ...],
    worst: int,
    changes: bool,
    plot: tuple[Path, ...],
    as_json: bool,
    **flags: Any,
) -> int:
    """How well are pages read? Born-digital PDFs are held against the text they carry, images against NAME.gt.txt.

    \b
      pagepack eval docs/                                   the engine of `run`; the worst pages first
      pagepack eval docs/ --engine tesseract --changes      another one, and what it got wrong
      pagepack eval --answers rapidocr --answers tesseract  what is stored already, one against the other
      pagepack eval olmOCR-bench/                           olmOCR-bench or OmniDocBench, as they are published
      pagepack eval mm-mt-bench DATASET --help              conversations, judged by another model

    The engine reads the pixels of each page, whatever text the page carries. Its answers are stored beside the others,
    and pages go on showing what they show. Figures are in the views evaluations, evaluated_documents and
    evaluated_pages; docs/evaluation.md says what they are.
    """
    from pipeline.cli.prompts import choose_asked_prompts
    from pipeline.settings import load_settings

    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --prompt-file: give one of them; answers to one prompt are judged at a time")
    if len(answers) > 2:
        raise UsageError(f"--answers is given {len(answers)} times; two sets are held against each other at most")
    check_plots(plot)
    (chosen,) = choose_asked_prompts([prompt] if prompt else [], [prompt_file] if prompt_file else [], {})
    settings = load_settings(home=home, **flags, text_layer="keep")
    if not paths and not answers:
        raise UsageError("eval needs files or folders to read, or --answers of what was read")
    judge = _Judge(settings, paths, chosen, worst if changes else 0)
    if answers:
        found, code = judge.stored(answers), EXIT_DONE
    else:
        read = judge.read(pages, devices)
        if read is None:
            return EXIT_INTERRUPTED
        found, code = read
    code = _end(settings, found, worst, changes, plot, as_json, code)
    if len(answers) == 2 and changes and not as_json:
        judge.say_what_differs(answers, found, worst)
    return code


def check_plots(plots: Sequence[Path]) -> None:
    from pipeline.evaluation.plots import check_plot

    for file in plots:
        check_plot(file)


class _Judge:
    """What is judged by which truths: a benchmark where the only path is one, else files."""

    def __init__(self, settings: Settings, paths: Sequence[str | Path], prompt: Prompt, num_changes: int) -> None:
        """Raises UsageError: a path is data of a benchmark, and not of one that is known."""
        from pipeline.evaluation.datasets import find_dataset

        found = [find_dataset(one) for one in paths if isinstance(one, Path)]
        if len(paths) > 1 and any(found):
            raise UsageError("a benchmark is judged by itself; name it alone")
        self._settings, self._paths, self._prompt, self._num_changes = settings, paths, prompt, num_changes
        self._dataset = found[0] if found else None

    def stored(self, answers: Sequence[str]) -> list[Evaluation]:
        """Answers that are there; a benchmark is read anew for each set, for it is used up."""
        from pipeline.database.open import open_database
        from pipeline.query.answer_names import find_answers

        db = open_database(self._settings)
        sets = [find_answers(db, word) for word in answers]
        documents = _documents(db, self._paths) if self._paths and self._dataset is None else None
        found = []
        for one in sets:
            prompt = one.value if one.kind == "prompt" else self._prompt.name
            found.append(
                _Judge(self._settings, self._paths, self._prompt, self._num_changes)._of(db, one, prompt, documents)
            )
        return found

    def say_what_differs(self, answers: Sequence[str], found: Sequence[Evaluation], limit: int) -> None:
        """From the first set to the second, on the pages that both judged, the most changed first."""
        from pipeline.cli.versions import say_changed
        from pipeline.database.open import open_database
        from pipeline.query.answer_names import find_answers
        from pipeline.query.diff import compare
        from pipeline.store.answer_sets import ChosenPages

        db = open_database(self._settings)
        first, second = (find_answers(db, word) for word in answers)
        both = {page.document for page in found[0].pages} & {page.document for page in found[1].pages}
        differing = compare(db, first, second, ChosenPages(only=frozenset(both)), limit)
        click.echo(f"\n{second.name} against {first.name}, word by word:")
        say_changed(differing.pages)

    def read(self, pages: str | None, devices: str | None) -> tuple[list[Evaluation], int] | None:
        """Read them as `run` does, and judge that; the exit code of the reading. None where the user stopped it."""
        from pipeline.cli.command_again import words_of_this_command
        from pipeline.cli.jobs import execute
        from pipeline.database.open import open_database
        from pipeline.ingest.selection import select_files
        from pipeline.ingest.submission import parse_pages
        from pipeline.query.batch_status import find_batch
        from pipeline.query.sql import run_sql
        from pipeline.store.answer_sets import AnswerSet

        selection = select_files([], [_TRUTHS], True)
        paths: Sequence[str | Path] = self._dataset.files if self._dataset is not None else self._paths
        asked = (self._settings, paths, [self._prompt], None, parse_pages(pages), devices, selection)
        done = execute(*asked, command=words_of_this_command(self._settings), is_evaluation=True)
        if done is None:
            return None
        db = open_database(self._settings)
        batch = find_batch(db, done.batch_id)
        found = self._of(db, AnswerSet("batch", batch.batch_id, batch.id), self._prompt.name, None)
        failures = f"SELECT cause, reason FROM failures WHERE batch_id = {quoted(batch.batch_id)} ORDER BY source_path"
        rows = list(run_sql(self._settings, failures).rows)
        found.complaints += [str(reason) for _, reason in rows]
        return [found], exit_code_of(str(cause) for cause, _ in rows)

    def _of(self, db: Database, answers: AnswerSet, prompt: str, documents: set[int] | None) -> Evaluation:
        from pipeline.evaluation.evaluate import evaluate, evaluate_dataset
        from pipeline.evaluation.truths import PageTruths, lonely_truths
        from pipeline.urls import local_path

        if self._dataset is not None:
            return evaluate_dataset(db, answers, prompt, self._dataset, with_changes=self._num_changes > 0)
        name = " ".join(Path(str(path)).name or str(path) for path in self._paths) or "all files"
        found = evaluate(db, answers, prompt, documents, PageTruths(), name, num_changes=self._num_changes)
        found.complaints += lonely_truths([path for path in map(str, self._paths) if local_path(path)])
        return found


def _documents(db: Database, paths: Sequence[str | Path]) -> set[int]:
    """Keys of the documents at files and folders that were seen."""
    from pipeline.ingest.forget import find_known

    try:
        known = find_known(db, paths)
    except NothingToDo as error:
        seen = str(error).partition(";")[0]
        raise NothingToDo(f"{seen}; without --answers, `pagepack eval` reads what lies there") from None
    with db.looking() as look:
        rows = look.rows("SELECT id, document_id FROM sources WHERE document_id IS NOT NULL")
    return {document for source, document in rows if source in known}


def _end(
    settings: Settings,
    found: list[Evaluation],
    worst: int,
    changes: bool,
    plots: Sequence[Path],
    as_json: bool,
    code: int,
) -> int:
    """Store, draw and say it; the exit code."""
    from pipeline.database.open import open_database
    from pipeline.evaluation.keep import keep
    from pipeline.evaluation.plots import plot

    db = open_database(settings)
    ids = [keep(db, one) if one.pages or one.items else None for one in found]
    for file in plots:
        plot(file, found)
    if as_json:
        shown = [shown_json(one, key, worst, changes) for one, key in zip(found, ids, strict=True)]
        click.echo(json.dumps(shown[0] if len(shown) == 1 else shown, ensure_ascii=False))
    else:
        say_evaluation(settings, found, ids, worst, changes, sys.stdout)
    for file in plots:
        click.echo(f"plot in {file}", err=True)
    if all(key is None for key in ids):
        click.echo(
            "pagepack: no page could be judged: none has an answer and a truth, which is a PDF's own sound text, or "
            "NAME.gt.txt beside NAME.png",
            err=True,
        )
        return EXIT_NOTHING
    return code
