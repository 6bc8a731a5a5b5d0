"""Law 7: imports point one way, and nothing subclasses anything of ours. Read from the source alone."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

# a module may import its own layer and those below; siblings of one rank do not know each other
RANK = {
    "files": -1,  # atomic writes: for everyone
    "parts": 0,
    "data": 1,
    "envs": 1,
    "engine": 1,
    "hub": 1,
    "plots": 2,
    "metrics": 3,
    "interpret": 3,
    "tasks": 4,
    "references": 4,
    "systems": 5,
    "runs": 6,
    "verify": 6,
    "api": 7,
    "": 7.5,  # the package itself, which offers what `api` does
    "cli": 8,
    "serve": 8,
    "studio": 8,
    "experiments": 8,
    "tools": 8,
    "__main__": 9,
}
PARTS_IMPORT = {"torch", "jaxtyping", "numpy", *sys.stdlib_module_names}


def wrongs(root: Path, package: str = "torchstone") -> list[str]:
    """Every import and base class in the tree under `root` that breaks the law."""
    trees = {dotted(file, root, package): ast.parse(file.read_text()) for file in root.rglob("*.py")}
    found = []
    for name, tree in sorted(trees.items()):
        for line, target in imports(name, tree, trees, root, package):
            if wrong := forbidden(name, target, package):
                found.append(f"{name}:{line} imports {target}: {wrong}")
        for line, base in bases(name, tree, trees, root, package):
            found.append(f"{name}:{line} subclasses {base}")
    return found


def graph(root: Path, package: str = "torchstone") -> dict[str, set[str]]:
    """Every module in the tree to the modules of the tree that it imports, inside functions too."""
    trees = {dotted(file, root, package): ast.parse(file.read_text()) for file in root.rglob("*.py")}
    return {
        name: {target for _, target in imports(name, tree, trees, root, package) if target in trees}
        for name, tree in trees.items()
    }


def closure(graph: dict[str, set[str]], start: str) -> set[str]:
    """`start` and all that it imports, directly or not."""
    found, waiting = {start}, [start]
    while waiting:
        for target in graph[waiting.pop()] - found:
            found.add(target)
            waiting.append(target)
    return found


def dotted(file: Path, root: Path, package: str) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


def layer(name: str) -> str:
    """`torchstone.engine.run` is of `engine`, `torchstone.api` of `api`, `torchstone` of ``."""
    return [*name.split("."), ""][1]


def rank(name: str) -> int:
    """The rank of a module's room; one that is in no room breaks the law."""
    return RANK[layer(name)]


def forbidden(importer: str, target: str, package: str) -> str:
    """Why `importer` may not import `target`; nothing if it may."""
    if target.split(".")[0] != package:
        if layer(importer) == "parts" and target.split(".")[0] not in PARTS_IMPORT:
            return "parts import torch, jaxtyping, numpy and the standard library"
        return ""
    if target == f"{package}.errors":
        return ""
    if layer(importer) == "errors":
        return "errors import nothing of ours"
    if rank(target) > rank(importer):
        return f"{layer(importer) or package} is below {layer(target) or package}"
    same = {layer(importer), layer(target)}
    if rank(target) == rank(importer) and len(same) > 1 and same != {"", "api"}:
        return "siblings do not know each other"
    return ""


def imports(name: str, tree: ast.AST, trees: dict, root: Path, package: str) -> Iterator:
    """(line, module) of each import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = origin(node, name, root, package)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield node.lineno, inner if inner in trees else source


def origin(node: ast.ImportFrom, name: str, root: Path, package: str) -> str:
    """The absolute module that `from … import` names."""
    if not node.level:
        return node.module or ""
    above = name.split(".")
    folder = root.joinpath(*above[1:]).is_dir()
    above = above[: len(above) - node.level + folder]
    return ".".join([*above, *([node.module] if node.module else [])])


def bases(name: str, tree: ast.AST, trees: dict, root: Path, package: str) -> Iterator:
    """(line, class) of each base that is a class of ours; exceptions of `errors` may be refined."""
    known = {node.name: f"{name}.{node.name}" for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            source = origin(node, name, root, package)
            known |= {a.asname or a.name: f"{source}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for base in node.bases:
            while isinstance(base, ast.Subscript):  # Generic[T]
                base = base.value
            first, _, rest = ast.unparse(base).partition(".")
            full = ".".join(filter(None, [known.get(first, first), rest]))
            if full.split(".")[0] == package and not full.startswith(f"{package}.errors."):
                yield node.lineno, full
