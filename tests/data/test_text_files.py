"""Text files and their tables: byte-order marks, long cells, what separates cells, cells that are missing."""

import math

import pytest

from torchstone.data.text_files import find_delimiter, optional_text, read_rows, read_utf8
from torchstone.errors import BadInput


def test_read_utf8_without_mark_and_with_newlines(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    print(repr(read_utf8(file)))
    assert read_utf8(file) == "one\ntwo\nthree\n"
    file.write_bytes(b"one\xff")
    with pytest.raises(BadInput, match=r"not UTF-8 \(byte 3\)"):
        read_utf8(file)
    with pytest.raises(BadInput, match="cannot be read"):
        read_utf8(tmp_path / "none.txt")


def test_read_rows_cells_of_any_length():
    rows = read_rows(f"a,b\n\n{'x' * 300_000},1\n", "table", ",")
    print([list(map(len, row)) for row in rows])
    assert rows == [["a", "b"], ["x" * 300_000, "1"]]


SEPARATED = {
    "text,label\na; b,1\nc; d,2": ",",
    "text;label\na, b;1\nc, d;2": ";",
    "a, b;1\nc;2": ";",
    "a, b\t1\nc\t2": "\t",
    "a;b,1\nc,2": ",",
    "one word\nanother": ",",
}


@pytest.mark.parametrize("text", SEPARATED)
def test_find_delimiter(text):
    found = find_delimiter(text, "table", lambda row: "label" in row)
    print(repr(found))
    assert found == SEPARATED[text]


def test_find_delimiter_ambiguous_names_both_readings():
    with pytest.raises(BadInput, match="separated by comma and by semicolon") as caught:
        find_delimiter("a,b;1\nc,d;2", "table", lambda row: "label" in row)
    print(caught.value)


def test_optional_text_missing_is_no_word():
    assert [optional_text(each, "x") for each in (None, math.nan, "None", 3, 2.5)] == [
        None,
        None,
        "None",
        "3",
        "2.5",
    ]
    with pytest.raises(BadInput, match="x holds a list, not a text"):
        optional_text(["a"], "x")
