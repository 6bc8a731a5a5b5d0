"""Captioned images: folders of two layouts, OpenMoji by its names, and captions as tokens."""

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
from torchstone.data.vision.captioned import load_captioned, token_ids, tokenize_prompt, word_tokenizer
from torchstone.errors import BadInput


def save_images(folder, count=24, *, listed=False):
    """Images whose color is their number."""
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
def test_load_captioned_keeps_each_images_caption(listed, tmp_path):
    data = load_captioned(save_images(tmp_path / "mine", listed=listed), size=8)
    assert sorted(data.captions) == sorted(f"picture number {i}" for i in range(24))
    found = []
    for split in (data.train, data.val, data.test):
        assert len(split) >= 1
        images = split.take(torch.arange(len(split)))
        assert images.shape == (len(split), 3, 8, 8)
        for image, row in zip(images, split.labels.tolist(), strict=True):
            assert data.captions[row] == f"picture number {int(image[0].float().mean()) // 10}"
            found.append(row)
    assert sorted(found) == list(range(24))
    assert "24 images with captions" in data.description
    again = load_captioned(tmp_path / "mine", size=8)
    assert torch.equal(again.test.labels, data.test.labels)


def broken(folder, fault):
    """A folder with one thing wrong."""
    if fault == "none":
        return folder / "nowhere"
    if fault == "bare":
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "a.png")
        return folder
    if fault == "few":
        return save_images(folder, 9)
    save_images(folder, 12, listed=fault in ("line", "lost"))
    listed = folder / "metadata.jsonl"
    if fault == "null":
        save_images(folder, 12, listed=True)
        listed.write_text(listed.read_text().replace('"Picture number 3"', "null"))
    if fault == "line":
        listed.write_text(listed.read_text().replace('"text": "Picture number 3"', '"txt": ""'))
    elif fault == "lost":
        (folder / "p03.png").unlink()
    elif fault == "empty":
        (folder / "p03.txt").write_text(" \n")
    elif fault == "corrupt":
        (folder / "p03.png").write_bytes(b"\x89PNG nothing")
    return folder


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("none", "no data .*openmoji.*metadata.jsonl"),
        ("bare", "no captioned images"),
        ("few", "9 captioned images; at least 10"),
        ("line", "line 4: give file_name and text"),
        ("null", r"p03\.png has an empty caption"),
        ("lost", "names p03.png, which is not there"),
        ("empty", r"p03\.png has an empty caption"),
        ("corrupt", r"p03\.png"),
    ],
)
def test_load_captioned_names_what_is_wrong_with_a_folder(fault, message, tmp_path):
    with pytest.raises(BadInput, match=message) as raised:
        load_captioned(broken(tmp_path / "mine", fault), size=8)
    assert "\n" not in str(raised.value)


@pytest.fixture
def gray_of(tmp_path, monkeypatch):
    """Archives with drawings, six of which are one family, one of which has no name, and two of which
    have names with which others begin. Returns the gray of each."""
    stems = [
        "1F431",
        "1F436",
        "1F600",
        "2615",
        "1F697",
        "E000",
        "1F408",
        "1F408-200D-2B1B",
        "1F680",
        "1F9D1-200D-1F680",
    ]
    stems += ["1F468-200D-1F680", "1F469-200D-1F680", "1F469-1F3FD-200D-1F680", "1F468"]
    stems += [f"1F4{i:02X}" for i in range(0x90, 0xB0)]
    names = {
        "1F431": ":cat_face:",
        "1F436": ":dog_face:",
        "1F600": ":grinning_face:",
        "2615": ":Hot_beverage:",
        "1F697": ":automobile:",
        "1F9D1-200D-1F680": ":astronaut:",
        "1F408": ":cat:",
        "1F408-200D-2B1B": ":black_cat:",
        "1F468": ":man:",
        "1F680": ":rocket:",
        "1F468-200D-1F680": ":man_astronaut:",
        "1F469-200D-1F680": ":woman_astronaut:",
        "1F469-1F3FD-200D-1F680": ":woman_astronaut_medium_skin_tone:",
        **{f"1F4{i:02X}": f":thing_{i}:" for i in range(0x90, 0xB0)},
    }
    emoji = {
        "".join(chr(int(point, 16)) for point in stem.split("-")): {"en": name}
        for stem, name in names.items()
    }
    files = {
        "openmoji": {f"svg/{s}.svg": s for s in stems},
        "emoji": {"emoji/unicode_codes/emoji.json": json.dumps(emoji)},
    }

    def archive(name, *_):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as opened:
            for file, content in files[name.partition("-")[0].partition("=")[0]].items():
                opened.writestr(file, content)
        return zipfile.ZipFile(buffer)

    def render(source, size):  # a gray of its own for each
        gray = np.full((size, size, 3), stems.index(source), np.uint8)
        return gray, np.zeros((size, size), np.uint8)

    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "fetch_archive", archive)
    monkeypatch.setattr(openmoji, "render", render)
    return {name: stems.index(stem) for stem, name in names.items()}


