"""The command line. Rows on stdout, everything else on stderr."""

from __future__ import annotations

import sys

import click

from pipeline.cli import (  # noqa: F401 (each adds its commands)
    admin,
    ask,
    assistants,
    batch_list,
    batches,
    completion,
    config,
    evaluate,
    forget,
    jobs,
    plan,
    query,
    retry,
    serve,
    sql,
    verify,
    versions,
)
from pipeline.cli.options import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_USAGE,
    cli,
)
from pipeline.cli.stdout import OutputEnded, guard_output, silence_output
from pipeline.errors import exit_code


def main() -> None:
    """Entry point of `pagepack`: errors in one line, documented exit codes."""
    guard_output()
    try:
        code = cli.main(prog_name="pagepack", standalone_mode=False)
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
    except Exception as error:
        code = exit_code(error)
    sys.exit(code or EXIT_DONE)
