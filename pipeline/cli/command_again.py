"""The words of the command that is being executed, as its batch remembers them: repeating them goes on with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.where import is_default

if TYPE_CHECKING:
    from pipeline.settings import Settings

_OF_SETTINGS = {
    "engine": "auto",
    "model": None,
    "quantize": "off",
    "endpoint_url": None,
    "endpoint_model": None,
    "max_cost": None,
    "text_layer": None,
    "detail": "auto",
    "attachments": False,
    "all_frames": False,
}
"""Options that may come from variables too, which another shell may lack, with the values that go without saying."""

_NOT_OF_THE_BATCH = {"as_json", "serves"}


def words_of_this_command(settings: Settings) -> list[str]:
    """Of the `pagepack run` or `ask` that is being executed, to be repeated from any folder.

    Without --home, unless the database is a server's: whoever finds the batch in a home knows where that is.
    """
    context = click.get_current_context()
    given = {name: value for name, value in context.params.items() if name not in _NOT_OF_THE_BATCH}
    for name, silent in _OF_SETTINGS.items():
        value = getattr(settings, name)
        given[name] = None if value == silent else value
    is_elsewhere = settings.database_url is not None and not is_default(settings.home)
    given["home"] = settings.home if is_elsewhere else None
    options, arguments = list[str](), list[str]()
    for parameter in context.command.params:
        value = given.get(str(parameter.name))
        values = value if isinstance(value, tuple) else () if value in (None, False) else (value,)
        if isinstance(parameter, click.Argument):
            arguments += map(_word, values)
            continue
        for one in values:
            options += [parameter.opts[0]] if one is True else [parameter.opts[0], _word(one)]
    ends = ["--"] if any(word.startswith("-") for word in arguments) else []
    return ["pagepack", str(context.info_name), *options, *ends, *arguments]


def _word(value: Any) -> str:
    return os.path.abspath(value) if isinstance(value, Path) else str(value)
