"""Instants: what a cell with a date, a time or a period means, and which order of day and month a column has.

A cell that says which of its numbers is the year, the month and the day is read by itself; 03/04/2024 is read
as the other cells of its column say, else it is refused.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from torchstone.errors import BadInput

YEARS = range(1600, 2400)  # of dates that are written as whole numbers
# whole numbers that are dates: digits, and how they are read
DIGITS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
# other ways, which are taken only where the steps are regular as dates, but not as numbers
OTHER_DIGITS = {
    6: ("%y%m%d",),
    7: ("%Y%j",),
    8: ("%d%m%Y", "%m%d%Y"),
    10: ("%y%m%d%H%M",),
    12: ("%d%m%Y%H%M", "%m%d%Y%H%M", "%y%m%d%H%M%S"),
    14: ("%d%m%Y%H%M%S", "%m%d%Y%H%M%S"),
}
ORDERS = {"DMY": "day first", "MDY": "month first", "YMD": "year first"}
PIVOT = 69  # of years of two digits, as POSIX has it: 68 is 2068, 69 is 1969
MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_NAME = (
    r"(?P<name>jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?"
)
_NAME += r"|nov(ember)?|dec(ember)?)\.?"
_WEEKDAY = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+", re.IGNORECASE)
_ZONE = re.compile(
    r"\s*(?P<offset>z|utc|gmt|(?:utc|gmt)?[+-]\d{1,2}(?::?\d{2})?)(?:\s+(?:utc|gmt))?(?:\s*\[[\w/+-]+\])?",
    re.IGNORECASE,
)
_NAMED_ZONE = re.compile(r".*\d\s*(?P<zone>[A-Z]{2,5})", re.IGNORECASE)
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?P<sep>[:.h])(?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,](?P<part>\d+))?)?"
    r"(?:\s*(?P<half>[ap])\.?m\.?)?|(?P<hour12>\d{1,2})\s*(?P<half12>[ap])\.?m\.?"
    r"|(?P<digits>\d{4}|\d{6})|(?P<only>\d{2})",
    re.IGNORECASE,
)
_QUARTERS = (
    r"(?P<y>\d{4})[-/ .:]?q(?P<q>[1-4])",
    r"q(?P<q>[1-4])[-/ .:']?\s?(?P<y>\d{4})",
    r"q(?P<q>[1-4])[-/ '](?P<y>\d{2})",
    r"(?P<q>[1-4])q[-/ ']?(?P<y>\d{4}|\d{2})",
)
_MONTHS = (
    r"(?P<y>\d{4})[-/ .:]?m(?P<m>\d{1,2})",
    r"(?P<y>\d{4})[-/](?P<m>\d{1,2})",
    r"(?P<m>\d{1,2})[-/](?P<y>\d{4})",
    _NAME + r"[-/ .,']*(?P<y>\d{4})",
    _NAME + r"[-/ ']+(?P<y>\d{2})",
    r"(?P<y>\d{4})[-/ ]?" + _NAME,
)
_WEEKS = (r"(?P<y>\d{4})[- ]?w(?P<w>\d{1,2})",)
_DATES = (
    r"(?P<y>\d{4})(?P<s>[-/.])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})",
    r"(?P<y>\d{4})-(?P<j>\d{3})",
    r"(?P<d>\d{1,2})(?:st|nd|rd|th)?[-/ .]*" + _NAME + r"[-/ .,]*(?P<y>\d{4}|\d{2})",
    _NAME + r"[-/ .]*(?P<d>\d{1,2})(?:st|nd|rd|th)?,? +(?P<y>\d{4})",
    r"(?P<y>\d{4})[-/ ]" + _NAME + r"[-/ ](?P<d>\d{1,2})",
)
_COMPACT = r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})"
_UNORDERED = r"(?P<a>\d{1,2})(?P<s>[-/.])(?P<b>\d{1,2})(?P=s)(?P<c>\d{4}|\d{2})"
_TIME = r"(?:(?:\s*,\s*|\s+|t|:)(?P<clock>\d.*))?"


def _compile(forms: Sequence[str], tail: str = "") -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(form + tail, re.IGNORECASE) for form in forms)


_PERIODS = (("quarter", _compile(_QUARTERS)), ("month", _compile(_MONTHS)), ("week", _compile(_WEEKS)))
_ORDERED = _compile((*_DATES, _COMPACT), _TIME)
_ANY_ORDER = re.compile(_UNORDERED + _TIME, re.IGNORECASE)


class Instant(NamedTuple):
    """A time as written: seconds since 1970 of its own clock, and how far that is before UTC, if said."""

    local: float
    offset: float | None
    form: str  # week, month, quarter, date or time

    @property
    def utc(self) -> float:
        return self.local - (self.offset or 0.0)


def parse_instant(cell: str, order: str = "") -> Instant | None:
    """A date or a time (ISO 8601, 5 Jan 2024 13:00), a week (2016-W05), a month (2016-07, Jul 2016, 2016M07)
    or a quarter (2016Q3); none if it is something else.

    Args:
        order: of the numbers in 03/04/2024, one of `ORDERS`; without one that is none.
    """
    if cell.isdigit():  # 20160701 alone may be a number
        return None
    if cell[4:5] in ("-", "/"):  # nearly all files
        if re.fullmatch(r"\d{4}[-/]\d{2}[-/]\d{2}", cell):
            return _from_iso(cell, "date")
        if ":" in cell and (found := _from_iso(cell, "time")):
            return found
    for form, patterns in _PERIODS:
        for pattern in patterns:
            if match := pattern.fullmatch(cell):
                return _build(match.groupdict(), form, "", None)
    return _parse_time(cell, order)


def _from_iso(cell: str, form: str) -> Instant | None:
    try:
        time = datetime.fromisoformat(cell.replace("/", "-"))
    except ValueError:
        return None
    offset = time.utcoffset()
    local = time.replace(tzinfo=UTC).timestamp()
    return Instant(local, None if offset is None else offset.total_seconds(), form)


def _parse_time(cell: str, order: str) -> Instant | None:
    text, offset = _split_zone(_WEEKDAY.sub("", cell, count=1) if cell[:1].isalpha() else cell)
    if re.fullmatch(r"\d{4}-W\d{2}-\d.*", text):
        return _from_iso(cell, "time" if ":" in cell else "date")
    for pattern in _ORDERED:
        if match := pattern.fullmatch(text):
            fields = match.groupdict()
            if fields["clock"] or pattern is not _ORDERED[-1]:
                return _build(fields, "date", fields["clock"] or "", offset)
    if order and (match := _ANY_ORDER.fullmatch(text)):
        fields: dict[str, str | None] = dict(match.groupdict())
        fields |= {part.lower(): match["abc"[i]] for i, part in enumerate(order)}
        year = fields["y"] or ""
        if len(year) in (2, 4) and len(fields["d"] or "") <= 2:
            return _build(fields, "date", fields["clock"] or "", offset)
    return None


def _split_zone(text: str) -> tuple[str, float | None]:
    """What stands before an offset from UTC, and that in seconds; a region in brackets says nothing more."""
    colon = text.find(":")
    start = colon + 1 if colon >= 0 else len(text)
    if colon < 0 and (t := re.search(r"\d[tT ]\d", text)):
        start = t.end()
    for match in _ZONE.finditer(text):
        at, end = match.span()
        named = match["offset"].lower() in ("z", "utc", "gmt")
        if end == len(text) and (at >= start or (named and at)):
            digits = re.sub(r"[^0-9+-]", "", match["offset"])
            if not digits:
                return text[:at], 0.0
            sign, number = (-1.0 if digits[0] == "-" else 1.0), digits[1:]
            hours, minutes = (number[:-2], number[-2:]) if len(number) > 2 else (number, "0")
            return text[:at], sign * (3600.0 * int(hours) + 60.0 * int(minutes))
    return re.sub(r"\s*\[[\w/+-]+\]$", "", text), None


def _build(fields: dict[str, str | None], form: str, clock: str, offset: float | None) -> Instant | None:
    """A date's fields and its clock together, if there is such a time; 24:00 is the end of a day."""

    def number(name: str, default: int = 1) -> int:
        return int(fields.get(name) or default)

    year = number("y")
    if len(fields["y"] or "") == 2:
        year += 1900 if year >= PIVOT else 2000
    month = MONTH_NAMES.index((fields["name"] or "")[:3].lower()) + 1 if fields.get("name") else number("m")
    try:
        if form == "week":
            day = datetime.fromisocalendar(year, number("w"), 1)
        elif fields.get("j"):
            day = datetime(year, 1, 1) + timedelta(days=int(fields["j"] or 0) - 1)
            if day.year != year:
                return None
        else:
            day = datetime(year, 3 * number("q") - 2 if form == "quarter" else month, number("d"))
    except ValueError:
        return None
    seconds = 0.0
    if clock:
        if (found := parse_clock(clock)) is None:
            return None
        seconds, form = found, "time"
    return Instant(day.replace(tzinfo=UTC).timestamp() + seconds, offset, form)


