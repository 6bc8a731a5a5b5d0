"""Calendars: months, days of the week, offsets and dates as whole numbers stay what they are in the file."""

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pytest

from torchstone.data.series.calendar import Calendar
from torchstone.data.series.instants import parse_digits, parse_instant
from torchstone.data.series.resample import resample
from torchstone.data.series.time_csv import parse_csv
from torchstone.errors import BadInput


def read(cells, **options):
    return parse_csv(
        "time,v\n" + "".join(f"{cell},{i}\n" for i, cell in enumerate(cells)), "t.csv", **options
    )


def next_times(cells, count=3, **options):
    """The grid's points, and the times that would be forecast, as the file writes them."""
    readings = read(cells, **options)
    grid = resample(readings)
    times = [grid.times[-1] + grid.step * i for i in range(1, count + 1)]
    return len(grid.times), [readings.calendar.format(time) for time in times]


def month_ends(first=2019, count=48, every=1, rule=lambda last: last):
    ends = []
    for month in range(12 * first + every - 1, 12 * first + every * count, every):
        following = date((month + 1) // 12, (month + 1) % 12 + 1, 1)
        ends.append(rule(following - timedelta(days=1)).isoformat())
    return ends


def last_weekday(day):
    return day - timedelta(days=max(0, day.weekday() - 4))


def first_weekday(day):
    day = day.replace(day=1)
    return day + timedelta(days=(7 - day.weekday()) % 7 if day.weekday() > 4 else 0)


@pytest.mark.parametrize(
    ("cells", "following"),
    [
        (month_ends(), ["2023-01-31", "2023-02-28", "2023-03-31"]),
        (month_ends(every=3, count=16), ["2023-03-31", "2023-06-30", "2023-09-30"]),
        (month_ends(every=12, count=20, first=2000), ["2020-12-31", "2021-12-31", "2022-12-31"]),
        (month_ends(rule=last_weekday), ["2023-01-31", "2023-02-28", "2023-03-31"]),
        (month_ends(rule=last_weekday, count=51), ["2023-04-28", "2023-05-31", "2023-06-30"]),
        (month_ends(rule=first_weekday), ["2023-01-02", "2023-02-01", "2023-03-01"]),
        (month_ends(rule=lambda day: day.replace(day=1)), ["2023-01", "2023-02", "2023-03"]),
        (month_ends(rule=lambda day: day.replace(day=15)), ["2023-01-15", "2023-02-15", "2023-03-15"]),
        (
            month_ends(rule=lambda day: day.replace(day=min(30, day.day))),
            ["2023-01-30", "2023-02-28", "2023-03-30"],
        ),
        (["2021Q3", "2021Q4", "2022Q1"], ["2022Q2", "2022Q3", "2022Q4"]),
        (["2021-11", "2021-12", "2022-01"], ["2022-02", "2022-03", "2022-04"]),
    ],
)
def test_month_rules_continue_by_the_calendar(cells, following):
    points, found = next_times(cells)
    print(cells[-2:], "->", found)
    assert found == following
    assert points == len(cells)  # one point a month, none between


def test_month_ends_are_no_grid_of_days():
    readings = read(month_ends())
    assert readings.unit == "months"
    assert np.diff(readings.times).tolist() == [1.0] * 47
    weekly = read([(date(2023, 1, 2) + timedelta(weeks=4 * i)).isoformat() for i in range(30)])
    assert weekly.unit == "seconds"  # every 28 days is no month


def weekdays(count, begin=date(2024, 1, 1), days=(0, 1, 2, 3, 4)):
    all_days = [begin + timedelta(days=i) for i in range(2 * count)]
    return [day.isoformat() for day in all_days if day.weekday() in days][:count]


@pytest.mark.parametrize(
    ("days", "following"),
    [
        ((0, 1, 2, 3, 4), ["2024-05-20", "2024-05-21", "2024-05-22"]),
        ((6, 0, 1, 2, 3), ["2024-05-20", "2024-05-21", "2024-05-22"]),
        ((0, 1, 2, 3, 4, 5), ["2024-04-26", "2024-04-27", "2024-04-29"]),
        ((0, 2, 4), ["2024-07-19", "2024-07-22", "2024-07-24"]),
    ],
)
def test_weekday_series_have_no_weekends(days, following):
    cells = weekdays(100 if 6 not in days else 101, days=days)
    while date.fromisoformat(cells[-1]) >= date.fromisoformat(following[0]):
        cells.pop()
    points, found = next_times(cells)
    print(days, cells[-3:], "->", found)
    assert points == len(cells)  # no weekend is filled in
    assert found == following
    assert "never on" in read(cells).description


def test_weekday_holidays_are_filled_and_no_targets():
    cells = weekdays(60)
    holiday = cells.pop(30)
    readings = read(cells)
    grid = resample(readings)
    filled = [readings.calendar.format(time) for time in grid.times[grid.is_filled[:, 0]]]
    print(holiday, filled)
    assert filled == [holiday]
    assert len(grid.times) == 60


def test_weekday_unit_of_a_model_decides():
    unit = read(weekdays(60)).unit
    assert unit == "days Mon Tue Wed Thu Fri"
    short = weekdays(8)
    assert read(short).unit == "seconds"  # two weeks prove nothing
    assert read(short, unit=unit).unit == unit
    assert read(weekdays(60), unit="seconds").unit == "seconds"
    every_day = [(date(2024, 1, 1) + timedelta(days=i)).isoformat() for i in range(60)]
    assert read(every_day).unit == "seconds"


def test_weekday_hours_join_friday_and_monday():
    cells = [f"{day} {hour:02}:00" for day in weekdays(30) for hour in range(24)]
    points, found = next_times(cells)
    print(cells[-1], "->", found)
    assert points == len(cells)
    assert found[0] == "2024-02-12 00:00"
    assert cells[-1] == "2024-02-09 23:00"  # a Friday


@pytest.mark.parametrize(
    ("cells", "unit", "following"),
    [
        (["20240129", "20240130", "20240131"], "seconds", ["2024-02-01", "2024-02-02", "2024-02-03"]),
        (["20240228.0", "20240229.0", "20240301.0"], "seconds", ["2024-03-02", "2024-03-03", "2024-03-04"]),
        (
            ["2024013121", "2024013122", "2024013123"],
            "seconds",
            ["2024-02-01 00:00", "2024-02-01 01:00", "2024-02-01 02:00"],
        ),
        (
            ["202401312315", "202401312330", "202401312345"],
            "seconds",
            ["2024-02-01 00:00", "2024-02-01 00:15", "2024-02-01 00:30"],
        ),
        (["202311", "202312", "202401"], "months", ["2024-02", "2024-03", "2024-04"]),
        # one is no date, so none of them is
        (["20240130", "20240131", "20240132"], "numbers", ["20240133", "20240134", "20240135"]),
        (["202411", "202412", "202413"], "numbers", ["202414", "202415", "202416"]),
    ],
)
def test_whole_number_dates(cells, unit, following):
    readings = read(cells)
    _, found = next_times(cells)
    print(cells, "->", readings.unit, found)
    assert readings.unit == unit
    assert found == following


def test_whole_number_dates_need_no_name():
    text = "v,when\n" + "".join(f"{i},202401{i:02}\n" for i in range(1, 32))
    readings = parse_csv(text, "t")
    assert readings.columns == ("v",)
    assert np.diff(readings.times).tolist() == [86400.0] * 30
    assert parse_digits(["00000101", "00000102"]) is None  # no year of this calendar


@pytest.mark.parametrize("offset", ["+09:00", "-03:30", "+00:00"])
def test_offset_is_kept(offset):
    cells = [f"2024-01-01T{hour:02}:00:00{offset}" for hour in range(22, 24)] + [f"2024-01-02T00:00{offset}"]
    _, found = next_times(cells)
    print(cells[-1], "->", found)
    assert found == [f"2024-01-02 {hour:02}:00{offset}" for hour in (1, 2, 3)]


def test_offset_decides_the_local_day():
    """Midnight in Tokyo is the day before in UTC: months and weekdays are those of the file's own clock."""
    months = [f"{2020 + i // 12}-{i % 12 + 1:02}-01T00:00+09:00" for i in range(24)]
    assert read(months).unit == "months"
    assert next_times(months)[1][0] == "2022-01-01 00:00+09:00"
    days = [f"{day}T00:00+09:00" for day in weekdays(60)]
    assert read(days).unit == "days Mon Tue Wed Thu Fri"
    assert next_times(days)[1][0] == "2024-03-25 00:00+09:00"


def test_offset_of_the_last_row_after_clocks_change():
    cells = [
        "2023-10-29T01:00+02:00", "2023-10-29T02:00+02:00", "2023-10-29T02:00+01:00", "2023-10-29T03:00+01:00"
    ]  # fmt: skip
    points, found = next_times(cells)
    assert points == 4
    assert found[0] == "2023-10-29 04:00+01:00"


def test_offset_in_some_rows_is_refused():
    with pytest.raises(BadInput, match="with their offset from UTC, or none") as caught:
        read(["2024-01-01T00:00+09:00", "2024-01-01T01:00"])
    print(caught.value)


def test_epoch_of_early_years_is_in_its_own_unit():
    """63,072,000,000 is 1972 in milliseconds, no year 3968."""
    readings = read([(63_072_000 + 3600 * i) * 1000 for i in range(5)])
    assert readings.calendar.format(readings.times[0]) == "1972-01-01 00:00+00:00"


@pytest.mark.parametrize("scale", [1, 1000, 10**6, 10**9])
def test_epoch_of_any_unit(scale):
    readings = read([(1_577_836_800 + 60 * i) * scale for i in range(5)])
    print(readings.times[:2], readings.calendar.format(readings.times[0]))
    assert readings.times.tolist() == [1_577_836_800.0 + 60 * i for i in range(5)]
    assert readings.calendar.format(readings.times[0]) == "2020-01-01 00:00+00:00"  # said to be UTC


def test_epoch_beyond_all_dates_is_a_number():
    assert read(["1" + "0" * 22, "2" + "0" * 22]).unit == "numbers"


def test_calendar_writes_fractions_of_seconds():
    assert Calendar("seconds").format(0.25) == "1970-01-01 00:00:00.250"
    assert parse_instant("2024-02-30") is None


def nth_fridays(nth, months=40):
    fridays = [date(2019, 1, 4) + timedelta(weeks=i) for i in range(300)]
    each = [[d for d in fridays if (d.year, d.month) == (2019 + i // 12, i % 12 + 1)] for i in range(months)]
    return [own[nth].isoformat() for own in each]


def zoned(step, count, zone="Europe/Berlin", start=datetime(2023, 1, 1)):
    """Midnights of a place, as UTC: an hour earlier in summer."""
    from zoneinfo import ZoneInfo

    at = [(start + step(i)).replace(tzinfo=ZoneInfo(zone)) for i in range(count)]
    return [each.astimezone(UTC).isoformat() for each in at]


@pytest.mark.parametrize(
    ("cells", "unit", "following"),
    [
        (nth_fridays(2), "months", ["2022-05-20", "2022-06-17", "2022-07-15"]),  # when options expire
        (nth_fridays(-1), "months", ["2022-05-27", "2022-06-24", "2022-07-29"]),
        (["2019.11", "2019.12", "2020.01"], "months", ["2020.02", "2020.03", "2020.04"]),
        (
            [f"{1960 + i / 12:.4f}" for i in range(30)],
            "months",
            ["1962.5000", "1962.5833", "1962.6667"],
        ),
        ([f"{1749.042 + i / 12:.3f}" for i in range(30)], "months", ["1751.5420", "1751.6253", "1751.7087"]),
        (["1960.25", "1960.5", "1960.75"], "numbers", ["1961", "1961.25", "1961.5"]),
        (["2019-W52", "2020-W01", "2020-W02"], "seconds", ["2020-W03", "2020-W04", "2020-W05"]),
        (
            zoned(lambda i: timedelta(days=i), 120),
            "seconds",
            ["2023-04-30 22:00+00:00", "2023-05-01 22:00+00:00", "2023-05-02 22:00+00:00"],
        ),
        (
            [f"{date(2023 + i // 12, i % 12 + 1, 1)}T00:00{'+02:00' if 3 <= i % 12 < 10 else '+01:00'}"
             for i in range(24)],
            "months",
            ["2025-01-01 00:00+01:00", "2025-02-01 00:00+01:00", "2025-03-01 00:00+01:00"],
        ),
    ],
)  # fmt: skip
def test_periods_of_the_calendar_stay_periods(cells, unit, following):
    points, found = next_times(cells)
    readings = read(cells)
    print(cells[:3], "->", readings.unit, found)
    assert (readings.unit, points, found) == (unit, len(cells), following)


def test_months_of_a_place_in_utc():
    months = [date(2019 + i // 12, i % 12 + 1, 1) for i in range(36)]
    cells = zoned(lambda i: datetime.combine(months[i], time()) - datetime(2023, 1, 1), 36)
    points, found = next_times(cells)
    print(cells[3], found)
    assert (points, found[0], found[1]) == (36, "2021-12-31 23:00+00:00", "2022-01-31 23:00+00:00")
    assert read(cells).description == "an hour's change of clocks taken out"
