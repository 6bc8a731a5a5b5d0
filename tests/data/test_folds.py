"""Folds: every example is validated once, classes are in proportion, the test split is never touched."""

import itertools
import json

import numpy as np
import pytest
import torch
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone.data.folds import fold_spec, parts_of, split_fold
from torchstone.data.tabular.dataset import load_table
from torchstone.data.tabular.mixed import load_mixed
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.sources import read
from torchstone.errors import BadInput
from torchstone.runs import seeds


@pytest.mark.parametrize("count", [2, 5, 7])
def test_folds_of_images_are_a_partition(count):
    whole = read("digits")
    pooled = np.sort(np.concatenate([whole.subsets["train"].index, whole.subsets["val"].index]))
    validated = []
    for i in range(count):
        subsets = read(fold_spec(i, count, "digits")).subsets
        assert not set(subsets["train"].index) & set(subsets["val"].index)
        assert np.array_equal(np.sort(np.concatenate([subsets["train"].index, subsets["val"].index])), pooled)
        assert np.array_equal(subsets["test"].index, whole.subsets["test"].index)
        shares = np.bincount(subsets["val"].labels) / np.bincount(whole.subsets["train"].labels + 0)
        assert shares.max() - shares.min() < 0.03
        validated.append(subsets["val"].index)
    sizes = [len(each) for each in validated]
    print(sizes)
    assert max(sizes) - min(sizes) <= 1
    assert np.array_equal(np.sort(np.concatenate(validated)), pooled)


def test_parts_differ_by_one_example_of_each_class():
    labels = np.random.RandomState(0).randint(0, 6, 101)
    parts = parts_of(labels, 4)
    table = np.array([[(labels[parts == p] == c).sum() for p in range(4)] for c in range(6)])
    print(table)
    assert (table.max(1) - table.min(1)).max() <= 1
    assert table.sum(0).max() - table.sum(0).min() <= 1


@pytest.mark.parametrize("load", [load_table, load_mixed])
def test_folds_of_rows_are_a_partition(load):
    whole = load("wine")
    validated = []
    for i in range(3):
        table = load(fold_spec(i, 3, "wine"))
        assert torch.equal(table.splits["test"], whole.splits["test"])
        assert not set(table.splits["train"].tolist()) & set(table.splits["val"].tolist())
        validated += table.splits["val"].tolist()
    assert sorted(validated) == sorted(torch.cat([whole.splits["train"], whole.splits["val"]]).tolist())


def test_published_validation_is_pooled(tmp_path):
    """Two folders of files: the pools of train and val are two."""
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for label in ("a", "b"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                shade = {"train": 0, "val": 100, "test": 200}[split] + 10 * i + (label == "b")
                Image.new("L", (8, 8), shade).save(folder / f"{i}.png")
    shades = []
    for i in range(3):
        data = load_images(fold_spec(i, 3, str(tmp_path / "data")), size=8, channels=1)
        shades.append(sorted(data.val.images[:, 0, 0, 0].tolist()))
        assert sorted(data.test.images[:, 0, 0, 0].tolist()) == [200, 201, 210, 211]
        assert all((shade % 2) == label for shade, label in zip(data.val.images[:, 0, 0, 0].tolist(), data.val.labels.tolist(), strict=True))
    print(shades)
    assert sorted(itertools.chain(*shades)) == sorted([*range(0, 60, 10), *range(1, 61, 10), 100, 101, 110, 111, 120, 121])
    assert [len(each) for each in shades] == [6, 6, 6]


def test_a_class_that_a_fold_would_lack_is_named():
    with pytest.raises(BadInput, match=r"class '8' of digits has 139 examples .* at most 139 folds"):
        read(fold_spec(0, 140, "digits"))
    with pytest.raises(BadInput, match="no fold 3 of 3"):
        split_fold("fold:3/3:digits")
    assert split_fold("folder:1/2:x") == ("folder:1/2:x", None)


@pytest.fixture(scope="module")
def three_folds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds") / "three"
    return ts.train("perceptron", folds=3, steps=3, out=folder, quiet=True)


def test_record_of_folds(three_folds):
    folder = three_folds["folder"]
    print(three_folds["metrics"])
    assert three_folds["folds"] == 3
    assert len(three_folds["metrics"]["val/accuracy"]["values"]) == 3
    assert sorted(path.name for path in folder.glob("fold-*")) == ["fold-0", "fold-1", "fold-2"]
    for i in range(3):
        found = ts.evaluate(folder / f"fold-{i}")  # the same test split, by the data's name
        assert found["accuracy"] == three_folds["metrics"]["test/accuracy"]["values"][i]


@pytest.mark.sweep
def test_folds_go_on_after_a_kill(three_folds, tmp_path, monkeypatch, capsys):
    execute, calls = seeds.execute, []

    def stops(*args, **options):
        calls.append(args[2].data)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return execute(*args, **options)

    monkeypatch.setattr(seeds, "execute", stops)
    with pytest.raises(KeyboardInterrupt):
        ts.train("perceptron", folds=3, steps=3, out=tmp_path / "cut", quiet=True)
    code, out, _ = run_cli(capsys, "resume", tmp_path / "cut")
    assert code == 0
    assert "3 folds" in out
    assert calls == [f"fold:{i}/3:iris:setosa" for i in (0, 1, 1, 2)]
    record = json.loads((tmp_path / "cut" / "record.json").read_text())
    assert record["metrics"] == three_folds["metrics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("perceptron/xor", "--folds", "2"), "same rows in every split"),
        (("ppo/smoke", "--folds", "2"), "ppo has no folds"),
        (("perceptron", "--folds", "1"), "at least two folds"),
        (("perceptron", "--folds", "2", "--seeds", "2"), "give folds or seeds"),
        (("perceptron", "--folds", "90"), "so that some of 90 folds would have none"),
        (("perceptron", "--folds", "2", "--data", "fold:0/2:iris"), "is a fold already"),
    ],
)
def test_folds_that_cannot_be_are_refused(capsys, tmp_path, words, message):
    assert message in assert_rejected(capsys, "train", *words, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
