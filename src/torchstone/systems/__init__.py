"""The catalogue: one line a system. Importing it imports no system.

A system is the module `torchstone.systems.CHAPTER.NAME`. It holds VARIANTS, RECIPES, FACTS,
`build` and `reference`; a test holds this page against it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torchstone.errors import BadInput, nearest


@dataclass(frozen=True)
class System:
    """A catalogue entry."""

    name: str
    chapter: str
    title: str
    paper: str
    year: int
    variants: tuple[str, ...]
    recipes: tuple[str, ...]

    def module(self) -> ModuleType:
        """The system's file, imported."""
        return importlib.import_module(f"{__name__}.{self.chapter}.{self.name}")


class Variant(NamedTuple):
    """A network by name: how to make it, and the shape of one input (without the batch)."""

    make: Callable[..., Any]
    shape: tuple[int, ...]


# fmt: off
CATALOGUE = (
    System("perceptron", "fundamentals", "Perceptron", "Rosenblatt, Psychological Review 65:386", 1958, ("perceptron",), ("iris", "digits", "breast_cancer", "xor", "smoke")),
    System("backprop", "fundamentals", "Back-propagation by hand", "Rumelhart, Hinton and Williams, Nature 323:533", 1986, ("backprop",), ("digits", "paper", "mnist5k", "smoke")),
    System("mlp", "fundamentals", "Multi-layer perceptron", "Rumelhart, Hinton and Williams, Nature 323:533", 1986, ("mlp",), ("digits", "mnist5k", "deep", "smoke")),
    System("lenet5", "convolutional", "LeNet-5", "LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86(11)", 1998, ("lenet5", "lenet5_paper"), ("mnist5k", "mnist", "paper", "digits", "smoke")),
)
# fmt: on


def find(name: str) -> tuple[System, str]:
    """The entry and the variant that `name` means; a system's own name means its first variant.

    Raises:
        BadInput: there is none; the nearest names are given.
    """
    for entry in CATALOGUE:
        if name == entry.name:
            return entry, entry.variants[0] if name not in entry.variants else name
        if name in entry.variants:
            return entry, name
    names = {n for entry in CATALOGUE for n in (entry.name, *entry.variants)}
    raise BadInput(f"unknown system {name!r}: {nearest(name, sorted(names))}")
