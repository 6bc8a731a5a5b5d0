"""Open times: series without weekends or nights are counted without them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from torchstone.data.series.calendar import format_duration
from torchstone.data.series.open_times import OpenTimes, find_open_times, without_clock_changes
from torchstone.data.series.resample import resample
from torchstone.data.series.time_csv import parse_csv

DAY, HOUR = 86400.0, 3600.0


def opened(clocks, days=40, weekdays=range(5), start=datetime(2024, 1, 1, tzinfo=UTC)):
    """Times at which it is open, seconds since 1970."""
    dates = [start + timedelta(days=i) for i in range(days)]
    return np.array([d.timestamp() + clock for d in dates if d.weekday() in weekdays for clock in clocks])


def read(times, form="%Y-%m-%d %H:%M", **options):
    cells = [datetime.fromtimestamp(each, UTC).strftime(form) for each in times]
    return parse_csv("time,v\n" + "".join(f"{c},{i}\n" for i, c in enumerate(cells)), "t", **options)


HALF_HOURS = [9.5 * HOUR + 1800 * i for i in range(14)]
LUNCH = [9 * HOUR + 300 * i for i in range(25)] + [12.5 * HOUR + 300 * i for i in range(25)]


@pytest.mark.parametrize(
    ("clocks", "unit", "step", "following"),
    [
        (HALF_HOURS, "09:30-16:00 every 1800 s", "30 min (Mon Tue Wed Thu Fri 09:30-16:00)", "2024-02-12 09:30"),
        (
            LUNCH,
            "09:00-11:00 12:30-14:30 every 300 s",
            "5 min (Mon Tue Wed Thu Fri 09:00-11:00 12:30-14:30)",
            "2024-02-12 09:00",
        ),
    ],
)  # fmt: skip
def test_trading_hours_join_evening_and_morning(clocks, unit, step, following):
    readings = read(opened(clocks))
    grid = resample(readings)
    print(readings.unit, grid.description)
    assert readings.unit == f"days Mon Tue Wed Thu Fri at {unit}"
    assert (len(grid.times), len(grid.segments), grid.is_filled.sum()) == (30 * len(clocks), 1, 0)
    assert format_duration(grid.step, readings.unit) == step
    assert readings.calendar.format(grid.times[-1] + grid.step) == following  # Monday after Friday
    # the same by a model's unit, from a piece that would not say so by itself
    again = read(opened(clocks)[-20:], unit=readings.unit)
    assert again.times == pytest.approx(readings.times[-20:])


def test_trading_hours_in_utc_move_with_the_clocks():
    """New York opens at 14:30 UTC, and at 13:30 from 10 March on."""
    times = opened([14.5 * HOUR + 1800 * i for i in range(14)], days=100)
    summer = times >= datetime(2024, 3, 10, tzinfo=UTC).timestamp()
    grid = resample(found := read(times - HOUR * summer))
    print(found.description)
    assert found.unit.endswith("at 13:30-20:00 every 1800 s")
    assert (len(grid.times), len(grid.segments)) == (len(times), 1)
    assert "an hour's change of clocks taken out" in found.description


@pytest.mark.parametrize(
    "times",
    [
        opened(HALF_HOURS, days=9, weekdays=range(7)),  # too few days to say so
        opened(np.arange(0, DAY, 1800), weekdays=range(7)),  # day and night
        opened([8 * HOUR, 18 * HOUR], weekdays=range(7)),  # no even grid
        opened(np.arange(0, DAY, HOUR), weekdays=range(7))[np.arange(0, 40 * 24, 5)],  # every 5 hours
    ],
)
def test_other_series_have_no_open_times(times):
    assert find_open_times(times) is None
    assert (without_clock_changes(times) == times).all()


def test_open_times_unit_round_trip():
    for found in (
        OpenTimes((0, 4)),
        OpenTimes((0, 1), tuple(LUNCH)),
        OpenTimes(tuple(range(7)), (30.0, 90.5)),
    ):
        again = OpenTimes.from_unit(found.unit)
        print(found.unit)
        assert (again.weekdays, again.clocks) == (found.weekdays, pytest.approx(found.clocks))
    closed = OpenTimes((0, 1), (0.0, 60.0)).count(np.array([2 * DAY]))
    assert closed is None  # a Saturday


def test_without_clock_changes_leaves_single_steps():
    """A series that once moves by an hour, and one whose first day begins later, stay as they are."""
    hourly = np.arange(0, 60 * DAY, HOUR)[1:]
    assert (without_clock_changes(hourly) == hourly).all()
    daily = DAY * np.arange(60) + np.where(np.arange(60) % 2, HOUR, 0)
    assert (without_clock_changes(daily) == daily).all()
