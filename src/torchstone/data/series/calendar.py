"""Calendars of time series: how a file's times are counted on a regular grid, and written again.

A month is no fixed number of days, and some series never have a Sunday. Such times are counted in months, or
in days of the week that occur, so that equal steps are equal numbers; `Calendar` writes them as the file did.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray as Array

DAY = 86400.0
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAYS = "days "  # a unit that begins so names the days of the week that occur: "days Mon Tue Wed Thu Fri"
MONTH_END, LAST_WEEKDAY, FIRST_WEEKDAY = 31, -1, 0  # beside 1 to 30: the day of the month
NEAR = 4  # days at the end or the beginning of a month that business days of it fall into
MIN_WEEKS = 3  # a day of the week that is missing in so many weeks never occurs
REGULAR = 0.9  # share of steps that are one day, where only days of the week that occur are counted
YEARS = range(1600, 2400)  # of dates that are written as whole numbers
# whole numbers that are dates: digits, and how they are read
DIGITS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


class Instant(NamedTuple):
    """A time as written: seconds since 1970 of its own clock, and how far that is before UTC, if said."""

    local: float
    offset: float | None
    form: str  # month, quarter, date or time

    @property
    def utc(self) -> float:
        return self.local - (self.offset or 0.0)


@dataclass(frozen=True)
class Calendar:
    """What the numbers of a series' times mean, and how they are written.

    Args:
        unit: `seconds` since 1970, `months` since year 0, `days …` of the week that occur, counted since
            1970, or `numbers`.
        offset: seconds that the file's clock is before UTC; none where it says nothing.
        form: of the file's cells: number, month, quarter, date or time.
        day: of the month, in months: 1 to 30, or `MONTH_END`, `LAST_WEEKDAY`, `FIRST_WEEKDAY`.
        clock: time of the day in seconds, in months.
    """

    unit: str
    offset: float | None = None
    form: str = "time"
    day: int = 1
    clock: float = 0.0

    def format(self, time: float) -> str:
        """A time as the file writes its own: 2016-07-01 13:00+09:00, 2016-07-31, 2016-07, or a number."""
        if self.unit == "numbers":
            return f"{time:.10g}"
        if self.unit == "months":
            return self._format_month(round(time))
        local = self.local(time)
        return self._format_local(local)

    def local(self, time: float) -> float:
        """Seconds since 1970 of the file's own clock."""
        if self.unit == "seconds":
            return time + (self.offset or 0.0)
        days = _occurring(self.unit)
        days_before = math.floor(time + 1e-9)
        week, rank = divmod(days_before, len(days))
        return DAY * (7 * week + days[rank] - 3 + (time - days_before))

    def zone(self) -> str:
        """The offset as text: +09:00, or nothing where there is none."""
        if self.offset is None:
            return ""
        minutes = round(abs(self.offset) / 60)
        return f"{'-' if self.offset < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}"

    def _format_month(self, month: int) -> str:
        year, number = divmod(month, 12)
        if self.form == "quarter":
            return f"{year:04}Q{number // 3 + 1}"
        if self.form == "month" or (self.day == 1 and self.offset is None and not self.clock):
            return f"{year:04}-{number + 1:02}"
        day = datetime(year, number + 1, _day_of(year, number + 1, self.day), tzinfo=UTC).timestamp()
        return self._format_local(day + self.clock)

    def _format_local(self, local: float) -> str:
        text = (datetime(1970, 1, 1) + timedelta(seconds=round(local, 3))).isoformat(" ")
        if self.form == "date" and text.endswith(" 00:00:00") and self.offset is None:
            return text[:10]
        return (text.removesuffix(":00") if "." not in text else text[:-3]) + self.zone()


def parse_instant(cell: str) -> Instant | None:
    """An ISO 8601 date or time, a month (2016-07) or a quarter (2016Q3); none if it is something else."""
    if quarter := re.fullmatch(r"(\d{4})[- ]?[Qq]([1-4])", cell):
        year, number = int(quarter[1]), int(quarter[2])
        return _instant(f"{year:04}-{3 * number - 2:02}-01", "quarter")
    if re.fullmatch(r"\d{4}[-/]\d{2}", cell):
        return _instant(cell + "-01", "month")
    if "-" not in cell[1:] and "/" not in cell:  # 20160701 alone may be a number
        return None
    return _instant(cell, "date" if re.fullmatch(r"\d{4}[-/]\d{2}[-/]\d{2}", cell) else "time")


def _instant(text: str, form: str) -> Instant | None:
    try:
        time = datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        return None
    offset = time.utcoffset()
    local = time.replace(tzinfo=UTC).timestamp()
    return Instant(local, None if offset is None else offset.total_seconds(), form)


def parse_digits(cells: Sequence[str]) -> list[Instant] | None:
    """Dates written as whole numbers, 20240101 or 2024010113, if every one of them is a valid date."""
    digits = [re.sub(r"\.0*$", "", cell) for cell in cells]
    if len({len(each) for each in digits}) != 1 or len(digits[0]) not in DIGITS:
        return None
    pattern = DIGITS[len(digits[0])]
    form = {6: "month", 8: "date"}.get(len(digits[0]), "time")
    instants = []
    for each in digits:
        if not (each.isascii() and each.isdigit()):
            return None
        try:
            time = datetime.strptime(each, pattern).replace(tzinfo=UTC)
        except ValueError:
            return None
        if time.year not in YEARS:
            return None
        instants.append(Instant(time.timestamp(), None, form))
    return instants


