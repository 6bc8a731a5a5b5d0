"""torch's compiler, imported only once it is used.

Making and stepping an optimizer imports `torch._dynamo`, a second of work, to call two functions of it that
do nothing unless something is compiled: `graph_break` and `disable`. Here a module with these two stands in
its place, and gives way to the real one as soon as anything else of it is asked for.
"""

import importlib
import sys
import types
from typing import Any

import torch

NAME = "torch._dynamo"


class _Standin(types.ModuleType):
    """The module until it is used."""

    def __init__(self):
        super().__init__(NAME)
        self.passed: list[Any] = []

    def graph_break(self, msg: str = "") -> None:
        pass

    def disable(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        self.passed.append(fn)  # torch remembers what it gets
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return getattr(load(), name)


def defer() -> None:
    """Put the stand-in there, unless the compiler is imported already."""
    if NAME not in sys.modules:
        sys.modules[NAME] = standin = _Standin()
        torch._dynamo = standin  # ty: ignore[invalid-assignment]


def load() -> types.ModuleType:
    """The real module, imported now if it was not yet."""
    standin = sys.modules.get(NAME)
    if isinstance(standin, _Standin):
        del sys.modules[NAME]
        for function in standin.passed:
            vars(function).pop("__dynamo_disable", None)
    return importlib.import_module(NAME)
