"""One process a run folder: the second is refused, or takes another; a killed one leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from cli_helpers import assert_rejected

import torchstone as ts
from torchstone.runs.lock import NAME, InUse, locked, locked_free

HOLD = """
import sys
from pathlib import Path
from torchstone.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_elsewhere(folder):
    """Another process that holds the folder's lock."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_locked_refuses_a_second_process_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "run"
    with held_elsewhere(folder) as other:
        with pytest.raises(InUse, match=f"in use by process {other.pid} of") as refused, locked(folder):
            pass
        print(refused.value)
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert os.listdir(folder) == [NAME]  # it could not take it away, but nothing holds it
        with locked(folder):
            assert f"process {os.getpid()} of" in (folder / NAME).read_text()
    assert os.listdir(folder) == []


def test_locked_leaves_no_empty_folder(tmp_path):
    with locked(tmp_path / "deep" / "run"):
        assert (tmp_path / "deep" / "run").is_dir()
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "deep" / "run") as folder:
        (folder / "result.json").touch()
    assert os.listdir(folder) == ["result.json"]
    folder.joinpath("result.json").unlink()
    with locked(folder):
        pass
    assert folder.is_dir()  # it was there before


def test_locked_free_takes_the_first_that_nobody_has(tmp_path):
    wanted = tmp_path / "runs" / "lenet5"
    with held_elsewhere(wanted), locked_free(wanted) as second:
        assert second.name == "lenet5-2"
        (second / "recipe.json").touch()
        with locked_free(wanted) as third:
            assert third.name == "lenet5-3"
    with locked_free(wanted) as first:
        assert first.name == "lenet5"  # its process has ended, and left nothing
    with pytest.raises(InUse), locked_free(wanted):
        raise InUse("of what is within")
    assert os.listdir(wanted.parent) == ["lenet5-2"]


def test_train_and_resume_leave_a_run_of_another_process_alone(trained_copy, capsys):
    run = trained_copy("lenet5")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with held_elsewhere(run):
        for words in (["resume", run], ["train", "lenet5/smoke", "--out", run, "--overwrite"]):
            assert "is in use by process" in assert_rejected(capsys, *words)
        assert len(ts.evaluate(run)) > 0  # what only reads may
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_overwriting_keeps_the_folder_itself(trained_copy, tmp_path, capsys):
    """`--out` may be a link, or a disk that is mounted there."""
    run = trained_copy("lenet5")
    (tmp_path / "link").symlink_to(run)
    (run / "elsewhere").symlink_to(tmp_path)
    inode = run.stat().st_ino
    ts.train("perceptron/smoke", steps=2, out=tmp_path / "link", overwrite=True, quiet=True)
    assert run.stat().st_ino == inode
    assert not (run / "elsewhere").exists()
    assert (tmp_path / "link").is_symlink()
