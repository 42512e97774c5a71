"""The command line. Rows on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import __version__
from pipeline.errors import NothingToDo, PagepackError, UsageError
from pipeline.live import Live, duration
from pipeline.output import OutputEnded, guard_output, silence_output
from pipeline.settings import Settings, load_settings
from pipeline.storage import is_url
from schemas.prompts import CATALOGUE, Prompt, choose_prompts, question_prompt

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_NOTHING, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130

F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """Entry point of `pagepack`: errors in one line, documented exit codes."""
    guard_output()
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except OutputEnded as error:
        silence_output()
        code = EXIT_DONE if error.was_read_enough else EXIT_STOPPED
        if code:
            click.echo(f"pagepack: cannot write to the standard output: {error}", err=True)
    except PagepackError as error:
        click.echo(f"pagepack: {error}", err=True)
        code = exit_code(error)
    sys.exit(code or EXIT_DONE)


def exit_code(error: PagepackError) -> int:
    """What a program that calls pagepack should see."""
    if isinstance(error, NothingToDo):
        return EXIT_NOTHING
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_STOPPED


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pagepack")
def cli() -> None:
    """Turn folders of PDFs and images into text that you query with SQL.

    \b
      pagepack run docs/                      read a folder on this machine
      pagepack search annual report           on which pages do these words stand?
      pagepack sql "SELECT * FROM failures"   what was not read, and why
      pagepack export --out text/             one Markdown file a document

    Everything lies in one folder (--home, default ./pagepack-data). A command that was interrupted goes on where it
    was when you repeat it. Settings are variables too: --home is PAGEPACK_HOME, and so are --engine, --model and
    --text-layer; the README lists those without an option.

    \b
    Exit codes: 0 all pages done · 1 some failed or were rejected, the rest is stored · 2 wrong usage or settings
    3 nothing to do at the paths · 4 stopped by the machine (disk full, a server gone) · 130 interrupted
    """


def path(text: str) -> Path:
    """A path on the command line. `Path("")` is the current folder, which nobody means who writes "$UNSET"."""
    if not text:
        raise click.BadParameter("it is empty; is a shell variable unset?")
    return Path(text)


def place(text: str) -> str | Path:
    """A path or a URL; a URL is no Path, which would take one of its slashes."""
    return text if is_url(text) else path(text)


def home_option(command: F) -> F:
    return click.option("--home", type=path, help="Folder of the database.  [./pagepack-data]")(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout.")(command)


def pages_option(command: F) -> F:
    return click.option("--pages", metavar="RANGES", help="Only these pages of each document: 3-5,8,20-")(command)


def engine_options(command: F) -> F:
    engines = click.Choice(["auto", "pixtral", "rapidocr"])
    command = click.option("--engine", type=engines, help="What reads.  [auto: pixtral where --model is set]")(command)
    return click.option("--model", type=path, help="A checkpoint folder in Mistral's format, for pixtral.")(command)


def batch_options(command: F) -> F:
    """What a batch is made of, for `run` and `submit`."""
    for option in (
        json_option,
        pages_option,
        click.option(
            "--text-layer", type=click.Choice(["keep", "prefer"]), help="prefer: take a PDF's own text.  [keep]"
        ),
        click.option("--batch", metavar="NAME", help="Name of the batch.  [the paths' names]"),
        click.option(
            "--prompt-file",
            "prompt_files",
            multiple=True,
            type=path,
            help="A prompt of your own; the file's name is the prompt's.",
        ),
        click.option(
            "--prompt", "prompts", multiple=True, type=click.Choice(sorted(CATALOGUE)), help="May be repeated.  [ocr]"
        ),
        engine_options,
        home_option,
        click.argument("paths", nargs=-1, required=True, type=place),
    ):
        command = option(command)
    return command


@cli.command()
@batch_options
def run(
    paths: tuple[str | Path, ...],
    home: Path | None,
    prompts: tuple[str, ...],
    prompt_files: tuple[Path, ...],
    batch: str | None,
    pages: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Read files and folders here, from first to last page, into the database.

    Takes PDF, PNG, JPEG, TIFF, WebP, BMP and GIF, by their content, not their names; a path may be a URL, like
    s3://bucket/prefix. What cannot be taken in or read is in the view `failures` with its reason; the rest goes on. Run
    the same command again to go on after an interruption, or after files were added; no page is read twice.
    """
    from pipeline.submit import parse_pages

    settings = load_settings(home=home, **flags)
    chosen = _choose_prompts(prompts, prompt_files)
    started = time.monotonic()
    done = _execute(settings, paths, chosen, batch, parse_pages(pages))
    if done is None:
        return EXIT_INTERRUPTED
    return _summarize(settings, done, time.monotonic() - started, as_json)


