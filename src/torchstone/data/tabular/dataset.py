"""Labeled tables of numbers: bundled tables, CSV and Parquet files, and endless batches of rows."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from torchstone.data.folds import Fold, fold_rows, split_fold
from torchstone.data.identity import SPLITS, identified
from torchstone.data.tabular.files import (
    LARGEST,
    SUFFIXES,
    Columns,
    choose_label,
    is_missing,
    is_row_number,
    is_structure,
    list_names,
    read_columns,
    to_number,
)
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import SKIP, refuse_skip
from torchstone.parts.seeding import SeedStream, derive_seed

BUNDLED = ("iris", "wine", "breast_cancer", "xor")
MIXED = ("adult",)  # bundled too, with columns of words: see `mixed`
SPLIT_SEED = 0
SHARES = (0.6, 0.2)  # train and val; test is the rest


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one source. `splits` holds the row indices of `train`, `val` and `test` in file order."""

    name: str
    features: tuple[str, ...]
    classes: tuple[str, ...]
    x: Float64[Tensor, "rows features"]
    y: Int64[Tensor, " rows"]
    splits: dict[str, Int64[Tensor, " rows_of_split"]]
    description: str

    def select(self, features: Sequence[str]) -> "Table":
        """The same rows with a model's features, by name.

        Raises:
            BadInput: one is not there.
        """
        if missing := [name for name in features if name not in self.features]:
            raise BadInput(describe_missing(self.name, missing, self.features, features))
        x = self.x[:, [self.features.index(name) for name in features]]
        return dataclasses.replace(self, features=tuple(features), x=x)

    def rows_of(self, split: str) -> tuple[Float64[Tensor, "count features"], Int64[Tensor, " count"]]:
        """Features and labels of a split."""
        return self.x[self.splits[split]], self.y[self.splits[split]]


def is_table(spec: str | Path) -> bool:
    """Whether `spec` names a table: a bundled one, or a file with a table's suffix."""
    name = _split_spec(split_fold(str(spec).removeprefix(SKIP))[0])[0]  # a reader of tables refuses that
    return name in (*BUNDLED, *MIXED) or Path(name).suffix.lower() in SUFFIXES


def _split_spec(spec: str) -> tuple[str, str]:
    """`TABLE:CLASS` as (table, class); the class is empty where none is named."""
    name, colon, positive = spec.rpartition(":")
    table = name in BUNDLED or Path(name).suffix.lower() in SUFFIXES
    return (name, positive) if colon and table else (spec, "")


@identified(
    lambda table: {
        split: torch.cat([x, y[:, None]], 1) for split in SPLITS for x, y in [table.rows_of(split)]
    },
    unit="rows",
)
def load_table(spec: str | Path) -> Table:
    """The table `iris`, `wine`, `breast_cancer`, `xor`, or one in a CSV, TSV or Parquet file.

    In a file the labels are the column named label, class, target or species, else the last one; a
    CSV file may begin with a header. Every class is split 60 : 20 : 20 into train, val and test, with a
    constant seed; of `xor` every split is all four points. `TABLE:CLASS` is one against the rest: its
    classes are `rest` and the one named.

    Raises:
        BadInput: missing or unreadable file, a feature that is no number, one class only, or a
            class of fewer than three rows.
    """
    refuse_skip(spec)
    spec, fold = split_fold(str(spec))
    table = _read(spec)
    return table if fold is None else fold_table(table, table.classes, fold)


def fold_table(table: Any, classes: Sequence[str], fold: Fold) -> Any:
    """A table with a fold's splits.

    Raises:
        BadInput: some fold would have a class without a row.
    """
    if set(table.splits["train"].tolist()) & set(table.splits["test"].tolist()):
        raise BadInput(f"{table.name} has the same rows in every split, so that there are no folds to be cut")
    both = torch.cat([table.splits["train"], table.splits["val"]]).sort().values
    train, val = fold_rows(table.name, tuple(classes), table.y[both].numpy(), fold)
    splits = {"train": both[train], "val": both[val], "test": table.splits["test"]}
    note = f"; fold {fold.index} of {fold.count}: {len(train)} train / {len(val)} val"
    return dataclasses.replace(table, splits=splits, description=table.description + note)


