"""Law 13: each module has `test_<module>.py` in the same place, or `tested_by.json` says which file tests it.

python tests/laws/module_tests.py    write tested_by.json again: what still holds is kept, what is missing is guessed
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import import_rules

TABLE = Path(__file__).with_name("tested_by.json")


def wrongs(source: Path, tests: Path, table: dict[str, str] | None = None) -> list[str]:
    """Modules without a test file, and lines of the table that do not hold."""
    table = json.loads(TABLE.read_text()) if table is None else table
    found, modules = [], untested(source, tests)
    graph = import_rules.graph(source, source.name)
    reach = {
        file: reached(tests / file, source, graph)
        for file in sorted(set(table.values()))
        if (tests / file).exists()
    }
    for module, file in table.items():
        if module not in modules:
            found.append(f"tested_by.json: {module} is no module without a test file of its own name")
        elif file not in reach:
            found.append(f"tested_by.json: {module} is said to be tested by {file}, which does not exist")
        elif dotted(module, source) not in reach[file]:
            found.append(f"tested_by.json: {file} does not import {module}")
    found += [
        f"{module} has no {own_test(module)} and stands not in tested_by.json"
        for module in sorted(modules.keys() - table.keys())
    ]
    return found


def untested(source: Path, tests: Path) -> dict[str, Path]:
    """Modules (`parts/facts`) that define something and have no test file of their own name."""
    found = {}
    for file in sorted(source.rglob("*.py")):
        module = str(file.relative_to(source).with_suffix(""))
        if defines(file) and not (tests / own_test(module)).exists():
            found[module] = file
    return found


def defines(file: Path) -> bool:
    """Whether there is something to test: a function or a class."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return any(isinstance(node, kinds) for node in ast.parse(file.read_text()).body)


def own_test(module: str) -> str:
    path = Path(module)
    return str(path.with_name(f"test_{path.name}.py"))


def dotted(module: str, source: Path) -> str:
    return import_rules.dotted(source / f"{module}.py", source, source.name)


def reached(test: Path, source: Path, graph: dict[str, set[str]]) -> set[str]:
    """The modules that a test file imports, directly or not; a system that it names counts as imported."""
    found: set[str] = set()
    for module in imported(test, source, graph):
        found |= import_rules.closure(graph, module)
    if f"{source.name}.cli.main" in found:  # which imports a command when it is typed
        for module in [name for name in graph if name.startswith(f"{source.name}.cli.commands.")]:
            found |= import_rules.closure(graph, module)
    return found


def imported(test: Path, source: Path, graph: dict[str, set[str]]) -> Iterator[str]:
    """Modules of ours that stand in a test file: imports, and strings that begin with a system's name."""
    tree, package = ast.parse(test.read_text()), source.name
    systems = {name.rpartition(".")[2]: name for name in graph if name.startswith(f"{package}.systems.")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in graph)
            if any(alias.name == package for alias in node.names):
                yield f"{package}.api"
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            yield from ({name, *(f"{name}.{alias.name}" for alias in node.names)} & graph.keys())
            if name == "cli_helpers":
                yield f"{package}.cli.main"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition("/")[0]
            if name in systems:
                yield systems[name]
            elif node.value in graph:
                yield node.value


def written(source: Path, tests: Path) -> dict[str, str]:
    """A table that holds: what stands there if it still does, else the test file that is nearest."""
    graph = import_rules.graph(source, source.name)
    files = [str(file.relative_to(tests)) for file in sorted(tests.rglob("test_*.py"))]
    files = [file for file in files if not file.startswith("laws")]
    texts = {file: (tests / file).read_text() for file in files}
    direct = {file: set(imported(tests / file, source, graph)) for file in files}
    reach = {file: reached(tests / file, source, graph) for file in files}
    before = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    table = {}
    for module in untested(source, tests):
        name = dotted(module, source)
        kept = before.get(module)
        if kept in reach and name in reach[kept]:
            table[module] = kept
            continue
        folder = str(Path(module).parent)
        words = [
            node.name
            for node in ast.parse((source / f"{module}.py").read_text()).body
            if hasattr(node, "name")
        ]

        def distance(file: str, name: str = name, folder: str = folder, words: list[str] = words) -> tuple:
            uses = sum(len(re.findall(rf"\b{word}\b", texts[file])) for word in words)
            return (name not in direct[file], not file.startswith(f"{folder}/"), -uses, file)

        if having := [file for file in files if name in reach[file]]:
            table[module] = min(having, key=distance)
    return table


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    source, tests = root / "src" / "torchstone", root / "tests"
    TABLE.write_text(json.dumps(written(source, tests), indent=1) + "\n")
    print("\n".join(wrongs(source, tests)) or "holds")
    sys.exit(bool(wrongs(source, tests)))
