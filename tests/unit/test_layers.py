"""Imports point one way: schemas ← pipeline ← workers, and in pipeline/ as the table in docs/architecture.md says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("layers")  # each file is parsed once, in one test process
NO_QUEUE = ("celery", "kombu", "sqlalchemy", "pipeline.database", "pipeline.store", "pipeline.delivery")


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node; no import stands in an expression, of which a file has ten times as many parts."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, part, ()):
            yield child
            yield from statements(child)


@cache
def import_statements(file: Path) -> list[ast.Import | ast.ImportFrom]:
    """Also those inside functions and for the type checker."""
    tree = statements(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(folder: str) -> set[tuple[str, str]]:
    """(file, imported module) of every import in a folder, also those inside functions."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in import_statements(file):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {(str(file.relative_to(ROOT)), name) for name in names}
    assert found, folder
    return found


@pytest.mark.parametrize("folder", ["schemas", "pipeline", "workers"])
def test_a_name_has_one_address(folder: str) -> None:
    """`import name as name` would say that a module offers what another one defines."""
    again = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in (ROOT / folder).rglob("*.py")
        for node in import_statements(file)
        if isinstance(node, ast.ImportFrom) and any(alias.asname == alias.name for alias in node.names)
    ]
    assert not again


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("schemas", ("pipeline", "workers", "migrations", "celery")),
        ("pipeline", ("workers", "torch", "onnxruntime", "rapidocr", "mistral_inference", "mistral_common")),
        ("migrations/versions", ("schemas", "pipeline", "workers")),
        ("workers/pixtral", NO_QUEUE),
        ("workers/engines", NO_QUEUE),
    ],
)
def test_a_folder_imports_only_what_lies_below_it(folder: str, forbidden: tuple[str, ...]) -> None:
    wrong = {
        (file, name)
        for file, name in imported(folder)
        if any(name == other or name.startswith(f"{other}.") for other in forbidden)
    }
    assert not wrong


BASE = {"settings", "urls", "errors", "environment", "cores", "daemons"}  # and `pipeline` itself, for its version


def may_import() -> dict[str, set[str]]:
    """Wing → the wings below it that it may import: the table that people read."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", table, flags=re.MULTILINE)
    return {wing: set(re.findall(r"`(\w+)`", below)) for wing, below in rows}


def modules(*folders: str) -> dict[str, set[str]]:
    """Module → our own modules that it imports, also those inside functions and for the type checker."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    names = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}
    graph: dict[str, set[str]] = {}
    for name, file in names.items():
        found = set()
        for node in import_statements(file):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        graph[name] = {other for other in found if other in names and other != name}
    return graph


def test_every_wing_is_in_the_table_and_every_arrow_points_down() -> None:
    below = may_import()
    assert set(below) == {folder.parent.name for folder in (ROOT / "pipeline").glob("*/__init__.py")} - BASE
    above: set[str] = set()
    for wing, others in below.items():  # in the table's order a wing stands below whatever imports it
        assert others <= above, f"{wing} may import what stands above it: {others - above}"
        above.add(wing)


def test_the_wings_import_what_the_table_says_and_nothing_else() -> None:
    """Nor does it allow an arrow that nobody needs: the next one would find it drawn already."""
    used: dict[str, set[str]] = {wing: set() for wing in [*may_import(), *BASE]}
    for module, others in modules("pipeline").items():
        part = module.split(".")[1] if "." in module else module
        if part in used:  # the entry point may import anything
            used[part] |= {other.split(".")[1] for other in others if "." in other} - BASE - {part}
    assert used == may_import() | {name: set() for name in BASE}


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(modules("schemas", "pipeline", "workers")).prepare()  # raises CycleError with the circle


def test_the_commands_load_no_model_library() -> None:
    loaded = "pipeline.cli.main, pipeline.cli.progress_bar, pipeline.supervisor.local_run"
    code = f"import sys, {loaded}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    # numpy, too, has threads of its own from its import on, and a run forks its workers.
    assert {"torch", "onnxruntime", "cv2", "rapidocr", "pymupdf", "numpy"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["status", "--help"]])
def test_help_waits_for_no_library_that_only_work_needs(command: list[str]) -> None:
    """Each command imports what it needs when it is called."""
    python = [sys.executable, "-X", "importtime", "-P", "-m", "pipeline"]
    done = subprocess.run([*python, *command], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "Usage:" in done.stdout
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in names
    heavy = {"sqlalchemy", "alembic", "celery", "kombu", "redis", "numpy", "PIL", "pymupdf", "pydantic", "rich"}
    assert heavy.isdisjoint(names)
