"""Files of readings over time: what is understood, and what is message of those that cannot be used."""

import numpy as np
import pytest

from torchstone.data.series.calendar import Calendar, format_duration
from torchstone.data.series.time_csv import parse_csv, read_file
from torchstone.errors import BadInput

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TABLE = "time,a,b\n2020-01-01 00:00,1,2\n2020-01-01 01:00,3,\n2020-01-01 02:30,5,nan\n"


def test_read_file_parses_times_and_missing_cells(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("\ufeff" + TABLE)  # as a spreadsheet saves it
    found = read_file(file)
    assert found.columns == ("a", "b")
    assert found.unit == "seconds"
    assert np.diff(found.times).tolist() == [3600.0, 5400.0]
    assert found.times[0] == 1577836800.0
    assert found.values[:, 0].tolist() == [1, 3, 5]
    assert np.isnan(found.values[:, 1]).tolist() == [False, True, True]
    assert read_file(file, ["b"]).columns == ("b",)


@pytest.mark.parametrize(
    ("cells", "unit", "steps"),
    [
        (["2020-01-01T00:00:00Z", "2020-01-01T00:30:00Z"], "seconds", 1800.0),
        (["2020-01-01T00:00:00+01:00", "2020-01-01T00:00:00+00:00"], "seconds", 3600.0),
        (["2020/01/01 00:00", "2020/01/01 00:05"], "seconds", 300.0),
        (["1577836800", "1577836860"], "seconds", 60.0),
        (["1577836800000", "1577836860000"], "seconds", 60.0),  # thousandths
        (["2020-01-31", "2020-02-01"], "seconds", 86400.0),
        (["2020-01-01", "2020-02-01"], "months", 1.0),  # of 31 and 29 days
        (["2019-11", "2020-02"], "months", 3.0),
        (["2019-01-01", "2020-01-01"], "months", 12.0),
        (["1949", "1950"], "numbers", 1.0),
        (["0.5", "0.75"], "numbers", 0.25),
    ],
)
def test_parse_csv_time_formats(cells, unit, steps):
    found = parse_csv("when is it (time),v\n" + "".join(f"{cell},1\n" for cell in cells), "t")
    assert (found.unit, float(np.diff(found.times)[0])) == (unit, steps)
    print([Calendar(unit).format(time) for time in found.times], format_duration(steps, unit))


def test_parse_csv_finds_time_column():
    assert parse_csv("v,stamped\n1,2020-01-01\n2,2020-01-02\n", "t").columns == ("v",)
    assert parse_csv("v;Timestamp\n1;10\n2;20\n", "t").times.tolist() == [10, 20]
    # `day` is no time here, though it is called so
    assert parse_csv("day\tdate\n3\t2020-01-01\n4\t2020-01-02\n", "t").columns == ("day",)


def test_calendar_format_and_duration():
    assert Calendar("seconds").format(1577836800.0 + 3600) == "2020-01-01 01:00"
    assert Calendar("seconds").format(1577836800.0 + 1) == "2020-01-01 00:00:01"
    assert Calendar("months").format(2020 * 12 + 11) == "2020-12"
    assert Calendar("numbers").format(1.5) == "1.5"
    message = [format_duration(step, "seconds") for step in (0.5, 30, 1800, 3600, 86400, 7 * 86400)]
    assert message == ["0.5 s", "30 s", "30 min", "1 h", "1 day", "7 days"]
    assert [format_duration(step, "months") for step in (1, 12)] == ["1 month", "12 months"]


def test_parse_csv_reverses_newest_first():
    found = parse_csv("date,v\n2020-01-03,3\n2020-01-02,2\n2020-01-01,1\n", "t")
    assert found.values[:, 0].tolist() == [1, 2, 3]
    assert (np.diff(found.times) > 0).all()
    assert found.description == "newest first, reversed"


def test_parse_csv_allow_other_name():
    text = "time,level\n1,5\n2,6\n"
    assert parse_csv(text, "t", ["height"], allow_other_name=True).columns == ("level",)
    with pytest.raises(BadInput, match="no column 'height'"):
        parse_csv(text, "t", ["height"])
    with pytest.raises(BadInput, match="no column 'height'"):
        parse_csv("time,a,b\n1,2,3\n", "t", ["height"], allow_other_name=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("time,v\n", "is empty"),
        ("a,b\n1,2\n3,4\n", "has no time column"),
        ("2020-01-01,1\n2020-01-02,2\n", "first line of names"),
        ("1,2\n3,4\n", "first line of names"),
        ("time\n1\n2\n", "only a time column"),
        ("time,v\n1,2\n2,x\n", "row 2: v is 'x', no number"),
        ("time,v\n1,2\n2,inf\n", "row 2: v is 'inf', no number"),
        ("time,v\n1,2\n2,3,4\n", "row 2: 3 cells"),
        ("time,v\n2020-01-01,2\nyesterday,3\n", "row 2: time is 'yesterday'"),
        ("time,v\nnoon,2\n", "row 1: time is 'noon'"),
        ("time,v\n1,2\n3,3\n2,4\n", "row 3: its time, 2, is before the last one"),
        ("time,v\n1,2\n3,3\n3,4\n", "row 3: its time, 3, is repeated"),
        ("time,a,b\n1,2,3\n", "no column 'c'"),
    ],
)
def test_parse_csv_rejects_bad_tables(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse_csv(text, "t.csv", ["c"] if "'c'" in message else [])
    print(caught.value)
    assert "\n" not in str(caught.value)
    assert "t.csv" in str(caught.value)


def test_read_file_rejects_other_files(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        read_file(tmp_path / "none.csv")
    file = tmp_path / "t.csv"
    file.write_bytes(b"time,v\n1,\xff\xfe\n")
    with pytest.raises(BadInput, match="UTF-8"):
        read_file(file)
    with pytest.raises(BadInput, match="t, row 3: 1 cells, but 2 names"):
        parse_csv("time,v\n1,2\n2,3\0\n" + '"' + "x" * 200_000 + '"\n', "t")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("time,value,value\n1,2,3\n2,3,4\n", [], "2 columns called 'value'"),
        ("time,value, value\n1,2,3\n2,3,4\n", [], "2 columns called 'value'"),
        ("time,time,value\n1,2,3\n2,3,4\n", [], "2 columns called 'time'"),
        ("time,a,b\n1,2,3\n2,3,4\n", ["a", "a"], "you name 2 columns called 'a'"),
    ],
)
def test_duplicate_column_names_are_refused(text, columns, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse_csv(text, "t.csv", columns)
    print(caught.value)


def test_index_column_of_pandas_is_no_series():
    assert parse_csv(",time,v\n0,2020-01-01,5\n1,2020-01-02,6\n", "t").columns == ("v",)
    assert parse_csv("Unnamed: 0,time,v\n7,2020-01-01,5\n3,2020-01-02,6\n", "t").columns == ("v",)
    with pytest.raises(BadInput, match="only row numbers"):
        parse_csv("Unnamed: 0\n1\n2\n", "t")
    # times may be a pandas index, and have no name
    found = parse_csv(",v\n2020-01-01,5\n2020-01-02,6\n", "t")
    assert (found.columns, found.unit) == (("v",), "seconds")
    # spreadsheets leave empty columns
    assert parse_csv("time,v,,\n1,5,,\n2,6,,\n", "t").columns == ("v",)


@pytest.mark.parametrize(
    ("text", "first", "step"),
    [
        ("year,month,day,v\n2020,1,31,5\n2020,2,1,6\n", "2020-01-31", 86400.0),
        ("No,year,month,day,hour,v\n1,2020,1,31,23,5\n2,2020,2,1,0,6\n", "2020-01-31 23:00", 3600.0),
        ("Year,Month,v\n2020,12,5\n2021,1,6\n", "2020-12", 1.0),
        ("v,yr,mo,dy,hr,min\n5,2020,12,31,23,45\n6,2021,1,1,0,0\n", "2020-12-31 23:45", 900.0),
        ("date,time,v\n2020-01-31,23:30,5\n2020-01-31,23:45,6\n", "2020-01-31 23:30", 900.0),
        ("date,hour,v\n2020-01-31,9,5\n2020-01-31,10,6\n", "2020-01-31 09:00", 3600.0),
        ("date,hour,v\n2020-01-31,23,5\n2020-01-31,24,6\n", "2020-01-31 23:00", 3600.0),
        ("year,month,day,hour,v\n2020,1,31,24,5\n2020,2,1,1,6\n", "2020-02-01 00:00", 3600.0),
        ("date,time,v\n20200131,0930,5\n20200131,1000,6\n", "2020-01-31 09:30", 1800.0),
        ("Date;Time;v\n31/01/2020;09.30.00;5\n31/01/2020;10.00.00;6\n", "2020-01-31 09:30", 1800.0),
        ("year,quarter,v\n2020,4,5\n2021,1,6\n", "2020Q4", 3.0),
        ("year,qtr,v\n2020,Q4,5\n2021,Q1,6\n", "2020Q4", 3.0),
        ("year,week,v\n2020,53,5\n2021,1,6\n", "2020-W53", 604800.0),
        ("year,doy,v\n2020,366,5\n2021,1,6\n", "2020-12-31", 86400.0),
        ("year,month,v\n2020,December,5\n2021,January,6\n", "2020-12", 1.0),
    ],
)
def test_times_in_several_columns_are_joined(text, first, step):
    found = parse_csv(text, "t")
    print(found.columns, found.calendar.format(found.times[0]))
    assert found.columns[-1] == "v"
    assert found.columns == ("v",)
    assert found.calendar.format(found.times[0]) == first
    assert np.diff(found.times)[0] == pytest.approx(step)


def test_times_in_several_columns_name_a_wrong_row():
    with pytest.raises(BadInput, match="row 2: year 2020, month 2, day 30 is no date") as caught:
        parse_csv("year,month,day,v\n2020,2,29,5\n2020,2,30,6\n", "t")
    print(caught.value)
    # beside a column of dates they say nothing new, or are readings
    found = parse_csv("date,year,month,v\n2020-01-01,2020,1,5\n2020-01-02,2020,1,6\n", "t")
    assert (found.columns, found.description) == (
        ("v",),
        "columns that repeat the dates left out: year, month",
    )
    found = parse_csv("date,month,v\n2020-01-01,9,5\n2020-01-02,8,6\n", "t")
    assert found.columns == ("month", "v")


@pytest.mark.parametrize("minutes", [60, 30])
def test_repeated_autumn_hour_asks_for_offsets(minutes):
    night = [f"2016-10-30 {hour:02}:{m:02}" for hour in (1, 2, 2, 3) for m in range(0, 60, minutes)]
    night = night[: 60 // minutes] + sorted(set(night))[60 // minutes : 2 * 60 // minutes] * 2 + night[-1:]
    text = "time,v\n" + "".join(f"{cell},{i}\n" for i, cell in enumerate(night))
    with pytest.raises(BadInput) as caught:
        parse_csv(text, "t")
    print(night, caught.value)
    assert "clocks were set back" in str(caught.value)
    assert "2016-10-30T02:00+01:00" in str(caught.value)
    assert "sort" not in str(caught.value)
    assert "keep one" not in str(caught.value)


def test_text_columns_are_left_out():
    found = parse_csv("time,weather,v\n1,rain,5\n2,sun,6\n", "t")
    assert found.columns == ("v",)
    assert found.description == "columns of text left out: weather"
    with pytest.raises(BadInput, match="weather is 'rain', no number"):
        parse_csv("time,weather,v\n1,rain,5\n2,sun,6\n", "t", ["weather"])
    with pytest.raises(BadInput, match="columns of text left out: weather"):
        parse_csv("time,weather\n1,rain\n2,sun\n", "t")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,5", "2"], [1.5, 2]),
        (["1.234,5", "2.234,5"], [1234.5, 2234.5]),
        (["1,234.5", "999"], [1234.5, 999]),
        (["1 234", "1\u00a0235"], [1234, 1235]),
        (["\u22121.5", "2"], [-1.5, 2]),
        (["12.5 °C", "13 °C"], [12.5, 13]),
        (["5kWh", "6kWh"], [5, 6]),
        (["12 %", "13%"], [12, 13]),
        (["#N/A", "7"], [np.nan, 7]),
        ([".", "7"], [np.nan, 7]),
        (["1e3", "-.5"], [1000, -0.5]),
    ],
)
def test_values_as_people_write_them(cells, values):
    found = parse_csv("time;v\n" + "".join(f"{i};{cell}\n" for i, cell in enumerate(cells)), "t")
    print(cells, found.values.ravel(), found.description)
    assert found.values[:, 0] == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time;v\n1;1,234\n2;2,345\n", "1,234, which may be 1234 or 1.234"),
        ("time,v\n1,1_000\n2,2_000\n", "columns of text left out: v"),  # a number to Python only
        ("time,v\n1,5 m\n2,6 km\n", "columns of text left out: v"),
        ("time,v\n1,inf\n2,5\n", "v is 'inf', no number"),
        ("id,time,v\nA,1,5\nA,2,6\nB,1,7\nB,2,8\n", "several series, told apart by 'id'"),
        ("time,shop,v\n1,1,5\n1,2,7\n2,1,6\n2,2,8\n", "several series, told apart by 'shop'"),
        ("id,2020-01-01,2020-01-02\nA,5,6\n", "transpose it, a row for each time"),
        ("Year," + ",".join(MONTHS) + "\n2020" + ",5" * 12 + "\n2021" + ",6" * 12 + "\n", "column for each month"),
        ("time v\n2020-01-01T00:00 5\n2020-01-02T00:00 6\n", "separate cells by commas, semicolons or tabs"),
        ("time,v\n1,5\n1,6\n2,7\n", "row 2: its time, 1, is repeated: keep one"),
    ],
)  # fmt: skip
def test_parse_csv_names_what_is_wrong(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse_csv(text, "t")
    print(caught.value)


def test_decimal_mark_is_that_of_the_other_columns():
    found = parse_csv("time;a;b;c\n1;1,234;1,5;Paris, Texas\n2;2,345;2,5;Rome\n", "t")
    assert found.values.tolist() == [[1.234, 1.5], [2.345, 2.5]]
    assert parse_csv("time;a;b\n1;1,234;1,234.5\n2;2,345;2,5\n", "t", ["a"]).values[0] == 1234


def test_parse_csv_skips_what_stands_before_the_names():
    rows = "1;5\n2;6\n"
    for before in ("", "# a station\n# °C\n", "sep=;\n"):
        assert parse_csv(f"{before}time;v\n{rows}", "t").values.ravel().tolist() == [5, 6]
    assert parse_csv(f"#time;v\n{rows}", "t").columns == ("v",)


def test_columns_that_are_no_readings_are_left_out_and_named():
    text = "id,date,month,v,empty\n1,2020-01-01,1,5,\n2,2020-01-02,1,6,NA\n"
    assert parse_csv("rownames,time,v\n1,1960.5,5\n2,1961.5,6\n", "t").columns == ("v",)  # as R writes it
    found = parse_csv(text, "t")
    print(found.description)
    assert found.columns == ("v",)
    for kind in (
        "of row numbers left out: id",
        "the dates left out: month",
        "without a number left out: empty",
    ):
        assert kind in found.description
    assert parse_csv(text, "t", ["id"]).values.ravel().tolist() == [1, 2]  # asked for by name


def test_rows_that_are_the_same_are_dropped_and_counted():
    found = parse_csv("time,v\n1,5\n2,6\n2,6\n3,7\n", "t")
    assert (found.times.tolist(), found.description) == ([1, 2, 3], "1 duplicate time dropped")
    night = "time,v\n2024-10-27 01:00,5\n2024-10-27 02:00,6\n2024-10-27 02:00,6\n"
    with pytest.raises(BadInput, match="both hours are real"):
        parse_csv(night, "t")
