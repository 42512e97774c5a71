"""The command line. Rows on stdout, everything else on stderr."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pipeline import __version__
from pipeline.errors import NothingToDo, PagepackError, UsageError
from pipeline.settings import Settings, load_settings

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_NOTHING, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130


def main() -> None:
    """Entry point of `pagepack`: errors in one line, documented exit codes."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except NothingToDo as error:
        click.echo(f"pagepack: {error}", err=True)
        code = EXIT_NOTHING
    except PagepackError as error:
        click.echo(f"pagepack: {error}", err=True)
        code = EXIT_USAGE if isinstance(error, UsageError) else EXIT_STOPPED
    except BrokenPipeError:
        sys.stderr.close()
        code = EXIT_DONE
    sys.exit(code or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pagepack")
def cli() -> None:
    """Turn folders of PDFs and images into text that you query with SQL.

    \b
    pagepack run docs/                      read a folder on this machine
    pagepack search annual report           where do these words stand?
    pagepack sql "SELECT * FROM failures"   what was not read, and why
    pagepack export --out text/             one Markdown file a document

    Everything lies in one folder (--home, default ./pagepack-data). Repeat a command that was interrupted: it goes
    on where it was. Each option is also a variable (PAGEPACK_HOME, …).
    """
