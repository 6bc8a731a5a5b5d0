"""Time series in CSV files: a column of times, and columns of numbers."""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from torchstone.errors import BadInput, did_you_mean

TIME_COLUMNS = {"time", "date", "datetime", "timestamp", "ts", "ds", "month", "year", "day"}
MISSING = {"", "-", "?", "na", "n/a", "nan", "nil", "none", "null"}  # cells without a reading
# times as large as these are seconds, or milliseconds, since 1970
SECONDS, MILLISECONDS = 1e8, 1e11


@dataclass(frozen=True)
class Readings:
    """The contents of a file.

    `times` increase; they are seconds since 1970 (`unit` "seconds"), months since year 0 ("months"), or
    the file's own numbers ("numbers"). A missing value is NaN.
    """

    name: str
    columns: tuple[str, ...]
    unit: str
    times: np.ndarray  # (rows,) float64
    values: np.ndarray  # (rows, columns) float64
    description: str


def read_file(path: Path, columns: Sequence[str] = (), *, allow_other_name: bool = False) -> Readings:
    """Read a CSV or TSV file with a header: the given `columns`, or all.

    Args:
        allow_other_name: a single column may have another name, if the file has only one besides the times.

    Raises:
        BadInput: no text table, no time column, a malformed time or value, times that do not increase.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist: give a CSV file with a time column")
    try:
        return parse_csv(
            path.read_text(encoding="utf-8-sig"), str(path), columns, allow_other_name=allow_other_name
        )
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not a text table ({error}): save it as UTF-8 CSV") from None


def parse_csv(
    text: str,
    name: str,
    columns: Sequence[str] = (),
    *,
    allow_other_name: bool = False,
    drop_duplicates: bool = False,
) -> Readings:
    """`read_file` of the file's text; with `drop_duplicates` the first row of a repeated time is used."""
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        lines = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise BadInput(f"{name} is not a text table ({error}): save it as UTF-8 CSV") from None
    if len(lines) < 2:
        raise BadInput(f"{name} is empty: give a header, then a row for each time")
    head, *rows = [[cell.strip() for cell in row] for row in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise BadInput(f"{name}, row {number}: {len(row)} cells, but {len(head)} names")
    at = _time_column(name, head, rows[0])
    times, unit = _times(name, head[at], [row[at] for row in rows])
    others = head[:at] + head[at + 1 :]
    if not others:
        raise BadInput(f"{name} has only a time column: add columns of numbers")
    selected = list(columns) or others
    if allow_other_name and len(selected) == len(others) == 1:
        selected = others
    for column in selected:
        if column not in others:
            raise BadInput(f"{name} has no column {column!r}: {did_you_mean(column, others)}")
    indices = [head.index(column) for column in selected]
    values = np.array([[_number(row[i]) for i in indices] for row in rows])
    if (wrong := np.argwhere(np.isinf(values))).size:
        row, column = wrong[0]
        raise BadInput(
            f"{name}, row {row + 1}: {selected[column]} is {rows[row][indices[column]]!r}, no number: "
            f"correct it, leave it empty, or name the columns to read, {name}:A,B"
        )
    description = ""
    if len(times) > 1 and (np.diff(times) < 0).all():
        times, values, description = times[::-1], values[::-1], "newest first, reversed"
    if drop_duplicates:
        keep = np.append(True, np.diff(times) != 0)
        if dropped := int((~keep).sum()):
            times, values = times[keep], values[keep]
            description = f"{dropped} duplicate time{'s' * (dropped > 1)} dropped"
    _check_increasing(name, times, [row[at] for row in rows])
    if unit == "seconds":
        times, unit = _calendar(times)
    return Readings(name, tuple(selected), unit, times, values, description)


def format_time(time: float, unit: str) -> str:
    """A time as text: 2016-07-01 13:00, 2016-07, or a number."""
    if unit == "numbers":
        return f"{time:.10g}"
    if unit == "months":
        return f"{int(time) // 12:04}-{int(time) % 12 + 1:02}"
    text = datetime.fromtimestamp(round(time, 3), UTC).replace(tzinfo=None).isoformat(" ")
    return text.removesuffix(":00") if "." not in text else text[:-3]


def format_duration(step: float, unit: str) -> str:
    """A duration as text: 30 min, 1 day, 3 months."""
    if unit == "numbers":
        return f"{step:.6g}"
    sizes = {"month": 1.0} if unit == "months" else {"day": 86400, "h": 3600, "min": 60, "s": 1}
    name, size = next(((n, s) for n, s in sizes.items() if step >= s), list(sizes.items())[-1])
    count = f"{step / size:.4g}"
    return f"{count} {name}{'s' * (name in ('day', 'month') and count != '1')}"


def _time_column(name: str, head: list[str], first: list[str]) -> int:
    if all(_number(cell) < math.inf or _instant(cell) is not None for cell in head):
        raise BadInput(f"{name} begins with {head[0]!r}, which is no name: give a first line of names")
    named = [i for i, cell in enumerate(head) if TIME_COLUMNS & set(re.findall("[a-z]+", cell.lower()))]
    dated = [i for i, cell in enumerate(first) if _instant(cell) is not None]
    both = [i for i in named if i in dated]
    if not (candidates := both or dated or named):
        raise BadInput(
            f"{name} has no time column: name one `time`, or write its times as 2016-07-01 13:00 "
            f"(there are {', '.join(head[:6])}{', …' * (len(head) > 6)})"
        )
    return candidates[0]


def _times(name: str, column: str, cells: list[str]) -> tuple[np.ndarray, str]:
    dates = _instant(cells[0]) is not None
    parse: Callable[[str], float | None] = _instant if dates else _finite
    times = [parse(cell) for cell in cells]
    if None in times:
        row = times.index(None)
        raise BadInput(
            f"{name}, row {row + 1}: {column} is {cells[row]!r}, no "
            f"{'time like' if dates else 'number, nor a time like'} 2016-07-01 13:00"
        )
    array = np.array(times, dtype=np.float64)
    if dates:
        return array, "seconds"
    smallest = float(np.abs(array).min())
    if smallest >= SECONDS:
        return array / (1000 if smallest >= MILLISECONDS else 1), "seconds"
    return array, "numbers"


def _check_increasing(name: str, times: np.ndarray, cells: list[str]) -> None:
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        row = int(wrong[0])
        if times[row + 1] == times[row]:
            problem = f"its time, {cells[row + 1]}, is repeated: keep one of the rows, or their mean"
        else:
            problem = (
                f"its time, {cells[row + 1]}, is before the last one: sort the rows by time (where "
                "clocks were set back, write times with their offset, 2016-10-30T02:00+01:00)"
            )
        raise BadInput(f"{name}, row {row + 2}: {problem}")


def _calendar(times: np.ndarray) -> tuple[np.ndarray, str]:
    """Times in months, if every time is the same day and hour of a month: months differ in length."""
    if len(times) < 2 or np.diff(times).min() < 28 * 86400:
        return times, "seconds"
    dates = [datetime.fromtimestamp(time, UTC) for time in times]
    if len({(d.day, d.hour, d.minute) for d in dates}) > 1:
        return times, "seconds"
    return np.array([12.0 * d.year + d.month - 1 for d in dates]), "months"


def _instant(cell: str) -> float | None:
    """Seconds since 1970 of an ISO 8601 date or time; without an offset it is UTC."""
    if re.fullmatch(r"\d{4}-\d{2}", cell):
        cell += "-01"
    if "-" not in cell[1:] and "/" not in cell:  # 20160701 is taken for a number
        return None
    try:
        time = datetime.fromisoformat(cell.replace("/", "-"))
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _finite(cell: str) -> float | None:
    value = _number(cell)
    return value if math.isfinite(value) else None


def _number(cell: str) -> float:
    """NaN for a missing reading, infinity for what is no number."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.inf
