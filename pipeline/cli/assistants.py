"""The command `mcp`: the archive as tools of an assistant."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from pipeline.cli.options import EXIT_DONE, EXIT_INTERRUPTED, cli, home_option
from pipeline.errors import UsageError


@cli.command()
@home_option
def mcp(home: Path | None) -> int:
    """Serve the archive to an assistant, as an MCP server on stdin and stdout.

    The assistant starts it; docs/mcp.md says how it is told. It can search, read pages and their images, look at
    batches, and run SQL that reads only. It changes nothing. Ends with its standard input.
    """
    from pipeline.settings import load_settings

    settings = load_settings(home=home)
    try:
        from pipeline.assistants.server import make_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise UsageError("`pagepack mcp` needs the MCP SDK; pip install 'pagepack[mcp]'") from error
    click.echo("pagepack: an MCP server on stdin and stdout; an assistant starts it, see docs/mcp.md", err=True)
    # A thread waits for a line of stdin, and would be waited for; nothing here needs an orderly end.
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    make_server(settings).run()
    return EXIT_DONE