def parse_clock(cell: str) -> float | None:
    """Seconds since midnight of 13:00, 13:00:00.5, 13.00.00, 1:00 PM, 1300 or 13; 24:00 is a day."""
    match = _CLOCK.fullmatch(cell.strip())
    if match is None:
        return None
    part = float(f"0.{match['part'] or 0}")
    digits = match["digits"] or match["only"] or ""
    if digits:
        hour, minute, second = (int(digits[i : i + 2] or 0) for i in (0, 2, 4))
    else:
        hour, minute, second = (
            int(each or 0) for each in (match["hour"] or match["hour12"], match["minute"], match["second"])
        )
    if half := match["half"] or match["half12"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half.lower() == "p")
    seconds = 3600.0 * hour + 60.0 * minute + second + part
    return seconds if minute < 60 and second < 60 and seconds <= 86400 else None


def is_dated(cell: str) -> bool:
    """Whether a cell is a date or a time, in whichever order."""
    return parse_instant(cell) is not None or any(parse_instant(cell, order) for order in ORDERS)


def parse_column(name: str, column: str, cells: Sequence[str], *, is_sorted: bool = True) -> list[Instant]:
    """A column of dates or times, all of them in one order of day and month.

    The order is the only one in which all cells are dates, and with `is_sorted` in which they rise or fall,
    or have no gaps.

    Raises:
        BadInput: a cell is no time; two orders are possible; only some cells have an offset from UTC.
    """
    order = find_order(name, column, cells, is_sorted=is_sorted)
    instants = []
    for row, cell in enumerate(cells, 1):
        if (instant := parse_instant(cell, order)) is None:
            raise BadInput(
                f"{name}, row {row}: {column} is {cell!r}, no time like 2016-07-01 13:00{explain_zone(cell)}"
            )
        instants.append(instant)
    has_offset = [each.offset is not None for each in instants]
    if any(has_offset) and not all(has_offset):
        row = has_offset.index(not has_offset[0])
        raise BadInput(
            f"{name}, row {row + 1}: {column} is {cells[row]!r}, and in row 1 {cells[0]!r}: write all times "
            "with their offset from UTC, or none"
        )
    return instants


