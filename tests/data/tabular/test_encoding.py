"""Columns as numbers, categories and dates: what each is taken for, and what is refused."""

import json
from datetime import date, datetime

import numpy as np
import pytest

from torchstone.data.tabular.encoding import CategoryColumn, NumberColumn, Schema, infer_schema, kind_of
from torchstone.errors import BadInput


def schema_of(columns, train=None, **options):
    rows = len(next(iter(columns.values())))
    chosen = np.ones(rows, dtype=bool) if train is None else train
    return infer_schema("t", columns, chosen, **options)


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("x", ["1", "2.5", "-3e2"], "number"),
        ("x", [1, None, 2.5], "number"),
        ("x", ["1", "", "NA"], "number"),
        ("x", ["1,234", "12", "1,234,567.5"], "number"),
        ("x", ["1.234,5", "12", "3,25"], "number"),
        ("x", ["$ 12", "$1,000"], "number"),
        ("x", ["12 %", "7%"], "number"),
        ("x", ["1 234", "12", "1\u202f234\u202f567,5", "1'000"], "number"),
        ("x", ["\u22121.5", "2"], "number"),
        ("x", ["1", "#N/A", ".", "-", "unknown", "2"], "number"),
        ("x", ["1_2", "3_4", "1_2"], "category"),
        ("x", ["unknown", "dog", "-"], "category"),
        ("x", [[1.0], None], "structure"),
        ("x", [b"\xff", None], "structure"),
        ("x", ["red", "blue", "red"], "category"),
        ("x", [True, False, None], "category"),
        ("x", ["A1", "B2", "3"], "category"),
        ("x", ["none", "mild", "none"], "category"),
        ("x", ["2020-01-01", "2020-02-01"], "date"),
        ("x", [date(2020, 1, 1), datetime(2020, 2, 1, 12)], "date"),
        ("sold on (date)", ["20200131", "20200201"], "date"),
        ("x", ["20200131", "20200201"], "number"),
        ("date", ["20200131", "20200199"], "number"),
        *(
            (name, ["3", "1", "2"], "row number")
            for name in ("id", "PassengerId", "user_id", "row", "level_0")
        ),
        ("user_id", ["3", "1", "1"], "number"),
        ("acid", ["3", "1", "2"], "number"),
        ("x", ["3", "1", "2"], "number"),
        ("x", [f"a sentence of its own, number {i}" for i in range(200)], "text"),
        ("x", ["", None, "NA"], "empty"),
    ],
)
def test_kind_of_columns(name, cells, kind):
    print(name, cells[:3], kind_of("t", name, cells))
    assert kind_of("t", name, cells) == kind


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1", "2", "3", "oops", "5", "6"], "'x' in data row 4 is 'oops', where most are numbers"),
        (["1,234", "5,678"], "which may be 1234 or 1.234"),
        (["1,234", "5,678", "4000"], "which may be 1234 or 1.234"),
        (["1/2/2020", "3/2/2020"], r"1/2/2020.*may be 2020-02-01 \(day first\) or 2020-01-02"),
        (["12%", "0.5", "7%"], "with the signs none and '%'"),
        (["$12", "€5"], r"with the signs '\$' and '€'"),
        ([1.0, float("inf"), float("inf")], "holds inf, and a number is finite"),
        (["1", "++inf", "2"], r"is '\+\+inf', where most are numbers"),
        (["1", "-Infinity", "2"], "holds -Infinity, and a number is finite"),
    ],
)
def test_kind_of_refuses_two_readings(cells, message):
    with pytest.raises(BadInput, match=message) as caught:
        kind_of("t", "x", cells)
    print(caught.value)


def test_statement_of_missing_counts_words_among_numbers():
    columns = {"x": ["1", "-", "2", "3"], "y": ["1", "2", "3", "4"], "z": ["-", "a", "-", "a"]}
    _, notes = infer_schema("t", columns, np.ones(4, dtype=bool))
    print(notes)
    assert notes == ["missing values in 1 column"]


def test_numbers_as_text_have_their_values():
    columns = {"a": ["1,234", "12", "1,234,567.5"], "b": ["1.234,5", "12", "3,25"], "c": ["$5", "", "$1,000"]}
    schema, notes = schema_of(columns)
    encoded = schema.encode("t", columns)
    print(encoded, notes)
    assert encoded[:, 0].tolist() == [1234, 12, 1234567.5]
    assert encoded[:, 1].tolist() == [1234.5, 12, 3.25]
    assert np.isnan(encoded[1, 2])
    assert encoded[2, 2] == 1000
    assert notes == ["missing values in 1 column"]
    # how the column writes decimals is the training's, where a file of one row could not say
    assert schema.encode("t", {"a": ["1,234"], "b": ["1,234"], "c": ["7"]}).tolist() == [[1234, 1.234, 7]]


