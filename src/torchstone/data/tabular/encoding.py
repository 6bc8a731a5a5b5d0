"""Columns of a table as numbers: numbers, categories and dates, and what is learned of them in training.

Each encoded column is a number (NaN where it is missing) or a category's code (0 where it is missing, was
not in training, or is rarer than the `MAX_CATEGORIES` that have one).
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray as Array

from torchstone.data.series.instants import ORDERS, find_order, is_dated, parse_digits, parse_instant
from torchstone.data.series.open_times import DAY
from torchstone.data.tabular.files import (
    LARGEST,
    NO_NUMBER,
    is_missing,
    is_row_number,
    is_structure,
    to_number,
)
from torchstone.errors import BadInput

MAX_CATEGORIES = 254
MAX_DISTINCT = 0.5  # share of different words from which on a column is no category but names or text
FEW = 50  # as many different words are categories in any case
CODE = re.compile(r"0\d+")  # 01067 is a code, for a number has no 0 before it
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T,].*)?|.*[A-Za-z]{3,}.*\d{4}.*")
DATE_NAMES = re.compile(r"date|day|month|time|period", re.IGNORECASE)
# numbers as text: 1,234.5, 1.234,5, € 12, 12 %
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
EUROPEAN = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?|[+-]?\d+,\d+")
SPACED = re.compile(r"[+-]?\d{1,3}([ \u00a0\u2009\u202f'’]\d{3})+([.,]\d+)?")  # 1 234 567,5
SLASHED = re.compile(r"\d{1,2}([/.-])\d{1,2}\1(\d{4}|\d{2})([ T].*)?")  # 1/2/2016: of January, or of February
SIGNS = re.compile(r"[$€£¥%]")
UNITS = re.compile(r"^[$€£¥]\s*|\s*[$€£¥%]$")
# kinds of columns that are left out, and how that is said
WITHOUT_USE = {
    "text": "text",
    "row number": "row numbers",
    "structure": "lists, structures or bytes",
    "empty": "empty",
}
PARTS = ("days", "month", "weekday", "hour")  # of a date: since 1970, and what comes again


@dataclass(frozen=True)
class NumberColumn:
    """A number, or a `part` of a date.

    Args:
        source: the file's column.
        mark: before decimals, see `decimal_mark`; of a date the order of day and month, see
            `instants.ORDERS`.
        edges: of bins that hold about equally many training values.
    """

    source: str
    part: str
    mark: str
    mean: float
    std: float
    median: float
    edges: tuple[float, ...]
    has_missing: bool

    @property
    def name(self) -> str:
        return f"{self.source} {self.part}".strip()


@dataclass(frozen=True)
class CategoryColumn:
    """Words; the code of a word is its position in `values`, from 1 on."""

    source: str
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.source


@dataclass(frozen=True)
class Schema:
    """The encoded columns of a table, in order."""

    columns: tuple[NumberColumn | CategoryColumn, ...]

    @classmethod
    def from_metadata(cls, entries: Sequence[Mapping[str, Any]]) -> "Schema":
        """`to_metadata` undone."""
        columns = []
        for entry in entries:
            fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in entry.items()}
            columns.append(CategoryColumn(**fields) if "values" in fields else NumberColumn(**fields))
        return cls(tuple(columns))

    def to_metadata(self) -> list[dict[str, Any]]:
        return [asdict(column) for column in self.columns]

    def sources(self) -> tuple[str, ...]:
        """The file's columns that are read."""
        return tuple(dict.fromkeys(column.source for column in self.columns))

    def encode(self, name: str, cells: Mapping[str, Sequence[Any]]) -> Float64[Array, "rows columns"]:
        """Cells by column as numbers and codes.

        Raises:
            BadInput: a cell of a number or date is neither that nor missing.
        """
        encoded = []
        for column in self.columns:
            own = cells[column.source]
            if isinstance(column, CategoryColumn):
                codes = {value: i for i, value in enumerate(column.values, 1)}
                encoded.append([float(codes.get(word_of(cell), 0)) for cell in own])
            elif column.part:
                encoded.append(_date_part(name, column.source, own, column.part, column.mark))
            else:
                mark = own_mark(name, column.source, own, column.mark)
                encoded.append(_numbers(name, column.source, own, mark))
        return np.array(encoded, dtype=np.float64).T.reshape(-1, len(self.columns)).copy()


