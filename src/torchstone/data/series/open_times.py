"""Open times: the days of the week, and the times of the day, that occur in a series at all.

A stock exchange has no Sunday and no night. Counted in open times its steps are equal, across both.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray as Array

DAY, HOUR = 86400.0, 3600.0
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# a unit that begins so: "days Mon Tue Wed Thu Fri", or "days Mon Tue at 09:30-16:00 every 1800 s"
DAYS = "days "
MIN_WEEKS = 3  # a day of the week that is missing in so many weeks never occurs
MIN_DAYS = 10  # nor does a time of the day that is missing on so many days
MIN_SHARE = (
    0.5  # of the times of the day that occur, on an average day: fewer say nothing of those that do not
)
REGULAR = 0.9  # share of steps that are one day, where only days of the week that occur are counted


@dataclass(frozen=True)
class OpenTimes:
    """Days of the week (Monday is 0), and times of the day in seconds; none where the whole day occurs.

    Times are counted in open days since 1970; a day of `clocks` is so many equal steps.
    """

    weekdays: tuple[int, ...]
    clocks: tuple[float, ...] = ()

    @classmethod
    def from_unit(cls, unit: str) -> "OpenTimes":
        """`unit` undone."""
        names, _, hours = unit.removeprefix(DAYS).partition(" at ")
        weekdays = tuple(WEEKDAYS.index(name) for name in names.split())
        if not hours:
            return cls(weekdays)
        spans, _, step = hours.partition(" every ")
        seconds, clocks = float(step.removesuffix(" s")), []
        for span in spans.split():
            first, last = (_seconds(each) for each in span.split("-"))
            clocks += [first + seconds * i for i in range(round((last - first) / seconds) + 1)]
        return cls(weekdays, tuple(clocks))

    @property
    def unit(self) -> str:
        """days Mon Tue Wed Thu Fri at 09:00-11:30 12:30-15:00 every 1800 s"""
        days = DAYS + " ".join(WEEKDAYS[day] for day in self.weekdays)
        if not self.clocks:
            return days
        steps = np.diff(self.clocks)
        cuts = np.flatnonzero(steps > steps.min() * 1.5) + 1
        spans = [f"{_clock(span[0])}-{_clock(span[-1])}" for span in np.split(np.array(self.clocks), cuts)]
        return f"{days} at {' '.join(spans)} every {steps.min():g} s"

    def describe(self) -> str:
        """What never occurs: Sat or Sun, and at other times of the day than 09:30-16:00."""
        missing = [name for i, name in enumerate(WEEKDAYS) if i not in self.weekdays]
        notes = [f"on {' or '.join(missing)}"] if missing else []
        if self.clocks:
            spans = self.unit.partition(" at ")[2].partition(" every ")[0]
            notes.append(f"at other times of the day than {spans.replace(' ', ', ')}")
        return f"never {' nor '.join(notes)}: there is none on its grid either"

    def count(self, local: Float64[Array, " rows"]) -> Float64[Array, " rows"] | None:
        """Times in open days since 1970; none if one is at no open time."""
        numbers = np.floor(local / DAY)
        weekdays = weekdays_of(local)
        if not set(weekdays.tolist()) <= set(self.weekdays):
            return None
        rank = np.full(7, -1)
        rank[list(self.weekdays)] = np.arange(len(self.weekdays))
        share = np.mod(local, DAY) / DAY
        if self.clocks:
            clocks, own = np.array(self.clocks), np.mod(local, DAY)
            slots = _nearest(clocks, own)
            if np.abs(clocks[slots] - own).max() > 0.5:
                return None
            share = slots / len(clocks)
        return np.floor((numbers + 3) / 7) * len(self.weekdays) + rank[weekdays] + share

    def local(self, time: float) -> float:
        """`count` undone: seconds since 1970 of the file's own clock."""
        if self.clocks:
            days_before, slot = divmod(round(time * len(self.clocks)), len(self.clocks))
            clock = self.clocks[slot]
        else:
            days_before = math.floor(time + 1e-9)
            clock = DAY * (time - days_before)
        week, rank = divmod(days_before, len(self.weekdays))
        return DAY * (7 * week + self.weekdays[rank] - 3) + clock