def _execute(
    settings: Settings,
    paths: Sequence[str | Path],
    prompts: Sequence[Prompt],
    batch: str | None,
    pages: Sequence[tuple[int, int]],
) -> str | None:
    """Run the job under a progress bar; the batch's id, or None where the user stopped it."""
    from pipeline.run import Run, Stopped

    with Live(Console(stderr=True)) as live:
        job = Run(settings, paths, prompts, batch, live.say, live.show, pages)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: job.stop())
        try:
            return job.execute().public_id
        except Stopped as stopped:
            stored = f"{stopped.num_stored:,} answers are stored in {settings.home / 'pagepack.db'}"
            live.say(f"stopped; {stored}. Run the same command again to go on.")
            return None


def _choose_prompts(names: Sequence[str], files: Sequence[Path]) -> list[Prompt]:
    """Raises UsageError where a file's name would hide another prompt."""
    for path in files:
        if path.stem in CATALOGUE:
            raise UsageError(f"--prompt-file {path}: {path.stem!r} is a prompt of the catalogue; rename the file")
    stems = [path.stem for path in files]
    if len(set(stems)) < len(stems):
        raise UsageError("two --prompt-file of one name; a prompt is known by its file's name, so rename one")
    return choose_prompts(names, [(path.stem, _read_prompt(path)) for path in files])