def word_of(cell: Any) -> str:
    """A category as text; missing ones are empty. 1.0, as a column with gaps stores whole numbers, is 1."""
    if is_missing(cell):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def infer_schema(
    name: str,
    columns: Mapping[str, Sequence[Any]],
    train: Bool[Array, " rows"],
    *,
    categorical: Sequence[str] = (),
    bins: int = 128,
) -> tuple[Schema, list[str]]:
    """What each column is, by all of its cells, with statistics of the training rows alone; and notes on what
    was left out or filled.

    Args:
        categorical: columns whose numbers are names of categories.
        bins: at most so many for each number.

    Raises:
        BadInput: no such categorical column; numbers with words among them; numbers that can be read in two
            ways; no column that says anything.
    """
    if unknown := [each for each in categorical if each not in columns]:
        raise BadInput(f"{name} has no column {unknown[0]!r} to be categorical: it has {', '.join(columns)}")
    encoded: list[NumberColumn | CategoryColumn] = []
    left_out: dict[str, list[str]] = {}
    missing = 0
    for source, cells in columns.items():
        kind = "category" if source in categorical else kind_of(name, source, cells)
        if kind in WITHOUT_USE:
            left_out.setdefault(kind, []).append(source)
            continue
        found: list[NumberColumn | CategoryColumn] = []
        if kind == "category":
            counts = Counter(word_of(cell) for cell, is_train in zip(cells, train, strict=True) if is_train)
            words = sorted((word for word in counts if word), key=lambda word: (-counts[word], word))
            if len(counts) > 1:
                found = [CategoryColumn(source, tuple(words[:MAX_CATEGORIES]))]
        else:
            parts = PARTS if kind == "date" else ("",)
            found = [
                column for part in parts if (column := _describe(name, source, cells, part, train, bins))
            ]
        if not found:
            left_out.setdefault("constant", []).append(source)
        is_empty = is_missing if kind == "category" else is_no_number
        missing += bool(found) and any(is_empty(cell) for cell in cells)
        encoded += found
    notes = [
        f"left out: {', '.join(names)} ({WITHOUT_USE.get(kind, kind)})" for kind, names in left_out.items()
    ]
    if missing:
        notes.append(f"missing values in {missing} column{'s' * (missing > 1)}")
    if not encoded:
        raise BadInput(f"{name} has no column to predict from ({'; '.join(notes)})")
    return Schema(tuple(encoded)), notes


def kind_of(name: str, source: str, cells: Sequence[Any]) -> str:
    """number, date, category, text, row number, structure or empty.

    Raises:
        BadInput: most cells are numbers, and some are words; or numbers that can be read in two ways.
    """
    present = [cell for cell in cells if not is_missing(cell)]
    if not present:
        return "empty"
    if any(is_structure(cell) for cell in present):
        return "structure"
    if all(isinstance(cell, bool) for cell in present):
        return "category"
    if all(isinstance(cell, date | datetime) for cell in present):
        return "date"
    if all(isinstance(cell, str) and is_date(source, cell) for cell in present):
        find_order(name, repr(source), present, is_sorted=False)
        return "date"
    is_named_date = DATE_NAMES.search(source) and len(str(present[0])) >= 8
    if is_named_date and parse_digits([str(cell) for cell in present]) is not None:
        return "date"
    codes = [cell for cell in present if isinstance(cell, str) and cell.isdigit()]
    if len(codes) == len(present) and len(set(map(len, codes))) == 1 and any(map(CODE.fullmatch, codes)):
        return _words_or_text(present)
    if all(isinstance(cell, str) and SLASHED.fullmatch(cell.strip()) for cell in present):
        raise BadInput(
            f"{name}: {source!r} holds dates like {present[0]}, whose day and month can be read in two ways: "
            f"write 2016-07-01; if they are names of categories give --categorical {source}"
        )
    mark = decimal_mark(name, source, present)
    numbers = [parse_number(cell, mark) for cell in present if not is_no_number(cell)]
    if None in numbers and (infinite := [cell for cell in present if _is_infinite(cell)]):
        raise BadInput(
            f"{name}: {source!r} holds {infinite[0]}, and a number is finite: correct it, or leave it empty"
        )
    known = [number for number in numbers if number is not None]
    words = len(numbers) - len(known)
    if known and not words:
        return "row number" if is_row_number(source, cells) else "number"
    if 0 < words < len(numbers) / 2:
        row = 1 + next(
            i for i, cell in enumerate(cells) if not is_missing(cell) and parse_number(cell, mark) is None
        )
        raise BadInput(
            f"{name}: {source!r} in data row {row} is {cells[row - 1]!r}, where most are numbers: correct it "
            f"or leave it empty; if they are names of categories give --categorical {source}"
        )
    return _words_or_text(present)


