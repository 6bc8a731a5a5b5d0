"""Calendars of time series: how a file's times are counted on a regular grid, and written again.

A month is no fixed number of days, and some series never have a Sunday, or a night. Such times are counted in
months, or in open days, so that equal steps are equal numbers; `Calendar` writes them as the file did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
from jaxtyping import Float64
from numpy import ndarray as Array

from torchstone.data.series.instants import YEARS, Instant
from torchstone.data.series.open_times import DAY, DAYS, OpenTimes, find_open_times, without_clock_changes

MONTH_END, LAST_WEEKDAY, FIRST_WEEKDAY = 31, -1, 0  # beside 1 to 30: the day of the month
NTH_WEEKDAY = 100  # 100 + 10 n + d: the nth of a weekday d (Monday is 0) in the month, the last one for n = 5
NEAR = 4  # days at the end or the beginning of a month that business days of it fall into


@dataclass(frozen=True)
class Calendar:
    """What the numbers of a series' times mean, and how they are written.

    Args:
        unit: `seconds` since 1970, `months` since year 0, `days …` that occur, counted since 1970 (see
            `open_times`), or `numbers`.
        offset: seconds that the file's clock is before UTC; none where it says nothing.
        form: of the file's cells: number, decimal (1960.0833), dotted (1960.02), week, month, quarter, date
            or time.
        day: of the month, in months: 1 to 30, or `MONTH_END`, `LAST_WEEKDAY`, `FIRST_WEEKDAY`, or from
            `NTH_WEEKDAY` on.
        clock: time of the day in seconds, in months; of decimal years how far they lie after the beginning of
            the month, in months.
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
        return OpenTimes.from_unit(self.unit).local(time)

    def zone(self) -> str:
        """The offset as text: +09:00, or nothing where there is none."""
        if self.offset is None:
            return ""
        minutes = round(abs(self.offset) / 60)
        return f"{'-' if self.offset < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}"

    def _format_month(self, month: int) -> str:
        year, number = divmod(month, 12)
        if self.form == "decimal":
            return f"{(month + self.clock) / 12:.4f}"
        if self.form == "dotted":
            return f"{year:04}.{number + 1:02}"
        if self.form == "quarter":
            return f"{year:04}Q{number // 3 + 1}"
        if self.form == "month" or (self.day == 1 and self.offset is None and not self.clock):
            return f"{year:04}-{number + 1:02}"
        day = datetime(year, number + 1, _day_of(year, number + 1, self.day), tzinfo=UTC).timestamp()
        return self._format_local(day + self.clock)

    def _format_local(self, local: float) -> str:
        if self.form == "week":
            year, week, _ = (date(1970, 1, 1) + timedelta(days=round(local / DAY))).isocalendar()
            return f"{year:04}-W{week:02}"
        text = (datetime(1970, 1, 1) + timedelta(seconds=round(local, 3))).isoformat(" ")
        if self.form == "date" and text.endswith(" 00:00:00") and self.offset is None:
            return text[:10]
        return (text.removesuffix(":00") if "." not in text else text[:-3]) + self.zone()


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
    times, note = without_clock_changes(utc), ""
    if (times != utc).any() and (np.diff(times) % DAY == 0).all():
        note = "an hour's change of clocks taken out"
    else:
        times = utc
    plain = times, Calendar("seconds", offset, form), note
    if unit in ("seconds", "numbers"):
        return plain
    steady = without_clock_changes(local)
    if not note and (steady != local).any():
        note = "an hour's change of clocks taken out"
    local = steady
    if (months := _count_months(local, offset, form)) is not None:
        return *months, note
    if (days := _count_days(local, unit)) is not None:
        times, found = days
        notes = [found.describe(), *[note] * bool(note)]
        return times, Calendar(found.unit, offset, form), ", ".join(notes)
    return plain


