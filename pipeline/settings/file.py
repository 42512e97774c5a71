"""`pagepack.toml`: settings in a file, each as `name = value`.

    home = "archive"              # a relative path is taken from the folder that the file lies in
    keep_images = "until-read"
    lease_seconds = 120

A value becomes the text that a variable would hold, so that both are judged alike.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError, did_you_mean
from pipeline.urls import is_url

FILE_NAME = "pagepack.toml"


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value as it was found, and where."""

    value: object
    origin: str  # a flag, a variable, or the absolute path of a file
    label: str  # what a message about it begins with


def read_settings_file(folder: Path, names: Collection[str], places: Collection[str]) -> dict[str, Given]:
    """The settings that the file in a folder gives, none where there is no file; `places` are paths or URLs.

    Raises:
        UsageError: it cannot be read, is no TOML, or holds what is no setting.
    """
    path = folder / FILE_NAME
    if not os.path.lexists(path):  # also where nobody may look, which whoever uses the folder says
        return {}
    file = os.path.abspath(path)
    return {
        name: Given(_text(file, name, value, name in places), file, f"{file}: {name}")
        for name, value in _parse(file).items()
        if _is_known(file, name, names)
    }


def _parse(file: str) -> dict[str, object]:
    import tomllib  # only where there is a file

    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} cannot be read: it is no UTF-8 text") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's own is a ValueError; as is a number of 5,000 digits
        said, _, where = str(error).removesuffix(")").partition(" (at ")
        where = where.replace("end of document", f"line {len(text.splitlines())}")
        raise UsageError(
            f"{', '.join(filter(None, [file, where]))}: {said}; write `name = value`, a text in quotes"
        ) from None


def _is_known(file: str, name: str, names: Collection[str]) -> bool:
    if name in names:
        return True
    meant = name.lower().removeprefix("pagepack_").replace("-", "_")
    way_out = did_you_mean(meant, names) or f"; known are {', '.join(sorted(names))}"
    shown = name[:80] if name.isprintable() else repr(name[:80])  # a quoted key may hold what drives a terminal
    raise UsageError(f"{file}: {shown} is not a setting of pagepack{way_out}")


def _text(file: str, name: str, value: object, is_place: bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise UsageError(f"{file}: {name} is a list, a table or a date; give a text, a number, true or false")
    text = str(value)
    if "\0" in text:
        raise UsageError(f"{file}: {name} holds a NUL; remove it")
    if is_place and text and not is_url(text):
        return os.path.join(os.path.dirname(file), os.path.expanduser(text))
    return text
