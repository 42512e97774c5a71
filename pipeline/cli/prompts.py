"""The prompts that a command names: known ones, and files of one's own with how they are sampled.

A file is the prompt's text. It may begin with front matter, lines of `key: value` between two lines of `---`:

    ---
    max_tokens: 200
    temperature: 0.7
    seed: 3
    schema: dates.json
    ---
    Which dates does this page name?

A few numbers and a path need no YAML; a file that is written like this is the same to any reader of it.

A JSON Schema alone is a prompt, too: it asks for its fields.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from schemas.prompts import CATALOGUE, Prompt, choose_prompts, held_to, question_prompt, sampled, schema_prompt

LIMITS = {"max_tokens": (int, 1, 1_000_000), "temperature": (float, 0, 2), "seed": (int, 0, 2**63 - 1)}
_SCHEMA = "schema"  # a file, from the folder of the prompt's file
_KEYS = f"known are {', '.join([*LIMITS, _SCHEMA])}"
_MOST_BYTES = 1_000_000  # of a schema's file, before anything looks at it
_FENCE = "---"


def take_sampling(flags: dict[str, Any]) -> dict[str, Any]:
    """Out of a command's options, those that shape an own prompt's answer; the others stay.

    Raises:
        UsageError: one is no such number.
    """
    given = {name: flags.pop(name) for name in LIMITS}
    return {
        name: _number(name, text, f"--{name.replace('_', '-')}") for name, text in given.items() if text is not None
    }


def choose_asked_prompts(
    names: Sequence[str], files: Sequence[Path], sampling: Mapping[str, Any], schemas: Sequence[Path] = ()
) -> list[Prompt]:
    """`sampling` goes before what the files say. A schema is that of all `files`; without any it asks by itself.

    Raises:
        UsageError: a file's name would hide another prompt, it is no prompt or no schema, or `sampling` has no prompt
            to shape.
    """
    option, own = ("--prompt-file", files) if files else ("--schema", schemas)
    stems = [file.stem if files else _name(file) for file in own]
    for file, stem in zip(own, stems, strict=True):
        if stem in CATALOGUE:
            raise UsageError(f"{option} {file}: {stem!r} is a prompt of the catalogue; rename the file")
    if len(set(stems)) < len(stems):
        raise UsageError(f"two {option} of one name; a prompt is known by its file's name, so rename one")
    if files and len(schemas) > 1:
        raise UsageError(
            "--schema is given several times, and holds for all of --prompt-file; give one, or write `schema: FILE` "
            "into the front matter of each"
        )
    for name in sampling if not own else ():
        raise UsageError(
            f"--{name.replace('_', '-')} is for prompts of your own, and none is given: add --prompt-file; "
            f"{', '.join(CATALOGUE)} are always asked in the same way"
        )
    read = [_read_schema(path, f"--schema {path}") for path in schemas]
    if not files:
        asked = [schema_prompt(stem, schema, **sampling) for stem, schema in zip(stems, read, strict=True)]
    else:
        asked = [_read_prompt(file, sampling, read[0] if read else None) for file in files]
    return choose_prompts(names, asked)


def question(text: str, sampling: Mapping[str, Any], schema: Path | None = None) -> Prompt:
    """The prompt of `pagepack ask`. Raises UsageError: the schema is none."""
    prompt = sampled(question_prompt(text), **sampling)
    return prompt if schema is None else held_to(prompt, _read_schema(schema, f"--schema {schema}"))


def _name(file: Path) -> str:
    """`invoice` of invoice.json and of invoice.schema.json."""
    return file.stem.removesuffix(".schema") or file.stem


def _read_schema(path: Path, where: str) -> str:
    from pipeline.structured.check import read_schema  # its libraries, where a schema is given

    if path.exists() and not path.is_file():
        raise UsageError(f"{where} names no regular file; write the JSON Schema to one")
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise UsageError(f"{where}: it has {size:,} bytes, and is no schema to be read with every page")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"{where} cannot be read: {reason}") from error
    return read_schema(text, where)


def _read_prompt(path: Path, sampling: Mapping[str, Any], schema: str | None) -> Prompt:
    if path.exists() and not path.is_file():
        raise UsageError("--prompt-file names no regular file; write the prompt to one: the prompt is called after it")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"--prompt-file {path} cannot be read: {reason}") from error
    values: dict[str, Any] = {}
    lines = text.splitlines()
    if lines and lines[0].rstrip() == _FENCE:
        ends = [number for number, line in enumerate(lines) if number and line.rstrip() == _FENCE]
        if not ends:
            raise UsageError(
                f"--prompt-file {path}: it begins with {_FENCE}, and no second line of {_FENCE} ends its front matter"
            )
        values = _front_matter(lines[1 : ends[0]], path)
        text = "\n".join(lines[ends[0] + 1 :]).strip()
    named = values.pop(_SCHEMA, None)
    if not text:
        raise UsageError(f"--prompt-file {path} is empty")
    if named is not None and schema is None:
        schema = _read_schema(path.parent / named, f"--prompt-file {path}: schema {named}")
    prompt = sampled(Prompt(path.stem, text), **(values | dict(sampling)))
    return prompt if schema is None else held_to(prompt, schema)


def _front_matter(lines: Sequence[str], path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for number, line in enumerate(lines, 2):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        where = f"--prompt-file {path}, line {number}"
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            raise UsageError(f"{where}: {line[:80]!r} is no `key: value`; {_KEYS}")
        if name not in LIMITS and name != _SCHEMA:
            near = difflib.get_close_matches(name.lower(), [*LIMITS, _SCHEMA], n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{where}: {name[:80]!r} is not known; {meant}{_KEYS}")
        if name in values:
            raise UsageError(f"{where}: {name} is given twice; remove one")
        if name == _SCHEMA and not value:
            raise UsageError(f"{where}: schema is empty; name a file with a JSON Schema, or leave the line out")
        values[name] = value if name == _SCHEMA else _number(name, value, where)
    return values


def _number(name: str, text: str, where: str) -> int | float:
    kind, least, most = LIMITS[name]
    number: int | float | None = None
    with suppress(ValueError):
        number = kind(text)
    if number is None or not least <= number <= most:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{where}: {name} is {text[:80]!r}; give {what} from {least} to {most:,}")
    return number
