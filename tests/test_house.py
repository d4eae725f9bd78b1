"""The repository keeps its own rules: who may import whom, how large a file gets, what the core may touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for package in ("raybatch", "serve_app", "jobs") for path in (ROOT / package).rglob("*.py")
)
LINES_MAX = 450
HEAVY = {"torch", "transformers", "vllm"}  #: half a gigabyte and ten seconds each time one is imported


def test_imports_obey_the_contracts() -> None:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
    ]
    result = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= LINES_MAX, f"{path.relative_to(ROOT)} has {lines} lines; a file holds one noun, split it"


def test_the_core_knows_only_the_standard_library_and_itself() -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / "raybatch" / "core"):
            strangers = {
                name
                for name in _imports(ast.parse(path.read_text()))
                if name.split(".")[0] not in sys.stdlib_module_names
                and not name.startswith(("raybatch.core", "raybatch.errors"))
            }
            assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


def test_heavy_libraries_are_imported_only_inside_functions() -> None:
    for path in SOURCES:
        at_import_time = ast.Module(
            body=list(_run_at_import(ast.parse(path.read_text()).body)), type_ignores=[]
        )
        heavy = HEAVY & {name.split(".")[0] for name in _imports(at_import_time, nested=False)}
        assert not heavy, f"{path.relative_to(ROOT)} imports {sorted(heavy)} as soon as it is imported"


def _imports(tree: ast.Module, *, nested: bool = True) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def _run_at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, out of their blocks; functions' bodies do not."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _run_at_import(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While | ast.ClassDef):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            inner += [s for h in getattr(node, "handlers", ()) for s in h.body]
            yield from _run_at_import(inner)
        else:
            yield node
