"""Law 11: a system can be read in its file, and a line of source on a screen."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import import_rules

EXCLUSIVE = 6  # modules that one system alone imports: files to open besides its own
COLUMNS = 110
PARAMETERS = 12  # of a constructor or function; more belong into a config dataclass
LONG = 450  # lines of a file that are reported, not forbidden

# rooms whose modules are part of a system's story; how data are read, exchanged and drawn is not
STORY_ROOMS = ("parts", "envs", "metrics", "tasks")


def tells_its_story(entry, root: Path | None = None) -> None:
    """A system's file defines its network and its loss, a generative one its sampling step too; and few
    other modules are its alone.

    A file may say what its story is made of: `STORY = ("q_sample", "loss", "p_sample")`, all defined in it.
    """
    file = Path(entry.module().__file__)
    root = root or file.parents[2]
    text, wrong = file.read_text(), []
    story = declared(text)
    names = defined(text)
    if story is not None:
        if missing := [name for name in story if name not in names]:
            wrong.append(f"STORY names {missing}, which it does not define")
    else:
        if "forward" not in names:
            wrong.append("it defines no network (`forward`)")
        if not any(re.search("loss|objective", name) for name in names):
            wrong.append("it defines no `loss` or `objective`")
        if entry.chapter == "generative" and not any("sample" in name for name in names):
            wrong.append("it defines no sampling step (`sample`)")
    own = exclusive(root)[f"{root.name}.systems.{entry.chapter}.{entry.name}"]
    if len(own) > EXCLUSIVE:
        wrong.append(f"{len(own)} modules are its alone, more than {EXCLUSIVE}: {', '.join(own)}")
    lines = len(text.splitlines())
    print(f"{entry.name}: {lines} lines; {len(own)} modules of its own: {', '.join(own) or 'none'}")
    assert not wrong, f"{entry.name}: {'; '.join(wrong)}"


def declared(text: str) -> tuple[str, ...] | None:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STORY":
            return tuple(ast.literal_eval(node.value))
    return None


def defined(text: str) -> set[str]:
    """Names of functions, methods and classes, of what a function or a module binds, and a loss that is passed on."""
    tree = ast.parse(text)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    found = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg in ("loss", "objective"):
            found.add(node.arg)
    return found


_exclusive: dict[Path, dict[str, list[str]]] = {}


def exclusive(root: Path) -> dict[str, list[str]]:
    """Of each system, the modules that no other system and no tool or command reaches by imports."""
    if root not in _exclusive:
        graph = import_rules.graph(root, root.name)
        users: dict[str, set[str]] = {}
        systems = [name for name in graph if name.startswith(f"{root.name}.systems.")]
        for name in graph:
            if import_rules.layer(name) in ("systems", "api", "cli", "tools", "runs", "verify"):
                for module in import_rules.closure(graph, name):
                    users.setdefault(module, set()).add(name)
        _exclusive[root] = {
            system: sorted(
                module
                for module, using in users.items()
                if using == {system} and module != system and import_rules.layer(module) in STORY_ROOMS
            )
            for system in systems
        }
    return _exclusive[root]


def wrongs(root: Path) -> list[str]:
    """Lines that are too long, formatting switched off, and too many parameters, in the tree under `root`."""
    found, lengths = [], {}
    for file in sorted(root.rglob("*.py")):
        text, name = file.read_text(), str(file.relative_to(root))
        lengths[name] = text.count("\n")
        tree = ast.parse(text)
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > COLUMNS:
                found.append(f"{name}:{number}: {len(line)} columns, more than {COLUMNS}")
            if re.search(r"#\s*fmt:\s*off", line):
                found.append(f"{name}:{number}: fmt: off")
            if re.search(r"#\s*fmt:\s*skip", line) and not _is_table(tree, number):
                found.append(f"{name}:{number}: fmt: skip, and it is no table of numbers")
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and (count := _parameters(node)) > PARAMETERS
            ):
                found.append(
                    f"{name}:{node.lineno}: {node.name} has {count} parameters, more than {PARAMETERS}"
                )
    long = {name: n for name, n in lengths.items() if n > LONG}
    print(f"{len(lengths)} files, median {statistics.median(lengths.values())} lines; above {LONG}: {long}")
    return found


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    a = function.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def _is_table(tree: ast.Module, line: int) -> bool:
    """Whether the innermost statement there holds numbers above all."""
    holding = [
        node for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or line)
    ]  # fmt: skip
    if not holding:
        return False
    leaves = list(_leaves(max(holding, key=lambda node: node.lineno)))
    numbers = [
        leaf for leaf in leaves if isinstance(leaf, ast.Constant) and isinstance(leaf.value, int | float)
    ]
    return 2 * len(numbers) >= len(leaves)


def _leaves(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) or (
            isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load)
        ):
            yield child
