"""docker-compose.yml as Compose reads it: anchors merged, variables filled in. And the Dockerfile's stages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<word>[^}]*))?\})")


class MissingVariable(Exception):
    """A `${NAME:?message}` without a value."""


_RESET = object()
"""`!reset`: what the file before says is taken away."""


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!reset", lambda loader, node: _RESET)


def load_compose(variables: Mapping[str, str], *files: str) -> dict[str, Any]:
    """docker-compose.yml, and over it `files`. Raises MissingVariable with the file's own message."""
    filled: dict[str, Any] = {}
    for name in ("docker-compose.yml", *files):
        loaded = yaml.load((ROOT / name).read_text(), _Loader)
        filled = _merged(filled, _filled(loaded, variables))
    return filled


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """As Compose lays one file over another: mappings by key; a command, like every list here, is replaced."""
    merged = dict(below)
    for key, value in above.items():
        if value is _RESET:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(below.get(key, {}), dict):
            merged[key] = _merged(below.get(key, {}), value)
        else:
            merged[key] = value
    return merged


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`${A}`, `${A:-default}`, `${A:?message}` and `$$`; an empty value counts as none in the last two."""

    def fill(match: re.Match[str]) -> str:
        name, kind, word = match["name"], match["kind"], match["word"]
        if name is None:
            return "$"
        value = variables.get(name, "")
        if kind == ":?" and not value:
            raise MissingVariable(f"{name}: {word}")
        return value or (word if kind == ":-" else "")

    return _VARIABLE.sub(fill, text)


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    return interpolated(value, variables) if isinstance(value, str) else value


@dataclass
class Stage:
    """A stage of the Dockerfile; what it does not say itself comes from the stage that it starts from."""

    name: str
    base: str
    copies: list[str] = field(default_factory=list)  # from the build context
    copies_from: list[str] = field(default_factory=list)  # names of other stages
    runs: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)


def load_dockerfile() -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    stage = Stage("", "")
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            before = stages.get(base, Stage("", base))
            stage = Stage(name, base, [], [], [], dict(before.environment), before.user, list(before.entrypoint))
            stages[name] = stage
        elif word == "COPY" and rest.startswith("--from="):
            stage.copies_from.append(rest.split()[0].removeprefix("--from="))
        elif word == "COPY":
            stage.copies += rest.split()[:-1]
        elif word == "RUN":
            stage.runs.append(rest)
        elif word == "ENV":
            stage.environment |= dict(re.findall(r"(\w+)=(\S+)", rest))
        elif word == "USER":
            stage.user = rest
        elif word == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        else:
            assert word in ("", "WORKDIR", "CMD"), f"this reader of Dockerfiles does not know {word}"
    return stages