def explain_zone(cell: str) -> str:
    """What is wrong with a time that ends in a zone's letters; nothing of others."""
    zone = _NAMED_ZONE.fullmatch(cell)
    if zone and ":" in cell and parse_instant(cell[: zone.start("zone")].strip()) is not None:
        return f": {zone['zone']} names several zones, write the offset, such as +02:00"
    return ""


def find_order(name: str, column: str, cells: Sequence[str], *, is_sorted: bool) -> str:
    """The order of day and month in a column's dates; empty where they say it themselves.

    Raises:
        BadInput: two orders are possible.
    """
    if all(parse_instant(cell) is not None for cell in cells):
        return ""
    found = {order: [parse_instant(cell, order) for cell in cells] for order in ORDERS}
    known = {order: sum(each is not None for each in instants) for order, instants in found.items()}
    valid = [order for order, count in known.items() if count == len(cells)]
    if not valid:
        return max(known, key=known.__getitem__)

    def rises(order: str) -> bool:
        steps = np.diff([each.utc for each in found[order] if each is not None])
        return bool((steps >= 0).all() or (steps <= 0).all())

    def is_gapless(order: str) -> bool:
        steps = np.abs(np.diff([each.utc for each in found[order] if each is not None]))
        return bool(len(steps) and steps.max() <= 1.5 * np.median(steps))

    likely = valid
    for says in (rises, is_gapless) if is_sorted else ():
        likely = [order for order in likely if says(order)] or likely
    first, *others = likely
    for other in others:
        for cell, a, b in zip(cells, found[first], found[other], strict=True):
            if a is not None and b is not None and a != b:
                raise BadInput(
                    f"{name}: {column} has {cell!r}, which may be {_day(a)} ({ORDERS[first]}) or {_day(b)} "
                    f"({ORDERS[other]}), and no row decides: write dates as {_day(a)}"
                )
    return first


def _day(instant: Instant) -> str:
    return (datetime(1970, 1, 1) + timedelta(seconds=instant.local)).date().isoformat()


