"""How a source of pictures is cut into `train`, `val` and `test`.

A published split is kept; what must be cut is cut by class with a constant seed, so that every run,
whatever its own seed, is judged on the same pictures.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from torchstone.errors import BadInput

SPLIT_SEED = 1998
MAX_VALIDATION = 5_000
# The names under which splits are published.
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation", "dev"), "val")


@runtime_checkable
class ImagePool(Protocol):
    """Pictures still undecoded, by number; `where` names one in a message."""

    def __getitem__(self, i: int, /) -> Image.Image: ...

    def where(self, i: int, /) -> str: ...


@dataclass(frozen=True)
class ImageArray:
    """Greyscale pictures in memory: uint8 (count, height, width)."""

    array: np.ndarray
    name: str

    def __getitem__(self, i: int) -> Image.Image:
        return Image.fromarray(self.array[i])

    def where(self, i: int) -> str:
        return f"picture {i} of {self.name}"


@dataclass(frozen=True)
class Subset:
    """Some pictures of a pool: `index` says which, `labels` (same length) their classes."""

    pool: ImagePool
    labels: np.ndarray
    index: np.ndarray

    def pick(self, chosen: np.ndarray) -> "Part":
        return Subset(self.pool, self.labels[chosen], self.index[chosen])


def full_subset(pool: ImagePool, labels: np.ndarray) -> Subset:
    """All of a pool, in order."""
    return Subset(pool, labels.astype(np.int64), np.arange(len(labels)))


@dataclass(frozen=True)
class Source:
    """A source and its three parts. `ink` is known, or None where the data are to decide."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Subset]
    description: str
    ink: bool | None = None


def apportion(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out in proportion to `counts`, by largest remainder, at least one each."""
    exact = counts * total / counts.sum()
    shares = np.floor(exact).astype(int)
    largest = np.argsort(-(exact - shares), kind="stable")
    shares[largest[: total - shares.sum()]] += 1
    return np.maximum(shares, 1)


def stratified_split(part: Subset, total: int, classes: int, salt: int = 0) -> tuple[Subset, Subset]:
    """(rest, about `total` taken out), every class in both in proportion."""
    counts = np.bincount(part.labels, minlength=classes)
    # The legacy generator's numbers are frozen for ever; the new one's may change with NumPy.
    random = np.random.RandomState(SPLIT_SEED + salt)
    taken = np.zeros(len(part.labels), dtype=bool)
    for label, share in enumerate(apportion(counts, total)):
        members = np.flatnonzero(part.labels == label)
        taken[random.permutation(members)[:share]] = True
    return part.pick(np.flatnonzero(~taken)), part.pick(np.flatnonzero(taken))


def make_source(
    name: str,
    classes: tuple[str, ...],
    parts: dict[str, Subset],
    note: str,
    shares: tuple[float, float] = (0.1, 1 / 9),
    ink: bool | None = None,
) -> Source:
    """Cuts what is missing: test as `shares[0]` of all, then val as `shares[1]` of the rest; where the
    test is published, val is 10 % of train and at most 5,000."""
    if len(classes) < 2:
        raise BadInput(f"{name} has one class only ({', '.join(classes)}); at least two are needed")
    train, published, given = parts["train"], "test" in parts, "val" in parts
    counts = np.bincount(train.labels, minlength=len(classes))
    least = 3 - published - given
    if (few := int(counts.min())) < least:
        raise BadInput(
            f"class {classes[counts.argmin()]!r} of {name} has {few} picture"
            f"{'s' * (few != 1)}, too few to split; give it at least {least}"
        )
    test, val = "test as published", "val as published"
    if not published:
        train, parts["test"] = stratified_split(train, round(shares[0] * len(train.labels)), len(classes))
        test = f"test a fixed {shares[0]:.0%} by class"
    if not given:
        total = round((0.1 if published else shares[1]) * len(train.labels))
        train, parts["val"] = stratified_split(train, min(total, MAX_VALIDATION), len(classes), salt=1)
        val = "val cut from train by class"
    parts = {"train": train, "val": parts["val"], "test": parts["test"]}
    sizes = " / ".join(f"{len(part.labels)} {split}" for split, part in parts.items())
    return Source(name, classes, parts, f"{note}; {sizes} ({test}, {val})", ink)
