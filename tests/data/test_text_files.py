"""Text files and their tables: byte-order marks, long cells, what separates cells, cells that are missing."""

import math

import numpy as np
import pytest

from torchstone.data.text.classification import read_labeled
from torchstone.data.text.corpus import read_text
from torchstone.data.text.parallel import read_pairs
from torchstone.data.text_files import find_delimiter, optional_text, read_rows, read_utf8
from torchstone.data.vision.dataset import load_images
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


@pytest.mark.parametrize(
    "reader", [read_text, read_pairs, read_labeled, load_images], ids=lambda f: f.__name__
)
def test_cells_of_a_hub_table_that_are_not_utf8_are_one_line(reader, monkeypatch):
    """pyarrow decodes strings as they are read: a table loads, and its cells do not."""
    import datasets
    import pyarrow as pa

    cells = [b"good day", b"bad \xff day", b"good"]
    offsets = np.cumsum([0, *map(len, cells)]).astype(np.int32)
    wrong = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"".join(cells)))
    columns = {"text": wrong, "source": wrong, "target": pa.array(["a", "b", "c"]), "label": wrong}
    if reader is load_images:
        columns = {"image": pa.array([{"bytes": None, "path": "a.png"}] * 3), "label": wrong}
    if reader is read_pairs:
        columns = {name: columns[name] for name in ("source", "target")}
    table = datasets.Dataset(pa.table(columns))
    table = table.cast_column("image", datasets.Image()) if reader is load_images else table
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(train=table))
    options = {"size": 8, "channels": 1} if reader is load_images else {}
    with pytest.raises(BadInput, match=r"hf:x holds text that is not UTF-8 \(invalid start byte\)") as caught:
        reader("hf:x", **options)
    print(caught.value)
