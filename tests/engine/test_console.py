"""The console: a display that fits any width, whole lines in pipes, and what goes on beside the steps."""

import io
import itertools
import os

import pytest
from rich.console import Console

import torchstone as ts
from torchstone.engine import console
from torchstone.engine.console import Screen, activity, clock, fit_words, notify, progress, track
from torchstone.engine.meter import Log

METRICS = ["val", *(f"a_metric_of_some_length_{i} {i / 7:.4g}" for i in range(12))]


@pytest.fixture(name="clockwork")
def _clockwork(monkeypatch):
    """A clock that goes on by a second at each look."""
    seconds = itertools.count()
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(seconds)))


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 120, 200])
def test_screen_bar_fits_its_width(width, clockwork):
    screen = Screen("transformer/multi30k_cpu", 123_456, 0, console=Console(file=io.StringIO()))
    for step in range(0, 50_000, 1000):
        screen.update(step)
    bar = screen.bar(width)
    print(f"{width:4} {bar}")
    assert len(bar) == width
    assert "40%" in bar
    assert ("49,000/123,456" in bar) == (width >= 60)
    assert ("left" in bar) == (width >= 79)
    assert ("942 step/s" in bar) == (width >= 79)


def test_write_line_goes_on_where_nobody_reads(monkeypatch):
    """`train 2>&1 | head` must not end the training."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(console.sys, "stderr", stream)
        for line in ("step 1", "step 2", "x" * 100_000):
            notify(line)
    monkeypatch.setattr(console.sys, "stderr", None)  # `2>&-`
    notify("step 3")
    assert not console.on_terminal()


def test_screen_draws_two_lines_of_80_columns():
    file = io.StringIO()
    terminal = Console(file=file, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    screen = Screen("ppo/cartpole", 390, 0, console=terminal)
    screen.start()
    try:
        screen.update(120, METRICS)
        notify("a line beside the display " * 6)
        with activity("testing"), progress("episodes", 20) as bar:
            bar.update(7)
            seen = str(screen.render())
    finally:
        screen.stop()
    print(seen, repr(file.getvalue()[-400:]))
    assert [len(line) <= 79 for line in seen.splitlines()] == [True, True]
    assert seen.splitlines()[1].startswith("testing: episodes 7/20, 0:0")
    last = str(screen.render()).splitlines()
    assert last[1] == "val  a_metric_of_some_length_0 0  a_metric_of_some_length_1 0.1429 …"
    assert "a line beside the display " * 6 in file.getvalue()


def test_log_writes_whole_lines_into_a_pipe(tmp_path, capsys):
    log = Log(tmp_path, 0, 0, 500, "lenet5/mnist5k")
    log.write(100, "train", {"loss": 1.0})
    log.write(100, "val", {f"a_metric_of_some_length_{i}": i / 7 for i in range(12)})
    log.close()
    error = capsys.readouterr().err
    print(error)
    assert error == "step 100/500  " + "  ".join(METRICS) + "\n"


def test_fit_words_leaves_out_what_has_no_room():
    cases = {20: "val  loss 0.12 …", 30: "val  loss 0.12  accuracy 0.98", 6: "val …", 2: "v…"}
    words = ["val", "loss 0.12", "accuracy 0.98"]
    for width, expected in cases.items():
        print(width, repr(fit_words(words, width)))
        assert fit_words(words, width) == expected


def test_clock_has_hours_where_there_are_some():
    assert [clock(s) for s in (0.4, 61, 3599.6, 36_000)] == ["0:00", "1:01", "1:00:00", "10:00:00"]


def test_progress_speaks_in_a_pipe_only_after_a_silence(clockwork, capsys, monkeypatch):
    monkeypatch.setattr(console, "SILENCE", 4.5)  # looks at the clock
    with activity("testing", announce=True):
        seen = list(track(iter("abcdefgh"), "episodes", 8))
    error = capsys.readouterr().err
    print(error)
    assert seen == list("abcdefgh")
    assert error.splitlines()[0] == "testing"
    assert [line.split(",")[0] for line in error.splitlines()[1:]] == ["testing: episodes 5/8"]
    with activity("testing", quiet=True, announce=True):
        assert list(track(range(40), "episodes", 40)) == list(range(40))
    assert capsys.readouterr().err == ""
    assert console._activities == []


def test_train_says_that_it_tests_and_draws(tmp_path, capsys):
    options = {"total_timesteps": 256, "epochs": 1, "eval_episodes": 1, "device": "cpu"}
    options |= {"record_video": True, "max_episode_steps": 5}
    ts.train("ppo/smoke", out=tmp_path / "aloud", **options)
    aloud = capsys.readouterr().err.splitlines()
    ts.train("ppo/smoke", out=tmp_path / "quiet", quiet=True, **options)
    quiet = capsys.readouterr().err
    print(aloud, repr(quiet))
    assert [line for line in aloud if "step" not in line][1:] == ["testing", "drawing pictures"]
    assert quiet == ""
