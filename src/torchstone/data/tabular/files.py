"""Columns of CSV, TSV and Parquet files: names, cells, and what of a file is no column."""

import csv
import io
import re
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
# names that pandas and R give the row number in a CSV; pandas another at each reading and writing
INDEX = re.compile(r"unnamed: 0(\.\d+)*", re.IGNORECASE)
PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # remains where another program drops pandas' metadata
# names of row numbers: id, customer_id, PassengerId, row, S.No
COUNTERS = r"(row|line|record|sample|s)?[ _.]?(id|no|nr|number|index|idx|num)\.?"
ROW_NUMBERS = re.compile(rf"(?i:{COUNTERS}|row|row[ _.]?names?|level_\d+|#|uid|.+[ _.-]id)|.*[a-z0-9]I[dD]")
# cells without a value, errors of spreadsheets among them; words such as `none` are one only among numbers,
# among words they may be a word
MISSING = frozenset(
    (
        *("", "?", "na", "n/a", "n.a.", "nan", "-nan", "null", "<na>", "nat", "#n/a", "#na", "#n/a n/a"),
        *("#value!", "#div/0!", "#ref!", "#null!", "#num!", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    )
)
LARGEST = 1e38  # float32 ends at 3.4e38
NO_NUMBER = MISSING | {"none", "nil", "-", "--", ".", "..", "missing", "unknown"}
DELIMITERS = (",", ";", "\t", "|")
SAMPLE = 65_536  # characters by which the delimiter is found
DECIMAL = re.compile(r"[+-]?\d+,\d+")
# numbers and dates however written, which are no names of columns
VALUE = re.compile(
    r"[+\u2212-]?\s*[$€£¥]?\s*\d[\d.,:'’/ \u00a0\u202f-]*([eE][+-]?\d+|T[\d:.,+Z-]*)?\s*[%$€£¥]?"
)


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
        # not read_table(), which makes columns of the names of folders, and refuses two columns of one name
        table = parquet.ParquetFile(path).read()
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
    index += [name for name in table.column_names if PANDAS_INDEX.fullmatch(name) and name not in index]
    keep = [i for i, name in enumerate(table.column_names) if name not in index]
    names = tuple(table.column_names[i] for i in keep)
    return _without_index(path, names, [_to_cells(path, i, table.column(i)) for i in keep], index)


def _to_cells(path: Path, position: int, column: Any) -> list[Any]:
    """A column of Parquet as Python values: durations and times of the day in seconds, bytes as text, and
    what is more exact than a microsecond rounded."""
    import pyarrow

    kind, types = column.type, pyarrow.types
    try:
        if types.is_duration(kind):
            scale = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
            cells = column.cast(pyarrow.int64()).to_pylist()
            return [None if cell is None else cell / scale for cell in cells]
        if types.is_timestamp(kind):
            column = column.cast(pyarrow.timestamp("us", kind.tz), safe=False)
        cells = column.to_pylist()
        if types.is_time(kind):
            parts = ("hour", 3600), ("minute", 60), ("second", 1), ("microsecond", 1e-6)
            return [c and sum(getattr(c, part) * seconds for part, seconds in parts) for c in cells]
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            try:
                return [None if cell is None else cell.decode() for cell in cells]
            except UnicodeDecodeError:
                return cells
        return [None if c is None else float(c) for c in cells] if types.is_decimal(kind) else cells
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise BadInput(
            f"{path}, column {position + 1} ({kind}), cannot be read: {first_line(error)}"
        ) from None


def _read_csv(path: Path, features: Sequence[str]) -> Columns:
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            text = opened.read()
        stated = re.match(r"sep=([^\r\n])(\r\n?|\n)", text)  # how spreadsheets say it
        text = text[stated.end() :] if stated else text
        text_files.allow_long_cells()
        delimiter = stated[1] if stated else _find_delimiter(path, text[:SAMPLE], len(text) > SAMPLE)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        if delimiter == " ":
            lines = (line.split() for line in text.splitlines())
        numbered = [(n, row) for n, row in enumerate(lines, 1 + bool(stated)) if row]
    except (ValueError, csv.Error) as error:  # not UTF-8, or no delimiter that can be one
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
    own = (i for i, name in enumerate(rows[0]) if not INDEX.fullmatch(name) and (name or i))
    leading = next(own, len(cells))
    is_index = [i < leading or bool(PANDAS_INDEX.fullmatch(name)) for i, name in enumerate(rows[0])]
    index = [name for name, is_own in zip(rows[0], is_index, strict=True) if is_own]
    keep = [i for i in range(len(cells)) if not is_index[i] and (rows[0][i] or any(cells[i]))]
    return _without_index(path, tuple(rows[0][i] for i in keep), [cells[i] for i in keep], index)


def _find_delimiter(path: Path, text: str, is_cut: bool) -> str:
    """What separates the cells: what makes columns of all rows, and of two that do, what makes more numbers
    of their cells; in a .txt file white space where nothing else does.

    Raises:
        BadInput: several do equally.
    """
    readings = {}
    for each in DELIMITERS:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=each) if row]
        readings[each] = rows[: -1 if is_cut else None] or rows
    even = {
        each: rows
        for each, rows in readings.items()
        if rows and len(rows[0]) > 1 and all(len(row) == len(rows[-1]) for row in rows[1:])
        if len(rows[-1]) - len(rows[0]) in (0, 1)  # R does not name the row numbers
    }
    if len(even) < 2:
        longest = max(DELIMITERS, key=lambda each: len(readings[each][0]) if readings[each] else 0)
        found = next(iter(even), longest)
        lines = [line.split() for line in text.splitlines() if line.strip()][: -1 if is_cut else None]
        widths = {len(line) for line in lines}
        has_one = all(len(row) == 1 for row in readings[found])
        is_text = path.suffix.lower() == ".txt"
        return " " if is_text and has_one and len(widths) == 1 and max(widths) > 1 else found
    shares = {each: _share_of_numbers(rows[1:] or rows) for each, rows in even.items()}
    first, second = sorted(shares, key=lambda each: -shares[each])[:2]
    if shares[first] == shares[second]:
        raise BadInput(
            f"{path} has columns separated by {first!r} and by {second!r}: write sep={first} or sep={second} "
            "in a line before the others"
        )
    return first