def count_times(
    instants: Sequence[Instant], unit: str | None = None
) -> tuple[Float64[Array, " rows"], Calendar, str]:
    """Times on the scale where their steps are regular, what they mean, and a note if it is unusual.

    Args:
        instants: in increasing order.
        unit: that of a model; by default it is found from the times.
    """
    utc = np.array([each.utc for each in instants])
    local = np.array([each.local for each in instants])
    offset, form = instants[-1].offset, instants[-1].form
    plain = utc, Calendar("seconds", offset, form), ""
    if unit in ("seconds", "numbers"):
        return plain
    if (months := _count_months(local, offset, form)) is not None:
        return *months, ""
    if (days := _count_days(local, unit)) is not None:
        times, found = days
        missing = [name for name in WEEKDAYS if name not in found.split()]
        note = f"never on {' or '.join(missing)}: there is none on its grid either"
        return times, Calendar(found, offset, form), note
    return plain


def _count_months(
    local: Float64[Array, " rows"], offset: float | None, form: str
) -> tuple[Float64[Array, " rows"], Calendar] | None:
    """Months, if there is at most one time in each, on one day by the calendar's rules."""
    dates = [datetime(1970, 1, 1) + timedelta(seconds=each) for each in local.tolist()]
    months = np.array([12.0 * each.year + each.month - 1 for each in dates])
    clocks = np.mod(local, DAY)
    if form in ("month", "quarter"):
        return months, Calendar("months", offset, form)
    if len(local) < 2 or np.diff(months).min() < 1 or np.ptp(clocks) > 0:
        return None
    if np.diff(local).min() < (28 - NEAR) * DAY:
        return None
    days = np.array([each.day for each in dates])
    lengths = np.array([_month_length(each.year, each.month) for each in dates])
    if (days == lengths).all():
        day = MONTH_END
    elif (days == np.minimum(days.max(), lengths)).all():
        day = int(days.max())
    elif (days > lengths - NEAR).all():
        day = LAST_WEEKDAY
    elif (days <= NEAR).all():
        day = FIRST_WEEKDAY
    else:
        return None
    return months, Calendar("months", offset, form, day, float(clocks[0]))


def _count_days(
    local: Float64[Array, " rows"], unit: str | None
) -> tuple[Float64[Array, " rows"], str] | None:
    """Days of the week that occur, if some never do and the steps are regular without them."""
    if len(local) < 2:
        return None
    numbers = np.floor(local / DAY)
    weekdays = np.mod(numbers + 3, 7).astype(int)  # 1970 began on a Thursday
    active = set(weekdays.tolist())
    if unit is not None and unit.startswith(DAYS) and active <= set(_occurring(unit)):
        occurring = _occurring(unit)
    elif unit is not None or not 2 <= len(active) <= 6 or numbers[-1] - numbers[0] < 7 * MIN_WEEKS:
        return None
    else:
        occurring = sorted(active)
    rank = np.full(7, -1)
    rank[occurring] = np.arange(len(occurring))
    times = np.floor((numbers + 3) / 7) * len(occurring) + rank[weekdays] + np.mod(local, DAY) / DAY
    if (
        unit is None
        and np.median(np.diff(local)) > DAY
        and (np.abs(np.diff(times) - 1) > 1e-6).mean() > 1 - REGULAR
    ):
        return None
    return times, DAYS + " ".join(WEEKDAYS[day] for day in occurring)


def _occurring(unit: str) -> list[int]:
    return [WEEKDAYS.index(name) for name in unit.removeprefix(DAYS).split()]


def _month_length(year: int, month: int) -> int:
    return (date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)).day


def _day_of(year: int, month: int, rule: int) -> int:
    """The day of a month that a rule means."""
    length = _month_length(year, month)
    if rule == LAST_WEEKDAY:
        return length - max(0, date(year, month, length).weekday() - 4)
    if rule == FIRST_WEEKDAY:
        return 1 + (7 - date(year, month, 1).weekday()) % 7 * (date(year, month, 1).weekday() > 4)
    return min(rule, length)


def format_time(time: float, unit: str) -> str:
    """A time as text, where nothing is known of how its file writes it."""
    return Calendar(unit).format(time)


def format_duration(step: float, unit: str) -> str:
    """A duration as text: 30 min, 1 day, 3 months, 1 day (Mon Tue Wed Thu Fri)."""
    if unit == "numbers":
        return f"{step:.6g}"
    if unit.startswith(DAYS):
        return f"{format_duration(step * DAY, 'seconds')} ({unit.removeprefix(DAYS)})"
    sizes = {"month": 1.0} if unit == "months" else {"day": 86400, "h": 3600, "min": 60, "s": 1}
    name, size = next(((n, s) for n, s in sizes.items() if step >= s), list(sizes.items())[-1])
    count = f"{step / size:.4g}"
    return f"{count} {name}{'s' * (name in ('day', 'month') and count != '1')}"
