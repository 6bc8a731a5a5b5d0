"""Figures of experiments: means over seeds with the range of all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain

Curves = Mapping[Any, Sequence[Sequence[float]]]  # name -> seed -> value at each x


def curves(panels: Mapping[str, Curves], x: Sequence[float], x_label: str, **axis: Any) -> Any:
    """A panel for each entry; in each a line for each name, its mean over seeds, and the range of the seeds.

    Args:
        panels: title -> curves.
        axis: `xscale`, `yscale`, `ylim` for all panels.
    """
    figure = canvas(4.8 * len(panels), 3.4)
    for axes, (title, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        frame(axes, title)
        for color, (name, seeds) in zip(PALETTE, lines.items(), strict=False):
            values = np.asarray(seeds, float)
            axes.plot(x, values.mean(0), "o-", ms=3, color=color, label=plain(name))
            axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        axes.set_xlabel(x_label, fontsize=9)
        axes.set(**axis)
        axes.set_xticks(x, [f"{each:g}" for each in x])  # where it was measured
        axes.minorticks_off()
        axes.legend(**LEGEND)
    return figure


def bars(panels: Mapping[str, Mapping[str, Sequence[float]]], **axis: Any) -> Any:
    """A panel for each entry; in each a bar for each name, its mean over seeds, and a dot for each seed."""
    figure = canvas(4.2 * len(panels), 3.4)
    for axes, (title, groups) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        frame(axes, title)
        for at, (color, seeds) in enumerate(zip(PALETTE, groups.values(), strict=False)):
            axes.bar(at, float(np.mean(seeds)), 0.6, color=color, alpha=0.35)
            axes.plot(np.full(len(seeds), at), seeds, ".", color=color)
        axes.set_xticks(range(len(groups)), [plain(name) for name in groups], fontsize=8)
        axes.set(**axis)
    return figure
