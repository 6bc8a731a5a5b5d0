"""The identity of data: by content, for every kind of source, wherever it lies."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data import identity
from torchstone.data.audio.speakers import read_speakers
from torchstone.data.audio.speech import read_speech
from torchstone.data.music.dataset import load_music
from torchstone.data.series.dataset import load_series
from torchstone.data.tabular.dataset import load_table
from torchstone.data.tabular.mixed import load_mixed
from torchstone.data.tabular.points import load_points
from torchstone.data.text.classification import read_labeled
from torchstone.data.text.corpus import read_text
from torchstone.data.text.parallel import read_pairs
from torchstone.data.vision.captioned import load_captioned
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.segmentation import load_segmentation

random = np.random.RandomState


def _image(file: Path, seed: int, mask: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    array = random(seed).randint(0, 3 if mask else 256, (9, 9) if mask else (9, 9, 3), dtype=np.uint8)
    Image.fromarray(array).save(file)


def _sound(file: Path, seed: int) -> None:
    import soundfile

    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, random(seed).randn(1600) * 0.1, 8000)


def _images(root: Path) -> None:
    for i in range(20):
        _image(root / ("cat", "dog")[i % 2] / f"{i:02}.png", i)


def _captions(root: Path) -> None:
    for i in range(12):
        _image(root / f"{i:02}.png", i)
        (root / f"{i:02}.txt").write_text(f"a thing of kind {i}")


def _masks(root: Path) -> None:
    for i in range(12):
        _image(root / "images" / f"{i:02}.png", i)
        _image(root / "masks" / f"{i:02}.png", i, mask=True)


def _speakers(root: Path) -> None:
    for i in range(12):
        _sound(root / ("ann", "bob")[i % 2] / f"{i:02}.wav", i)


def _speech(root: Path) -> None:
    for i in range(6):
        _sound(root / f"{i:02}.wav", i)
    (root / "text.tsv").write_text("file\ttext\n" + "".join(f"{i:02}.wav\tword {i}\n" for i in range(6)))


def _music(root: Path) -> None:
    root.mkdir(parents=True)
    pieces = random(0).randint(40, 80, (6, 5, 2)).tolist()
    parts = {"train": pieces[:4], "valid": pieces[4:5], "test": pieces[5:]}
    (root / "jsb-chorales-quarter.json").write_text(json.dumps(parts))


def _lines(name: str, line, first: str = ""):
    def write(root: Path) -> None:
        root.mkdir(parents=True)
        (root / name).write_text(first + "".join(line(i) + "\n" for i in range(60)))

    return write


def _append(name: str, text: str):
    def change(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(text)

    return change


def _replace(name: str, old: str, new: str):
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert text.count(old) == 1, text
        (root / name).write_text(text.replace(old, new))

    return change


series = _lines(
    "s.csv", lambda i: f"2024-01-01 {i // 60 + 1:02}:{i % 60:02}:00,{random(i).rand():.4f}", "time,x\n"
)
table = _lines("t.csv", lambda i: f"{random(i).rand():.4f},{i},{'ab'[i % 2]}")
mixed = _lines("t.csv", lambda i: f"{i / 7:.4f},{('red', 'blue')[i // 2 % 2]},{'yn'[i % 2]}", "a,b,c\n")
numbers = _lines("t.csv", lambda i: f"{i / 7:.4f},{('red', 'blue')[i // 2 % 2]},{i * 1.5}", "a,b,c\n")
reviews = _lines("r.tsv", lambda i: f"the film number {i}\t{('good', 'bad')[i % 2]}")

# reader, what makes a source of it, the specification in its folder, and a change
KINDS = {
    "images: one more": (
        lambda s: load_images(s, size=8, channels=1),
        *(_images, ".", lambda root: _image(root / "cat" / "99.png", 99)),
    ),
    "images: a label": (
        lambda s: load_images(s, size=8, channels=1),
        *(_images, ".", lambda root: (root / "cat" / "00.png").rename(root / "dog" / "00.png")),
    ),
    "captions: a word": (
        lambda s: load_captioned(s, size=8),
        *(_captions, ".", _replace("03.txt", "kind 3", "sort 3")),
    ),
    "masks: a pixel": (
        lambda s: load_segmentation(s, size=8),
        *(_masks, ".", lambda root: _image(root / "masks" / "03.png", 77, mask=True)),
    ),
    "speakers: one more": (
        lambda s: read_speakers(s, 8000),
        *(_speakers, ".", lambda root: _sound(root / "ann" / "99.wav", 99)),
    ),
    "speech: a transcript": (
        lambda s: read_speech(s, 8000),
        *(_speech, ".", _replace("text.tsv", "word 3", "wort 3")),
    ),
    "music: a note": (
        load_music,
        _music,
        ".",
        _replace("jsb-chorales-quarter.json", '"train": [[[', '"train": [[[60, '),
    ),
    "series: a point more": (load_series, series, "s.csv", _append("s.csv", "2024-01-01 03:00:00,0.5\n")),
    "table: a row more": (load_table, table, "t.csv", _append("t.csv", "0.5,7,a\n")),
    "mixed table: a number": (load_mixed, mixed, "t.csv", _replace("t.csv", "\n0.1429,", "\n0.1430,")),
    "mixed table: a target": (load_mixed, numbers, "t.csv", _replace("t.csv", "red,1.5", "red,1.6")),
    "points: a row more": (load_points, table, "t.csv", _append("t.csv", "0.5,7,a\n")),
    "text: a letter": (
        read_text,
        _lines("x.txt", lambda i: f"line {i} of a text that goes on and on"),
        *("x.txt", _replace("x.txt", "line 30", "lime 30")),
    ),
    "labeled: a label": (
        read_labeled,
        reviews,
        "r.tsv",
        _replace("r.tsv", "number 4\tgood", "number 4\tbad"),
    ),
    "pairs: a pair more": (
        read_pairs,
        _lines("p.tsv", lambda i: f"word {i}\tWort {i}"),
        *("p.tsv", _append("p.tsv", "end\tEnde\n")),
    ),
}


def _identity(reader, spec) -> list[dict]:
    with identity.listen() as heard:
        reader(str(spec))
    assert heard.sources, "the reader is not marked with `identified`"
    return heard.sources


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_of_the_content_wherever_it_is(kind, tmp_path):
    reader, write, spec, change = KINDS[kind]
    write(tmp_path / "here")
    before = _identity(reader, tmp_path / "here" / spec)
    copied = shutil.copytree(tmp_path / "here", tmp_path / "there" / "copy")
    same = identity.differences(before, _identity(reader, copied / spec))
    change(tmp_path / "here")
    changed = identity.differences(before, _identity(reader, tmp_path / "here" / spec))
    print(kind, before[-1]["splits"], "copy:", same, "changed:", changed)
    assert same is None
    assert changed is not None


def test_identity_of_a_zip_file_is_that_of_its_folder(tmp_path):
    _images(tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in sorted((tmp_path / "photos").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "photos"))
    read = lambda spec: load_images(spec, size=8, channels=1)  # noqa: E731
    folder, zipped = _identity(read, tmp_path / "photos"), _identity(read, tmp_path / "photos.zip")
    print(folder[0]["splits"], zipped[0]["splits"])
    assert identity.differences(folder, zipped) is None


def test_listen_raises_on_other_data_and_finds_training_examples_in_it(tmp_path):
    _images(tmp_path / "photos")
    read = lambda spec: load_images(spec, size=8, channels=1)  # noqa: E731
    before = _identity(read, tmp_path / "photos")
    for i in range(20, 40):
        _image(tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i:02}.png", i)
    with pytest.raises(identity.OtherData), identity.listen(before):
        read(tmp_path / "photos")
    with identity.listen(known=identity.sketch_of(before)) as heard:
        read(tmp_path / "photos")
    train = before[0]["splits"]["train"]["count"]
    print(f"{len(heard.repeated)} of {train} training examples found again")
    assert len(heard.repeated) == train
    with identity.listen(known=identity.sketch_of(before)) as heard:
        load_images("digits", size=8, channels=1)
    assert not heard.repeated


def test_digest_tells_values_types_and_shapes_apart():
    values = [
        *(0, 0.0, False, None, "0", b"0", "", [], {}, [0], ["a", "b"], ["ab"], {"a": 0}),
        *(np.zeros(4, np.uint8), np.zeros((2, 2), np.uint8), np.zeros(1, np.int32), torch.zeros(1)),
    ]
    digests = [identity.digest(value) for value in values]
    print(len(set(digests)), "digests of", len(values), "values")
    assert len(set(digests)) == len(values)
    assert identity.digest(torch.arange(3)) == identity.digest(np.arange(3))
    with pytest.raises(TypeError, match="object"):
        identity.digest(object())


@pytest.mark.parametrize(
    "item", [(b"abc", 3), (b"", -1), (b"x" * 1000, 10**20), (b"a", True), (b"a", np.int64(3)), ("a", 1)]
)
def test_digest_in_one_piece_is_that_of_the_parts(item):
    whole, parts = b"".join(identity._parts(item)), b"".join(identity._parts_of_any(item))
    print(item[1], whole[-40:])
    assert whole == parts
