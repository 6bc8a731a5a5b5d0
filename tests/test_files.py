"""Files that are written all or nothing; JSON, pickles and names of data that are no good."""

import pytest

from torchstone.errors import BadInput
from torchstone.files import atomic_write, parse_json, read_pickle, refuse_skip


def test_atomic_write_replaces_file(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with atomic_write(file) as new:
        assert new.suffix == ".json"
        assert file.read_text() == "old"
        new.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_atomic_write_failure_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def write_half() -> None:
        with atomic_write(file) as new:
            new.write_text("half")
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_atomic_write_makes_folders(tmp_path):
    with atomic_write(tmp_path / "folder") as new:
        new.mkdir()
        (new / "x").write_text("1")
    assert (tmp_path / "folder" / "x").read_text() == "1"


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "9" * 5_000, '{"text": "\\ud83d"}', '["\\uDe00"]'])
def test_parse_json_refuses_with_value_error(text):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text)
    print(text[:20], "->", caught.value)


def test_parse_json_joins_both_halves_of_a_character():
    print(parse_json('["\\ud83d\\ude00"]'))
    assert parse_json('["\\ud83d\\ude00"]') == ["😀"]


@pytest.mark.parametrize("content", [b"0", b".", b"x" * 9, b"\x80\x02.", b"", b"PK\x03\x04"])
def test_read_pickle_of_bytes_that_are_no_pickle(content, tmp_path):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(BadInput, match=r"state\.pt (cannot be read|holds code)") as caught:
        read_pickle(tmp_path / "state.pt")
    print(content, "->", caught.value)


def test_refuse_skip_says_which_data_know_it():
    refuse_skip("table.csv")
    with pytest.raises(BadInput, match=r"^table\.csv has nothing that --skip-bad could leave out: .* images"):
        refuse_skip("skip-bad:table.csv")
