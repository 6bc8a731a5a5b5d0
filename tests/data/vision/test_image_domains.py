"""Two domains: what is read, how it is split, and what is refused in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data.identity import listen
from torchstone.data.vision.image_domains import load_domains, match_names, split_rows
from torchstone.errors import BadInput


def save(folder, name: str, mode: str = "RGB", size=(20, 30), color=200):
    folder.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        Image.fromarray(np.full((size[1], size[0]), color * 257, np.uint16)).save(folder / name)
        return
    image = Image.new(
        mode if mode != "P" else "L", size, color if mode in ("L", "P", "1") else (color,) * len(mode)
    )
    (image.convert("P") if mode == "P" else image).save(folder / name)


def folder_of(root, count: int = 12, other: int | None = None, **options):
    for i in range(count):
        save(root / "a", f"picture{i}.png", color=10 * i, **options)
    for i in range(count if other is None else other):
        save(root / "b", f"picture{i}.jpg", color=10 * i, **options)
    return root


def test_a_folder_is_fitted_split_and_paired_by_name(tmp_path):
    data = load_domains(folder_of(tmp_path, 20), size=16)
    assert {name: len(getattr(data, name).a) for name in ("train", "val", "test")} == {
        "train": 17,
        "val": 1,
        "test": 2,
    }
    for split in (data.train, data.val, data.test):
        a, b = split.a[split.pairs[:, 0]], split.b[split.pairs[:, 1]]
        assert len(split.pairs) == len(split.a) == len(split.b)
        assert a.shape[1:] == (3, 16, 16)
        assert int((a.int() - b.int()).abs().max()) <= 2, "partners are equally light"
    seen = torch.cat([each.a.flatten(1)[:, 0] for each in (data.train, data.val, data.test)])
    assert sorted(seen.tolist()) == [10 * i for i in range(20)]
    assert "20 pictures in a/ and 20 in b/; 17 and 17 train (17 pairs)" in data.description


def test_sizes_and_modes_may_differ(tmp_path):
    folder_of(tmp_path, 4)
    for i, (mode, size) in enumerate(
        [
            ("L", (9, 9)),
            ("RGBA", (64, 33)),
            ("P", (16, 16)),
            ("1", (8, 50)),
            ("I;16", (40, 20)),
            ("CMYK", (9, 30)),
        ]
    ):
        save(
            tmp_path / "a",
            f"other{i}.{'tif' if mode == 'CMYK' else 'png'}",
            mode,
            size,
            color=1 if mode == "1" else 90,
        )
    data = load_domains(tmp_path, size=16)
    assert sum(len(getattr(data, name).a) for name in ("train", "val", "test")) == 10
    assert sum(len(getattr(data, name).pairs) for name in ("train", "val", "test")) == 4


def test_variants_of_a_drawing_are_in_one_split():
    tones = [f"1F3F{tone}" for tone in "BCDEF"]
    names = [f"{1000 + i}-{tone}" for i in range(40) for tone in tones] + [f"{1000 + i}" for i in range(40)]
    rows = split_rows(names, list(reversed(names)))
    for split, (a, b) in rows.items():
        families = {names[i][:4] for i in a}
        assert families == {names[::-1][i][:4] for i in b}
        assert len(a) == 6 * len(families), split
    assert sorted(np.concatenate([a for a, _ in rows.values()]).tolist()) == list(range(240))


def test_unpaired_folders_are_each_divided():
    rows = split_rows([f"x{i}" for i in range(50)], [f"y{i}" for i in range(5)])
    assert {split: (len(a), len(b)) for split, (a, b) in rows.items()} == {
        "train": (43, 3),
        "val": (2, 1),
        "test": (5, 1),
    }
    assert match_names(["p", "q", "r"], ["r", "p"]) == [(0, 1), (2, 0)]


def test_bad_folders_are_one_line(tmp_path):
    def refused(message: str, path=tmp_path, size: int = 16):
        with pytest.raises(BadInput, match=message) as caught:
            load_domains(path, size=size)
        assert "\n" not in str(caught.value)

    refused("no data .*nowhere.*a folder with a/ and b/", tmp_path / "nowhere")
    refused("a does not exist: give a folder with a/ and b/")
    (tmp_path / "a").mkdir()
    refused("a holds 0 pictures: at least 3 are needed")
    folder_of(tmp_path, 1, 8)
    refused("a holds 1 picture: at least 3 are needed")
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    save(tmp_path / "a", "second.png")
    refused("broken.png is not a readable image")
    with pytest.raises(BadInput, match="a holds 2 pictures: at least 3"):
        load_domains(f"skip-bad:{tmp_path}", size=16)
    save(tmp_path / "a", "third.png")
    data = load_domains(f"skip-bad:{tmp_path}", size=16)
    assert "1 left out" in data.description
    save(tmp_path / "a", "third.gif")
    refused("third.gif and .*third.png have one name")
    refused("size of at least 8, not 4", size=4)


def test_digits_are_two_pairs_of_colors():
    data = load_domains("digits", size=8)
    a, b = (getattr(data.test, d)[data.test.pairs[:, i]].float() for i, d in enumerate("ab"))
    ink = 1 - a[:, :1] / 255
    colors = torch.tensor([[32.0, 64, 160], [255, 208, 64]]).view(2, 1, 3, 1, 1)
    assert torch.allclose(b, colors[0] + ink * (colors[1] - colors[0]), atol=1)


def test_identity_is_by_content(tmp_path):
    def digests(root):
        with listen() as heard:
            load_domains(root, size=16)
        return {name: split["digest"] for name, split in heard.sources[0]["splits"].items()}

    first, again = digests(folder_of(tmp_path / "one")), digests(folder_of(tmp_path / "two"))
    assert first == again
    save(tmp_path / "two" / "b", "picture3.jpg", color=255)
    assert digests(tmp_path / "two") != first
