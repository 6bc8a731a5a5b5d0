"""A mode collapse is reported once, with what is missing; a recovery ends it; a slow start is none."""

import pytest
import torch

from torchstone.tasks.gan.mode_collapse import ModeCollapseMonitor

CLASSES = [str(i) for i in range(10)]
EVERY = torch.ones(10, dtype=torch.bool)


def covered(*which: int) -> torch.Tensor:
    return torch.tensor([i in which for i in range(10)])


def update(
    monitor: ModeCollapseMonitor, is_covered: torch.Tensor, variance: float, step: int, capsys
) -> tuple[float, str]:
    numbers = {"covered_classes": float(is_covered.sum()), "relative_variance": variance}
    collapsed = monitor.update(numbers, is_covered, step, 100)
    line = capsys.readouterr().err
    print(step, numbers, collapsed, line)
    return collapsed, line


def test_mode_collapse_reported_once_until_recovery(capsys):
    monitor = ModeCollapseMonitor(CLASSES)
    assert update(monitor, covered(1), 0.0, 0, capsys) == (0.0, ""), "nothing is learned yet"
    assert update(monitor, EVERY, 0.9, 30, capsys) == (0.0, "")
    collapsed, line = update(monitor, covered(1, 7), 0.6, 40, capsys)
    assert collapsed == 1.0
    assert len(line.strip().splitlines()) == 1
    assert "step 40: mode collapse: 8 of 10 classes are missing (0, 2, 3, 4, 5, 6, 8, 9);" in line
    assert "vary" not in line
    assert update(monitor, covered(1), 0.6, 50, capsys) == (1.0, ""), "it is reported once"
    assert update(monitor, EVERY, 0.9, 60, capsys) == (0.0, "")
    collapsed, line = update(monitor, covered(3), 0.6, 70, capsys)
    assert (collapsed, "9 of 10" in line) == (1.0, True), "another one is reported too"


def test_mode_collapse_by_low_variance(capsys):
    monitor = ModeCollapseMonitor(CLASSES)
    update(monitor, EVERY, 0.8, 50, capsys)
    assert update(monitor, EVERY, 0.41, 55, capsys)[0] == 0.0
    collapsed, line = update(monitor, EVERY, 0.39, 60, capsys)
    assert collapsed == 1.0
    assert "mode collapse: samples vary 0.39 times as much as the data;" in line
    assert "missing" not in line


@pytest.mark.parametrize(("step", "collapsed"), [(10, 1.0), (2, 1.0)])
def test_mode_collapse_by_drop_at_any_step(step, collapsed, capsys):
    monitor = ModeCollapseMonitor(CLASSES)
    update(monitor, covered(*range(8)), 0.6, 1, capsys)
    assert update(monitor, covered(1, 2, 3), 0.6, step, capsys)[0] == collapsed


def test_mode_collapse_thresholds_apply_after_warmup(capsys):
    for modes, variance, late in (((0, 1), 0.6, 1.0), (range(9), 0.2, 1.0), (range(6), 0.3, 0.0)):
        monitor = ModeCollapseMonitor(CLASSES)
        assert update(monitor, covered(*modes), variance, 24, capsys)[0] == 0.0
        assert update(monitor, covered(*modes), variance, 25, capsys)[0] == late


def test_mode_collapse_monitor_state(capsys):
    first, second = ModeCollapseMonitor(CLASSES), ModeCollapseMonitor(CLASSES)
    update(first, EVERY, 0.9, 5, capsys)
    update(first, covered(2), 0.9, 6, capsys)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {
        "best": {"covered_classes": 10.0, "relative_variance": 0.9},
        "reported": True,
    }
    assert update(second, covered(2), 0.9, 7, capsys) == (1.0, "")
    assert update(ModeCollapseMonitor(CLASSES), covered(2), 0.9, 7, capsys)[0] == 0.0
    first.best["covered_classes"] = 0.0
    assert second.best["covered_classes"] == 10.0, "the states are apart"


def test_mode_collapse_monitor_loads_old_state():
    monitor = ModeCollapseMonitor(CLASSES)
    monitor.load_state_dict({"best": {"modes": 9.0, "variety": 0.5}, "named": True})
    expected = {"best": {"covered_classes": 9.0, "relative_variance": 0.5}, "reported": True}
    assert monitor.state_dict() == expected


def test_mode_collapse_summary_lists_ten_classes(capsys):
    monitor = ModeCollapseMonitor([f"c{i}" for i in range(30)])
    monitor.update({"covered_classes": 2.0, "relative_variance": 1.0}, torch.arange(30) > 27, 90, 100)
    line = capsys.readouterr().err
    assert "28 of 30 classes are missing (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 …)" in line
