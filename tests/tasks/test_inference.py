"""What inference shares: the files that are named, and the answer about one of them."""

import pytest

from torchstone.errors import BadInput
from torchstone.tasks.inference import (
    files_in,
    label_prediction,
    list_files,
    looks_like_a_file,
    refuse_file_names,
)


def test_label_prediction_is_the_likeliest_class():
    answer = label_prediction("a.png", ["cat", "dog", "owl"], [0.2, 0.5, 0.3])
    print(answer)
    assert answer == {
        "input": "a.png",
        "label": "dog",
        "probability": 0.5,
        "probabilities": {"cat": 0.2, "dog": 0.5, "owl": 0.3},
    }
    assert label_prediction("b", ["cat", "dog"], [0.5, 0.5])["label"] == "cat"  # of equals the first


def test_list_files_expands_folders(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).touch()
    assert [f.name for f in list_files([tmp_path, tmp_path / "b.png"])] == ["a.png", "b.png", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty folder"):
        list_files([tmp_path / "empty"])


def test_list_files_says_what_it_leaves_out(tmp_path, capsys):
    for name in ("b.png", "a.JPG", "notes.txt", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    assert [file.name for file in list_files([tmp_path])] == ["a.JPG", "b.png"]
    said = capsys.readouterr().err
    print(said)
    assert said.strip() == (
        f"{tmp_path}: 2 images; left out is what has no image's name: Thumbs.db, more/, notes.txt"
    )
    with pytest.raises(BadInput, match="more is an empty folder"):
        list_files([tmp_path / "more"])
    (tmp_path / "more" / "0001").touch()
    assert [file.name for file in list_files([tmp_path / "more"])] == ["0001"]  # all may be images
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    with pytest.raises(BadInput, match="texts holds no images"):
        list_files([tmp_path / "texts"])


def test_files_in_a_folder_are_what_the_model_takes(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.png", "b.wav", "c.csv", "deep/d.wav"):
        (tmp_path / name).touch()
    folder = str(tmp_path)
    assert files_in({"task": "classify", "picture": {}}, folder) == [f"{folder}/a.png"]
    assert files_in({"task": "density", "image": {}}, folder) == [f"{folder}/a.png"]
    assert files_in({"task": "speech"}, folder) == [f"{folder}/b.wav", f"{folder}/deep/d.wav"]
    assert files_in({"task": "tabular", "features": []}, folder) == [folder]
    for text in ("a.png", "a text", "x" * 5000, "a\0b"):
        assert files_in({"task": "classify", "picture": {}}, text) == [text]


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("reviews.csv", True),  # whether it is there or not
        ("/nowhere/Essay.TXT", True),
        ("a.png", True),  # it is there
        ("b.png", False),
        ("Makefile", False),  # a word, though a file too
        ("see notes.txt", False),
        ("e.g.", False),
        ("", False),
        ("good", False),
        ("x" * 5000, False),
        ("a\0b", False),
    ],
)
def test_looks_like_a_file(text, is_one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "Makefile"):
        (tmp_path / name).touch()
    assert looks_like_a_file(text) == is_one
    if is_one:
        with pytest.raises(BadInput, match="and this model takes texts: give") as refused:
            refuse_file_names(["a text", text])
        print(refused.value)
    else:
        refuse_file_names([text])
