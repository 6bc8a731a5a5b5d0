"""Pictures of a traffic light: waiting over the hour by controller, and signal phases above the queues."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, save

SMALLEST = 0.05  # s of waiting that a logarithmic axis shows
COLORS = {"green": "#009E73", "yellow": "#E6B800"}
MINUTE = 60.0


def draw_waiting(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], file: Path, title: str
) -> None:
    """Mean waiting of a vehicle, minute by minute.

    Args:
        curves: name -> seconds since the beginning, and waiting in s; the first one is drawn thickest.
    """
    figure = canvas(7.5, 4.2)
    axes = figure.add_subplot()
    for index, (name, (seconds, waiting)) in enumerate(curves.items()):
        minutes = np.asarray(seconds) // MINUTE
        means = [np.asarray(waiting)[minutes == m].mean() for m in np.unique(minutes)]
        color = PALETTE[index % len(PALETTE)]
        style: dict[str, Any] = {"linewidth": 2.4, "zorder": 3} if index == 0 else {"linewidth": 1.1}
        if index >= len(PALETTE):
            style["linestyle"] = "--"
        axes.plot(np.unique(minutes), np.maximum(means, SMALLEST), color=color, label=name, **style)
    axes.set_yscale("log")
    axes.set(xlabel="minute", ylabel="mean waiting of a vehicle in s, log scale")
    frame(axes, title)
    axes.legend(**LEGEND, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    save(figure, file)


def draw_signals(
    plans: Mapping[str, tuple[Sequence[str], Mapping[str, tuple[Sequence[float], Sequence[int]]]]],
    greens: Sequence[str],
    file: Path,
    title: str,
    window: tuple[float, float],
) -> None:
    """For each controller the phases over time, and below them the vehicles that stand on each approach.

    Args:
        plans: name -> the signal's state in each second, and for each approach times in s and vehicles.
        greens: states of the phases, a row each.
        window: seconds from and to.
    """
    first, last = window
    figure = canvas(8.5, 2.6 * len(plans))
    grid = figure.subplots(2 * len(plans), 1, sharex=True, height_ratios=[1, 1.5] * len(plans), squeeze=False)
    highest = 1
    for _, queues in plans.values():
        for seconds, counts in queues.values():
            highest = max([highest, *(n for t, n in zip(seconds, counts, strict=True) if first <= t <= last)])
    for index, (name, (states, queues)) in enumerate(plans.items()):
        phases, lines = grid[2 * index, 0], grid[2 * index + 1, 0]
        for row, begin, end, color in phase_bars(states, greens):
            phases.barh(row, (end - begin) / MINUTE, left=begin / MINUTE, height=0.8, color=COLORS[color])
        phases.set(yticks=range(len(greens)), ylim=(len(greens) - 0.4, -0.6))
        phases.set_yticklabels([f"phase {row + 1}" for row in range(len(greens))], fontsize=7)
        frame(phases, name)
        for color, (approach, (seconds, counts)) in zip(PALETTE, queues.items(), strict=False):
            lines.step(
                np.asarray(seconds) / MINUTE, counts, where="post", label=approach, color=color, lw=1.2
            )
        lines.set(ylabel="standing", ylim=(0, highest * 1.05), xlim=(first / MINUTE, last / MINUTE))
        lines.grid(True, color="0.92")
    grid[1, 0].legend(**LEGEND, ncols=4, loc="upper right", title="approach", title_fontsize=8)
    grid[-1, 0].set_xlabel("minute")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    save(figure, file)


def phase_bars(states: Sequence[str], greens: Sequence[str]) -> list[tuple[int, int, int, str]]:
    """Row of the phase, first second, second after the last, and color; yellow stands in the row of the phase
    that ends."""
    bars: list[tuple[int, int, int, str]] = []
    row, color, begin = 0, "", 0
    for second, state in enumerate([*states, ""]):
        now, now_color = (
            (greens.index(state), "green") if state in greens else (row, "yellow" if state else "")
        )
        if (now, now_color) != (row, color):
            if color:
                bars.append((row, begin, second, color))
            row, color, begin = now, now_color, second
    return bars
