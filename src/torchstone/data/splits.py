"""How labeled data are split into `train`, `val` and `test`.

A published split is kept. What must be split off is stratified by class with a constant seed, so that
every run, whatever its own seed, is evaluated on the same examples.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from torchstone.errors import BadInput

SPLIT_SEED = 1998
MAX_VALIDATION = 5_000
# The names under which splits are published, in lower case.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of(name: str) -> str | None:
    """`train`, `val` or `test`, if a name is one of a split, in capitals or not."""
    return SPLIT_NAMES.get(name.lower())


def find_splits(names: Iterable[str], where: object, *, are_files: bool = False) -> dict[str, str]:
    """The names of splits among others, by split; of files without their suffix.

    Raises:
        BadInput: two names of one split, such as `val` and `dev`; the message begins with `where`.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(PurePath(name).stem if are_files else name)
        if split is None:
            continue
        if split in found:
            raise BadInput(
                f"{where} has {found[split]} and {name}, which are both a {split} split: leave one of them "
                "out"
            )
        found[split] = name
    return found


def find_split_folders(path: Path, files_in: Callable[[Path], Sequence[Path]]) -> dict[str, str]:
    """The sub-folders of `path` that are splits, by split; none where there is no `train` beside another.

    Args:
        files_in: the files of a folder that are read.

    Raises:
        BadInput: two folders of one split, or others with such files beside them.
    """
    folders = [f for f in sorted(path.iterdir()) if f.is_dir() and f.name[0] != "."] if path.is_dir() else []
    named = [folder.name for folder in folders if split_of(folder.name)]
    if len(named) < 2 or "train" not in map(split_of, named):
        return {}
    if others := [f.name for f in folders if f.name not in named and files_in(f)]:
        raise BadInput(
            f"{path} has {' and '.join(named)}, which may be splits, beside {', '.join(others[:4])}: move "
            f"what is no split out of it, or rename {named[0]}"
        )
    return find_splits(named, path)


@runtime_checkable
class ImagePool(Protocol):
    """Undecoded images by index; `describe` names one in an error message."""

    def __getitem__(self, i: int, /) -> Image.Image: ...

    def describe(self, i: int, /) -> str: ...

    def content(self, i: int, /) -> Any: ...


@dataclass(frozen=True)
class ImageArray:
    """Grayscale images in memory: uint8 (count, height, width)."""

    array: np.ndarray
    name: str

    def __getitem__(self, i: int) -> Image.Image:
        return Image.fromarray(self.array[i])

    def content(self, i: int) -> bytes:
        """What the identity of an image is taken from."""
        return self.array[i].tobytes()

    def describe(self, i: int) -> str:
        return f"image {i} of {self.name}"


@dataclass(frozen=True)
class ColorArray:
    """Color images in memory: uint8 (count, height, width, 3)."""

    array: np.ndarray
    name: str

    def __getitem__(self, i: int) -> Image.Image:
        return Image.fromarray(self.array[i])

    def content(self, i: int) -> bytes:
        """What the identity of an image is taken from."""
        return self.array[i].tobytes()

    def describe(self, i: int) -> str:
        return f"image {i} of {self.name}"


@dataclass(frozen=True)
class Subset:
    """Some examples of a pool: `index` into the pool, and their `labels` (same length)."""

    pool: Any  # an `ImagePool`, or other examples by index
    labels: np.ndarray
    index: np.ndarray

    def select(self, rows: np.ndarray) -> "Subset":
        return Subset(self.pool, self.labels[rows], self.index[rows])

    def contents(self) -> Iterator[tuple[Any, int]]:
        """Each example undecoded, and its label: see `data.identity`."""
        for row, label in zip(self.index.tolist(), self.labels.tolist(), strict=True):
            yield self.pool.content(row), label


def full_subset(pool: Any, labels: np.ndarray) -> Subset:
    """All examples of a pool, in order."""
    return Subset(pool, labels.astype(np.int64), np.arange(len(labels)))


@dataclass(frozen=True)
class Source:
    """A source and its three splits. `ink` is known, or None where the images are to decide."""

    name: str
    classes: tuple[str, ...]
    subsets: dict[str, Subset]
    description: str
    ink: bool | None = None


def apportion(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` divided in proportion to `counts`, by largest remainder, at least one each."""
    exact = counts * total / counts.sum()
    shares = np.floor(exact).astype(int)
    largest = np.argsort(-(exact - shares), kind="stable")
    shares[largest[: total - shares.sum()]] += 1
    return np.maximum(shares, 1)


def stratified_split(subset: Subset, total: int, classes: int, salt: int = 0) -> tuple[Subset, Subset]:
    """(the rest, about `total` held-out examples), every class in both in proportion."""
    counts = np.bincount(subset.labels, minlength=classes)
    # The legacy generator's numbers are frozen for ever; the new one's may change with NumPy.
    random = np.random.RandomState(SPLIT_SEED + salt)
    held_out = np.zeros(len(subset.labels), dtype=bool)
    for label, share in enumerate(apportion(counts, total)):
        members = np.flatnonzero(subset.labels == label)
        held_out[random.permutation(members)[:share]] = True
    return subset.select(np.flatnonzero(~held_out)), subset.select(np.flatnonzero(held_out))


def make_source(
    name: str,
    classes: tuple[str, ...],
    subsets: dict[str, Subset],
    description: str,
    shares: tuple[float, float] = (0.1, 1 / 9),
    ink: bool | None = None,
) -> Source:
    """A source in three splits, those that are missing split off.

    The test split is `shares[0]` of all, then the validation split `shares[1]` of the rest. Where a test
    split is published, validation is 10 % of train and at most 5,000.
    """
    if len(classes) < 2:
        raise BadInput(f"{name} has one class only ({', '.join(classes)}); at least two are needed")
    train, has_test, has_val = subsets["train"], "test" in subsets, "val" in subsets
    counts = np.bincount(train.labels, minlength=len(classes))
    minimum = 3 - has_test - has_val
    if (smallest := int(counts.min())) < minimum:
        raise BadInput(
            f"class {classes[counts.argmin()]!r} of {name} has {smallest} image"
            f"{'s' * (smallest != 1)}, too few to split; give it at least {minimum}"
        )
    test, val = "test as published", "val as published"
    if not has_test:
        train, subsets["test"] = stratified_split(train, round(shares[0] * len(train.labels)), len(classes))
        test = f"test a fixed {shares[0]:.0%} by class"
    if not has_val:
        total = round((0.1 if has_test else shares[1]) * len(train.labels))
        train, subsets["val"] = stratified_split(train, min(total, MAX_VALIDATION), len(classes), salt=1)
        val = "val cut from train by class"
    subsets = {"train": train, "val": subsets["val"], "test": subsets["test"]}
    sizes = " / ".join(f"{len(subset.labels)} {split}" for split, subset in subsets.items())
    return Source(name, classes, subsets, f"{description}; {sizes} ({test}, {val})", ink)
