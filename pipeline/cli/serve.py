"""The command `serve`: the archive in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.options import EXIT_DONE, cli, home_option, path

DEFAULT_PORT = 8420


@cli.command()
@home_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is every one.")
@click.option(
    "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one."
)
@click.option(
    "--token", help="Asked of every browser and program.  [none on this machine alone; else made at the start]"
)
@click.option("--allow-retry", is_flag=True, help="Failures may be sent back to waiting; asks for a token.")
@click.option("--allow-upload", is_flag=True, help="The HTTP API takes files, which workers read; asks for a token.")
@click.option(
    "--read-from",
    multiple=True,
    type=path,
    metavar="FOLDER",
    help="The HTTP API takes paths below it, which workers read; asks for a token. May be repeated.",
)
def serve(
    home: Path | None,
    host: str,
    port: int,
    token: str | None,
    allow_retry: bool,
    allow_upload: bool,
    read_from: tuple[Path, ...],
) -> int:
    """Show batches, pages, failures and search in a browser, and answer programs (docs/api.md), until Ctrl-C.

    Only this machine reaches it, unless --host says otherwise; then a token is asked for, and the address that is
    printed has it. Others see the arguments of a command: give a token of your own as PAGEPACK_SERVE_TOKEN, or in the
    file that PAGEPACK_SERVE_TOKEN_FILE names.
    """
    from pipeline.settings import load_settings
    from pipeline.web.serve import WebServer

    settings = load_settings(home=home, serve_token=token)
    server = WebServer(settings, host, port, settings.serve_token, allow_retry, allow_upload, read_from)
    server.execute(lambda url: click.echo(f"pagepack: {url}  (Ctrl-C ends it)", err=True))
    return EXIT_DONE
