"""Benchmarks are run by hand, so what they import is checked here: every name is still where they look for it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def names_of(module: str) -> set[str] | None:
    """What a module of the package defines or imports at its top, and its submodules; None of no module."""
    path = ROOT / "src" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.exists():
        return None
    found = {each.stem for each in path.glob("*")} if path.is_dir() else set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def missing(source: str) -> list[str]:
    """Imports from the package that lead nowhere."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torchstone":
            known = names_of(str(node.module))
            found += [f"{node.module}.{a.name}" for a in node.names if known is None or a.name not in known]
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_benchmark_imports_what_there_is(file):
    assert missing(file.read_text()) == []


def test_missing_finds_a_name_and_a_module_that_are_gone():
    source = "from torchstone.metrics.paired import margin, interval\nfrom torchstone.gone import x\n"
    assert missing(source) == ["torchstone.metrics.paired.interval", "torchstone.gone.x"]
