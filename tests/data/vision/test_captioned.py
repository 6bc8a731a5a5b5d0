"""Captioned pictures: folders of two layouts, OpenMoji by its names, and captions as tokens."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data import download
from torchstone.data.text.tokenizers import from_metadata, to_metadata
from torchstone.data.vision import captioned, openmoji
from torchstone.data.vision.captioned import asked, ids, load_captioned, words
from torchstone.errors import BadInput


def pictures(folder, count=24, *, listed=False):
    """Pictures that tell their number by their colour."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        Image.new("RGB", (12, 12), (10 * i, 0, 200)).save(folder / f"p{i:02d}.png")
        text = f"Picture number {i}"
        if listed:
            lines.append(json.dumps({"file_name": f"p{i:02d}.png", "text": text}))
        else:
            (folder / f"p{i:02d}.txt").write_text(f"{text}\n")
    if listed:
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("listed", [False, True])
def test_every_picture_of_a_folder_keeps_its_caption(listed, tmp_path):
    data = load_captioned(pictures(tmp_path / "mine", listed=listed), size=8)
    assert sorted(data.captions) == sorted(f"picture number {i}" for i in range(24))
    seen = []
    for split in (data.train, data.val, data.test):
        assert len(split) >= 1
        made = split.take(torch.arange(len(split)))
        assert made.shape == (len(split), 3, 8, 8)
        for picture, row in zip(made, split.labels.tolist(), strict=True):
            assert data.captions[row] == f"picture number {int(picture[0].float().mean()) // 10}"
            seen.append(row)
    assert sorted(seen) == list(range(24))
    assert "24 pictures with captions" in data.description
    again = load_captioned(tmp_path / "mine", size=8)
    assert torch.equal(again.test.labels, data.test.labels)


def broken(folder, how):
    """A folder with one thing wrong."""
    if how == "none":
        return folder / "nowhere"
    if how == "bare":
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "a.png")
        return folder
    if how == "few":
        return pictures(folder, 9)
    pictures(folder, 12, listed=how in ("line", "lost"))
    listed = folder / "metadata.jsonl"
    if how == "line":
        listed.write_text(listed.read_text().replace('"text": "Picture number 3"', '"txt": ""'))
    elif how == "lost":
        (folder / "p03.png").unlink()
    elif how == "empty":
        (folder / "p03.txt").write_text(" \n")
    elif how == "corrupt":
        (folder / "p03.png").write_bytes(b"\x89PNG nothing")
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("none", "no data .*openmoji.*metadata.jsonl"),
        ("bare", "no captioned pictures"),
        ("few", "9 captioned pictures; at least 10"),
        ("line", "line 4: give file_name and text"),
        ("lost", "names p03.png, which is not there"),
        ("empty", r"p03\.png has an empty caption"),
        ("corrupt", r"p03\.png"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(how, said, tmp_path):
    with pytest.raises(BadInput, match=said) as raised:
        load_captioned(broken(tmp_path / "mine", how), size=8)
    assert "\n" not in str(raised.value)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Archives with drawings, six of which are one family, one of which has no name, and two of which
    have names with which others begin."""
    stems = [
        "1F431", "1F436", "1F600", "2615", "1F697", "E000", "1F408", "1F408-200D-2B1B", "1F680",
        "1F9D1-200D-1F680", "1F468-200D-1F680", "1F469-200D-1F680", "1F469-1F3FD-200D-1F680", "1F468",
        *[f"1F4{i:02X}" for i in range(0x90, 0xB0)],
    ]  # fmt: skip
    names = {"1F431": ":cat_face:", "1F436": ":dog_face:", "1F600": ":grinning_face:", "2615": ":Hot_beverage:",
             "1F697": ":automobile:", "1F9D1-200D-1F680": ":astronaut:",
             "1F408": ":cat:", "1F408-200D-2B1B": ":black_cat:", "1F468": ":man:", "1F680": ":rocket:",
             "1F468-200D-1F680": ":man_astronaut:", "1F469-200D-1F680": ":woman_astronaut:",
             "1F469-1F3FD-200D-1F680": ":woman_astronaut_medium_skin_tone:",
             **{f"1F4{i:02X}": f":thing_{i}:" for i in range(0x90, 0xB0)}}  # fmt: skip
    said = {
        "".join(chr(int(point, 16)) for point in stem.split("-")): {"en": name}
        for stem, name in names.items()
    }
    files = {"openmoji": {f"svg/{s}.svg": s for s in stems},
             "emoji": {"emoji/unicode_codes/emoji.json": json.dumps(said)}}  # fmt: skip

    def archive(name, *_):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as opened:
            for file, content in files[name.partition("-")[0].partition("=")[0]].items():
                opened.writestr(file, content)
        return zipfile.ZipFile(held)

    def draw(source, size):  # a grey of its own for each
        grey = np.full((size, size, 3), stems.index(source), np.uint8)
        return grey, np.zeros((size, size), np.uint8)

    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "fetch_archive", archive)
    monkeypatch.setattr(openmoji, "draw", draw)
    return {name: stems.index(stem) for stem, name in names.items()}


def test_openmoji_is_captioned_by_unicodes_names_and_families_stay_together(drawn, monkeypatch):
    for seed in range(12):
        monkeypatch.setattr(captioned, "SPLIT_SEED", seed)
        data = load_captioned("openmoji", size=4)
        where = {}
        for split in ("train", "val", "test"):
            held = getattr(data, split)
            for picture, row in zip(held.take(torch.arange(len(held))), held.labels, strict=True):
                caption = data.captions[int(row)]
                where[caption] = split
                name = f":{caption.replace(' ', '_')}:".replace("hot", "Hot")
                assert int(picture.max()) == int(picture.min()) == drawn[name]
        assert "cat face" in where
        assert "hot beverage" in where
        assert "woman astronaut" in where
        assert not any("skin tone" in caption for caption in where)
        family = {where[each] for each in ("astronaut", "man astronaut", "woman astronaut")}
        assert len(family) == 1, f"one family in {family}"
        assert len(where) == len(drawn) - 1
    assert "CC BY-SA 4.0" in data.description


def test_captions_become_the_tokens_of_their_words():
    tokenizer = words(["smiling cat face", "cat with tears", "flag: Åland"])
    rows = ids(tokenizer, ["cat face", "", "a cat", "smiling cat with tears cat cat"], 5)
    known = tokenizer.get_vocab()
    assert known["[PAD]"] == 0
    assert known["[START]"] == 1
    assert rows.tolist() == [
        [1, known["cat"], known["face"], 0, 0],
        [1, 0, 0, 0, 0],
        [1, 2, known["cat"], 0, 0],  # 2 stands for what was never seen
        [1, *(known[word] for word in ("smiling", "cat", "with", "tears"))],
    ]
    assert len(known) == len({"smiling", "cat", "face", "with", "tears", "flag", ":", "åland"}) + 3
    back = from_metadata(json.loads(json.dumps(to_metadata(tokenizer))))
    assert torch.equal(ids(back, ["flag: Åland"], 5), ids(tokenizer, ["flag: Åland"], 5))
    assert asked(tokenizer, "Cat FACE", 5).tolist() == [rows[0].tolist()]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "the prompt is empty"),
        ("  ", "the prompt is empty"),
        ("smilling cat", "no caption had the word 'smilling': .*smiling"),
        ("cat cat cat cat cat", "at most 4 words, not 5"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(prompt, said):
    with pytest.raises(BadInput, match=said):
        asked(words(["smiling cat face"]), prompt, 5)
