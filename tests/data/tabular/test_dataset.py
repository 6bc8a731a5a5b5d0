"""Tables: reading, splits, and error messages."""

from datetime import datetime, time
from decimal import Decimal

import numpy as np
import pytest
import torch

from torchstone.data.tabular.dataset import TableBatches, is_table, load_rows, load_table
from torchstone.data.tabular.files import read_columns
from torchstone.data.tabular.points import load_points
from torchstone.errors import BadInput


def csv_file(folder, text, name="t.csv"):
    file = folder / name
    file.write_text(text)
    return file


GOOD = "".join(f"{i}.5,{-i},{'ab'[i % 2]}\n" for i in range(10))


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2)],
)
def test_load_table_bundled_match_scikit_learn(name, rows, features, classes):
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    table = load_table(name)
    assert table.x.shape == (rows, features) == (rows, len(table.features))
    assert len(table.classes) == classes
    assert np.array_equal(table.x.numpy(), x)
    assert np.array_equal(table.y.numpy(), y)


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_load_table_splits_are_stratified_partition(name):
    table = load_table(name)
    together = torch.cat(list(table.splits.values()))
    sizes = {split: len(index) for split, index in table.splits.items()}
    print(name, sizes, table.description)
    assert sorted(together.tolist()) == list(range(len(table.x)))
    for split, index in table.splits.items():
        counts = torch.bincount(table.y[index]) / torch.bincount(table.y)
        share = {"train": 0.6, "val": 0.2, "test": 0.2}[split]
        assert (counts - share).abs().max() < 0.02
        assert index.tolist() == sorted(index.tolist())  # file order


def test_load_table_xor():
    table = load_table("xor")
    for split in ("train", "val", "test"):
        x, y = table.rows_of(split)
        assert [int(a) ^ int(b) for a, b in x.tolist()] == y.tolist()


@pytest.mark.parametrize("head", ["", "one,two,label\n", "one,two,whatever\n", "\ufeffone,two,Species\n"])
def test_load_table_csv_with_and_without_header(tmp_path, head):
    table = load_table(csv_file(tmp_path, head + GOOD))
    assert table.x.shape == (10, 2)
    assert table.classes == ("a", "b")
    assert table.x[3].tolist() == [3.5, -3.0]
    assert table.y.tolist() == [0, 1] * 5
    assert table.features == (("one", "two") if head else ("column 1", "column 2"))


@pytest.mark.parametrize("mark", [";", "\t"])
def test_load_table_separators_and_label_column(tmp_path, mark):
    text = "one,Class,two\n" + "".join(f"{i},{10 - i % 2},{i}\n" for i in range(8))
    table = load_table(csv_file(tmp_path, text.replace(",", mark)))
    assert table.features == ("one", "two")
    assert table.classes == ("9", "10")  # numbers sort as numbers
    assert table.y.tolist() == [1, 0] * 4


