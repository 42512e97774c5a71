"""The command `serve`: the archive in a browser; and the same beside a run, for `run --serve`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import EXIT_DONE, cli, home_option, path
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.settings import Settings

DEFAULT_PORT = 8420


@cli.command()
@home_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is every one.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option("--token", help="Asked of every browser and program.  [none on this machine alone, else a new one]")
@click.option("--allow-retry", is_flag=True, help="Failures may be sent back to waiting; asks for a token.")
@click.option("--allow-review", is_flag=True, help="Pages of the review list may be marked as seen; asks for a token.")
@click.option("--allow-upload", is_flag=True, help="The HTTP API takes files, which workers read; asks for a token.")
@click.option(
    "--read-from",
    multiple=True,
    type=path,
    metavar="FOLDER",
    help="The HTTP API takes paths below it, which workers read; asks for a token. May be repeated.",
)
@click.option("--beside", is_flag=True, hidden=True)
def serve(
    home: Path | None,
    host: str,
    port: int,
    token: str | None,
    allow_retry: bool,
    allow_review: bool,
    allow_upload: bool,
    read_from: tuple[Path, ...],
    beside: bool,
) -> int:
    """Show batches, pages, failures and search in a browser, and answer programs (docs/api.md), until Ctrl-C.

    Only this machine reaches it, unless --host says otherwise; then a token is asked for, and the address that is
    printed has it. Others see the arguments of a command: give a token of your own as PAGEPACK_SERVE_TOKEN, or in the
    file that PAGEPACK_SERVE_TOKEN_FILE names. See docs/web.md.
    """
    from pipeline.settings import load_settings
    from pipeline.web.serve import WebServer

    settings = load_settings(home=home, serve_token=token)
    asked = (settings.serve_token, allow_retry, allow_upload, read_from, allow_review)
    if not beside:
        server = WebServer(settings, host, port, *asked)
        server.execute(lambda url: click.echo(f"pagepack: {url}  (Ctrl-C ends it)", err=True))
        return EXIT_DONE
    try:
        server = WebServer(settings, host, port, *asked)
    except UsageError:  # a run must not end for a port
        server = WebServer(settings, host, 0, *asked)
    server.end_with_input()
    server.execute(lambda url: print(url, flush=True))
    return EXIT_DONE


@contextmanager
def served_beside(settings: Settings) -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Inside, a function that starts `pagepack serve` as a child, and says its address; it ends with the block.

    A process of its own, so that pages take no time from a run, and Ctrl-C is the run's alone.
    """
    children: list[subprocess.Popen[str]] = []

    def start(say: Callable[[str], None]) -> None:
        from pipeline.supervisor.processes import child_environment

        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline", "serve", "--beside"],
            env=child_environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        children.append(child)
        threading.Thread(target=_say_where, args=(child, say), name="served", daemon=True).start()

    try:
        yield start
    finally:
        for child in children:
            with suppress(OSError):
                assert child.stdin is not None
                child.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
            if child.poll() is None:
                child.kill()


def _say_where(child: subprocess.Popen[str], say: Callable[[str], None]) -> None:
    assert child.stdout is not None
    url = child.stdout.readline().strip()
    if url:
        say(f"look at it meanwhile: {url}")
    elif child.wait() != EXIT_DONE:
        say("it cannot be shown in a browser; `pagepack serve` says why")
