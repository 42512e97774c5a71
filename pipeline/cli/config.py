"""`pagepack config`: what the settings are, and where each comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import (
    EXIT_DONE,
    cli,
    detail_option,
    engine_options,
    home_option,
    json_option,
    one_line,
    text_layer_option,
)


@cli.command()
@home_option
@engine_options
@text_layer_option
@detail_option
@json_option
def config(home: Path | None, as_json: bool, **flags: Any) -> int:
    """Each setting, its value, and where that comes from.

    \b
    A flag goes before a variable (PAGEPACK_LEASE_SECONDS=120), a variable before a file, a file before the default.
    The file is pagepack.toml (lease_seconds = 120): the one in the working folder goes before the one in the home.

    Passwords are shown as ***.
    """
    from pipeline.settings import explain_settings

    rows = explain_settings(home=home, **flags)
    if as_json:
        told = [
            {"setting": name, "variable": f"PAGEPACK_{name.upper()}", "value": value, "from": origin}
            for name, value, origin in rows
        ]
        click.echo(json.dumps(told, ensure_ascii=False))
        return EXIT_DONE
    texts = [(name, _shown(value), one_line(origin)) for name, value, origin in rows]
    widths = [max(len(text[column]) for text in texts) for column in (0, 1)]
    for name, value, origin in texts:
        click.echo(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return EXIT_DONE


def _shown(value: Any) -> str:
    """As a file would have it, but for the quotes."""
    return "-" if value is None else one_line(value if isinstance(value, str) else json.dumps(value))