def test_categories_unknown_and_missing_are_zero():
    columns = {"x": ["b", "a", "b", "", "c"]}
    schema, _ = schema_of(columns, np.array([True, True, True, True, False]))
    assert schema.columns == (CategoryColumn("x", ("b", "a")),)
    assert schema.encode("t", columns)[:, 0].tolist() == [1, 2, 1, 0, 0]
    # whole numbers are one category, however a column with gaps stores them
    codes, _ = schema_of({"x": [1.0, 2.0, None]}, categorical=["x"])
    assert codes.encode("t", {"x": ["1", 2, "3"]})[:, 0].tolist() == [1, 2, 0]


def test_dates_are_days_and_what_comes_again():
    columns = {"when": ["2024-02-29 18:00", "2024-03-04 06:00", ""]}
    schema, _ = schema_of(columns)
    encoded = schema.encode("t", columns)
    assert [column.name for column in schema.columns] == [
        "when days",
        "when month",
        "when weekday",
        "when hour",
    ]
    assert encoded[0].tolist() == [19782.75, 2, 3, 18]  # a Thursday
    assert encoded[1].tolist() == [19786.25, 3, 0, 6]
    assert np.isnan(encoded[2]).all()
    assert schema_of({"day": ["20240229", "20240304"]})[0].encode("t", {"day": ["20240301"]})[0, 0] == 19783


def test_statistics_are_of_the_training_rows():
    columns = {"x": ["1", "3", "1000"]}
    schema, _ = schema_of(columns, np.array([True, True, False]))
    (column,) = schema.columns
    assert isinstance(column, NumberColumn)
    print(column)
    assert (column.mean, column.std, column.median) == (2, 1, 2)
    assert (min(column.edges), max(column.edges)) == (1, 3)
    assert Schema.from_metadata(schema.to_metadata()) == schema


def test_bins_resolve_rare_values():
    """Where most values are 0, quantiles alone would put all others into one bin."""
    cells = ["0"] * 950 + [str(i) for i in range(1, 51)]
    (column,) = schema_of({"x": cells}, bins=32)[0].columns
    inside = [edge for edge in column.edges if 0 < edge < 50]
    print(column.edges)
    assert len(inside) >= 10


def test_what_says_nothing_is_left_out_and_said():
    columns = {"same": ["5", "5", "5"], "none": ["", "", ""], "index": ["1", "2", "3"], "x": ["1", "2", "4"]}
    schema, notes = schema_of(columns)
    print(notes)
    assert schema.sources() == ("x",)
    assert notes == ["left out: same (constant)", "left out: none (empty)", "left out: index (row numbers)"]
    with pytest.raises(BadInput, match="no column to predict from"):
        schema_of({"same": ["5", "5"]})
    with pytest.raises(BadInput, match="no column 'y' to be categorical"):
        schema_of(columns, categorical=["y"])


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("d", [f"{1 + i % 28:02}/{1 + i % 12:02}/2024" for i in range(60)], "date"),
        ("d", [f"{1 + i % 12}/{1 + i % 28}/2024 3:05 PM" for i in range(60)], "date"),
        ("joined", ["3 Jan 2024", "14 Feb 2024"], "date"),
        ("course", ["2020-1", "2020-2"] * 30, "category"),  # no month by its name
        ("version", ["1.2.10", "1.2.3"] * 30, "category"),
        ("zip", ["01067", "80331"] * 30, "category"),  # numbers have no 0 before them
        ("code", ["1_1", "1_2"] * 30, "category"),
        ("customer_id", list(range(1000, 1200)), "row number"),
        ("PassengerId", [str(i) for i in range(1, 200)], "row number"),
        ("paid", list(range(200)), "number"),
    ],
)
def test_kind_of_dates_and_codes(name, cells, kind):
    assert kind_of("t", name, cells) == kind


def test_dates_keep_their_order_of_day_and_month():
    """One row does not say it: the training data did."""
    cells = {"d": ["31/01/2024", "01/02/2024", "05/03/2024"]}
    schema, _ = infer_schema("t", cells, np.ones(3, bool))
    again = Schema.from_metadata(json.loads(json.dumps(schema.to_metadata())))
    found = again.encode("t", {"d": ["02/03/2024"]})[0]
    print([column.name for column in again.columns], found)
    assert found[[column.name for column in again.columns].index("d month")] == 3
    with pytest.raises(BadInput, match=r"may be .* \(day first\) or"):
        infer_schema("t", {"d": ["01/02/2024", "05/03/2024"]}, np.ones(2, bool))


def test_decimal_mark_of_a_file_to_predict_is_its_own():
    schema, _ = infer_schema("t", {"a": ["1.5", "2.5", "1,234.5"]}, np.ones(3, bool))
    found = schema.encode("t", {"a": ["0,5", "1.234,5"]})[:, 0].tolist()
    assert found == [0.5, 1234.5]
    assert schema.encode("t", {"a": ["1,234"]})[0, 0] == 1234  # as in training, where it may be either