def _read(spec: str) -> Table:
    spec, positive = _split_spec(spec)
    if positive:
        table = load_table(spec)
        if positive not in table.classes:
            hint = did_you_mean(positive, table.classes)
            raise BadInput(f"{table.name} has no class {positive!r}: {hint}")
        y = (table.y == table.classes.index(positive)).long()
        return dataclasses.replace(table, classes=("rest", positive), y=y)
    if spec in MIXED:
        raise BadInput(f"{spec} has columns of words: train mlp on it, which reads them")
    if spec == "xor":
        x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
        y = torch.tensor([0, 1, 1, 0])
        splits = dict.fromkeys(("train", "val", "test"), torch.arange(4))
        description = "xor: exclusive or, all four points in every split"
        return Table("xor", ("a", "b"), ("equal", "different"), x, y, splits, description)
    if spec in BUNDLED:
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{spec}")()
        features = tuple(map(str, bunch.feature_names))
        classes = tuple(map(str, bunch.target_names))
        return _split_table(spec, features, classes, bunch.data, bunch.target, f"{spec}, from scikit-learn")
    path = Path(spec).expanduser()
    if not path.is_file():
        raise BadInput(f"no table or file {spec!r}: {did_you_mean(spec, BUNDLED)}")
    read = read_columns(path)
    features, columns, words = separate_labels(read)
    features, columns, notes = without_row_numbers(features, columns)
    classes = sort_classes(words)
    number = {word: i for i, word in enumerate(classes)}
    y = np.array([number[word] for word in words])
    x = to_numbers(path, features, columns)
    return _split_table(
        str(path), features, tuple(classes), x, y, ", ".join((path.name, *read.notes, *notes))
    )


def load_rows(spec: str | Path, features: Sequence[str]) -> Float64[Tensor, "rows features"]:
    """Rows to predict: a file, see `select_columns`, or comma-separated numbers.

    Raises:
        BadInput: no such file, other columns, or no numbers.
    """
    path = Path(spec).expanduser()
    if not path.is_file():
        numbers = [to_number(cell) for cell in str(spec).split(",")]
        if None in numbers:
            raise BadInput(f"{spec} is neither a file nor comma-separated numbers")
        if len(numbers) != len(features):
            raise BadInput(f"{spec} is {len(numbers)} numbers: give {len(features)}, {list_names(features)}")
        return torch.tensor([numbers], dtype=torch.float64)
    return torch.from_numpy(to_numbers(path, tuple(features), select_columns(path, features)))


def select_columns(path: Path, features: Sequence[str]) -> list[list]:
    """The cells of a model's features: by name where the file has a header, else by position, with or
    without a label after or among them as in training.

    Raises:
        BadInput: a feature is not in the header, or the number of columns is another one.
    """
    columns = read_columns(path, features)
    positions = [f"column {i + 1}" for i in range(len(columns.cells))]
    names = columns.names
    if names is not None and not set(features) <= set(positions):
        if missing := [name for name in features if name not in names]:
            raise BadInput(describe_missing(str(path), missing, names, features))
        return [columns.cells[names.index(name)] for name in features]
    if set(features) <= set(positions):  # a model of a file without a header: positions are names
        return [columns.cells[positions.index(name)] for name in features]
    if len(columns.cells) == len(features) + 1:
        return separate_labels(columns)[1]
    if len(columns.cells) != len(features):
        raise BadInput(
            f"{path} has {len(columns.cells)} columns and no header: it needs {list_names(features)}"
        )
    return columns.cells


class TableBatches:
    """Endless (x, y) of at most `batch_size` rows; the state is how many rows were consumed.

    Rows come in file order, or with `shuffle` in an order fixed by `seed` and the epoch. Epochs are
    joined end to end; a batch larger than the table is one epoch.
    """

    def __init__(
        self,
        x: Float64[Tensor, "rows features"],
        y: Int64[Tensor, " rows"],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
    ):
        self.x, self.y, self.batch_size = x, y, min(batch_size, len(x))
        self.seed, self.shuffle, self.position = seed, shuffle, 0

    def __iter__(self) -> "TableBatches":
        return self

    def __next__(self) -> tuple[Float64[Tensor, "batch features"], Int64[Tensor, " batch"]]:
        epoch, start = divmod(self.position, len(self.x))
        index = self._order(epoch)[start : start + self.batch_size]
        if len(index) < self.batch_size:  # the batch is no larger than an epoch
            index = torch.cat([index, self._order(epoch + 1)[: self.batch_size - len(index)]])
        self.position += self.batch_size
        return self.x[index], self.y[index]

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.x))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.EPOCH_ORDER, epoch))
        return torch.randperm(len(self.x), generator=generator)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def sort_classes(words: Iterable[str]) -> list[str]:
    """The different words, in the order of numbers if all are numbers."""
    try:
        return sorted(set(words), key=float)
    except ValueError:
        return sorted(set(words))


