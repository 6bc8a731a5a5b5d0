"""Time series in CSV files: a column of times, and columns of numbers."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from torchstone.data.series.calendar import Calendar, count_decimal_years, count_times
from torchstone.data.series.instants import (
    MONTH_NAMES,
    Instant,
    explain_zone,
    is_dated,
    parse_clock,
    parse_column,
    parse_digits,
    parse_instant,
    parse_numeric_dates,
)
from torchstone.data.tabular.encoding import decimal_mark, parse_number
from torchstone.data.tabular.files import NO_NUMBER, is_row_number
from torchstone.data.text_files import read_rows
from torchstone.errors import BadInput, did_you_mean

TIME_COLUMNS = {"time", "date", "datetime", "timestamp", "ts", "ds", "month", "year", "day", "quarter"}
# columns that make up one time, from the year down, and their other names
PARTS = {
    "year": ("year", "yr", "yyyy"),
    "month": ("month", "mon", "mo", "mm"),
    "day": ("day", "dy", "dd"),
    "hour": ("hour", "hr", "hh"),
    "minute": ("minute", "min"),
    "second": ("second", "sec"),
}
# parts of a year beside it, where there is no month
YEAR_PARTS = {
    "quarter": ("quarter", "qtr", "q"),
    "week": ("week", "wk", "isoweek", "iso_week"),
    "day": ("doy", "dayofyear", "day_of_year", "yday", "jday", "day"),
}
INDEX = {"", "unnamed: 0"}  # names that pandas and R give the row number in a CSV
# since 1970, by how large they are: seconds to the year 2286, milli-, micro- and nanoseconds
EPOCHS = ((1e16, 1e9), (1e13, 1e6), (1e10, 1e3), (1e8, 1.0))
UNIT = re.compile(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?\s*([^\W\d_][^\d\s]{0,9}|[°µ%/][^\d\s]{0,9})")
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
    rows, notes = _without_units(head, rows, at)
    selected = list(columns)
    if not columns:
        selected, more = _select(name, head, rows, others, instants)
        notes += more
    if allow_other_name and len(columns) == len(others) == 1:
        selected = others
    for column in selected:
        if column not in others:
            raise BadInput(f"{name} has no column {column!r}: {did_you_mean(column, others)}")
    values = _values(name, head, rows, selected)
    order = np.arange(len(times))
    if len(times) > 1 and (np.diff(times) <= 0).all() and times[-1] < times[0]:
        order = order[::-1]
        notes.append("newest first, reversed")
    own = [instants[i] for i in order] if instants else []
    keep = np.append(True, np.diff(times[order]) != 0)
    for i in np.flatnonzero(~keep).tolist() if not drop_duplicates else ():
        keep[i] = rows[order[i]] != rows[order[i - 1]] or (bool(own) and _is_set_back(own, i - 1))
    if dropped := int((~keep).sum()):
        order = order[keep]
        notes.append(f"{dropped} duplicate time{'s' * (dropped > 1)} dropped")
    times, values = times[order], values[order]
    _check_increasing(
        name, head, [rows[i] for i in order], at, times, [instants[i] for i in order if instants]
    )
    if instants:
        times, calendar, note = count_times([instants[i] for i in order], unit)
        notes += [note] * bool(note)
    return Readings(name, tuple(selected), calendar, times, values, ", ".join(notes))


def _select(
    name: str, head: list[str], rows: list[list[str]], others: list[str], instants: list[Instant]
) -> tuple[list[str], list[str]]:
    """The columns that are read where none are named, and notes on those that are not."""
    cells = {column: [row[head.index(column)] for row in rows] for column in others}
    dates = [datetime(1970, 1, 1) + timedelta(seconds=each.local) for each in instants]
    left_out: dict[str, list[str]] = {}
    for column, own in cells.items():
        if all(cell.lower() in NO_NUMBER for cell in own):
            left_out.setdefault("without a number", []).append(column)
        elif _is_text(name, column, own):
            left_out.setdefault("of text", []).append(column)
        elif is_row_number(column, own) and _counts(own):
            left_out.setdefault("of row numbers", []).append(column)
        elif dates and _repeats_dates(column, own, dates):
            left_out.setdefault("that repeat the dates", []).append(column)
    dropped = {column for columns in left_out.values() for column in columns}
    notes = [f"columns {kind} left out: {', '.join(columns)}" for kind, columns in left_out.items()]
    selected = [column for column in others if column not in dropped]
    if not selected:
        raise BadInput(f"{name} has no column of numbers to forecast ({'; '.join(notes)}): add one")
    months = [column for column in selected if column[:3].lower() in MONTH_NAMES and len(column) < 10]
    if len({column[:3].lower() for column in months}) == 12:
        raise BadInput(
            f"{name} has a column for each month: write a row for each month, or name the columns to read as "
            f"yearly series, {name}:{','.join(months)}"
        )
    return selected, notes


def _without_units(head: list[str], rows: list[list[str]], at: int) -> tuple[list[list[str]], list[str]]:
    """Numbers that are all followed by one unit, 12.5 °C, without it, and a note of which it was."""
    units = {}
    for i in range(len(head)):
        found = {
            m[1] if (m := UNIT.fullmatch(row[i])) else "" for row in rows if row[i].lower() not in NO_NUMBER
        }
        if i != at and len(found) == 1 and "" not in found and not is_dated(rows[0][i]):
            units[i] = found.pop()
    if not units:
        return rows, []
    stripped = [
        [cell.removesuffix(units[i]).strip() if i in units else cell for i, cell in enumerate(row)]
        for row in rows
    ]
    return stripped, ["unit of " + ", ".join(f"{head[i]}: {unit}" for i, unit in units.items())]


def _counts(cells: list[str]) -> bool:
    """Whether a column counts rows: whole numbers, each one more than the last."""
    return all(cell.isdigit() for cell in cells) and set(np.diff([int(cell) for cell in cells]).tolist()) <= {
        1
    }


def _repeats_dates(column: str, cells: list[str], dates: list[datetime]) -> bool:
    """Whether a column is the year, month, day or hour of each row's date."""
    part = next((part for part, names in PARTS.items() if column.lower() in names), "")
    return bool(part) and all(
        _number(cell, ".") == getattr(each, part) for cell, each in zip(cells, dates, strict=True)
    )


