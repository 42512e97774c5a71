"""The command `completion`: commands and options at the Tab key."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.cli.options import EXIT_DONE, Choice, cli
from pipeline.errors import UsageError

_SHELLS = ("bash", "zsh", "fish")


@cli.command()
@click.argument("shell", required=False, type=Choice(_SHELLS))
def completion(shell: str | None) -> int:
    """Print the script that completes commands, options and files at the Tab key. SHELL: the one that you use.

    \b
    pagepack completion bash >> ~/.bashrc
    pagepack completion zsh >> ~/.zshrc
    pagepack completion fish > ~/.config/fish/completions/pagepack.fish

    It works in shells that are started after that.
    """
    from click.shell_completion import get_completion_class

    shell = shell or Path(os.environ.get("SHELL", "")).name
    script = get_completion_class(shell) if shell in _SHELLS else None
    if script is None:
        raise UsageError(f"which shell? `pagepack completion {'|'.join(_SHELLS)}`")
    click.echo(script(cli, {}, "pagepack", "_PAGEPACK_COMPLETE").source())
    return EXIT_DONE