def whole_number(cell: str) -> str:
    """The digits of a whole number, which may be written as 20240101.0 or 2.0240101e7."""
    if re.fullmatch(r"\d(\.\d+)?e\+?\d+", cell, re.IGNORECASE) and float(cell).is_integer():
        return str(int(float(cell)))
    return re.sub(r"\.0*$", "", cell)


def parse_digits(cells: Sequence[str]) -> list[Instant] | None:
    """Dates written as whole numbers, 20240101 or 2024010113, if every one of them is a valid date."""
    digits = [whole_number(cell) for cell in cells]
    if len({len(each) for each in digits}) != 1 or len(digits[0]) not in DIGITS:
        return None
    return _parse_pattern(digits, DIGITS[len(digits[0])])


def _parse_pattern(digits: Sequence[str], pattern: str) -> list[Instant] | None:
    form = "date" if "%j" in pattern or ("%d" in pattern and "%H" not in pattern) else "time"
    form = "month" if pattern == "%Y%m" else form
    instants = []
    for each in digits:
        if not (each.isascii() and each.isdigit()):
            return None
        try:
            time = datetime.strptime(each, pattern).replace(tzinfo=UTC)
        except ValueError:
            return None
        if time.year not in YEARS or ("%j" in pattern and time.strftime(pattern) != each):
            return None
        instants.append(Instant(time.timestamp(), None, form))
    return instants


def parse_numeric_dates(name: str, column: str, cells: Sequence[str]) -> list[Instant] | None:
    """`parse_digits`, and days of the year (2024032), dates with the year last (31122024) or of two digits
    (241231), where a column that is called a date, or steps that are even only as dates, say that they are.

    Raises:
        BadInput: it may be one date or another.
    """
    digits = [whole_number(cell) for cell in cells]
    if not all(each.isascii() and each.isdigit() for each in digits):
        return None
    length = max(map(len, digits))
    padded = [each.zfill(length + length % 2) for each in digits]  # 1022024 is 01022024
    usual, readings = parse_digits(cells), {}
    for each in (digits, padded):
        if len({len(one) for one in each}) == 1:
            for pattern in OTHER_DIGITS.get(len(each[0]), ()):
                if (found := _parse_pattern(each, pattern)) is not None:
                    readings.setdefault(pattern, found)
    numbers = np.array([float(each) for each in digits])
    if usual is not None:
        best = _evenness([each.local for each in usual], usual[0].form)
        others = [p for p, each in readings.items() if _evenness([i.local for i in each], "date") > best]
        if not others:
            return usual
        readings = {pattern: readings[pattern] for pattern in others}
        if best > 0:  # both rise
            _refuse_two(name, column, cells, usual, readings[others[0]])
        return readings[others[0]]
    as_numbers = _evenness(numbers, "time")
    is_named = bool(re.search(r"date|day|doy|time|ddmm|mmdd|yymm|yyyy", column, re.IGNORECASE))
    likely = {}
    for pattern, found in readings.items():
        evenness = _evenness([each.local for each in found], "date")
        if evenness > as_numbers or (is_named and evenness >= as_numbers and evenness > 0):
            likely[pattern] = found
    if len(likely) > 1:
        first, second = list(likely.values())[:2]
        if first != second:
            _refuse_two(name, column, cells, first, second)
    return next(iter(likely.values()), None)


def _refuse_two(
    name: str, column: str, cells: Sequence[str], first: Sequence[Instant], second: Sequence[Instant]
) -> None:
    row = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a.local != b.local)
    raise BadInput(
        f"{name}: {column} has {cells[row]}, which may be {_day(first[row])} or {_day(second[row])}, and no "
        f"row decides: write dates as {_day(first[row])}"
    )


def _evenness(times: Sequence[float] | np.ndarray, form: str) -> float:
    """The share of steps that are the most frequent one; 0 where times do not rise or fall throughout."""
    values = np.asarray(times, dtype=np.float64)
    if form in ("month", "date"):
        dates = [datetime(1970, 1, 1) + timedelta(seconds=each) for each in values.tolist()]
        if len({each.day for each in dates}) == 1:
            values = np.array([12.0 * each.year + each.month for each in dates])
    steps = np.diff(values)
    if not len(steps) or not ((steps > 0).all() or (steps < 0).all()):
        return 0.0
    return float(np.unique(steps, return_counts=True)[1].max()) / len(steps)
