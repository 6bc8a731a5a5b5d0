"""Time series in CSV files: a column of times, and columns of numbers."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from torchstone.data.series.calendar import Calendar, Instant, count_times, parse_digits, parse_instant
from torchstone.data.text_files import read_rows
from torchstone.errors import BadInput, did_you_mean

TIME_COLUMNS = {"time", "date", "datetime", "timestamp", "ts", "ds", "month", "year", "day", "quarter"}
# columns that make up one time, from the year down, and their other names
PARTS = {
    "year": ("year", "yr", "yyyy"),
    "month": ("month", "mo", "mm"),
    "day": ("day", "dy", "dd"),
    "hour": ("hour", "hr", "hh"),
    "minute": ("minute", "min"),
    "second": ("second", "sec"),
}
INDEX = {"", "unnamed: 0"}  # names that pandas and R give the row number in a CSV
MISSING = {"", "-", "?", "na", "n/a", "nan", "nil", "none", "null"}  # cells without a reading
# since 1970, by how large they are: seconds, milliseconds, microseconds, nanoseconds
EPOCHS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e8, 1.0))
LATEST = 253_402_300_800.0  # the end of the year 9999, in seconds since 1970
AUTUMN = {3, 4, 9, 10, 11}  # months in which clocks are set back, in either hemisphere


@dataclass(frozen=True)
class Readings:
    """The contents of a file.

    `times` increase, on the scale of `calendar`. A missing value is NaN.
    """

    name: str
    columns: tuple[str, ...]
    calendar: Calendar
    times: np.ndarray  # (rows,) float64
    values: np.ndarray  # (rows, columns) float64
    description: str

    @property
    def unit(self) -> str:
        return self.calendar.unit


def read_file(
    path: Path, columns: Sequence[str] = (), *, allow_other_name: bool = False, unit: str | None = None
) -> Readings:
    """Read a CSV or TSV file with a header: the given `columns`, or all that are not text.

    Args:
        allow_other_name: a single column may have another name, if the file has only one besides the times.
        unit: that of a model's times; by default it is found from the file.

    Raises:
        BadInput: no text table, two columns of one name, no time column, a malformed time or value, times
            that do not increase.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist: give a CSV file with a time column")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return parse_csv(text, str(path), columns, allow_other_name=allow_other_name, unit=unit)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not a text table ({error}): save it as UTF-8 CSV") from None


def parse_csv(
    text: str,
    name: str,
    columns: Sequence[str] = (),
    *,
    allow_other_name: bool = False,
    drop_duplicates: bool = False,
    unit: str | None = None,
) -> Readings:
    """`read_file` of the file's text; with `drop_duplicates` the first row of a repeated time is used."""
    head, rows = _join_times(name, *_drop_unnamed(*_cells(text, name)))
    _check_names(name, head, columns)
    at = _time_column(name, head, rows)
    instants, times, calendar = _times(name, head[at], [row[at] for row in rows], unit)
    others = head[:at] + head[at + 1 :]
    if not others:
        raise BadInput(f"{name} has only a time column: add columns of numbers")
    selected, notes = list(columns), []
    if not columns:
        selected = [column for column in others if not _is_text([row[head.index(column)] for row in rows])]
        if left_out := [column for column in others if column not in selected]:
            notes.append(f"columns of text left out: {', '.join(left_out)}")
        if not selected:
            raise BadInput(f"{name} has only columns of text ({', '.join(left_out)}): add columns of numbers")
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
    order = np.arange(len(times))
    if len(times) > 1 and (np.diff(times) < 0).all():
        order = order[::-1]
        notes.append("newest first, reversed")
    if drop_duplicates:
        keep = np.append(True, np.diff(times[order]) != 0)
        if dropped := int((~keep).sum()):
            order = order[keep]
            notes.append(f"{dropped} duplicate time{'s' * (dropped > 1)} dropped")
    times, values = times[order], values[order]
    _check_increasing(name, times, [rows[i][at] for i in order], [instants[i] for i in order if instants])
    if instants:
        times, calendar, note = count_times([instants[i] for i in order], unit)
        notes += [note] * bool(note)
    return Readings(name, tuple(selected), calendar, times, values, ", ".join(notes))