def _read_prompt(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt-file {path}: {error}") from error
    if not text:
        raise UsageError(f"--prompt-file {path} is empty")
    return text


def _summarize(settings: Settings, batch_id: str, seconds: float, as_json: bool) -> int:
    from pipeline.database import open_database
    from pipeline.query import find_batch
    from pipeline.query import status as query_status

    db = open_database(settings)
    summary = query_status(db, find_batch(db, batch_id))
    failed = summary.files_failed + summary.files_rejected
    if as_json:
        click.echo(json.dumps(_status_json(summary) | {"seconds": round(seconds, 2)}, ensure_ascii=False))
    else:
        click.echo(
            f"{summary.files_seen:,} files seen: {summary.files_done:,} done, {summary.files_failed:,} failed, "
            f"{summary.files_rejected:,} rejected\n"
            f"{summary.pages_total:,} pages: {summary.pages_done:,} done, {summary.pages_failed:,} failed, "
            f"in {duration(seconds)}"
        )
        for cause, count in summary.failures.items():
            click.echo(f"  {count:,} × {cause}")
        where = "" if settings.home == Path("pagepack-data") else f" --home {shlex.quote(str(settings.home))}"
        if failed:
            click.echo(f'why:   pagepack sql{where} "SELECT source_path, page_number, reason FROM failures"')
        click.echo(f'read:  pagepack sql{where} "SELECT source_path, page_number, text FROM page_text"')
    return EXIT_FAILED if failed else EXIT_DONE


@cli.command()
@batch_options
@click.option("--priority", default=0, show_default=True, help="A higher one goes first; equal ones share.")
@click.option("--notify", metavar="TASK[@QUEUE]", help="Send this Celery task for each document that is done.")
@click.option("--wait", is_flag=True, help="Follow the batch to its end, with its exit code.")
def submit(
    paths: tuple[str | Path, ...],
    home: Path | None,
    prompts: tuple[str, ...],
    prompt_files: tuple[Path, ...],
    batch: str | None,
    pages: str | None,
    priority: int,
    notify: str | None,
    wait: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Register files and folders for workers elsewhere, and print the batch's id.

    Workers are started with `pagepack worker`, on as many machines as you like. Submitting the same again goes on
    where it was, and takes up files that were added.
    """
    from pipeline.submit import check_notify, parse_pages
    from pipeline.submit import submit as submit_batch

    settings = load_settings(home=home, **flags)
    check_notify(notify)
    chosen, ranges = _choose_prompts(prompts, prompt_files), parse_pages(pages)
    started = time.monotonic()
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopping.append(number))
    with Live(Console(stderr=True)) as live:
        done = submit_batch(settings, paths, chosen, batch, ranges, priority, notify, live.seen, lambda: bool(stopping))
        if stopping:
            live.say(f"stopped while files were registered; submit the same again to go on with batch {done.public_id}")
            return EXIT_INTERRUPTED
        if not wait:
            click.echo(json.dumps({"batch_id": done.public_id, "name": done.name}) if as_json else done.public_id)
            return EXIT_DONE
        live.say(f"batch {done.public_id}")
        if not _follow(settings, done, live, lambda: bool(stopping)):
            live.say(f"the batch goes on without you: pagepack status {done.public_id}")
            return EXIT_INTERRUPTED
    return _summarize(settings, done.public_id, time.monotonic() - started, as_json)


def _follow(settings: Settings, batch: Any, live: Live, is_stopping: Callable[[], bool]) -> bool:
    """Show a batch's progress until it ends; False where the user left first."""
    from pipeline.database import open_database
    from pipeline.submit import follow

    db = open_database(settings, readonly=True)
    try:
        return follow(db, batch, live, is_stopping) is not None
    finally:
        db.dispose()


@cli.command()
@home_option
@engine_options
@click.option(
    "--role", type=click.Choice(["read", "ingest", "both"]), default="both", show_default=True,
    help="read: one a GPU. ingest: draws documents, on CPUs.",
)  # fmt: skip
@click.option("--devices", metavar="LIST", help="GPUs by number, like 0,1,2,3: a process for each.  [one process]")
def worker(home: Path | None, role: str, devices: str | None, **flags: Any) -> int:
    """Read what was submitted, until told to stop.

    Starts its processes, watches them and starts them again. SIGTERM or Ctrl-C: pages in hand are finished or given
    back, nothing is lost; a second one ends at once. Without PAGEPACK_BROKER_URL it starts a broker for its home.
    """
    from pipeline.host import Host, places

    settings = load_settings(home=home, **flags)
    host = Host(settings, places(role, devices), lambda line: click.echo(f"pagepack: {line}", err=True))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: host.stop())
    host.execute()
    return EXIT_DONE


@cli.command()
@click.argument("question")
@click.argument("paths", nargs=-1, required=True, type=place)
@pages_option
@home_option
@engine_options
@json_option
def ask(
    question: str, paths: tuple[str | Path, ...], pages: str | None, home: Path | None, as_json: bool, **flags: Any
) -> int:
    """Ask each page a QUESTION of your own, and print the answers.

    \b
      pagepack ask "Which theorem is proved here?" thesis.pdf --pages 3-5 --model /models/pixtral-12b

    Answers are stored like all others (prompt `ask: …`); a page that was asked the same before answers at once.
    """
    from pipeline.readonly_sql import run_sql
    from pipeline.submit import parse_pages

    settings = load_settings(home=home, **flags)
    prompt = question_prompt(question)
    done = _execute(settings, paths, [prompt], None, parse_pages(pages))
    if done is None:
        return EXIT_INTERRUPTED
    statement = (
        "SELECT t.source_path, t.page_number, t.text FROM page_text t JOIN files f ON f.source_path = t.source_path "
        f"WHERE f.batch_id = {_quoted(done)} AND t.prompt = {_quoted(prompt.name)} ORDER BY 1, 2"
    )
    asked = parse_pages(pages)
    for path, number, text in run_sql(settings, statement).rows:
        if asked and not any(first < int(str(number)) <= last + 1 for first, last in asked):
            continue
        if as_json:
            row = {"source_path": path, "page_number": number, "answer": text}
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            click.echo(f"{_visible(str(path))}:{number!s}\n" + str(text) + "\n")
    failures = run_sql(settings, f"SELECT reason FROM failures WHERE batch_id = {_quoted(done)}")
    reasons = [_visible(str(reason)) for (reason,) in failures.rows]
    for reason in reasons:
        click.echo(f"pagepack: {reason}", err=True)
    return EXIT_FAILED if reasons else EXIT_DONE


def _quoted(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


@cli.command()
@click.argument("batch", required=False)
@home_option
@click.option("--watch", is_flag=True, help="Again every two seconds until the batch is finished.")
@json_option
def status(batch: str | None, home: Path | None, watch: bool, as_json: bool) -> int:
    """How far a batch is: counts, rate, time left, failures by cause. BATCH is an id or a name; default the latest."""
    from pipeline.database import open_database
    from pipeline.fleet import workers
    from pipeline.query import find_batch
    from pipeline.query import status as query_status

    db = open_database(load_settings(home=home), readonly=True)
    console = Console()
    while True:
        now = query_status(db, find_batch(db, batch))
        there = workers(db)
        if as_json:
            row = _status_json(now) | {"workers": [asdict(worker) for worker in there]}
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            console.print(_status_table(now, there))
        if not watch or now.batch.state in ("finished", "cancelled"):
            return EXIT_DONE
        time.sleep(2)


def _status_json(status: Any) -> dict[str, Any]:
    fields = asdict(status)
    batch = fields.pop("batch")
    del batch["id"]
    for name in ("started_at", "finished_at"):
        batch[name] = batch[name].isoformat() if batch[name] else None
    return {**batch, **fields}


def _status_table(status: Any, workers: Sequence[Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    rate, left = status.pages_per_second, status.seconds_left
    rows = {
        "batch": f"{status.batch.name}  ({status.batch.batch_id}, {status.batch.state})",
        "files": f"{status.files_seen:,} seen = {status.files_done:,} done + {status.files_failed:,} failed + "
        f"{status.files_rejected:,} rejected + {_waiting(status):,} waiting",
        "pages": f"{status.pages_total:,} known: {status.pages_done:,} done, {status.pages_failed:,} failed",
        "rate": f"{rate:.2f} pages/s in the last minute" + (f", {duration(left)} left" if left else ""),
        "failures": ", ".join(f"{count:,} × {cause}" for cause, count in status.failures.items()) or "none",
        "workers": "\n".join(map(_worker_line, workers)) or "none is running",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _worker_line(worker: Any) -> str:
    """`read on gpu7 (GPU 0): pixtral, 96 pages at once`."""
    device = f" (GPU {worker.device})" if worker.device is not None else ""
    unit = "pages" if worker.role == "read" else "documents"
    silent = f", silent for {duration(worker.silent_seconds)}" if worker.silent_seconds > 30 else ""
    engine = f"{worker.engine}, " if worker.engine else ""
    return f"{worker.role} on {worker.host}{device}: {engine}{worker.slots} {unit} at once{silent}"


def _waiting(status: Any) -> int:
    return int(status.files_seen - status.files_done - status.files_failed - status.files_rejected)


@cli.command()
@click.argument("words", nargs=-1, required=True)
@home_option
@click.option("--prompt", metavar="NAME", help="Only answers to this prompt.")
@click.option("--batch", metavar="BATCH", help="Only files of this batch.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@json_option
def search(
    words: tuple[str, ...], home: Path | None, prompt: str | None, batch: str | None, limit: int, as_json: bool
) -> int:
    """Pages that hold all the WORDS, best first. "Quote a phrase"; any word that ends with * stands for its endings.

    Latin words are found whatever their case and accents; Chinese, Japanese and Korean as they are written.
    """
    from pipeline.database import open_database
    from pipeline.query import find_batch
    from pipeline.query import search as query_search

    db = open_database(load_settings(home=home), readonly=True)
    hits = query_search(
        db,
        " ".join(_phrase(word) for word in words),
        prompt=prompt,
        limit=limit,
        batch=find_batch(db, batch) if batch else None,
    )
    console = Console(soft_wrap=True, highlight=False)
    for hit in hits:
        if as_json:
            click.echo(json.dumps(asdict(hit), ensure_ascii=False))
            continue
        console.print(Text(f"{_visible(hit.source_path)}:{hit.page_number}", style="bold"))
        snippet = Text("    " + _visible(hit.snippet.text))
        for start, end in hit.snippet.matches:
            snippet.stylize("bold red", start + 4, end + 4)
        console.print(snippet)
    if not hits:
        click.echo(f"pagepack: no page holds all of: {' '.join(words)}", err=True)
    return EXIT_DONE if hits else EXIT_FAILED


def _phrase(word: str) -> str:
    """An argument of several words was quoted for the shell; it is one phrase, unless a word in it ends with a star."""
    return f'"{word}"' if " " in word and '"' not in word and "* " not in word else word


def _visible(text: str) -> str:
    """One line, with nothing in it that drives a terminal; as long as the text, so that offsets stay."""
    return "".join(character if character.isprintable() else " " for character in text)


@cli.command()
@click.argument("statement")
@home_option
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), help="[table on a terminal, else csv]")
@click.option("--seconds", default=60.0, show_default=True, help="Stop the statement after this long.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def sql(statement: str, home: Path | None, form: str | None, seconds: float, as_json: bool) -> int:
    """Run one read-only SQL STATEMENT.

    \b
    page_text        a row a page and prompt     failures       what was not read, and why
    document_text    a row a document            batch_summary  a row a batch
    attempts         a row a try                 files          a row a file and batch
    page_images      a row a page image          schema_doc     what each column means
    """
    from pipeline.formats import write_csv, write_json, write_table
    from pipeline.readonly_sql import run_sql

    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g}: give a number above 0")
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other")
    form = "json" if as_json else form
    result = run_sql(load_settings(home=home), statement, limit_seconds=seconds)
    writers = {"table": write_table, "csv": write_csv, "json": write_json}
    writers[form or ("table" if sys.stdout.isatty() else "csv")](sys.stdout, result.columns, result.rows)
    return EXIT_DONE


@cli.command()
@click.option("--out", required=True, type=path, help="A folder; for jsonl and parquet a file; for jsonl also -.")
@click.option(
    "--format", "form", default="markdown", show_default=True, type=click.Choice(["markdown", "jsonl", "parquet"])
)
@click.option("--batch", metavar="BATCH", help="Only files of this batch.")
@click.option("--prompt", metavar="NAME", help="Only answers to this prompt.")
@home_option
@click.option("--json", "as_json", is_flag=True, help="The counts as JSON, on stdout unless the pages go there.")
def export(
    out: Path,
    form: Literal["markdown", "jsonl", "parquet"],
    batch: str | None,
    prompt: str | None,
    home: Path | None,
    as_json: bool,
) -> int:
    """Write the text out: Markdown a document, JSON Lines or Parquet a page.

    Markdown keeps the folders below the submitted ones; nothing is ever written outside --out.
    """
    from pipeline.database import open_database
    from pipeline.export import STDOUT
    from pipeline.export import export as write_export
    from pipeline.query import find_batch

    db = open_database(load_settings(home=home), readonly=True)
    summary = write_export(db, out, form, batch=find_batch(db, batch) if batch else None, prompt=prompt)
    if as_json:
        click.echo(json.dumps(asdict(summary)), err=str(out) in STDOUT)
        return EXIT_DONE
    click.echo(
        f"{summary.files:,} files, {summary.pages:,} pages written to {out}: {summary.pages_failed:,} failed and "
        f"{summary.pages_waiting:,} waiting pages are marked; {summary.files_rejected:,} files were rejected",
        err=True,
    )
    return EXIT_DONE


@cli.command()
@click.argument("batch", required=False)
@home_option
@click.option("--cause", help="Only failures of this cause; see `pagepack status`.")
@click.option("--where", metavar="SQL", help="Only failures that fit, e.g. \"source_path LIKE '%/2019/%'\".")
@json_option
def retry(batch: str | None, home: Path | None, cause: str | None, where: str | None, as_json: bool) -> int:
    """Put failed pages and rejected files back to the queue; then run the batch's `pagepack run` again."""
    from pipeline.database import open_database
    from pipeline.query import find_batch, paths_not_taken_in
    from pipeline.store import retry_failures

    settings = load_settings(home=home)
    db = open_database(settings)
    chosen = find_batch(db, batch)
    failures = _chosen_failures(settings, chosen.batch_id, cause, where)
    documents, tasks = retry_failures(db, chosen.id, failures)
    not_taken_in = paths_not_taken_in(db, chosen)
    again = sum(number is None and name in not_taken_in for name, number in failures)
    if as_json:
        click.echo(json.dumps({"files_waiting": documents, "pages_waiting": tasks, "files_looked_at_again": again}))
        return EXIT_DONE if documents + tasks + again else EXIT_NOTHING
    if again:
        click.echo(f"{again:,} files that were not taken in are looked at again by the next `pagepack run`")
    if documents + tasks or not again:
        click.echo(
            f"{documents:,} files and {tasks:,} pages wait again; repeat the batch's `pagepack run` to read them"
        )
    return EXIT_DONE if documents + tasks + again else EXIT_NOTHING


def _chosen_failures(
    settings: Settings, batch_id: str, cause: str | None, where: str | None
) -> list[tuple[str, int | None]]:
    """Source paths and page numbers (None for a whole file) of a batch's failures that fit.

    Raises:
        UsageError: no failure has the cause, though there are failures; or `where` is no condition.
    """
    from pipeline.readonly_sql import run_sql

    of_batch = f"FROM failures WHERE batch_id = {_quoted(batch_id)}"
    select = f"SELECT DISTINCT source_path, page_number {of_batch}"
    if cause is not None:
        causes = [str(name) for (name,) in run_sql(settings, f"SELECT DISTINCT cause {of_batch} ORDER BY 1").rows]
        if causes and cause not in causes:
            raise UsageError(f"--cause {cause}: no failure of this batch has it; they have {', '.join(causes)}")
        select += f" AND cause = {_quoted(cause)}"
    if where is not None:
        select += f" AND ({where}\n)"
    try:
        rows = list(run_sql(settings, select).rows)
    except UsageError as error:
        raise UsageError(f"--where {where}: {error}" if where is not None else str(error)) from error
    return [(str(name), int(str(number)) if number is not None else None) for name, number in rows]


@cli.command()
def messages() -> int:
    """JSON Schemas of the messages, by Celery task: what anyone may send, and what --notify sends."""
    from schemas.messages import json_schemas

    click.echo(json.dumps(json_schemas(), indent=2))
    return EXIT_DONE


@cli.group()
def db() -> None:
    """The database itself."""


@db.command()
@home_option
@json_option
def upgrade(home: Path | None, as_json: bool) -> int:
    """Bring the database to this program's schema; safe to repeat, and on a server by several at once."""
    from contextlib import nullcontext

    from pipeline.database import open_database
    from pipeline.embedded import HomeLock
    from pipeline.migrate import head_revision

    settings = load_settings(home=home)
    with HomeLock(settings.home) if settings.database_url is None else nullcontext():
        database = open_database(settings, create=True)
    if as_json:
        click.echo(json.dumps({"database": database.name, "revision": head_revision()}, ensure_ascii=False))
    else:
        click.echo(f"{database.name} is at revision {head_revision()}")
    return EXIT_DONE


@db.command()
@home_option
@click.option("--print", "only_print", is_flag=True, help="Only print the SQL, for someone else to run.")
def roles(home: Path | None, only_print: bool) -> int:
    """Create the roles of a PostgreSQL server, each with what it needs and no more; safe to repeat.

    \b
    pagepack_owner    owns the tables; db upgrade
    pagepack_ingest   submit, ingest workers, whoever sweeps and rings
    pagepack_worker   read workers
    pagepack_query    sql: the public views

    None can log in: GRANT them to the users that programs log in as. Run `pagepack db upgrade` before.
    """
    from pipeline.database import open_database
    from pipeline.roles import GRANTS, OWNER, create_roles, role_statements

    if only_print:
        click.echo(";\n".join(role_statements()) + ";")
        return EXIT_DONE
    database = open_database(load_settings(home=home))
    create_roles(database)
    click.echo(f"{database.name} has the roles {', '.join([OWNER, *GRANTS])}")
    return EXIT_DONE


@cli.command()
@home_option
@click.option("--model", type=path, help="Also look at this checkpoint folder.")
@json_option
def doctor(home: Path | None, model: Path | None, as_json: bool) -> int:
    """What this machine can run, what is missing, and the way out."""
    from pipeline.doctor import check_machine

    checks = check_machine(load_settings(home=home, model=model))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        signs = {"ok": ("ok", "green"), "absent": ("--", "yellow"), "broken": ("!!", "bold red")}
        console = Console(highlight=False, soft_wrap=True)
        for check in checks:
            sign, style = signs[check.state]
            console.print(Text(sign, style=style), Text(f"{check.name}: {check.fact}"))
    return EXIT_USAGE if any(check.state == "broken" for check in checks) else EXIT_DONE
