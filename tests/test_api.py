"""What an editor knows of the Python interface: the package is typed, and its functions say what they return."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import torchstone
from torchstone import api

PACKAGE = Path(torchstone.__file__).parent
NAMES = [name for name in torchstone.__all__ if name != "__version__"]


def test_package_states_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_package_names_are_imported_for_type_checkers():
    """At run time they are looked up; a type checker reads imports only."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    print(sorted(imported))
    assert imported == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_api_functions_say_what_they_return(name):
    function = getattr(api, name)
    annotation = inspect.signature(function).return_annotation
    print(name, annotation)
    assert annotation is not inspect.Signature.empty


def test_overloads_of_train_have_all_of_its_arguments():
    """They are what an editor offers."""
    tree = ast.parse((PACKAGE / "api.py").read_text())
    forms = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "train"]
    arguments = [{each.arg for each in form.args.kwonlyargs} for form in forms]
    print(sorted(arguments[-1]))
    assert len(forms) == 4  # a run, several seeds, folds; and the function itself
    assert all(each == arguments[-1] for each in arguments)
    assert arguments[-1] >= {"epochs", "patience", "best_metric", "seeds", "folds"}


def test_api_types_as_a_checker_sees_them(tmp_path):
    ty = Path(sys.executable).with_name("ty")
    assert ty.exists(), "ty is one of the packages for development"
    calls = {
        'ts.create("lenet5")': "`Module`",
        'ts.load("runs/x")': "`LoadedModel`",
        'ts.load("runs/x").preprocess("a.png")': "`Tensor`",
        'ts.load("runs/x").classes': "`list[str] | None`",
        'ts.predict("runs/x", "a.png")': "`list[dict[str, Any]]`",
        'ts.evaluate("runs/x")': "`dict[str, Any]`",
        'ts.verify("lenet5")': "`list[Check]`",
        'ts.train("lenet5")': "`Run`",
        'ts.train("lenet5", seeds=3)': "`dict[str, Any]`",
        'ts.resume("runs/x")': "`Run | dict[str, Any]`",
    }
    file = tmp_path / "use.py"
    lines = ["import torchstone as ts", "from typing import reveal_type"]
    file.write_text("\n".join([*lines, *(f"reveal_type({call})" for call in calls)]))
    words = [
        ty,
        "check",
        "--python",
        sys.prefix,
        "--extra-search-path",
        PACKAGE.parent,
        "--output-format",
        "concise",
    ]
    done = subprocess.run([*map(str, words), str(file)], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    found = [line for line in done.stdout.splitlines() if "use.py" in line]
    assert len(found) == len(calls)
    for line, expected in zip(found, calls.values(), strict=True):
        assert line.endswith(expected), line