def _cells(text: str, name: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows under it, none of them longer or shorter."""
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = [row for row in read_rows(text, name, delimiter) if any(row)]
    if len(lines) < 2:
        raise BadInput(f"{name} is empty: give a header, then a row for each time")
    head, *rows = [[cell.strip() for cell in row] for row in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise BadInput(f"{name}, row {number}: {len(row)} cells, but {len(head)} names")
    return head, rows


def _drop_unnamed(head: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the row numbers that pandas and R write first, and without columns that are wholly empty.

    Times may stand under no name too: those of a pandas index are kept.
    """

    def is_left_out(i: int) -> bool:
        if head[i].lower() not in INDEX:
            return False
        cells = [row[i] for row in rows]
        is_counter = i == 0 and all(cell.isdigit() for cell in cells) and parse_digits(cells) is None
        return is_counter or (not head[i] and not any(cells))

    keep = [i for i in range(len(head)) if not is_left_out(i)]
    return [head[i] for i in keep], [[row[i] for i in keep] for row in rows]


def _check_names(name: str, head: list[str], columns: Sequence[str]) -> None:
    """No two columns of one name: which one is meant could not be said."""
    for names, where in ((head, f"{name} has"), (list(columns), f"{name}: you name")):
        if twice := [column for column, count in Counter(names).items() if count > 1]:
            raise BadInput(
                f"{where} {names.count(twice[0])} columns called {twice[0]!r}: give each a name of its own"
            )


def _join_times(name: str, head: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Times that are in several columns in one: year, month, day and so on; or a date, and its hour."""
    lower = [cell.lower() for cell in head]
    parts = {}
    for part, names in PARTS.items():
        found = [lower.index(each) for each in names if each in lower]
        if not found:
            break
        parts[part] = found[0]
    dated = [i for i in range(len(head)) if parse_instant(rows[0][i]) is not None]
    if len(parts) > 1 and not dated:
        cells = [_joined(name, number, head, row, list(parts.values())) for number, row in enumerate(rows, 1)]
        return _with_time(head, rows, cells, list(parts.values()))
    clocks = [i for i, cell in enumerate(lower) if cell in ("time", "hour", "hr")]
    if len(dated) == 1 and len(clocks) == 1 and len({row[dated[0]] for row in rows}) < len(rows):
        day, clock = dated[0], clocks[0]
        if all(_clock(row[clock]) and len(row[day]) <= 10 for row in rows):
            cells = [f"{row[day]} {_clock(row[clock])}" for row in rows]
            return _with_time(head, rows, cells, [day, clock])
    return head, rows


def _with_time(
    head: list[str], rows: list[list[str]], cells: list[str], joined: list[int]
) -> tuple[list[str], list[list[str]]]:
    others = [i for i in range(len(head)) if i not in joined]
    title = "time" if "time" not in [head[i] for i in others] else "+".join(head[i] for i in joined)
    return [title, *(head[i] for i in others)], [
        [cell, *(row[i] for i in others)] for cell, row in zip(cells, rows, strict=True)
    ]


def _joined(name: str, number: int, head: list[str], row: list[str], columns: list[int]) -> str:
    """2016, 7, 1, 13 as 2016-07-01 13:00."""
    values = [_number(row[i]) for i in columns]
    integers = [int(value) if math.isfinite(value) and value == int(value) else -1 for value in values]
    text = "{:04}-{:02}".format(*integers)
    if len(integers) > 2:
        text += f"-{integers[2]:02}"
    if len(integers) > 3:
        text += " " + ":".join(f"{each:02}" for each in (*integers[3:], *[0] * (len(integers) < 5)))
    if min(integers) < 0 or parse_instant(text) is None:
        cells = ", ".join(f"{head[i]} {row[i]}" for i in columns)
        raise BadInput(f"{name}, row {number}: {cells} is no date: give whole numbers, such as 2016, 7, 1")
    return text


def _clock(cell: str) -> str:
    """A time of the day as hours and minutes: 13:00 of 13, 13:00 or 13:00:00; nothing if it is none."""
    if re.fullmatch(r"([01]?\d|2[0-3])(\.0+)?", cell):
        return f"{int(float(cell)):02}:00"
    if re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?", cell):
        return cell.zfill(len(cell) + (cell.index(":") < 2))
    return ""


def _time_column(name: str, head: list[str], rows: list[list[str]]) -> int:
    if not head:
        raise BadInput(f"{name} has only row numbers: give a column of times, and columns of numbers")
    if all(_number(cell) < math.inf or parse_instant(cell) is not None for cell in head):
        raise BadInput(f"{name} begins with {head[0]!r}, which is no name: give a first line of names")
    named = [i for i, cell in enumerate(head) if TIME_COLUMNS & set(re.findall("[a-z]+", cell.lower()))]
    dated = [i for i, cell in enumerate(rows[0]) if parse_instant(cell) is not None]
    both = [i for i in named if i in dated]
    if candidates := both or dated or named:
        return candidates[0]
    # no name says so, but dates as whole numbers are plain enough
    for i in range(len(head)):
        if len(rows[0][i]) >= 8 and parse_digits([row[i] for row in rows]) is not None:
            return i
    raise BadInput(
        f"{name} has no time column: name one `time`, or write its times as 2016-07-01 13:00 "
        f"(there are {', '.join(head[:6])}{', …' * (len(head) > 6)})"
    )


def _times(
    name: str, column: str, cells: list[str], unit: str | None
) -> tuple[list[Instant], np.ndarray, Calendar]:
    """Instants, if the cells are dates, and times in seconds since 1970 or the file's own numbers."""
    instants = None
    if parse_instant(cells[0]) is not None:
        instants = _parse_instants(name, column, cells)
    elif unit != "numbers":
        instants = parse_digits(cells)
    if instants is not None:
        return instants, np.array([each.utc for each in instants]), Calendar("seconds")
    numbers = [_finite(cell) for cell in cells]
    if None in numbers:
        row = numbers.index(None)
        raise BadInput(
            f"{name}, row {row + 1}: {column} is {cells[row]!r}, no number, nor a time like 2016-07-01 13:00"
        )
    array = np.array(numbers, dtype=np.float64)
    smallest, largest = float(np.abs(array).min()), float(np.abs(array).max())
    for least, per_second in EPOCHS:
        if smallest >= least and largest / per_second < LATEST:
            # as whole numbers: nanoseconds have more digits than a float
            exact = [_exact(cell) / int(per_second) for cell in cells]
            return [Instant(each, 0.0, "time") for each in exact], np.array(exact), Calendar("seconds")
    return [], array, Calendar("numbers", form="number")


def _parse_instants(name: str, column: str, cells: list[str]) -> list[Instant]:
    """All are times, and either all or none of them say how far they are from UTC."""
    instants = []
    for row, cell in enumerate(cells, 1):
        if (instant := parse_instant(cell)) is None:
            raise BadInput(f"{name}, row {row}: {column} is {cell!r}, no time like 2016-07-01 13:00")
        instants.append(instant)
    has_offset = [each.offset is not None for each in instants]
    if any(has_offset) and not all(has_offset):
        row = has_offset.index(not has_offset[0])
        raise BadInput(
            f"{name}, row {row + 1}: {column} is {cells[row]!r}, and in row 1 {cells[0]!r}: write all times "
            "with their offset from UTC, or none"
        )
    return instants


def _check_increasing(name: str, times: np.ndarray, cells: list[str], instants: list[Instant]) -> None:
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if not len(wrong):
        return
    row = int(wrong[0])
    is_repeated = times[row + 1] == times[row]
    problem = f"its time, {cells[row + 1]}, is {'repeated' if is_repeated else 'before the last one'}"
    if instants and _is_set_back(instants, row):
        text = (datetime(1970, 1, 1) + timedelta(seconds=instants[row + 1].local)).isoformat()
        advice = (
            "clocks were set back: both hours are real, write times with their offset from UTC, "
            f"{text[:16]}+02:00 and then {text[:16]}+01:00"
        )
    elif is_repeated:
        advice = "keep one of the rows, or their mean (times in several columns: join them in one)"
    else:
        advice = "sort the rows by time"
    raise BadInput(f"{name}, row {row + 2}: {problem}: {advice}")


def _is_set_back(instants: list[Instant], row: int) -> bool:
    """Whether the step from a row to the next is that of an hour that comes twice in autumn."""
    if instants[row].offset is not None or instants[row].form != "time":
        return False
    before, after = (datetime(1970, 1, 1) + timedelta(seconds=instants[i].local) for i in (row, row + 1))
    is_night = before.weekday() == 6 and before.month in AUTUMN and after.hour <= 3
    return is_night and timedelta(0) <= before - after < timedelta(hours=1)


def _is_text(cells: list[str]) -> bool:
    """Whether nothing in a column is a number, and something is there."""
    numbers = [_number(cell) for cell in cells]
    return any(math.isinf(number) for number in numbers) and not any(map(math.isfinite, numbers))


def _exact(cell: str) -> int | float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)


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
