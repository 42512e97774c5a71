"""Imports point one way: schemas ← pipeline ← workers; the engine knows no queue and no database."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported(folder: str) -> set[tuple[str, str]]:
    """(file, imported module) of every import in a folder, also those inside functions."""
    found = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {(str(file.relative_to(ROOT)), name) for name in names}
    assert found, folder
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("schemas", ("pipeline", "workers", "migrations", "celery")),
        ("pipeline", ("workers", "torch", "onnxruntime", "rapidocr", "mistral_inference", "mistral_common")),
        ("migrations/versions", ("schemas", "pipeline", "workers")),
        (
            "workers/pixtral",
            (
                "celery",
                "kombu",
                "sqlalchemy",
                "pipeline.database.engine",
                "pipeline.store.results",
                "pipeline.store.leases",
            ),
        ),
        (
            "workers/engines",
            (
                "celery",
                "kombu",
                "sqlalchemy",
                "pipeline.database.engine",
                "pipeline.store.results",
                "pipeline.store.leases",
            ),
        ),
    ],
)
def test_a_folder_imports_only_what_lies_below_it(folder: str, forbidden: tuple[str, ...]) -> None:
    wrong = {
        (file, name)
        for file, name in imported(folder)
        if any(name == other or name.startswith(f"{other}.") for other in forbidden)
    }
    assert not wrong


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