def _words_or_text(present: Sequence[Any]) -> str:
    distinct = len({word_of(cell) for cell in present})
    return "text" if distinct > max(FEW, MAX_DISTINCT * len(present)) else "category"


def is_date(source: str, cell: str) -> bool:
    """Whether a cell is a date or a time. What could be a code (2020-1, 1.2.10) needs a name that says so."""
    if re.fullmatch(r"\d{4}[-/]\d{2}([-/]\d{2}.*)?|\d{4}[- ]?[Qq][1-4]", cell):
        return parse_instant(cell) is not None
    is_full = DATE.fullmatch(cell) and re.search(r"\d{4}", cell)
    return is_dated(cell) and bool(is_full or DATE_NAMES.search(source))


def own_mark(name: str, source: str, cells: Sequence[Any], known: str) -> str:
    """The decimal mark of a file's cells where they say it, else that of the training data."""
    if not any(isinstance(cell, str) and "," in cell for cell in cells):
        return known
    try:
        return decimal_mark(name, source, cells)
    except BadInput:
        return known


def is_no_number(cell: Any) -> bool:
    """Whether a cell among numbers holds none: a missing one, or a word for that, such as `-`."""
    return is_missing(cell) or (isinstance(cell, str) and cell.strip().lower() in NO_NUMBER)


def _is_infinite(cell: Any) -> bool:
    if isinstance(cell, str):
        return bool(re.fullmatch(r"[+-]?inf(inity)?", cell.strip(), re.IGNORECASE))
    return isinstance(cell, float) and math.isinf(cell)


def _plain(cell: str) -> str:
    """A number as text without unit, without blanks before its thousands, and with an ASCII minus sign."""
    text = UNITS.sub("", cell.strip()).replace("\u2212", "-")
    return re.sub(r"[ \u00a0\u2009\u202f'’]", "", text) if SPACED.fullmatch(text) else text


def decimal_mark(name: str, source: str, cells: Sequence[Any]) -> str:
    """What stands before a column's decimals, `.` or `,`; the other one may stand before thousands.

    Raises:
        BadInput: a comma may be either in all of its numbers; different units, or percent and none.
    """
    texts = [_plain(cell) for cell in cells if isinstance(cell, str)]
    signs = {
        (SIGNS.findall(cell) or [""])[0] for cell in cells if isinstance(cell, str) and not is_no_number(cell)
    }
    if len(signs) > 1 and (len(signs - {""}) > 1 or "%" in signs):
        shown = " and ".join(repr(sign) if sign else "none" for sign in sorted(signs))
        if all(to_number(text.replace(",", "")) is not None for text in texts if not is_no_number(text)):
            raise BadInput(f"{name}: {source!r} has numbers with the signs {shown}: write all in one unit")
    marked = [text for text in texts if "," in text]
    if not marked or not all(THOUSANDS.fullmatch(text) or EUROPEAN.fullmatch(text) for text in marked):
        return "."
    is_english = all(THOUSANDS.fullmatch(text) for text in marked)
    plain = [text for text in texts if "," not in text]
    is_european = all(EUROPEAN.fullmatch(text) for text in marked) and not any("." in text for text in plain)
    if is_english and is_european:
        # where all that are below a thousand have no comma, and no other, it is one for thousands
        numbers = [number for text in plain if (number := to_number(text)) is not None]
        if numbers and max(map(abs, numbers)) < 1000:
            return "."
        removed, replaced = marked[0].replace(",", ""), marked[0].replace(",", ".")
        raise BadInput(
            f"{name}: {source!r} has {marked[0]}, which may be {removed} or {replaced}: write numbers "
            "without a mark for thousands, and with a point for decimals"
        )
    return "," if is_european else "."