def test_load_table_parquet_equals_csv(tmp_path):
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "t.parquet"
    columns = {"one": [i + 0.5 for i in range(10)], "two": [-i for i in range(10)]}
    parquet.write_table(pyarrow.table(columns | {"label": list("ab" * 5)}), file)
    a, b = load_table(file), load_table(csv_file(tmp_path, "one,two,label\n" + GOOD))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.y, b.y)
    assert (a.features, a.classes) == (b.features, b.classes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("1,2,a\n2,3,a\n3,4,a\n", "one class only"),
        ("x,y,label\n" + GOOD + "7,oops,a\n", "feature 'y' in data row 11 is 'oops'"),
        ("x,y,label\n" + GOOD + "7,,a\n", "feature 'y' in data row 11 is empty"),
        ("x,y,label\n" + GOOD + "7,nan,a\n", "no finite number"),
        ("x,y,label\n" + GOOD + "7,1e39,a\n", "'1e39', which is no finite number up to 1e+38"),
        (GOOD + "1,2\n", "row 11: 2 cells where row 1 has 3"),
        (GOOD + "1,2,c\n", "class 'c'"),
        ("".join(f"{i},{i * 1.1}\n" for i in range(30)), "numbers to be predicted"),
        ("1\n2\n3\n", "one column"),
        (GOOD + "1,2,\n", "the label"),
    ],
)
def test_load_table_error_messages(tmp_path, text, says):
    with pytest.raises(BadInput) as caught:
        load_table(csv_file(tmp_path, text))
    print(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_table_missing_and_unreadable_files(tmp_path):
    with pytest.raises(BadInput, match="did you mean iris"):
        load_table("irsi")
    with pytest.raises(BadInput, match=r"missing\.csv"):
        load_table(tmp_path / "missing.csv")
    for name in ("t.csv", "t.parquet"):
        file = tmp_path / name
        file.write_bytes(b"\xff\xfe\x00broken\x9d")
        with pytest.raises(BadInput) as caught:
            load_table(file)
        print(caught.value)
        assert "\n" not in str(caught.value)


def test_load_table_refuses_damaged_pandas_metadata(tmp_path):
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "t.parquet"
    table = pyarrow.table({"one": [1.5, 2.5], "label": ["a", "b"]})
    for damaged in (b"{", b"[]", b'{"index_columns": 1}'):
        parquet.write_table(table.replace_schema_metadata({b"pandas": damaged}), file)
        with pytest.raises(BadInput, match="is damaged: what pandas wrote") as caught:
            load_table(file)
        print(caught.value)


def test_is_table():
    assert all(map(is_table, ("iris", "xor", "a.csv", "B.CSV", "x/y.parquet")))
    assert is_table("iris:setosa")
    assert is_table("my.csv:spam")
    assert not any(map(is_table, ("C:/photos", "digits:3", "digits", "photos", "hf:name/set", "mnist5k")))


def test_load_rows(tmp_path):
    names = ("one", "two")
    assert load_rows("1.5,-2", names).tolist() == [[1.5, -2.0]]
    swapped = csv_file(tmp_path, "two,extra,one\n2,0,1\n4,0,3\n")
    assert load_rows(swapped, names).tolist() == [[1, 2], [3, 4]]
    bare = csv_file(tmp_path, "1,2\n3,4\n", "bare.csv")
    assert load_rows(bare, names).tolist() == [[1, 2], [3, 4]]
    labelled = csv_file(tmp_path, "1,2,a\n3,4,b\n", "labelled.csv")
    assert load_rows(labelled, names).tolist() == [[1, 2], [3, 4]]
    for bad in ("1,2,3", "nonsense", csv_file(tmp_path, "1\n2\n", "one.csv")):
        with pytest.raises(BadInput) as caught:
            load_rows(bad, names)
        print(caught.value)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 7, 10, 64])