def _values(name: str, head: list[str], rows: list[list[str]], selected: Sequence[str]) -> np.ndarray:
    """Numbers of the selected columns, NaN where they are missing.

    Raises:
        BadInput: a cell is no number, or may be one or another.
    """
    values = np.empty((len(rows), len(selected)))
    marks = _decimal_marks(name, {column: [row[head.index(column)] for row in rows] for column in head})
    for i, column in enumerate(selected):
        cells, mark = [row[head.index(column)] for row in rows], marks[column]
        if isinstance(mark, BadInput):
            raise mark
        values[:, i] = [_number(cell, mark) for cell in cells]
        if (wrong := np.flatnonzero(np.isinf(values[:, i]))).size:
            row = int(wrong[0])
            raise BadInput(
                f"{name}, row {row + 1}: {column} is {cells[row]!r}, no number: correct it, leave it empty, "
                f"or name the columns to read, {name}:A,B"
            )
    return values


def _decimal_marks(name: str, columns: Mapping[str, list[str]]) -> dict[str, str | BadInput]:
    """The decimal mark of each column. Where it may be a point or a comma, other columns decide, if they
    agree; else it is the complaint."""
    marks: dict[str, str | BadInput] = {}
    for column, cells in columns.items():
        try:
            marks[column] = decimal_mark(name, column, cells)
        except BadInput as error:
            marks[column] = error
    known = {
        mark
        for column, mark in marks.items()
        for cell in columns[column]
        if isinstance(mark, str) and "," in cell and parse_number(cell, mark) is not None
    }
    if len(known) == 1:
        marks = {
            column: mark if isinstance(mark, str) else next(iter(known)) for column, mark in marks.items()
        }
    return marks


