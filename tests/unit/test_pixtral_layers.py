"""Inside the engine imports point one way, and the reference implementation stays outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each package, and those of the engine that it may import; what stands in the engine's own folder comes last.
# `device_errors` imports none of them.
BELOW = {
    "plan": {"plan"},
    "model": {"model", "plan"},
    "text": {"text", "model", "plan"},
    "cpu": {"cpu", "model", "plan", "executor"},
    "cuda": {"cuda", "model", "plan", "executor", "device_errors"},
    "executor": {"model", "plan"},
    "engine": {"executor", "device_errors", "model", "plan", "text"},
}


def imports(file: Path) -> set[str]:
    """Modules that a file imports when it runs, also inside functions; not those for the type checker alone."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("part", BELOW)
def test_a_part_of_the_engine_imports_only_what_lies_below_it(part):
    folder = ROOT / "workers" / "pixtral"
    files = list((folder / part).rglob("*.py")) or [folder / f"{part}.py"]
    prefix = "workers.pixtral."
    names = {name.removeprefix(prefix).split(".")[0] for f in files for name in imports(f) if name.startswith(prefix)}
    assert names <= BELOW[part]
    assert names or part == "plan"


def test_the_reference_is_imported_where_the_engine_is_held_against_it_and_there_alone():
    """And inside a function: it is not installed with pagepack."""
    verify = ROOT / "workers" / "verify" / "reference.py"
    every = [file for folder in ("workers", "pipeline", "schemas") for file in (ROOT / folder).rglob("*.py")]
    names = ("mistral_inference", "xformers")
    files = [file for file in every if any(name in file.read_text(encoding="utf-8") for name in names)]
    at_once = [
        node for node in ast.parse(verify.read_text(encoding="utf-8")).body if "mistral_inference" in ast.dump(node)
    ]
    assert any(name.startswith("mistral_inference") for name in imports(verify))
    assert not [node for node in at_once if isinstance(node, ast.Import | ast.ImportFrom)]
    files.remove(verify)
    assert len(every) > 30
    wrong = {(file.name, name) for file in files for name in imports(file) if name.startswith(names)}
    assert not wrong


def test_planning_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from workers.pixtral.plan import batch, cache_blocks, scheduler, sequence, sizes"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
