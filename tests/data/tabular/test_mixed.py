"""Tables with a target: which column it is, classes or numbers, rows without one, and splits."""

import numpy as np
import pytest
import torch

from torchstone.data.tabular.encoding import CategoryColumn
from torchstone.data.tabular.mixed import (
    LabeledRows,
    TableConfig,
    load_mixed,
    load_mixed_like,
    load_mixed_rows,
)
from torchstone.errors import BadInput


def write(folder, rows=60, name="t.csv", target=lambda i: "ab"[i % 2], head="size,color,when,price,target"):
    lines = [head]
    for i in range(rows):
        size = "" if i % 10 == 3 else f"{i % 7}.5"
        lines.append(f'{size},{["red", "green"][i % 2]},2024-01-{i % 28 + 1:02},"{i + 1},000.0",{target(i)}')
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def test_load_mixed_reads_every_kind_of_column(tmp_path):
    table = load_mixed(write(tmp_path))
    print(table.description)
    assert [column.name for column in table.schema.columns] == [
        "size", "color", "when days", "when weekday", "price"
    ]  # fmt: skip
    assert table.classes == ("a", "b")
    assert table.x.shape == (60, 5)
    assert int(table.x[:, 0].isnan().sum()) == 6
    assert table.x[:, 4].tolist() == [1000.0 * (i + 1) for i in range(60)]
    sizes = {split: len(index) for split, index in table.splits.items()}
    assert sizes == {"train": 36, "val": 12, "test": 12}
    assert sorted(torch.cat(list(table.splits.values())).tolist()) == list(range(60))
    assert "missing values in 1 column" in table.description


def test_load_mixed_parquet_equals_csv(tmp_path):
    import pandas

    file = write(tmp_path)
    pandas.read_csv(file).to_parquet(tmp_path / "t.parquet")
    ours, theirs = load_mixed(file), load_mixed(tmp_path / "t.parquet")
    assert torch.equal(ours.x.nan_to_num(-1), theirs.x.nan_to_num(-1))
    assert torch.equal(ours.y, theirs.y)


@pytest.mark.parametrize(
    ("target", "options", "classes"),
    [
        (lambda i: i % 3, {}, ("0", "1", "2")),
        (lambda i: i * 1.5, {}, ()),
        (lambda i: i, {}, ()),
        (lambda i: i % 3, {"target_type": "number"}, ()),
        (lambda i: i % 3 + 0.5, {"target_type": "class"}, ("0.5", "1.5", "2.5")),
        (lambda i: i % 2, {"target": "color"}, ("green", "red")),
        (lambda i: i % 2, {"target": "size"}, ()),
    ],
)
def test_load_mixed_targets(tmp_path, target, options, classes):
    table = load_mixed(write(tmp_path, target=target), TableConfig(**options))
    print(table.description)
    assert table.classes == classes
    assert table.target == options.get("target", "target")
    assert table.target not in table.schema.sources()


def test_rows_without_a_target_are_left_out_and_counted(tmp_path):
    file = write(tmp_path, target=lambda i: "" if i % 6 == 0 else "ab"[i % 2])
    table = load_mixed(file)
    print(table.description)
    assert len(table.x) == 50
    assert table.classes == ("a", "b")
    assert "10 rows without 'target' left out" in table.description


@pytest.mark.parametrize("word", ["-", "None", "#N/A", "."])
def test_words_for_missing_among_numbers_of_the_target(tmp_path, word):
    """In evaluation too; among classes such a word may be one."""
    file = write(tmp_path, target=lambda i: word if i % 6 == 0 else i * 1.5)
    table = load_mixed(file)
    print(table.description)
    assert table.classes == ()
    assert len(table.x) == 50
    assert "10 rows without 'target' left out" in table.description
    assert len(load_mixed_like(file, table.schema, "target", ()).x) == 50


