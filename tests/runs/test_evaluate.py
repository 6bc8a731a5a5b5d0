"""Which data a run goes on with, and which it is evaluated on: known by content, not by the path's spelling."""

import json
import shutil

import numpy as np
import pytest
from cli_helpers import assert_rejected, run_cli
from PIL import Image

import torchstone as ts
from torchstone.errors import BadInput


def draw(folder, first, last):
    """Pictures of two classes: lines across and lines down."""
    for i in range(first, last):
        array = np.random.RandomState(i).randint(0, 60, (12, 12), dtype=np.uint8)
        array[4 + i % 3, 2:10] = 255
        file = folder / ("across", "down")[i % 2] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array if i % 2 else np.ascontiguousarray(array.T)).save(file)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with pictures, and a run on them that stopped after its second step of four."""
    root = tmp_path_factory.mktemp("stopped")
    draw(root / "photos", 0, 60)
    folder = root / "run"
    ts.train(
        "lenet5/smoke", data=str(root / "photos"), steps=4, out=folder, quiet=True, intervals={"save": 2}
    )
    previous = folder / "checkpoint.previous"
    assert json.loads((previous / "meta.json").read_text())["step"] == 2
    shutil.rmtree(folder / "checkpoint")
    return root


@pytest.fixture
def root(stopped, tmp_path):
    """A copy of both: the run's recipe still names the first folder, so it is told of the new one."""
    copied = shutil.copytree(stopped, tmp_path / "copy")
    file = copied / "run" / "recipe.json"
    file.write_text(file.read_text().replace(str(stopped / "photos"), str(copied / "photos")))
    return copied


def test_resume_refuses_data_that_have_changed(root, capsys):
    draw(root / "photos", 60, 120)
    said = assert_rejected(capsys, "resume", root / "run")
    assert "train of 48 images is now 96 images" in said
    assert "--data" in said
    assert not (root / "run" / "checkpoint").exists()
    code, _, _ = run_cli(capsys, "resume", root / "run", "--data", root / "photos")
    saved = json.loads((root / "run" / "recipe.json").read_text())
    print(saved["changes"])
    assert code == 0
    assert saved["data"][0]["splits"]["train"]["count"] == 96
    assert saved["changes"][0]["data_before"][0]["splits"]["train"]["count"] == 48
    assert saved["changes"][0]["step"] == 2


@pytest.mark.sweep
def test_resume_with_the_same_data_elsewhere_ends_with_the_same_weights(root, stopped, tmp_path):
    whole = ts.train(
        "lenet5/smoke", data=str(stopped / "photos"), steps=4, out=tmp_path / "whole", quiet=True
    )
    (root / "photos").rename(root / "moved")
    with pytest.raises(BadInput, match="photos"):
        ts.resume(root / "run", quiet=True)
    run = ts.resume(root / "run", data=str(root / "moved"), quiet=True)
    pairs = zip(run.state["model"].parameters(), whole.state["model"].parameters(), strict=True)
    equal = [bool((a == b).all()) for a, b in pairs]
    print(equal, run.results)
    assert all(equal)


def test_resume_with_other_classes_is_refused(root, capsys):
    (root / "photos" / "across").rename(root / "photos" / "level")
    said = assert_rejected(capsys, "resume", root / "run", "--data", root / "photos")
    assert "another classes" in said


def test_eval_knows_the_run_s_data_however_the_path_is_spelled(root, capsys):
    ts.resume(root / "run", quiet=True)
    spellings = [
        root / "photos",
        root / "run" / ".." / "photos",
        shutil.copytree(root / "photos", root / "b"),
    ]
    own = run_cli(capsys, "eval", root / "run")[1].splitlines()
    print(own[0])
    assert "evaluated on the test split of" in own[0]
    assert "(6 images)" in own[0]
    for spelling in spellings:
        lines = run_cli(capsys, "eval", root / "run", "--data", spelling)[1].splitlines()
        assert lines[1:] == own[1:]
        assert lines[0].replace(str(spelling), str(root / "photos")) == own[0]


def test_eval_of_other_data_says_how_many_and_that_training_examples_are_among_them(root, capsys):
    ts.resume(root / "run", quiet=True)
    other = shutil.copytree(root / "photos", root / "more")
    draw(other, 60, 70)
    out = run_cli(capsys, "eval", root / "run", "--data", other)[1]
    assert "evaluated on all of" in out
    assert "(70 images)" in out
    assert "about 100% of the training examples are among them" in out
    draw(root / "fresh", 200, 260)
    out = run_cli(capsys, "eval", root / "run", "--data", root / "fresh")[1]
    assert "(60 images); other data than those of training\n" in out
    result = json.loads(run_cli(capsys, "eval", root / "run", "--data", root / "fresh", "--json")[1])
    assert result["images"] == 60
    assert result["data"]["split"] == "all"


def test_eval_of_data_that_have_changed_is_refused_without_data(root, capsys):
    ts.resume(root / "run", quiet=True)
    draw(root / "photos", 60, 64)
    said = assert_rejected(capsys, "eval", root / "run")
    assert "have changed since it was trained" in said
    assert f"--data {root / 'photos'}" in said
