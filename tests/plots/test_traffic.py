"""Bars of a signal's phases."""

from torchstone.plots.traffic import draw_signals, draw_waiting, phase_bars

GREENS = ["Gr", "rG"]


def test_yellow_stands_in_the_row_of_the_phase_that_ends():
    states = ["Gr"] * 3 + ["yr"] * 2 + ["rG"] * 4 + ["ry"]
    expected = [(0, 0, 3, "green"), (0, 3, 5, "yellow"), (1, 5, 9, "green"), (1, 9, 10, "yellow")]
    assert phase_bars(states, GREENS) == expected
    assert phase_bars([], GREENS) == []


def test_pictures_of_any_number_of_controllers(tmp_path):
    seconds = list(range(4, 300, 5))
    curves = {f"controller {n}": (seconds, [n * 0.1] * 60) for n in range(9)}
    draw_waiting(curves, tmp_path / "waiting.png", "title")
    queues = {"north": ([0, 5], [0, 0]), "east": ([0, 5], [1, 2])}
    draw_signals({"agent": (["Gr"] * 300, queues)}, GREENS, tmp_path / "signals.png", "title", (0.0, 300.0))
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("waiting.png", "signals.png"))
