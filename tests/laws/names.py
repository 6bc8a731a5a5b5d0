"""Law 12: identifiers are the field's terms. These words once stood for all sorts of things."""

import ast
from collections.abc import Iterator
from pathlib import Path

# as a whole identifier; what a word stood for has a name of its own: prediction, label, sample, features, …
DIALECT = frozenset(
    [
        "told",
        "said",
        "asked",
        "made",
        "drawn",
        "seen",
        "judged",
        "kept",
        "places",
        "waves",
        "how",
        "apart",
        "beside",
        "whole",
    ]
)


def wrongs(root: Path) -> list[str]:
    """Every such identifier in the tree under `root`, with file and line."""
    return [
        f"{file.relative_to(root)}:{line}: {name} ({kind})"
        for file in sorted(root.rglob("*.py"))
        for line, name, kind in sorted(identifiers(ast.parse(file.read_text())))
        if name.strip("_").lower() in DIALECT
    ]


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, name, kind) of whatever has a name in a source file."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name):
                yield node.lineno, name, "name"
            case ast.arg(arg=name):
                yield node.lineno, name, "parameter"
            case ast.Attribute(attr=name):
                yield node.lineno, name, "attribute"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name, "definition"
            case ast.keyword(arg=str(name)):
                yield node.value.lineno, name, "keyword"
            case ast.alias():
                yield node.lineno, (node.asname or node.name).split(".")[-1], "import"
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name, "pattern"
            case ast.Global(names=several) | ast.Nonlocal(names=several):
                for name in several:
                    yield node.lineno, name, "name"
