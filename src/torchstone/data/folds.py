"""k-fold cross-validation: `fold:2/5:SPEC` is SPEC with the third of five parts as its validation split.

The test split stays as it is. What SPEC has of train and val is put together and cut into k parts, every
class in each in proportion and by a constant seed; part i is the validation split, the others are trained on.
The fold is in the data's name, so that a run is resumed and evaluated on the same one.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from torchstone.data.splits import SPLIT_SEED, Source, Subset
from torchstone.errors import BadInput

FOLD = re.compile(r"fold:(\d+)/(\d+):(.*)", re.DOTALL)


class Fold(NamedTuple):
    """Part `index` (from 0) of `count`."""

    index: int
    count: int


def fold_spec(index: int, count: int, spec: str) -> str:
    """How the data of a fold are named."""
    return f"fold:{index}/{count}:{spec}"


def split_fold(spec: str) -> tuple[str, Fold | None]:
    """A data specification without its fold, and the fold; None where it names none.

    Raises:
        BadInput: a fold that there cannot be.
    """
    match = FOLD.fullmatch(spec)
    if match is None:
        return spec, None
    fold = Fold(int(match[1]), int(match[2]))
    if fold.count < 2 or fold.index >= fold.count:
        raise BadInput(f"there is no fold {fold.index} of {fold.count}: folds are 0 to K-1 of at least two")
    return match[3], fold


def parts_of(labels: np.ndarray, count: int) -> np.ndarray:
    """The part (0 … count − 1) of every example. Each class is dealt out to the parts in turn, going on where
    the class before stopped, so that parts differ by at most one example, in all and of each class."""
    random, parts, start = np.random.RandomState(SPLIT_SEED + 5), np.empty(len(labels), dtype=int), 0
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        parts[members] = (start + np.arange(len(members))) % count
        start += len(members)
    return parts


def fold_rows(
    name: str, classes: tuple[str, ...], labels: np.ndarray, fold: Fold
) -> tuple[np.ndarray, np.ndarray]:
    """(rows that are trained on, rows of validation) of all that are not tested, in order.

    Args:
        classes: none where the target is a number; then examples are dealt out alike.

    Raises:
        BadInput: some fold would have a class without an example.
    """
    labels = labels if classes else np.zeros(len(labels), dtype=int)
    counts = np.bincount(labels, minlength=max(1, len(classes)))
    if (least := int(counts.min())) < fold.count:
        what = f"class {classes[counts.argmin()]!r} of {name}" if classes else name
        most = f"at most {least} folds" if least > 1 else "no folds"
        raise BadInput(
            f"{what} has {least} examples that are not tested, so that some of {fold.count} folds would have "
            f"none: {most}"
        )
    parts = parts_of(labels, fold.count)
    return np.flatnonzero(parts != fold.index), np.flatnonzero(parts == fold.index)


class JoinedPool:
    """Two pools of examples as one, those of the second behind the first's."""

    def __init__(self, first: Any, second: Any, border: int):
        self.first, self.second, self.border = first, second, border

    def _find(self, i: int) -> tuple[Any, int]:
        return (self.first, i) if i < self.border else (self.second, i - self.border)

    def __getitem__(self, i: int) -> Any:
        pool, row = self._find(i)
        return pool[row]

    def describe(self, i: int) -> str:
        pool, row = self._find(i)
        return pool.describe(row)

    def content(self, i: int) -> Any:
        pool, row = self._find(i)
        return pool.content(row)


def fold_source(source: Source, fold: Fold) -> Source:
    """A source of labeled examples with a fold's splits.

    Raises:
        BadInput: some fold would have a class without an example.
    """
    train, val = source.subsets["train"], source.subsets["val"]
    pool, index = train.pool, val.index
    if pool is not val.pool:
        border = int(train.index.max()) + 1
        pool, index = JoinedPool(train.pool, val.pool, border), val.index + border
    both = Subset(pool, np.concatenate([train.labels, val.labels]), np.concatenate([train.index, index]))
    rows = fold_rows(source.name, source.classes, both.labels, fold)
    subsets = {"train": both.select(rows[0]), "val": both.select(rows[1]), "test": source.subsets["test"]}
    note = f"; fold {fold.index} of {fold.count}: {len(rows[0])} train / {len(rows[1])} val"
    return Source(source.name, source.classes, subsets, source.description + note, source.ink)
