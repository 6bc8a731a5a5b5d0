"""Strategies of games with hidden cards: tables of probabilities side by side, and how far from
equilibrium."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain, save


def draw_strategies(
    strategies: Mapping[str, Float[Tensor, "row action"]],
    rows: Sequence[str],
    actions: Sequence[Sequence[str]],
    file: str | Path,
    title: str,
) -> None:
    """One table a strategy: a row is an information state, a cell the probability of an action there.

    Args:
        actions: names of the actions in each row; empty where one is illegal, whose cell stays blank.
    """
    columns = len(actions[0])
    is_legal = np.array([[bool(name) for name in names] for names in actions])
    figure = canvas(3.4 + 1.1 * columns * len(strategies), 1.0 + 0.27 * len(rows))
    figure.suptitle(plain(title, 90), fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(1, len(strategies))
    for index, (name, strategy) in enumerate(strategies.items()):
        axes = figure.add_subplot(grid[0, index])
        shown = np.where(is_legal, strategy.numpy(), np.nan)
        axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_title(plain(name), loc="left", fontsize=10, fontweight="bold")
        for row, column in zip(*np.nonzero(is_legal), strict=True):
            p = shown[row, column]
            color = "white" if p > 0.6 else "black"
            text = f"{plain(actions[row][column], 10)} {p:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks([])
        axes.set_yticks(range(len(rows)), [plain(row, 48) for row in rows] if not index else [])
        axes.tick_params(labelsize=8, length=0)
        axes.spines[:].set_visible(False)
    save(figure, file)


def draw_exploitability(
    curves: Mapping[str, Sequence[tuple[float, float]]], uniform: float, file: str | Path, title: str
) -> None:
    """Exploitability over training, on logarithmic scales.

    Args:
        curves: points (updates or iterations, exploitability); those at 0 are left out.
        uniform: exploitability of the strategy that moves at random.
    """
    figure = canvas(6.4, 4.2)
    axes = figure.add_subplot()
    frame(axes, title)
    axes.set(xscale="log", yscale="log", xlabel="updates, or iterations", ylabel="exploitability")
    axes.axhline(uniform, color="0.5", linewidth=1, linestyle=":", label=f"uniform strategy, {uniform:.3g}")
    for (name, points), color in zip(curves.items(), PALETTE, strict=False):
        shown = [(x, y) for x, y in points if x > 0 and y > 0]
        if shown:
            label = plain(f"{name}, {shown[-1][1]:.3g} at the end", 60)
            axes.plot(*zip(*shown, strict=True), color=color, marker="o", markersize=3, label=label)
    axes.legend(**LEGEND)
    save(figure, file)


def draw_values(tables: Mapping[str, Float[Tensor, "row column"]], file: str | Path, title: str) -> None:
    """Tables of values side by side on one scale of colors, each number in its cell."""
    numbers = {name: table.numpy() for name, table in tables.items()}
    low = min(float(table.min()) for table in numbers.values())
    high = max(float(table.max()) for table in numbers.values())
    figure = canvas(0.6 + 2.2 * len(tables), 2.6)
    figure.suptitle(plain(title, 90), fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(1, len(tables))
    for index, (name, table) in enumerate(numbers.items()):
        axes = figure.add_subplot(grid[0, index])
        axes.imshow(table, cmap="Blues", vmin=low, vmax=high)
        axes.set_title(plain(name), loc="left", fontsize=10, fontweight="bold")
        for (row, column), number in np.ndenumerate(table):
            value = float(number)
            color = "white" if value > low + 0.6 * (high - low) else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=11, color=color)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    save(figure, file)