def test_table_batches_epochs_and_resume(shuffle, batch):
    x = torch.arange(10, dtype=torch.float64)[:, None]
    rows = TableBatches(x, torch.arange(10), batch, seed=5, shuffle=shuffle)
    seen = [next(rows) for _ in range(40)]
    flat = torch.cat([y for _, y in seen])
    whole = flat[: len(flat) // 10 * 10].view(-1, 10)
    assert (whole.sort(1).values == torch.arange(10)).all()
    if shuffle and len(whole) > 1:
        assert not torch.equal(whole[0], whole[1])
    if not shuffle:
        assert torch.equal(whole[0], torch.arange(10))
    resumed = TableBatches(x, torch.arange(10), batch, seed=5, shuffle=shuffle)
    for _ in range(13):
        next(resumed)
    again = TableBatches(x, torch.arange(10), batch, seed=5, shuffle=shuffle)
    again.load_state_dict(resumed.state_dict())
    for x_, y_ in seen[13:]:
        a, b = next(again)
        assert torch.equal(a, x_)
        assert torch.equal(b, y_)


def test_load_table_one_vs_rest():
    whole, table = load_table("iris"), load_table("iris:versicolor")
    assert table.classes == ("rest", "versicolor")
    assert torch.equal(table.y, (whole.y == 1).long())
    assert torch.equal(table.x, whole.x)
    with pytest.raises(BadInput, match="did you mean versicolor"):
        load_table("iris:versicolour")


def test_load_table_select_by_name(tmp_path):
    table = load_table(csv_file(tmp_path, "two,one,label\n" + GOOD)).select(["one", "two"])
    assert table.features == ("one", "two")
    assert table.x[3].tolist() == [-3.0, 3.5]
    with pytest.raises(
        BadInput, match="has no column 'three': it has one, two; the model was trained on one, three"
    ):
        table.select(["one", "three"])


def test_load_rows_names_decide_in_a_file_with_header(tmp_path):
    """A misspelt name is no reason to go by position: the columns may stand in any order."""
    names = ("one", "two")
    for text in ("two,noe\n2,1\n4,3\n", "two,noe,label\n2,1,a\n4,3,b\n"):
        with pytest.raises(BadInput) as caught:
            load_rows(csv_file(tmp_path, text), names)
        print(caught.value)
        assert "has no column 'one': it has two, noe" in str(caught.value)
        assert "trained on one, two" in str(caught.value)
    # one row is enough to see that the first one is a header
    assert load_rows(csv_file(tmp_path, "two,one\n2,1\n"), names).tolist() == [[1, 2]]
    # of a model without names, positions are names
    positions = ("column 1", "column 2")
    assert load_rows(csv_file(tmp_path, "a,b,label\n1,2,x\n3,4,y\n"), positions).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("where", ["unnamed", "named", "range"])
def test_parquet_index_of_pandas_is_no_feature(tmp_path, where):
    import pandas

    frame = pandas.DataFrame({"a": range(12), "b": [-i for i in range(12)], "label": list("ab" * 6)})
    frame = frame if where == "range" else frame.sample(frac=1, random_state=0)
    if where == "named":
        frame.index.name = "row"
    frame.to_parquet(tmp_path / "t.parquet")
    table = load_table(tmp_path / "t.parquet")
    print(table.description)
    assert table.features == ("a", "b")
    assert ("index left out" in table.description) == (where != "range")
    frame.set_index("label").to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(BadInput, match="'label' is the index of a pandas frame"):
        load_table(tmp_path / "labels.parquet")


@pytest.mark.parametrize(
    "head",
    [
        *(",one,two,label\n", "Unnamed: 0,one,two,label\n", '"","one","two","label"\n', "one,two,label\n"),
        *("Unnamed: 0.1,one,two,label\n", "__index_level_0__,one,two,label\n"),
    ],
)
def test_csv_index_of_pandas_and_r_is_no_feature(tmp_path, head):
    rows = "".join(f"{9 - i},{i}.5,{-i},{'ab'[i % 2]}\n" for i in range(10))
    table = load_table(csv_file(tmp_path, head + rows))
    print(table.description)
    assert table.features == ("one", "two")
    assert table.x[3].tolist() == [3.5, -3.0]
    assert "index left out" in table.description
    assert load_rows(csv_file(tmp_path, head + rows), ("one", "two"))[3].tolist() == [3.5, -3.0]


def test_indices_of_a_table_that_was_read_and_written_again_are_no_features(tmp_path):
    rows = "".join(f"{i},{9 - i},{i}.5,{-i},{'ab'[i % 2]}\n" for i in range(10))
    for head in ("Unnamed: 0.1,Unnamed: 0,", ",Unnamed: 0,"):
        table = load_table(csv_file(tmp_path, head + "one,two,label\n" + rows))
        print(table.description)
        assert table.features == ("one", "two")


def test_parquet_index_without_the_metadata_of_pandas(tmp_path):
    """As other programs write the file again."""
    import pandas
    import pyarrow
    from pyarrow import parquet

    frame = pandas.DataFrame({"a": range(12), "label": list("ab" * 6)}).sample(frac=1, random_state=0)
    table = pyarrow.Table.from_pandas(frame).replace_schema_metadata(None)
    assert "__index_level_0__" in table.column_names
    parquet.write_table(table, tmp_path / "t.parquet")
    read = load_table(tmp_path / "t.parquet")
    print(read.description)
    assert read.features == ("a",)
    assert "index left out: '__index_level_0__'" in read.description


@pytest.mark.parametrize("read", [load_table, load_points], ids=["table", "points"])
def test_row_numbers_are_no_features(tmp_path, read):
    rows = "".join(f"{7 * i},{i}.5,{-i * i},{'ab'[i > 4]}\n" for i in range(10))
    data = read(csv_file(tmp_path, "customer_id,one,two,label\n" + rows))
    print(data.description)
    assert data.features == ("one", "two")
    assert "left out: customer_id (row numbers)" in data.description


DELIMITED = {
    "decimal commas": ("1,5;2,25;a\n3,5;4,25;b\n", ["1,5", "2,25", "a"]),
    "names with commas": ('"size, cm";"weight, kg";label\n1;2;a\n', ["1", "2", "a"]),
    "stated": ("sep=;\none;label\n1,5;a\n", ["1,5", "a"]),
    "bars": ("one|two|label\n1|2|a\n", ["1", "2", "a"]),
}


@pytest.mark.parametrize("kind", DELIMITED)
def test_read_columns_finds_what_separates_cells(tmp_path, kind):
    text, first = DELIMITED[kind]
    columns = read_columns(csv_file(tmp_path, text))
    print(columns)
    assert [cells[0] for cells in columns.cells] == first


@pytest.mark.parametrize(
    "row", ["1,5;2,25", "$ 12;3 %", "2024-01-05;12:30", "1/2/2024;-3", "1 234;5", "\u22121,5;1e3"]
)
def test_first_row_of_numbers_or_dates_is_no_header(tmp_path, row):
    """However they are written; and where all others have other values."""
    assert read_columns(csv_file(tmp_path, row + "\n7,5;8\n9;6,5\n")).names is None
    assert read_columns(csv_file(tmp_path, f"a;b\n{row}\n")).names == ("a", "b")


def test_read_columns_of_white_space_and_of_two_readings(tmp_path):
    (tmp_path / "t.txt").write_text("one  two label\n1 2   a\n3 4 b\n")
    assert read_columns(tmp_path / "t.txt").cells == [["1", "3"], ["2", "4"], ["a", "b"]]
    with pytest.raises(BadInput, match="separated by ',' and by ';'") as caught:
        read_columns(csv_file(tmp_path, "a,b;c\nd,e;f\n"))
    print(caught.value)


def test_parquet_columns_of_every_type(tmp_path):
    """Seconds of durations and times; text of bytes; a folder's name is no column."""
    import pyarrow
    from pyarrow import parquet

    columns = {
        "duration": pyarrow.array([90_000, None], pyarrow.duration("ms")),
        "time": pyarrow.array([time(1, 0, 30), None]),
        "decimal": pyarrow.array([Decimal("1.50"), None]),
        "bytes": pyarrow.array([b"caf\xc3\xa9", None]),
        "moment": pyarrow.array([1_500_000_000_123_456_789, None]).cast(pyarrow.timestamp("ns")),
        "word": pyarrow.array(["a", None]).dictionary_encode(),
        "list": pyarrow.array([[1], None]),
    }
    folder = tmp_path / "label=3"
    folder.mkdir()
    parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
    read = read_columns(folder / "t.parquet")
    print(read)
    assert read.names == tuple(columns)
    moment = datetime(2017, 7, 14, 2, 40, 0, 123456)
    assert [cells[0] for cells in read.cells] == [90.0, 3630.0, 1.5, "café", moment, "a", [1]]
    assert all(cells[1] is None for cells in read.cells)
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    parquet.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(BadInput, match="2 columns called 'a'"):
        read_columns(tmp_path / "t.parquet")
    parquet.write_table(pyarrow.table({"a": [1.5, 2.5], "label": [[1], [0]]}), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match="'label' holds lists, structures or bytes, no labels"):
        load_table(tmp_path / "t.parquet")


def test_two_columns_named_as_labels_are_refused(tmp_path):
    rows = "".join(f"{i}.5,{i % 3},{'ab'[i % 2]}\n" for i in range(10))
    with pytest.raises(BadInput, match="class and target, and each may be the label: rename") as caught:
        load_table(csv_file(tmp_path, "one,class,target\n" + rows))
    print(caught.value)


def test_csv_separator_at_the_end_of_each_row_is_no_index(tmp_path):
    rows = "".join(f"{i}.5,{-i},{'ab'[i % 2]},\n" for i in range(10))
    for head in ("one,two,label\n", "one,two,label,\n"):
        table = load_table(csv_file(tmp_path, head + rows))
        assert table.features == ("one", "two")
        assert table.x[3].tolist() == [3.5, -3.0]


@pytest.mark.parametrize("read", [load_table, load_points], ids=["table", "points"])
def test_a_file_of_an_index_alone_is_refused(tmp_path, read):
    with pytest.raises(BadInput, match="no column but its index") as caught:
        read(csv_file(tmp_path, "Unnamed: 0\n1\n2\n"))
    print(caught.value)


def test_duplicate_column_names_are_refused(tmp_path):
    for read in (load_table, lambda file: load_rows(file, ("one", "two"))):
        with pytest.raises(BadInput, match="2 columns called 'one'") as caught:
            read(csv_file(tmp_path, "one,two,one,label\n1,2,3,a\n4,5,6,b\n"))
    print(caught.value)


def test_csv_header_is_not_the_first_row_of_words(tmp_path):
    """Words in the first row are names only where they do not come again below."""
    rows = "".join(f"{'xyz'[i % 3]},{i},{'ab'[i % 2]}\n" for i in range(9))
    with pytest.raises(BadInput, match="feature 'column 1' in data row 1 is 'x'"):
        load_table(csv_file(tmp_path, rows))
