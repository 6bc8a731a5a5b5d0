"""`atomic_write`: all or nothing."""

import pytest

from torchstone.files import atomic_write


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
