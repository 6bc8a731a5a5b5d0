"""Hugging Face data sets by split: names, and what is said of the others."""

import pytest

from torchstone.data.hub_splits import load_hub_splits
from torchstone.errors import BadInput


def load(monkeypatch, **sizes):
    import datasets

    made = {split: datasets.Dataset.from_dict({"text": ["a"] * size}) for split, size in sizes.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(made))
    return load_hub_splits("hf:someone/set")


@pytest.mark.parametrize(
    ("sizes", "found", "note"),
    [
        ({"train": 3, "validation": 2, "test": 1}, {"train": 3, "val": 2, "test": 1}, ""),
        ({"everything": 4}, {"train": 4}, ", all of its one split everything"),
        ({"train": 3, "test": 0}, {"train": 3}, ", test has no rows: left out"),
        ({"train": 3, "unsupervised": 9}, {"train": 3}, ", split unsupervised not used"),
        (
            {"train": 3, "validation_matched": 2, "validation_mismatched": 2},
            {"train": 3},
            ", splits validation_matched, validation_mismatched not used",
        ),
    ],
)
def test_load_hub_splits_by_name(monkeypatch, sizes, found, note):
    tables, said = load(monkeypatch, **sizes)
    print(said)
    assert {split: len(table) for split, table in tables.items()} == found
    assert said == note


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"train": 3, "dev": 2, "validation": 2}, "dev and validation, which are both a val split"),
        ({"test": 3, "validation": 2}, "no split named train, only test, validation"),
        ({"train": 0, "test": 3}, "train has no rows"),
    ],
)
def test_load_hub_splits_rejects(monkeypatch, sizes, said):
    with pytest.raises(BadInput, match=said) as caught:
        load(monkeypatch, **sizes)
    print(caught.value)