def test_one_number_written_in_two_ways_is_one_class(tmp_path):
    table = load_mixed(write(tmp_path, target=lambda i: ("1", "1.0", "0", "0.0")[i % 4]))
    assert table.classes == ("0", "1")
    assert table.y.tolist() == [1, 1, 0, 0] * 15
    floats = write(tmp_path, name="floats.csv", target=lambda i: f"{i % 2}.0")
    read = load_mixed_like(floats, table.schema, "target", table.classes)
    assert read.y.tolist() == [0, 1] * 30


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({}, {"target": "pirce"}, "no column 'pirce' to predict: did you mean price"),
        ({"rows": 8}, {}, "8 rows with 'target': give at least 10"),
        ({"target": lambda i: "a"}, {}, "one class only"),
        ({"target": lambda i: "ab"[i == 5]}, {}, "class 'b' of .* has 1 row"),
        ({"target": lambda i: f"w{i}"}, {}, "60 different values in 60 rows"),
        (
            {"head": "class,color,when,price,target"},
            {},
            "class and target, and each may be the label: name it by --target",
        ),
        ({}, {"target_type": "number"}, "the target 'target' is 'a' in a row, which is no number"),
    ],
)
def test_load_mixed_rejects(tmp_path, changes, config, message):
    with pytest.raises(BadInput, match=message) as caught:
        load_mixed(write(tmp_path, **changes), TableConfig(**config))
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_load_mixed_rows_by_name_and_as_cells(tmp_path):
    table = load_mixed(write(tmp_path))
    other = tmp_path / "new.csv"
    other.write_text('price,when,color,size,extra\n"2,000",2024-01-02,green,,1\n')
    rows = load_mixed_rows(other, table.schema)
    print(rows)
    assert rows[0, 1:].tolist() == [table.schema.columns[1].values.index("green") + 1, 19724, 1, 2000]
    assert rows[0, 0].isnan()
    assert torch.equal(load_mixed_rows("1.5,green,2024-01-02,2000", table.schema)[0, 1:], rows[0, 1:])
    for spec, message in [
        ("1,2", "neither a file nor 4 values"),
        ("x,red,2024-01-02,1", "'size' in data row 1"),
    ]:
        with pytest.raises(BadInput, match=message) as caught:
            load_mixed_rows(spec, table.schema)
        print(caught.value)


def test_load_mixed_like_uses_the_models_schema(tmp_path):
    table = load_mixed(write(tmp_path))
    again = load_mixed_like(tmp_path / "t.csv", table.schema, table.target, table.classes)
    assert torch.equal(again.x.nan_to_num(-1), table.x.nan_to_num(-1))
    for split, index in table.splits.items():
        assert torch.equal(index, again.splits[split])
    file = write(tmp_path, name="o.csv", head="sise,color,when,price,target")
    with pytest.raises(BadInput, match="no column 'size'"):
        load_mixed_like(file, table.schema, "target", table.classes)
    file = write(tmp_path, name="c.csv", target=lambda i: "abc"[i % 3])
    with pytest.raises(BadInput, match="class 'c', but the model was trained on a, b"):
        load_mixed_like(file, table.schema, "target", table.classes)


@pytest.mark.parametrize(("name", "rows", "columns"), [("iris", 150, 4), ("breast_cancer", 569, 30)])
def test_load_mixed_bundled(name, rows, columns):
    table = load_mixed(name)
    assert table.x.shape == (rows, columns)
    assert not any(isinstance(column, CategoryColumn) for column in table.schema.columns)


def test_labeled_rows_epochs_and_resume():
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    stream = LabeledRows(x, y, 4, seed=1)
    labels = torch.cat([next(stream)[1] for _ in range(5)])
    assert sorted(labels[:10].tolist()) == list(range(10))
    state, (expected, _) = stream.state_dict(), next(stream)
    again = LabeledRows(x, y, 4, seed=1)
    again.load_state_dict(state)
    assert torch.equal(next(again)[0], expected)
    halves = [next(LabeledRows(x, y, 4, seed=1, rank=rank, world_size=2))[1] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), labels[:4])
    assert np.unique(labels[10:].numpy()).tolist() == list(range(10))


def test_target_of_large_numbers_that_differ_little(tmp_path):
    """float32 would make one number of them."""
    file = tmp_path / "t.csv"
    file.write_text("a,y\n" + "".join(f"{i},{10**9 + i * 1e-3:.3f}\n" for i in range(50)))
    table = load_mixed(file)
    assert (table.classes, table.y.dtype, len(table.y.unique())) == ((), torch.float64, 50)


@pytest.mark.parametrize(
    ("cell", "config", "message"),
    [
        (lambda i: f"2024-01-{1 + i % 28:02}", TableConfig(), "the target 'y' is a date"),
        (
            lambda i: "NA" if i % 2 else "EU",
            TableConfig(),
            r"25 rows without 'y' were left out \(NA is no value\)",
        ),
        (lambda i: i / 7, TableConfig(class_weights="balanced"), "which has no class weights"),
    ],
)
def test_targets_that_are_refused(tmp_path, cell, config, message):
    file = tmp_path / "t.csv"
    file.write_text("a,y\n" + "".join(f"{i * i},{cell(i)}\n" for i in range(50)))
    with pytest.raises(BadInput, match=message) as caught:
        load_mixed(file, config)
    print(caught.value)


def test_rows_to_predict_of_a_header_alone_are_none(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("a,y\n" + "".join(f"{i * i},{'pq'[i % 2]}\n" for i in range(50)))
    schema = load_mixed(file).schema
    file.write_text("a\n")
    with pytest.raises(BadInput, match="names of columns, and no rows under them"):
        load_mixed_rows(file, schema)