def split_by_class(name: str, classes: Sequence[str], y: np.ndarray) -> dict[str, np.ndarray]:
    """Row indices of train, val and test, every class split in proportion.

    Raises:
        BadInput: one class only, or a class of fewer than three rows.
    """
    counts = np.bincount(y, minlength=len(classes))
    if len(classes) < 2:
        raise BadInput(f"{name} has one class only ({', '.join(classes)}); at least two are needed")
    if counts.min() < 3:
        smallest, count = classes[int(counts.argmin())], int(counts.min())
        hint = "; are the labels numbers to be predicted?" if len(classes) > len(y) / 3 else ""
        raise BadInput(
            f"class {smallest!r} of {name} has {count} row{'s' * (count > 1)}, at least 3 are needed{hint}"
        )
    # The legacy generator's numbers are frozen for ever.
    random, splits = np.random.RandomState(SPLIT_SEED), {"train": [], "val": [], "test": []}
    for label, count in enumerate(counts):
        order = random.permutation(np.flatnonzero(y == label))
        first = min(max(1, round(SHARES[0] * count)), count - 2)
        second = min(first + max(1, round(SHARES[1] * count)), count - 1)
        for split, rows in zip(splits.values(), np.split(order, [first, second]), strict=True):
            split.append(rows)
    return {split: np.sort(np.concatenate(rows)) for split, rows in splits.items()}


def _split_table(name: str, features, classes, x: np.ndarray, y: np.ndarray, description: str) -> Table:
    """The table, every class split in proportion."""
    splits = {split: torch.from_numpy(rows) for split, rows in split_by_class(name, classes, y).items()}
    sizes = " / ".join(f"{len(index)} {split}" for split, index in splits.items())
    description += f"; {len(features)} features, {len(classes)} classes, {sizes} (cut by class)"
    x, y = np.ascontiguousarray(x, dtype=np.float64), y.astype(np.int64)
    return Table(name, features, classes, torch.from_numpy(x), torch.from_numpy(y), splits, description)


def describe_missing(name: str, missing: Sequence[str], has: Sequence[str], needs: Sequence[str]) -> str:
    """What is missing of a model's columns, and both lists."""
    return (
        f"{name} has no column {list_names([repr(each) for each in missing])}: it has {list_names(has)}; "
        f"the model was trained on {list_names(needs)}"
    )


def separate_labels(columns: Columns) -> tuple[tuple[str, ...], list[list], list[str]]:
    """(names of the features, their columns, labels as text)."""
    names, cells = columns.named(), columns.cells
    if len(cells) < 2:
        raise BadInput(f"{columns.file} has one column: it needs features and a label")
    position = names.index(choose_label(columns.file, names, "rename the others"))
    if any(is_structure(cell) for cell in cells[position]):
        raise BadInput(f"{columns.file}: {names[position]!r} holds lists, structures or bytes, no labels")
    labels = ["" if is_missing(cell) else str(cell) for cell in cells[position]]
    if "" in labels:
        row = labels.index("") + 1
        raise BadInput(f"{columns.file}, data row {row}: the label ({names[position]!r}) is empty")
    features = tuple(name for i, name in enumerate(names) if i != position)
    return features, [column for i, column in enumerate(cells) if i != position], labels


def without_row_numbers(
    names: tuple[str, ...], columns: list[list]
) -> tuple[tuple[str, ...], list[list], list[str]]:
    """The columns that do not number the rows, unless all do, and a note on those that do."""
    counts = [is_row_number(name, column) for name, column in zip(names, columns, strict=True)]
    if not any(counts) or all(counts):
        return names, columns, []
    left_out = [name for name, is_count in zip(names, counts, strict=True) if is_count]
    keep = [i for i, is_count in enumerate(counts) if not is_count]
    note = f"left out: {', '.join(left_out)} (row numbers)"
    return tuple(names[i] for i in keep), [columns[i] for i in keep], [note]


def to_numbers(path: Path, names: Sequence[str], columns: list[list]) -> np.ndarray:
    """The cells as float64 (rows, features)."""
    for name, column in zip(names, columns, strict=True):
        for row, cell in enumerate(column, 1):
            if to_number(cell) is None:
                problem = f"is {cell!r}, which is no finite number up to {LARGEST:g}"
                problem = "is empty" if cell in ("", None) else problem
                raise BadInput(f"{path}: feature {name!r} in data row {row} {problem}")
    return np.array([[float(cell) for cell in column] for column in columns]).T.copy()
