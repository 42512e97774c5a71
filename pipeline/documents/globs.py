"""Which files below a folder are meant, by patterns that read as ripgrep's and rsync's do.

    *.pdf        without a slash: the name of a file or folder, however deep
    drafts       a folder that a pattern names stands for all below it
    /drafts      with a slash: the path below the folder that was given, from its beginning; so is 2024/*.pdf
    **/old/*.pdf ** stands for any number of folders, * and ? for what has no slash, [ab] for one of these
    drafts/      with a slash at the end: folders alone

A file is meant where no pattern excludes it, and where some pattern includes it or none is given. Of a file that was
given itself, or an object, the name is looked at. Upper and lower case differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Glob:
    """One pattern, and how it is read."""

    text: str
    expression: re.Pattern[str]
    is_path: bool  # else a name
    is_folder: bool

    def matches(self, parts: Sequence[str], is_folder: bool) -> bool:
        """Whether it names the path that these parts are, or a folder on the way there."""
        depth = len(parts) - (self.is_folder and not is_folder)
        if self.is_path:
            return any(self.expression.match("/".join(parts[: end + 1])) for end in range(depth))
        return any(map(self.expression.match, parts[:depth]))


@dataclass(frozen=True, slots=True)
class Globs:
    """All of a command's patterns; none means every file."""

    include: tuple[Glob, ...] = ()
    exclude: tuple[Glob, ...] = ()

    def is_meant(self, below: str, *, is_folder: bool = False) -> bool:
        """Of a file's path below the folder that was given; of a folder: whether to look into it."""
        if not (self.include or self.exclude):
            return True
        parts = below.split("/")
        if any(glob.matches(parts, is_folder) for glob in self.exclude):
            return False
        return is_folder or not self.include or any(glob.matches(parts, False) for glob in self.include)

    def words(self) -> list[str]:
        """As they stand on the command line, in an order that does not depend on it."""
        named = {"--include": self.include, "--exclude": self.exclude}
        return [
            word for option, globs in named.items() for text in sorted(g.text for g in globs) for word in (option, text)
        ]


ALL = Globs()


def parse_globs(option: str, texts: Sequence[str]) -> tuple[Glob, ...]:
    """The patterns of an option, each once.

    Raises:
        UsageError: one is none.
    """
    from fsspec.utils import glob_translate

    globs = []
    for text in dict.fromkeys(texts):
        body = text.removeprefix("./").strip("/")
        if not body:
            raise UsageError(f"{option} {text!r} names nothing; write a pattern like '*.txt' or drafts/")
        try:
            expression = re.compile(glob_translate(body))
        except (ValueError, re.error) as error:
            raise UsageError(f"{option} {text!r} is no pattern: {error}") from None
        is_path = text.startswith(("./", "/")) or "/" in body
        globs.append(Glob(text, expression, is_path, text.endswith("/")))
    return tuple(globs)