def parse_number(cell: Any, mark: str) -> float | None:
    """A cell as a number, by the column's decimal mark; currency and percent signs are left out."""
    if not isinstance(cell, str):
        return to_number(cell)
    text = _plain(cell)
    if mark == "," and EUROPEAN.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    elif mark == "." and THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return to_number(text)


def _describe(
    name: str, source: str, cells: Sequence[Any], part: str, train: Bool[Array, " rows"], bins: int
) -> NumberColumn | None:
    """The column's statistics, or none if it is constant in training."""
    if part:
        present = [str(cell) for cell in cells if not is_missing(cell)]
        mark = (
            "" if not isinstance(cells[0], str) else find_order(name, repr(source), present, is_sorted=False)
        )
        numbers = np.array(_date_part(name, source, cells, part, mark))
    else:
        mark = decimal_mark(name, source, cells)
        numbers = np.array(_numbers(name, source, cells, mark))
    known = numbers[train & ~np.isnan(numbers)]
    has_missing = bool(np.isnan(numbers[train]).any())
    if len(known) == 0 or (known.min() == known.max() and not has_missing):
        return None
    # quantiles of the values, and of the different values: where most are 0, the others have bins too
    levels = np.linspace(0, 1, max(2, bins // 2 + 1))
    quantiles = [np.quantile(values, levels) for values in (known, np.unique(known))]
    edges = np.unique(np.concatenate(quantiles).astype(np.float32))
    std = float(known.std()) or 1.0
    return NumberColumn(
        source,
        part,
        mark,
        float(known.mean()),
        std,
        float(np.median(known)),
        tuple(edges.tolist()),
        has_missing,
    )


def _numbers(name: str, source: str, cells: Sequence[Any], mark: str) -> list[float]:
    numbers = []
    for row, cell in enumerate(cells, 1):
        if is_no_number(cell):
            numbers.append(math.nan)
        elif (number := parse_number(cell, mark)) is None:
            raise BadInput(
                f"{name}: {source!r} in data row {row} is {cell!r}, which is no finite number "
                f"up to {LARGEST:g}"
            )
        else:
            numbers.append(number)
    return numbers


def _date_part(name: str, source: str, cells: Sequence[Any], part: str, order: str) -> list[float]:
    """Days since 1970, or the month, the weekday (Monday is 0) or the hour of dates."""
    values = []
    for row, cell in enumerate(cells, 1):
        if is_missing(cell):
            values.append(math.nan)
            continue
        if (seconds := _local_seconds(cell, order)) is None:
            raise BadInput(
                f"{name}: {source!r} in data row {row} is {cell!r}, no date like 2016-07-01 or "
                "2016-07-01 13:00"
            )
        days = seconds / DAY
        month = datetime.fromtimestamp(seconds, UTC).month
        parts = {"days": days, "month": month, "weekday": (math.floor(days) + 3) % 7}
        values.append(float(parts.get(part, (days - math.floor(days)) * 24)))
    return values


def _local_seconds(cell: Any, order: str) -> float | None:
    """Seconds since 1970 by a date's own clock."""
    if isinstance(cell, datetime):
        return cell.replace(tzinfo=UTC).timestamp()
    if isinstance(cell, date):
        return datetime(cell.year, cell.month, cell.day, tzinfo=UTC).timestamp()
    instant = parse_instant(str(cell), order if order in ORDERS else "")
    if instant is None and (digits := parse_digits([str(cell)])) is not None:
        instant = digits[0]
    return None if instant is None else instant.local