def count_decimal_years(cells: Sequence[str]) -> tuple[Float64[Array, " rows"], Calendar] | None:
    """Months of years with decimals, 1960.0833, or with the month after a point, 1960.02; none if they are
    plain numbers. Quarters (1960.25) are even as they are."""
    values = np.array([float(cell) for cell in cells])
    if len(values) < 2 or not (values.min() >= YEARS[0] and values.max() <= YEARS[-1]):
        return None
    tails = [cell.partition(".")[2] for cell in cells]
    if all(1 <= len(tail) <= 2 for tail in tails):
        numbers = np.array([int(tail.ljust(2, "0") if tail == "1" else tail) for tail in tails])
        months = 12 * np.floor(values) + numbers - 1
        is_even = len(set(np.diff(months).tolist())) == 1 and months[1] > months[0]
        if numbers.min() >= 1 and numbers.max() <= 12 and is_even and np.ptp(np.floor(values)) > 0:
            return months, Calendar("months", form="dotted")
    after = float(np.mod(12 * values[0], 1))
    after = 0.0 if after > 0.9 or after < 0.1 else after
    months = np.round(12 * values - after)
    wrong = np.abs(12 * values - after - months).max()
    if wrong > 0.1 or np.abs(4 * values - np.round(4 * values)).max() < 1e-9 or np.diff(months).min() < 1:
        return None
    return months, Calendar("months", form="decimal", clock=after)


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
    elif (nth := _nth_weekday(local, days, lengths)) is not None:
        day = nth
    else:
        return None
    return months, Calendar("months", offset, form, day, float(clocks[0]))


def _nth_weekday(local: Float64[Array, " rows"], days: Array, lengths: Array) -> int | None:
    """The rule of one weekday's first, …, fourth or last time in each month."""
    weekdays = np.mod(np.floor(local / DAY) + 3, 7).astype(int)  # 1970 began on a Thursday
    if len(set(weekdays.tolist())) > 1 or len(local) < 3:
        return None
    if len(nth := set(((days - 1) // 7 + 1).tolist())) == 1 and max(nth) < 5:
        return NTH_WEEKDAY + 10 * nth.pop() + int(weekdays[0])
    return NTH_WEEKDAY + 50 + int(weekdays[0]) if (days > lengths - 7).all() else None


def _count_days(
    local: Float64[Array, " rows"], unit: str | None
) -> tuple[Float64[Array, " rows"], OpenTimes] | None:
    """Open days, if a model counts so, or some days of the week or times of the day never occur."""
    if unit is not None and not unit.startswith(DAYS):
        return None
    found = find_open_times(local) if unit is None else OpenTimes.from_unit(unit)
    if found is None or (times := found.count(local)) is None:
        return None
    return times, found


def _month_length(year: int, month: int) -> int:
    return (date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)).day


def _day_of(year: int, month: int, rule: int) -> int:
    """The day of a month that a rule means."""
    length = _month_length(year, month)
    if rule >= NTH_WEEKDAY:
        nth, weekday = divmod(rule - NTH_WEEKDAY, 10)
        first = 1 + (weekday - date(year, month, 1).weekday()) % 7
        return first + 7 * (nth - 1) if nth < 5 else first + 7 * ((length - first) // 7)
    if rule == LAST_WEEKDAY:
        return length - max(0, date(year, month, length).weekday() - 4)
    if rule == FIRST_WEEKDAY:
        return 1 + (7 - date(year, month, 1).weekday()) % 7 * (date(year, month, 1).weekday() > 4)
    return min(rule, length)


def format_duration(step: float, unit: str) -> str:
    """A duration as text: 30 min, 1 day, 3 months, 1 day (Mon Tue Wed Thu Fri)."""
    if unit == "numbers":
        return f"{step:.6g}"
    if unit.startswith(DAYS):
        count = len(OpenTimes.from_unit(unit).clocks)
        names, _, hours = unit.removeprefix(DAYS).partition(" at ")
        names += f" {hours.partition(' every ')[0]}" * bool(hours)
        seconds = (
            step * count * float(hours.partition(" every ")[2].removesuffix(" s")) if count else step * DAY
        )
        return f"{format_duration(round(seconds, 6), 'seconds')} ({names})"
    sizes = {"month": 1.0} if unit == "months" else {"day": 86400, "h": 3600, "min": 60, "s": 1}
    name, size = next(((n, s) for n, s in sizes.items() if step >= s), list(sizes.items())[-1])
    count = f"{step / size:.4g}"
    return f"{count} {name}{'s' * (name in ('day', 'month') and count != '1')}"