def _share_of_numbers(rows: list[list[str]]) -> float:
    cells = [cell.strip() for row in rows for cell in row]
    return sum(to_number(cell) is not None or bool(DECIMAL.fullmatch(cell)) for cell in cells) / len(cells)


def _without_index(path: Path, names: tuple[str, ...], cells: list[list[Any]], index: list[str]) -> Columns:
    listed = ", ".join(repr(name) if name else "the first column" for name in index)
    if not cells:
        raise BadInput(f"{path} has no column but its index ({listed}): give features and a label")
    return Columns(path, names, cells, (f"index left out: {listed}",) if index else ())


def _is_header(rows: list[list[str]], features: Sequence[str]) -> bool:
    """Whether the first row is names: one of them is that of a label, or of a column of numbers or dates, or
    none of them is a number or date; and none of them comes again as a value."""
    first, below = rows[0], list(zip(*rows[1:], strict=True))
    if any(cell.lower() in LABELS or cell in features for cell in first):
        return True
    values = [i for i, cell in enumerate(first) if cell.lower() not in NO_NUMBER]
    if any(first[i] in below[i] for i in values):
        return False
    if not any(_is_value(first[i]) for i in values):
        return True
    return any(not _is_value(first[i]) and _are_values(below[i]) for i in values)


def _are_values(cells: Sequence[str]) -> bool:
    present = [cell for cell in cells if cell.lower() not in NO_NUMBER]
    return bool(present) and all(_is_value(cell) for cell in present)


def _is_value(cell: str) -> bool:
    return to_number(cell) is not None or bool(VALUE.fullmatch(cell))


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value: empty, a word for it such as NA, or NaN."""
    return text_files.is_missing(cell) or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def is_structure(cell: Any) -> bool:
    """Whether a cell is no number, word or date: a list, a structure, or bytes that are no text."""
    return isinstance(cell, list | tuple | dict | bytes)


def to_number(cell: Any) -> float | None:
    """A finite number that networks can compute with, at most `LARGEST`, else none."""
    if isinstance(cell, str) and "_" in cell:  # 1_2 is no 12, though Python has it so
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if abs(value) <= LARGEST else None


def is_row_number(name: str, cells: Sequence[Any]) -> bool:
    """Whether a column numbers the rows: by its name, and since all of its values are different whole
    numbers."""
    if not ROW_NUMBERS.fullmatch(name):
        return False
    numbers = [to_number(cell) for cell in cells]
    return all(n is not None and n == int(n) for n in numbers) and len(set(numbers)) == len(cells)


def choose_label(file: object, names: Sequence[str], advice: str) -> str:
    """The column named as a label, else the last.

    Raises:
        BadInput: several columns are named so; the message ends with `advice`.
    """
    labels = [name for name in names if name.lower() in LABELS]
    if len(labels) > 1:
        raise BadInput(f"{file} has the columns {' and '.join(labels)}, and each may be the label: {advice}")
    return labels[0] if labels else names[-1]


def list_names(names: Sequence[str]) -> str:
    """Names in a message: all of a few, else the first ones and the last."""
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, … {names[-1]}"
