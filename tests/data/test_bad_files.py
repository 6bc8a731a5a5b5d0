"""Files that cannot be used, in every reader of many files: all listed at once, or left out and listed."""

import json
import wave

import numpy as np
import pytest
from cli_helpers import assert_rejected
from PIL import Image

from torchstone.data.audio.speakers import read_speakers
from torchstone.data.audio.speech import read_speech
from torchstone.data.bad_files import MAX_LISTED, describe, read_good
from torchstone.data.music.dataset import load_music
from torchstone.data.text.classification import read_labeled
from torchstone.data.vision.captioned import load_captioned
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.segmentation import load_segmentation
from torchstone.errors import BadInput

COUNT = 24  # examples, of which numbers 5 and 11 are bad
BAD = (5, 11)


def image(file, i):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), 9 * i, np.uint8)).save(file)
    if i in BAD:  # the head is whole
        file.write_bytes(file.read_bytes()[:50])


def sound(file, i):
    file.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(np.arange(4000) * (0.05 + 0.01 * i)) * 20_000
    with wave.open(str(file), "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(8000)
        opened.writeframes(tone.astype("<i2").tobytes())
    if i in BAD:
        file.write_bytes(b"no sound")


def write(folder, kind):
    """Data of a kind; what reads them."""
    if kind == "images":
        for i in range(COUNT):
            image(folder / "ab"[i % 2] / f"{i:02}.png", i)
        return lambda spec: load_images(spec, size=8, channels=3)
    if kind == "segmentation":
        mask = np.zeros((16, 16), np.uint8)
        mask[8:] = 1
        for i in range(COUNT):
            image(folder / "images" / f"{i:02}.png", i)
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / f"{i:02}.png")
        for i in BAD:  # found without decoding all images twice
            (folder / "images" / f"{i:02}.png").write_bytes(b"\x89PNG no")
        return lambda spec: load_segmentation(spec, size=16)
    if kind == "captions":
        for i in range(COUNT):
            image(folder / f"{i:02}.png", i)
            (folder / f"{i:02}.txt").write_text(f"image number {i}")
        return lambda spec: load_captioned(spec, size=8)
    if kind == "music":
        for i in range(COUNT):
            head = b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk"
            track = bytes([0, 0x90, 60 + i % 12, 64, 96, 0x80, 60 + i % 12, 0])
            content = head + len(track).to_bytes(4, "big") + track
            (folder / f"{i:02}.mid").write_bytes(content[:-3] if i in BAD else content)
        return load_music
    if kind == "speakers":
        for i in range(COUNT):
            sound(folder / "ab"[i % 2] / f"{i:02}.wav", i)
        return lambda spec: read_speakers(spec, 8000)
    if kind == "speech":
        for i in range(COUNT):
            sound(folder / f"{i:02}.wav", i)
        rows = "".join(f"{i:02}.wav\ttext {i}\n" for i in range(COUNT))
        (folder / "transcripts.tsv").write_text("file\ttext\n" + rows)
        return lambda spec: read_speech(spec, 8000)
    rows = [{"text": "" if i in BAD else f"text {i}", "label": i % 2} for i in range(COUNT)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_labeled


@pytest.mark.parametrize(
    "kind", ["images", "segmentation", "captions", "music", "speakers", "speech", "texts"]
)
def test_bad_files_all_listed_or_left_out(kind, tmp_path):
    load = write(tmp_path, kind)
    names = [f"row {i + 1}" if kind == "texts" else f"{i:02}." for i in BAD]
    with pytest.raises(BadInput, match=f"2 of {COUNT} cannot be used .*--skip-bad") as caught:
        load(str(tmp_path))
    print(caught.value)
    assert all(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)
    data = load(f"skip-bad:{tmp_path}")
    print(data.description)
    assert sum(len(getattr(data, split)) for split in ("train", "val", "test")) == COUNT - 2
    assert "2 left out" in data.description
    assert all(name in data.description for name in names)


def test_read_good_of_none_is_refused_and_long_lists_end():
    def read(i):
        raise BadInput(f"file {i}")

    with pytest.raises(BadInput, match="30 of 30 cannot be used"):
        read_good(read, range(30), skip=True)
    said = describe([f"file {i}" for i in range(30)], 40)
    print(said)
    assert said.endswith(f"file {MAX_LISTED - 1}; and 10 more")
    assert describe(["file 3 is bad"], 9) == "file 3 is bad"


def test_images_skip_bad_needs_a_class_that_is_left(tmp_path):
    load = write(tmp_path, "images")
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(b"no")
    with pytest.raises(BadInput, match=r"class 'b' of .* has no image left, 12 left out"):
        load(f"skip-bad:{tmp_path}")


@pytest.mark.parametrize(
    "system", ["perceptron/iris", "mlp", "realnvp/moons", "gru/forecast", "gpt", "transformer"]
)
def test_skip_bad_is_refused_where_nothing_can_be_left_out(system, tmp_path, capsys):
    data = {"mlp": "iris.csv", "gpt": "shakespeare", "transformer": "reverse"}.get(system)
    words = ["--data", data] if data else []
    said = assert_rejected(capsys, "train", system, *words, "--skip-bad", "--out", tmp_path / "run")
    assert "has nothing that --skip-bad could leave out: it is for images, " in said
    assert not (tmp_path / "run").exists()
