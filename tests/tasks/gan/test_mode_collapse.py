"""A collapse is named once, with what is missing; a recovery ends it; a slow start is none."""

import pytest
import torch

from torchstone.tasks.gan.mode_collapse import ModeCollapseMonitor

CLASSES = [str(i) for i in range(10)]
EVERY = torch.ones(10, dtype=torch.bool)


def has(*which: int) -> torch.Tensor:
    return torch.tensor([i in which for i in range(10)])


def look(
    watch: ModeCollapseMonitor, there: torch.Tensor, variety: float, step: int, capsys
) -> tuple[float, str]:
    numbers = {"modes": float(there.sum()), "variety": variety}
    said = watch.look(numbers, there, step, 100)
    line = capsys.readouterr().err
    print(step, numbers, said, line)
    return said, line


def test_mode_collapse_reported_once_until_recovery(capsys):
    watch = ModeCollapseMonitor(CLASSES)
    assert look(watch, has(1), 0.0, 0, capsys) == (0.0, ""), "nothing is learnt yet"
    assert look(watch, EVERY, 0.9, 30, capsys) == (0.0, "")
    collapsed, line = look(watch, has(1, 7), 0.6, 40, capsys)
    assert collapsed == 1.0
    assert len(line.strip().splitlines()) == 1
    assert "step 40: mode collapse: 8 of 10 classes are missing (0, 2, 3, 4, 5, 6, 8, 9);" in line
    assert "vary" not in line
    assert look(watch, has(1), 0.6, 50, capsys) == (1.0, ""), "it is said once"
    assert look(watch, EVERY, 0.9, 60, capsys) == (0.0, "")
    collapsed, line = look(watch, has(3), 0.6, 70, capsys)
    assert (collapsed, "9 of 10" in line) == (1.0, True), "another one is said too"


def test_mode_collapse_by_low_variance(capsys):
    watch = ModeCollapseMonitor(CLASSES)
    look(watch, EVERY, 0.8, 50, capsys)
    assert look(watch, EVERY, 0.41, 55, capsys)[0] == 0.0
    collapsed, line = look(watch, EVERY, 0.39, 60, capsys)
    assert collapsed == 1.0
    assert "mode collapse: samples vary 0.39 times as much as the data;" in line
    assert "missing" not in line


@pytest.mark.parametrize(("step", "collapsed"), [(10, 1.0), (2, 1.0)])
def test_mode_collapse_by_drop_at_any_step(step, collapsed, capsys):
    watch = ModeCollapseMonitor(CLASSES)
    look(watch, has(*range(8)), 0.6, 1, capsys)
    assert look(watch, has(1, 2, 3), 0.6, step, capsys)[0] == collapsed


def test_mode_collapse_thresholds_apply_after_warmup(capsys):
    for modes, variety, late in (((0, 1), 0.6, 1.0), (range(9), 0.2, 1.0), (range(6), 0.3, 0.0)):
        watch = ModeCollapseMonitor(CLASSES)
        assert look(watch, has(*modes), variety, 24, capsys)[0] == 0.0
        assert look(watch, has(*modes), variety, 25, capsys)[0] == late


def test_mode_collapse_monitor_state(capsys):
    first, second = ModeCollapseMonitor(CLASSES), ModeCollapseMonitor(CLASSES)
    look(first, EVERY, 0.9, 5, capsys)
    look(first, has(2), 0.9, 6, capsys)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"best": {"modes": 10.0, "variety": 0.9}, "named": True}
    assert look(second, has(2), 0.9, 7, capsys) == (1.0, "")
    assert look(ModeCollapseMonitor(CLASSES), has(2), 0.9, 7, capsys)[0] == 0.0
    first.best["modes"] = 0.0
    assert second.best["modes"] == 10.0, "the states are apart"


def test_mode_collapse_summary_lists_ten_classes(capsys):
    watch = ModeCollapseMonitor([f"c{i}" for i in range(30)])
    watch.look({"modes": 2.0, "variety": 1.0}, torch.arange(30) > 27, 90, 100)
    line = capsys.readouterr().err
    assert "28 of 30 classes are missing (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 …)" in line
