"""Files of one Hugging Face data set that name their classes in one order, or in several."""

from functools import partial

import pytest
from PIL import Image

from torchstone.data.class_names import check_class_names
from torchstone.data.text.classification import read_labeled
from torchstone.data.vision.dataset import load_images
from torchstone.errors import BadInput


def write_splits(folder, form="parquet", images=False, **names):
    """A file for each split, which stores `good` and `bad` as their positions among its own names."""
    import datasets

    words = ["good", "bad"] * 20
    kind = datasets.Image() if images else datasets.Value("string")
    for split, own in names.items():
        label = datasets.ClassLabel(names=own)
        features = datasets.Features({"image" if images else "text": kind, "label": label})
        examples = [Image.new("RGB", (9, 9), (5 * i, 0, 0)) for i in range(40)] if images else words
        columns = dict(zip(features, (examples, [own.index(word) for word in words]), strict=True))
        table = datasets.Dataset.from_dict(columns, features=features)
        file = folder / f"{split}-00000-of-00001.{form}"
        if form == "parquet":
            table.to_parquet(str(file))
        else:
            table.save_to_disk(str(folder.parent / f"saved_{split}"))
            next((folder.parent / f"saved_{split}").glob("*.arrow")).rename(file)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("images", [False, True], ids=["texts", "images"])
def test_class_names_in_two_orders_are_refused(form, images, tmp_path):
    """datasets reads every file by the names of the first: each good of the test split would be bad."""
    import datasets

    folder = tmp_path / "set"
    folder.mkdir()
    write_splits(folder, form, images, train=["bad", "good"], test=["good", "bad"])
    theirs = datasets.load_dataset(str(folder))["test"]
    print("datasets reads good, bad as", theirs.features["label"].int2str(theirs["label"][:2]))
    read = partial(load_images, size=8, channels=3) if images else read_labeled
    with pytest.raises(BadInput, match="label") as caught:
        read(f"hf:{folder}")
    print(caught.value)
    text = str(caught.value)
    assert "good, bad in test-00000" in text
    assert "bad, good in train-00000" in text
    assert "\n" not in text


def test_class_names_that_go_on_agree(tmp_path):
    write_splits(tmp_path, train=["bad", "good", "fair"], test=["bad", "good"])
    data = read_labeled(f"hf:{tmp_path}")
    print(data.description, data.classes)
    assert [data.classes[label] for label in data.test.labels] == list(data.test.first)


def test_class_names_are_those_of_the_column_asked_for(tmp_path):
    write_splits(tmp_path, train=["bad", "good"], test=["good", "bad"])
    check_class_names(f"hf:{tmp_path}", "text")  # states no classes
    check_class_names("hf:someone/set", "label")  # no folder here
    with pytest.raises(BadInput, match="in one order"):
        check_class_names(f"hf:{tmp_path}", "label")


def test_class_names_that_cannot_be_read_are_refused(tmp_path):
    """datasets reads the metadata of the first file alone."""
    import pyarrow.parquet

    write_splits(tmp_path, train=["bad", "good"], test=["bad", "good"])
    file = tmp_path / "test-00000-of-00001.parquet"
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": b"{"}), file)
    with pytest.raises(BadInput, match="test-00000") as caught:
        read_labeled(f"hf:{tmp_path}")
    print(caught.value)
    assert "\n" not in str(caught.value)