def test_load_captioned_openmoji_has_unicode_names_and_keeps_families_together(gray_of, monkeypatch):
    for seed in range(12):
        monkeypatch.setattr(captioned, "SPLIT_SEED", seed)
        data = load_captioned("openmoji", size=4)
        split_of = {}
        for split in ("train", "val", "test"):
            part = getattr(data, split)
            for image, row in zip(part.take(torch.arange(len(part))), part.labels, strict=True):
                caption = data.captions[int(row)]
                split_of[caption] = split
                name = f":{caption.replace(' ', '_')}:".replace("hot", "Hot")
                assert int(image.max()) == int(image.min()) == gray_of[name]
        assert "cat face" in split_of
        assert "hot beverage" in split_of
        assert "woman astronaut" in split_of
        assert not any("skin tone" in caption for caption in split_of)
        family = {split_of[each] for each in ("astronaut", "man astronaut", "woman astronaut")}
        assert len(family) == 1, f"one family in {family}"
        assert len(split_of) == len(gray_of) - 1
    assert "CC BY-SA 4.0" in data.description


def test_token_ids_are_words_padded_and_truncated():
    tokenizer = word_tokenizer(["smiling cat face", "cat with tears", "flag: Åland"])
    rows = token_ids(tokenizer, ["cat face", "", "a cat", "smiling cat with tears cat cat"], 5)
    known = tokenizer.get_vocab()
    assert known["[PAD]"] == 0
    assert known["[START]"] == 1
    assert rows.tolist() == [
        [1, known["cat"], known["face"], 0, 0],
        [1, 0, 0, 0, 0],
        [1, 2, known["cat"], 0, 0],  # 2 is the unknown word
        [1, *(known[word] for word in ("smiling", "cat", "with", "tears"))],
    ]
    assert len(known) == len({"smiling", "cat", "face", "with", "tears", "flag", ":", "åland"}) + 3
    back = from_metadata(json.loads(json.dumps(to_metadata(tokenizer))))
    assert torch.equal(token_ids(back, ["flag: Åland"], 5), token_ids(tokenizer, ["flag: Åland"], 5))
    assert tokenize_prompt(tokenizer, "Cat FACE", 5).tolist() == [rows[0].tolist()]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ("  ", "the prompt is empty"),
        ("smilling cat", "no caption had the word 'smilling': .*smiling"),
        ("cat cat cat cat cat", "at most 4 words, not 5"),
    ],
)
def test_tokenize_prompt_refuses_unknown_words(prompt, message):
    with pytest.raises(BadInput, match=message):
        tokenize_prompt(word_tokenizer(["smiling cat face"]), prompt, 5)


def test_load_captioned_draws_shapes():
    data = load_captioned("shapes", size=16)
    sizes = [len(split) for split in (data.train, data.val, data.test)]
    assert (sum(sizes), len(set(data.captions))) == (240, 240)
    row = data.captions.index("large red square on the left")
    split = next(each for each in (data.train, data.val, data.test) if row in each.labels.tolist())
    image = split.images[split.labels.tolist().index(row)]
    assert image[:, 8, 4].tolist() == [220, 40, 40]
    assert image[:, 8, 12].tolist() == [255, 255, 255]


def test_load_captioned_without_byte_order_marks(tmp_path):
    for listed in (False, True):
        folder = save_images(tmp_path / str(listed), listed=listed)
        for file in (*folder.glob("*.txt"), *folder.glob("*.jsonl")):
            file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
        captions = load_captioned(folder, size=8).captions
        print(captions[:3])
        assert sorted(captions) == sorted(f"picture number {i}" for i in range(24))