def weekdays_of(local: Float64[Array, " rows"]) -> Array:
    """Monday is 0; 1970 began on a Thursday."""
    return np.mod(np.floor(local / DAY) + 3, 7).astype(int)


def find_open_times(local: Float64[Array, " rows"]) -> OpenTimes | None:
    """The days of the week and the times of the day that occur, if some never do and the steps are regular
    without them."""
    if len(local) < 2:
        return None
    days = np.unique(np.floor(local / DAY))
    active = sorted(set(weekdays_of(local).tolist()))
    if not 2 <= len(active) <= 6 or days[-1] - days[0] < 7 * MIN_WEEKS:
        active = list(range(7))
    found = OpenTimes(tuple(active), _find_clocks(local, len(days)))
    if len(active) == 7 and not found.clocks:
        return None
    times = found.count(local)
    if times is None:
        return None
    is_rare = np.median(np.diff(local)) > DAY
    if is_rare and (np.abs(np.diff(times) - 1) > 1e-6).mean() > 1 - REGULAR:
        return None
    return found


def _find_clocks(local: Float64[Array, " rows"], days: int) -> tuple[float, ...]:
    """Times of the day that occur, on an even grid of which others never do; none where all of it does."""
    clocks = np.unique(np.round(np.mod(local, DAY), 3))
    step = float(np.median(np.diff(local)))
    if days < MIN_DAYS or len(clocks) < 2 or step <= 0 or (DAY / step) % 1 > 1e-9:
        return ()
    steps = (clocks - clocks[0]) / step
    is_even = np.abs(steps - np.round(steps)).max() < 1e-6
    if not is_even or len(clocks) * step >= DAY - 1e-6 or len(local) < MIN_SHARE * days * len(clocks):
        return ()
    return tuple(clocks.tolist())


def without_clock_changes(local: Float64[Array, " rows"]) -> Float64[Array, " rows"]:
    """Times by the clock of the last one, where summer time moves a daily or rarer time, or the opening of
    each day, by an hour twice a year: midnight in Berlin is 23:00 or 22:00 UTC."""
    if len(local) < 3:
        return local
    if np.diff(local).min() >= DAY - HOUR - 1:
        groups, first = np.arange(len(local)), local
    else:
        _, begins, groups = np.unique(np.floor(local / DAY), return_index=True, return_inverse=True)
        first = local[begins]
        spans = np.maximum.reduceat(np.mod(local, DAY), begins) - np.mod(first, DAY)
        if spans.max() > DAY - 2 * HOUR or len(begins) < MIN_DAYS:
            return local
    clocks = np.mod(first, DAY)
    values = np.unique(clocks)
    changes = int((np.diff(clocks) != 0).sum())
    if len(values) != 2 or values[1] - values[0] not in (HOUR, DAY - HOUR):
        return local
    if changes > 2 * np.ptp(local) / (365 * DAY) + 2:
        return local
    shift = np.mod(clocks[-1] - clocks + DAY / 2, DAY) - DAY / 2
    return local + shift[groups]


def _nearest(clocks: Array, own: Array) -> Array:
    right = np.clip(np.searchsorted(clocks, own), 1, len(clocks) - 1)
    return np.where(own - clocks[right - 1] <= clocks[right] - own, right - 1, right)


def _clock(seconds: float) -> str:
    hours, rest = divmod(seconds, HOUR)
    minutes, rest = divmod(rest, 60)
    return f"{int(hours):02}:{int(minutes):02}" + (f":{rest:06.3f}".rstrip("0").rstrip(".") if rest else "")


def _seconds(clock: str) -> float:
    return sum(float(each) * size for each, size in zip(clock.split(":"), (HOUR, 60, 1), strict=False))