def _cells(text: str, name: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows under it, none of them longer or shorter."""
    first = text.partition("\n")[0].strip()
    if separator := re.fullmatch(r"sep=(.)", first):  # as spreadsheets write and read it
        text = text.partition("\n")[2]
    begin = next((line for line in text.split("\n") if line.strip() and not line.startswith("#")), "")
    delimiter = separator[1] if separator else max(",;\t", key=begin.count)
    lines = [row for row in read_rows(text, name, delimiter) if any(cell.strip() for cell in row)]
    # lines before the names that begin with # are comments, if they are no names
    while len(lines) > 2 and lines[0][0].startswith("#") and len(lines[0]) != len(lines[-1]):
        lines = lines[1:]
    if len(lines) < 2:
        raise BadInput(f"{name} is empty: give a header, then a row for each time")
    head, *rows = [[cell.strip() for cell in row] for row in lines]
    if len(head) == 1 and re.search(r"\w[\s|:]\s*\w", rows[0][0]) and not is_dated(rows[0][0]):
        raise BadInput(f"{name} has one column ({head[0]}): separate cells by commas, semicolons or tabs")
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
    clocks = [
        i
        for i, cell in enumerate(lower)
        if cell in ("time", "hour", "hr", "he", "hour ending") and all(_clock(row[i]) for row in rows)
    ]
    dated = [i for i in range(len(head)) if i not in clocks and is_dated(rows[0][i])]
    if "year" in parts and len(parts) == 1 and not dated:
        for part, names in YEAR_PARTS.items():
            if found := [lower.index(each) for each in names if each in lower]:
                parts[f"{part} of the year"] = found[0]
                break
    if len(parts) > 1 and not dated:
        cells = [_joined(name, number, head, row, parts) for number, row in enumerate(rows, 1)]
        return _with_time(head, rows, cells, list(parts.values()))
    if not dated:
        dated = [
            i
            for i, cell in enumerate(lower)
            if set(re.findall("[a-z]+", cell)) & {"date", "day"} and parse_digits([row[i] for row in rows])
        ]
    if len(dated) == 1 and len(clocks) == 1 and len({row[dated[0]] for row in rows}) < len(rows):
        day, clock = dated[0], clocks[0]
        if all(len(row[day]) <= 18 and ":" not in row[day] for row in rows):
            cells = [f"{_dashed(row[day])} {_clock(row[clock])}" for row in rows]
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


def _joined(name: str, number: int, head: list[str], row: list[str], parts: dict[str, int]) -> str:
    """2016, 7, 1, 13 as 2016-07-01 13:00; 2016, 3 as 2016Q3, 2016-W03 or 2016-003, as their names say."""
    columns = list(parts.values())
    texts = [row[i] for i in columns]
    if "month" in parts and texts[1][:3].lower() in MONTH_NAMES and texts[1].isalpha():
        texts[1] = str(MONTH_NAMES.index(texts[1][:3].lower()) + 1)
    if "quarter of the year" in parts:
        texts[1] = texts[1].upper().removeprefix("Q")
    values = [_number(each, ".") for each in texts]
    integers = [int(value) if math.isfinite(value) and value == int(value) else -1 for value in values]
    if "quarter of the year" in parts:
        text = "{:04}Q{}".format(*integers)
    elif "week of the year" in parts:
        text = "{:04}-W{:02}".format(*integers)
    elif "day of the year" in parts:
        text = "{:04}-{:03}".format(*integers)
    else:
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
    """A time of the day, as it stands after a date: 13:00 of 13, 13:00 or 13.00.00; nothing if it is none."""
    if re.fullmatch(r"\d{1,2}(\.0+)?", cell):
        cell = f"{int(float(cell)):02}:00"
    elif re.fullmatch(r"\d{3}", cell):  # 930 is 9:30
        cell = f"0{cell}"
    return "" if parse_clock(cell) is None else cell


def _dashed(cell: str) -> str:
    """20160701 as 2016-07-01."""
    return f"{cell[:4]}-{cell[4:6]}-{cell[6:]}" if re.fullmatch(r"\d{8}", cell) else cell


def _time_column(name: str, head: list[str], rows: list[list[str]]) -> int:
    if not head:
        raise BadInput(f"{name} has only row numbers: give a column of times, and columns of numbers")
    if all(_number(cell, ".") < math.inf or is_dated(cell) for cell in head):
        raise BadInput(f"{name} begins with {head[0]!r}, which is no name: give a first line of names")
    named = [i for i, cell in enumerate(head) if TIME_COLUMNS & set(re.findall("[a-z]+", cell.lower()))]
    dated = [i for i, cell in enumerate(rows[0]) if is_dated(cell)]
    both = [i for i in named if i in dated]
    if candidates := both or dated or named:
        return candidates[0]
    # no name says so, but dates as whole numbers are plain enough
    for i in range(len(head)):
        if len(rows[0][i]) >= 8 and parse_digits([row[i] for row in rows]) is not None:
            return i
    if len(dates := [cell for cell in head if is_dated(cell)]) > 1:
        raise BadInput(
            f"{name} has times as names of columns ({dates[0]}, {dates[1]}, …): transpose it, "
            "a row for each time"
        )
    raise BadInput(
        f"{name} has no time column: name one `time`, or write its times as 2016-07-01 13:00 "
        f"(there are {', '.join(head[:6])}{', …' * (len(head) > 6)})"
    )


def _times(
    name: str, column: str, cells: list[str], unit: str | None
) -> tuple[list[Instant], np.ndarray, Calendar]:
    """Instants, if the cells are dates, and times in seconds since 1970 or the file's own numbers."""
    instants = None
    if is_dated(cells[0]):
        instants = parse_column(name, column, cells)
    elif unit != "numbers":
        instants = parse_numeric_dates(name, column, cells)
    if instants is not None:
        return instants, np.array([each.utc for each in instants]), Calendar("seconds")
    numbers = [_finite(cell) for cell in cells]
    if None in numbers:
        row = numbers.index(None)
        raise BadInput(
            f"{name}, row {row + 1}: {column} is {cells[row]!r}, no number, nor a time like 2016-07-01 13:00"
            + explain_zone(cells[row])
        )
    if unit != "numbers" and (found := count_decimal_years(cells)) is not None:
        return [], *found
    array = np.array(numbers, dtype=np.float64)
    smallest, largest = float(np.abs(array).min()), float(np.abs(array).max())
    for least, per_second in EPOCHS:
        if smallest >= least and largest / per_second < LATEST:
            # as whole numbers: nanoseconds have more digits than a float
            exact = [_exact(cell) / int(per_second) for cell in cells]
            return [Instant(each, 0.0, "time") for each in exact], np.array(exact), Calendar("seconds")
    return [], array, Calendar("numbers", form="number")


def _check_increasing(
    name: str, head: list[str], rows: list[list[str]], at: int, times: np.ndarray, instants: list[Instant]
) -> None:
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if not len(wrong):
        return
    row = int(wrong[0])
    is_repeated = times[row + 1] == times[row]
    problem = f"its time, {rows[row + 1][at]}, is {'repeated' if is_repeated else 'before the last one'}"
    if instants and _is_set_back(instants, row):
        text = (datetime(1970, 1, 1) + timedelta(seconds=instants[row + 1].local)).isoformat()
        advice = (
            "clocks were set back: both hours are real, write times with their offset from UTC, "
            f"{text[:16]}+02:00 and then {text[:16]}+01:00"
        )
    elif (series := _series_column(head, rows, at)) is not None:
        advice = (
            f"the file holds several series, told apart by {head[series]!r}: give each a file or a column of "
            "its own"
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


def _series_column(head: list[str], rows: list[list[str]], at: int) -> int | None:
    """The column that tells several series apart, which have the same times: with it no time is repeated."""
    for i in range(len(head)):
        keys = {(row[i], row[at]) for row in rows}
        count = len({row[i] for row in rows})
        if i != at and 1 < count <= len(rows) / 2 and len(keys) == len(rows):
            return i
    return None


def _is_text(name: str, column: str, cells: list[str]) -> bool:
    """Whether nothing in a column is a number, and something is there."""
    mark = _decimal_marks(name, {column: cells})[column]
    numbers = [_number(cell, mark if isinstance(mark, str) else ",") for cell in cells]
    return any(math.isinf(number) for number in numbers) and not any(map(math.isfinite, numbers))


def _exact(cell: str) -> int | float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def _finite(cell: str) -> float | None:
    value = _number(cell, ".")
    return value if math.isfinite(value) else None


def _number(cell: str, mark: str) -> float:
    """NaN for a missing reading, infinity for what is no number."""
    if cell.lower() in NO_NUMBER:
        return math.nan
    value = parse_number(cell, mark)
    return math.inf if value is None else value
