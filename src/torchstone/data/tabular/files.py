"""Columns of CSV, TSV and Parquet files: names, cells, and what of a file is no column."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchstone.data import text_files
from torchstone.errors import BadInput, first_line
from torchstone.files import parse_json

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
LABELS = ("label", "class", "target", "species")  # usual names of a label column
INDEX = ("", "unnamed: 0")  # names that pandas and R give the row number in a CSV
# cells without a value; `none` is one only among numbers, among words it may be a word
MISSING = frozenset(("", "?", "na", "n/a", "nan", "null", "<na>", "nat", "#n/a", "#na"))
LARGEST = 1e38  # float32 ends at 3.4e38
NO_NUMBER = MISSING | {"none", "nil", "-", ".", "#div/0!", "#num!", "#value!", "#ref!", "#null!"}


@dataclass(frozen=True)
class Columns:
    """What a file holds. `names` is none where it has no header; then columns go by position.

    Cells are text, or of Parquet what it stores; all columns are of one length.
    """

    file: Path
    names: tuple[str, ...] | None
    cells: list[list[Any]]
    notes: tuple[str, ...] = ()

    def named(self) -> tuple[str, ...]:
        """The names, or positions as names."""
        return self.names or tuple(f"column {i + 1}" for i in range(len(self.cells)))


def read_columns(path: Path, features: Sequence[str] = ()) -> Columns:
    """Read a CSV, TSV or Parquet file. The index that pandas or R wrote is no column.

    Args:
        features: names that a model knows: a first row that holds one of them is a header.

    Raises:
        BadInput: an unreadable or empty file, rows of unequal length, two columns of one name, or a label
            that is an index.
    """
    columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path, features)
    for name, count in Counter(columns.names or ()).items():
        if count > 1:
            raise BadInput(f"{path} has {count} columns called {name!r}: give each a name of its own")
    return columns


def _read_parquet(path: Path) -> Columns:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise BadInput(f"{path} needs pyarrow: pip install 'torchstone[hf]'") from None
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None
    # pandas says which columns are its index; a range is no column, and is described by a dictionary
    try:
        metadata = parse_json((table.schema.metadata or {}).get(b"pandas", b"{}").decode())
        index = [name for name in metadata.get("index_columns", ()) if isinstance(name, str)]
    except (ValueError, TypeError, AttributeError):
        raise BadInput(f"{path} is damaged: what pandas wrote about its index is no JSON") from None
    for name in index:
        if name.lower() in LABELS:
            raise BadInput(f"{path}: {name!r} is the index of a pandas frame, no column: write reset_index()")
    keep = [i for i, name in enumerate(table.column_names) if name not in index]
    names = tuple(table.column_names[i] for i in keep)
    return _without_index(path, names, [table.column(i).to_pylist() for i in keep], index)


def _read_csv(path: Path, features: Sequence[str]) -> Columns:
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            first = opened.readline()
            opened.seek(0)
            delimiter = max(",;\t", key=first.count)
            text_files.allow_long_cells()
            numbered = [(n, row) for n, row in enumerate(csv.reader(opened, delimiter=delimiter), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a text table ({error}): save it as UTF-8 CSV") from None
    if not numbered:
        raise BadInput(f"{path} is empty: give one row per line, features first and the label last")
    rows = [[cell.strip() for cell in row] for _, row in numbered]
    if len(rows) > 1 and all(len(row) == len(rows[0]) + 1 for row in rows[1:]):
        # either every row ends with a separator, or R has written row names, which it does not name
        at_end = not any(row[-1] for row in rows[1:])
        rows[0] = [*rows[0], ""] if at_end else ["", *rows[0]]
    for (line, _), row in zip(numbered, rows, strict=True):
        if len(row) != len(rows[0]):
            raise BadInput(f"{path}, row {line}: {len(row)} cells where row 1 has {len(rows[0])}")
    if features and len(rows) == 1 and set(features) <= set(rows[0]):
        raise BadInput(f"{path} has names of columns, and no rows under them")
    has_names = len(rows) > 1 and _is_header(rows, features)
    cells = [list(column) for column in zip(*rows[has_names:], strict=True)]
    if not has_names:
        return Columns(path, None, cells)
    index = [rows[0][0]] if rows[0][0].lower() in INDEX else []
    keep = [i for i in range(len(index), len(cells)) if rows[0][i] or any(cells[i])]
    return _without_index(path, tuple(rows[0][i] for i in keep), [cells[i] for i in keep], index)


def _without_index(path: Path, names: tuple[str, ...], cells: list[list[Any]], index: list[str]) -> Columns:
    listed = ", ".join(repr(name) if name else "the first column" for name in index)
    if not cells:
        raise BadInput(f"{path} has no column but its index ({listed}): give features and a label")
    return Columns(path, names, cells, (f"index left out: {listed}",) if index else ())


def _is_header(rows: list[list[str]], features: Sequence[str]) -> bool:
    """Whether the first row is names: one of them is that of a label, or of a column of numbers, or none of
    them is a number; and none of them comes again as a value."""
    first, below = rows[0], list(zip(*rows[1:], strict=True))
    if any(cell.lower() in LABELS or cell in features for cell in first):
        return True
    values = [i for i, cell in enumerate(first) if cell.lower() not in NO_NUMBER]
    if any(first[i] in below[i] for i in values):
        return False
    if all(to_number(first[i]) is None for i in values):
        return True
    return any(to_number(first[i]) is None and _is_numbers(below[i]) for i in values)


def _is_numbers(cells: Sequence[str]) -> bool:
    present = [cell for cell in cells if cell.lower() not in NO_NUMBER]
    return bool(present) and all(to_number(cell) is not None for cell in present)


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value: empty, a word for it such as NA, or NaN."""
    return text_files.is_missing(cell) or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def to_number(cell: Any) -> float | None:
    """A finite number that networks can compute with, at most `LARGEST`, else none."""
    if isinstance(cell, str) and "_" in cell:  # 1_000 is a number to Python, a code to others
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if abs(value) <= LARGEST else None


def list_names(names: Sequence[str]) -> str:
    """Names in a message: all of a few, else the first ones and the last."""
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, … {names[-1]}"
