"""Cells with dates, times and periods: each way of writing them, and the order of day and month."""

from datetime import UTC, date, datetime, timedelta

import pytest

from torchstone.data.series.instants import parse_clock, parse_column, parse_instant, parse_numeric_dates
from torchstone.errors import BadInput

HOUR = 3600.0


def seconds(*fields):
    return datetime(*fields, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("cell", "form", "local", "offset"),
    [
        ("2024-03-05", "date", (2024, 3, 5), None),
        ("2024/3/5", "date", (2024, 3, 5), None),
        ("2024.03.05", "date", (2024, 3, 5), None),
        ("2024-065", "date", (2024, 3, 5), None),
        ("2024-W10-2", "date", (2024, 3, 5), None),
        ("5-Mar-2024", "date", (2024, 3, 5), None),
        ("05-MAR-24", "date", (2024, 3, 5), None),
        ("March 5th, 2024", "date", (2024, 3, 5), None),
        ("2024-W10", "week", (2024, 3, 4), None),
        ("2024W10", "week", (2024, 3, 4), None),
        ("2024M03", "month", (2024, 3, 1), None),
        ("2024m3", "month", (2024, 3, 1), None),
        ("2024-3", "month", (2024, 3, 1), None),
        ("03/2024", "month", (2024, 3, 1), None),
        ("Mar-24", "month", (2024, 3, 1), None),
        ("Mar-69", "month", (1969, 3, 1), None),
        ("March 2024", "month", (2024, 3, 1), None),
        ("2024-Sept", "month", (2024, 9, 1), None),
        ("2024-Q2", "quarter", (2024, 4, 1), None),
        ("Q2 2024", "quarter", (2024, 4, 1), None),
        ("2Q24", "quarter", (2024, 4, 1), None),
        ("2024-03-05 7:00", "time", (2024, 3, 5, 7), None),
        ("2024-03-05 07:00 PM", "time", (2024, 3, 5, 19), None),
        ("2024-03-05 12:15 a.m.", "time", (2024, 3, 5, 0, 15), None),
        ("20240305T0730", "time", (2024, 3, 5, 7, 30), None),
        ("20240305:07", "time", (2024, 3, 5, 7), None),
        ("2024-03-05 24:00", "time", (2024, 3, 6), None),
        ("2024-03-05T24:00:00Z", "time", (2024, 3, 6), 0.0),
        ("20240305T073000Z", "time", (2024, 3, 5, 7, 30), 0.0),
        ("2024-03-05 07:00 UTC", "time", (2024, 3, 5, 7), 0.0),
        ("2024-03-05 07:00:00 +0200 UTC", "time", (2024, 3, 5, 7), 2 * HOUR),
        ("2024-03-05T07:00:00+01:00[Europe/Berlin]", "time", (2024, 3, 5, 7), HOUR),
        ("2024-03-05T07:00-03:30", "time", (2024, 3, 5, 7), -3.5 * HOUR),
        ("Tue, 05 Mar 2024 07:00:00 GMT", "time", (2024, 3, 5, 7), 0.0),
    ],
)
def test_parse_instant_reads_each_way_of_writing(cell, form, local, offset):
    found = parse_instant(cell)
    print(cell, "->", found)
    assert (found.form, found.local, found.offset) == (form, seconds(*local), offset)


@pytest.mark.parametrize(
    "cell",
    ["", "5", "20240305", "2024.03", "-3.5", "1.5e3", "12:00", "2024-13", "2024-02-30", "2024-W54", "2024-366x",
     "2023-366", "2024Q5", "2024-03-05 25:00", "2024-03-05 24:01", "2024-03-05 13:00 PM", "Smarch 2024", "May",
     "03/04/2024", "2024-03-05 07:00 CEST", "100:00:00", "1-2"],
)  # fmt: skip
def test_parse_instant_of_something_else_is_none(cell):
    assert parse_instant(cell) is None


def test_parse_clock():
    found = [
        parse_clock(each) for each in ("7:05", "07.05.30", "1905", "19", "7 pm", "24:00", "24:01", "7:60")
    ]
    print(found)
    assert found == [25500.0, 25530.0, 68700.0, 68400.0, 68400.0, 86400.0, None, None]


def days(form, count=40, start=date(2024, 1, 1)):
    return [(start + timedelta(days=i)).strftime(form) for i in range(count)]


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%y", "%m/%d/%y", "%y/%m/%d"])
def test_order_of_day_and_month_is_the_one_that_all_rows_allow(form):
    found = parse_column("t", "time", days(form))
    assert [each.local for each in found] == [seconds(2024, 1, 1) + 86400 * i for i in range(40)]


def test_order_of_day_and_month_without_gaps():
    """Both are dates, and rise; but only one has no gaps."""
    hours = [(datetime(2024, 1, 1) + timedelta(hours=i)).strftime("%m/%d/%Y %H:%M") for i in range(60)]
    assert parse_column("t", "time", hours)[-1].local == seconds(2024, 1, 3, 11)
    firsts = [f"01/{i % 12 + 1:02}/{2020 + i // 12}" for i in range(30)]
    assert parse_column("t", "time", firsts)[-1].local == seconds(2022, 6, 1)


@pytest.mark.parametrize(
    "cells", [days("%d/%m/%Y", 12), ["03/04/2024 05:00", "03/04/2024 06:00"], ["01/01/24", "02/01/24"]]
)
def test_order_of_day_and_month_that_no_row_decides_is_refused(cells):
    with pytest.raises(BadInput, match=r"may be .* \(day first\) or .* \(month first\)") as caught:
        parse_column("t", "time", cells)
    print(caught.value)
    with pytest.raises(BadInput, match="row 2: time is '32/01/2024'"):
        parse_column("t", "time", ["31/01/2024", "32/01/2024"])
    with pytest.raises(BadInput, match=r"CEST names several zones, write the offset, such as \+02:00"):
        parse_column("t", "time", ["2024-03-05 07:00", "2024-03-05 07:00 CEST"])


@pytest.mark.parametrize("form", ["%Y%m%d", "%y%m%d", "%Y%j", "%d%m%Y", "%m%d%Y", "%y%m%d%H%M"])
def test_numeric_dates_whose_steps_are_even_as_dates(form):
    cells = [str(int(each)) for each in days(form, 400, date(2021, 6, 1))]  # 01022024 loses its 0
    found = parse_numeric_dates("t", "v", cells)
    print(cells[:3], found[:2])
    assert [each.local for each in found] == [seconds(2021, 6, 1) + 86400 * i for i in range(400)]


def test_numeric_dates_by_name_or_not_at_all():
    within_a_month = days("%y%m%d", 20)
    assert parse_numeric_dates("t", "date", within_a_month)[1].local == seconds(2024, 1, 2)
    assert parse_numeric_dates("t", "v", within_a_month) is None  # 240101, 240102, … may be a count
    assert parse_numeric_dates("t", "v", ["2.0240101e7", "2.0240102E+07"])[1].local == seconds(2024, 1, 2)
    assert parse_numeric_dates("t", "v", ["100", "101"]) is None
    # months from 2001-01 on are no days of January 2020
    months = [f"{2001 + i // 12}{i % 12 + 1:02}" for i in range(30)]
    assert parse_numeric_dates("t", "v", months)[-1].local == seconds(2003, 6, 1)
    with pytest.raises(BadInput, match="1022024, which may be 2024-02-01 or 2024-01-02"):
        parse_numeric_dates("t", "date", ["1012024", "1022024", "1032024"])
