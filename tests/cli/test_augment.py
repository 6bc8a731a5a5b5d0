"""`torchstone augment` as a new user types it: the folder that it writes, its table, one line for errors."""

import csv
import dataclasses
import json
from collections import Counter

import pytest
import torch
from cli_helpers import assert_rejected, run_cli

import torchstone as ts
from torchstone.data.vision.dataset import load_images
from torchstone.systems import generative

PER_CLASS = 131  # of digits, whose classes have 125 to 131 training images


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    short = {"steps": 10, "eval_samples": 20, "quiet": True}
    for name in ("gan", "cgan"):
        ts.train(f"{name}/smoke", out=folder / name, intervals={"evaluate": 10}, **short)
    return folder


@pytest.fixture
def quick_classifier(monkeypatch):
    spec = generative.CLASSIFIER
    monkeypatch.setattr(
        generative, "CLASSIFIER", spec._replace(recipe=dataclasses.replace(spec.recipe, steps=6))
    )


def test_augment_writes_a_balanced_folder_that_trains(capsys, runs, tmp_path):
    out = tmp_path / "balanced"
    words = ("--per-class", PER_CLASS, "--out", out, "--seed", 3)
    code, text, _ = run_cli(capsys, "augment", runs / "cgan", *words)
    assert code == 0
    assert text.splitlines()[-1] == f"images: {out}"
    own, written = (load_images(str(each), size=8, channels=1) for each in ("digits", out))
    before, after = (torch.bincount(each.train.labels).tolist() for each in (own, written))
    print(f"training images by class {before} and {after}")
    assert after == [PER_CLASS] * 10
    for split in ("val", "test"):
        theirs, ours = (getattr(each, split) for each in (own, written))
        # the folder's are ordered by class, so that both are compared as sets
        images = [sorted((int(k), bytes(x.numpy())) for x, k in zip(each.images, each.labels, strict=True))
                  for each in (theirs, ours)]  # fmt: skip
        assert images[0] == images[1], split
    with open(out / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    files = {str(each.relative_to(out).as_posix()) for each in out.rglob("*.png")}
    assert files == {row["file"] for row in rows}
    generated = [row for row in rows if row["generated"] == "1"]
    missing = {str(label): PER_CLASS - count for label, count in enumerate(before) if count < PER_CLASS}
    assert Counter(row["label"] for row in generated) == missing
    assert {row["split"] for row in generated} == {"train"}
    label = max(missing, key=lambda name: missing[name])
    sampled = torch.stack(ts.sample(runs / "cgan", label=label, num_samples=missing[label], seed=3))
    mine = written.train.images[written.train.labels == int(label)]
    expected = torch.cat([own.train.images[own.train.labels == int(label)], sampled])
    assert sorted(bytes(x.numpy()) for x in mine) == sorted(bytes(x.numpy()) for x in expected)


def test_augment_measures_recall_of_each_class(capsys, runs, tmp_path, quick_classifier):
    words = ("--per-class", PER_CLASS, "--out", tmp_path / "balanced", "--measure", 2)
    code, text, _ = run_cli(capsys, "augment", runs / "cgan", *words, "--json")
    assert code == 0
    summary = json.loads(text)
    rows = summary["classes"]
    counts = torch.bincount(load_images("digits", size=8, channels=1).test.labels).double()
    for arm in ("repeated", "generated"):
        accuracy = sum(n * row[f"recall_{arm}"] for n, row in zip(counts, rows, strict=True)) / counts.sum()
        print(f"{arm}: accuracy {summary[f'accuracy_{arm}']}, from recalls {accuracy}")
        assert summary[f"accuracy_{arm}"] == pytest.approx(float(accuracy))
    assert all(row["gain"] == pytest.approx(row["recall_generated"] - row["recall_repeated"]) for row in rows)
    assert any(row["recall_generated"] != row["recall_repeated"] for row in rows)
    shown = run_cli(capsys, "augment", runs / "cgan", *words[:2], "--out", tmp_path / "b", "--measure", 1)[1]
    assert "recall, generated" in shown
    assert "test accuracy" in shown


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("cgan", ("--per-class", 100), "every class has 100 training images or more, the rarest 125"),
        ("cgan", ("--per-class", 0), "no whole number of at least 1"),
        ("cgan", ("--per-class", 200, "--data", "no-such-folder"), "no-such-folder"),
        ("cgan", ("--per-class", 200, "--seed", -1), "seed"),
        ("cgan", (), "--per-class"),
        ("gan", ("--per-class", 200), "train cgan for that"),
        ("missing", ("--per-class", 200), "is not a run folder"),
    ],
)
def test_augment_rejects_in_one_line_and_writes_nothing(capsys, runs, tmp_path, name, words, message):
    assert message in assert_rejected(capsys, "augment", runs / name, *words, "--out", tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_augment_refuses_a_generator_without_labels(capsys, trained_run, tmp_path):
    words = ("--per-class", 200, "--out", tmp_path / "out")
    line = assert_rejected(capsys, "augment", trained_run("gpt"), *words)
    assert "train a class-conditional generator, such as cgan or ddpm" in line
    assert not (tmp_path / "out").exists()


def test_augment_keeps_what_is_in_the_folder(capsys, runs, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    words = ("augment", runs / "cgan", "--per-class", 200, "--out")
    assert "is there already" in assert_rejected(capsys, *words, tmp_path)
    assert "there is no folder" in assert_rejected(capsys, *words, tmp_path / "no" / "a")
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_augment_refuses_images_of_other_classes(capsys, runs, tmp_path):
    own = load_images("digits", size=8, channels=1)
    from torchstone.tasks.vision.class_balance import write_balanced

    few = dataclasses.replace(own, classes=tuple("abcdefghij"))
    write_balanced(few, {}, tmp_path / "letters")
    words = ("--per-class", 200, "--data", tmp_path / "letters", "--out", tmp_path / "out")
    assert "the generator makes 0, 1" in assert_rejected(capsys, "augment", runs / "cgan", *words)
    assert not (tmp_path / "out").exists()
