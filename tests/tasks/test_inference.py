"""What inference shares: the files that are named, and the answer about one of them."""

import pytest

from torchstone.errors import BadInput
from torchstone.tasks.inference import label_prediction, list_files


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
