"""OpenMoji as labeled images: Unicode's groups, no skin tones, and all variants of a drawing in one split."""

import numpy as np
import pytest

from torchstone.data.vision import openmoji, openmoji_questions, sources
from torchstone.data.vision.dataset import load_images


@pytest.fixture
def drawings(monkeypatch):
    """Women and men of 20 trades, one of them in a skin tone; 30 animals; a flag's component and an extra."""
    stems = [f"{person}-200D-{0x1F680 + i:X}" for i in range(20) for person in ("1F468", "1F469")]
    groups = dict.fromkeys(stems, "People & Body") | {
        f"{0x1F400 + i:X}": "Animals & Nature" for i in range(30)
    }
    groups |= {"1F1E6": "Component"}
    stems += [*list(groups)[40:], "1F468-1F3FD-200D-1F680", "E000"]
    groups["1F468-1F3FD-200D-1F680"] = "People & Body"
    images = np.arange(len(stems), dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)
    monkeypatch.setattr(openmoji, "load_drawings", lambda size: (images, None, stems))
    monkeypatch.setattr(openmoji_questions, "read_groups", lambda: groups)
    return stems, groups


def test_openmoji_images_are_split_by_drawing(drawings):
    stems, groups = drawings
    source = sources.read("openmoji")
    assert source.classes == ("Animals & Nature", "People & Body")
    family_splits: dict[str, set[str]] = {}
    rows = []
    for split, subset in source.subsets.items():
        for row, label in zip(subset.index.tolist(), subset.labels.tolist(), strict=True):
            assert groups[stems[row]] == source.classes[label]
            family_splits.setdefault(openmoji.family(stems[row]), set()).add(split)
            rows.append(row)
    assert sorted(rows) == list(range(70))  # each once, without component, skin tone and extra
    assert all(len(splits) == 1 for splits in family_splits.values())
    sizes = {split: sum(splits == {split} for splits in family_splits.values()) for split in source.subsets}
    assert sizes == {"train": 35, "val": 5, "test": 10}


def test_openmoji_images_are_in_color_at_any_size(drawings):
    data = load_images("openmoji", size=32, channels=3)
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert not data.metadata["ink"]
    row = int(sources.read("openmoji").subsets["val"].index[0])
    assert data.val.images[0].unique().tolist() == [row]
