"""What the commands share: the group that they belong to, exit codes, options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline import __version__
from pipeline.cli.where import check_home
from pipeline.errors import did_you_mean
from pipeline.urls import is_url

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_NOTHING, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130

F = TypeVar("F", bound=Callable[..., Any])


def exit_code_of(causes: Iterable[str]) -> int:
    """Of a batch with failures of these causes: a file of a kind that is not read is none."""
    from pipeline.store.sources import UNSUPPORTED

    return EXIT_FAILED if any(cause != UNSUPPORTED for cause in causes) else EXIT_DONE


class _Commands(click.Group):
    """A misspelt command is told with the nearest one alone; click names several by the alphabet."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = getattr(error, "possibilities", None) or []
            del near[1:]
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pagepack")
def cli() -> None:
    """Turn folders of PDFs and images into text that you query with SQL.

    \b
      pagepack run docs/                      read a folder on this machine
      pagepack search annual report           on which pages do these words stand?
      pagepack sql "SELECT * FROM failures"   what was not read, and why
      pagepack export --out text/             one Markdown file a document
      pagepack eval docs/                     how well is it read?
      pagepack submit docs/                   leave it to workers (pagepack worker) on other machines

    Everything lies in one folder (--home, default ./pagepack-data). A command that was interrupted goes on where it
    was when you repeat it. Settings are variables too: --home is PAGEPACK_HOME, and so are --engine, --model,
    --text-layer and --detail; `pagepack config` lists all with their values. They may stand in a file pagepack.toml,
    too.

    \b
    Exit codes: 0 all pages done; a file of a kind that is not read is named, and is no failure
    1 some failed or were rejected, the rest is stored · 2 wrong usage or settings
    3 nothing to do at the paths · 4 stopped by the machine (disk full, a server gone)
    70 a fault of the program, told with its traceback; what was stored stays · 130 interrupted
    """


class Choice(click.Choice[str]):
    """One of a few words; a misspelt one is told with the near one."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        near = did_you_mean(str(value), map(str, self.choices)).rstrip("?")
        return super().get_invalid_choice_message(value, ctx).removesuffix(".") + (f"{near}?" if near else ".")


class _Files(click.types.FuncParamType):  # type: ignore[type-arg]
    """Completed by the shell as files are."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


@_Files
def path(text: str) -> Path:
    """A path on the command line. `Path("")` is the current folder, which nobody means who writes "$UNSET"."""
    if not text:
        raise click.BadParameter("it is empty; is a shell variable unset?")
    return Path(text)


@_Files
def path_or_url(text: str) -> str | Path:
    """A path or a URL; a URL is no Path, which would take one of its slashes."""
    return text if is_url(text) else path.func(text)


def home_option(command: F) -> F:
    help_text = "Folder of the database.  [./pagepack-data]"
    return click.option("--home", type=path, callback=check_home, help=help_text)(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="For programs: JSON on stdout.")(command)


def pages_option(command: F) -> F:
    return click.option("--pages", metavar="RANGES", help="Only these pages of each document: 3-5,8,20-")(command)


def engine_options(command: F) -> F:
    engines = Choice(["auto", "pixtral", "rapidocr", "tesseract", "endpoint"])
    kinds = Choice(["off", "int8", "int4", "fp8", "auto"])
    help_text = (
        "With pixtral: narrower weights, for less memory; auto takes the widest with room for as many pages as they "
        "have bits.  [off]"
    )
    command = click.option("--quantize", type=kinds, help=help_text)(command)
    help_text = "With rapidocr: the smallest models, less processor time."
    command = click.option("--fast", is_flag=True, default=None, help=help_text)(command)
    runtimes = Choice(["onnxruntime", "openvino"])
    help_text = "With rapidocr: what computes its models.  [onnxruntime]"
    command = click.option("--ocr-runtime", type=runtimes, help=help_text)(command)
    help_text = "What tesseract or rapidocr shall read: rus+eng, or cyrillic."
    command = click.option("--ocr-language", metavar="NAMES", help=help_text)(command)
    help_text = "The model's name there."
    command = click.option("--endpoint-model", metavar="NAME", help=help_text)(command)
    help_text = "With --engine endpoint: a server that answers as OpenAI's does, such as https://host/v1."
    command = click.option("--endpoint-url", metavar="URL", help=help_text)(command)
    command = click.option("--engine", type=engines, help="What reads.  [auto: pixtral where --model is set]")(command)
    return click.option("--model", type=path, help="A checkpoint folder in Mistral's format, for pixtral.")(command)


def text_layer_option(command: F) -> F:
    layers = Choice(["auto", "keep", "prefer", "always", "hint"])
    help_text = (
        "A PDF's own text: prefer takes what is sound, always all, keep none, hint tells it to the model.  "
        "[auto: prefer; with pixtral and endpoint keep]"
    )
    return click.option("--text-layer", type=layers, help=help_text)(command)


def detail_option(command: F) -> F:
    help_text = "Size of page images: as the print needs it, 1,024 px, or a long side in px.  [auto]"
    return click.option("--detail", metavar="auto|page|PX", help=help_text)(command)


def devices_option(command: F) -> F:
    return click.option(
        "--devices",
        metavar="LIST",
        help="GPUs by number, like 0,1,2,3: a process for each; 0+1: a model over both.  [one process]",
    )(command)


def schema_option(command: F, *, multiple: bool = True) -> F:
    """JSON Schemas for answers."""
    help_text = (
        "Answers are JSON that fits this JSON Schema; see docs/structured.md. It holds for --prompt-file; without one, "
        "it asks for its fields, as a prompt of the file's name. May be repeated."
        if multiple
        else "The answer is JSON that fits this JSON Schema; see docs/structured.md."
    )
    name = "schemas" if multiple else "schema"
    return click.option("--schema", name, multiple=multiple, type=path, metavar="FILE", help=help_text)(command)


def sampling_options(command: F) -> F:
    """How prompts of one's own are answered; a version of the prompt for each choice, beside the others."""
    for name, text in (
        ("--seed", "Of your own prompts: draws other words at a temperature above 0.  [0]"),
        ("--temperature", "Of your own prompts: 0 takes the likeliest token.  [0]"),
        ("--max-tokens", "Of your own prompts: an answer ends there.  [4096; ask: 1024]"),
    ):
        command = click.option(name, metavar="NUMBER", help=text)(command)
    return command


def quoted(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def one_line(text: str) -> str:
    """One line, with nothing in it that drives a terminal; as long as the text, so that offsets stay."""
    return "".join(character if character.isprintable() else " " for character in text)
