"""The curve of the learning-rate finder."""

from pathlib import Path
from typing import Any

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, plain, save


def draw_lr_curve(curve: Any, current: float, title: str, file: str | Path) -> None:
    """Draw the loss over the learning rate, with the suggested rate and the recipe's own.

    Args:
        curve: with `rates`, `losses`, `smoothed` and `suggestion`.
        current: the recipe's learning rate.
    """
    figure = canvas(6.4, 4.0)
    axes = figure.add_subplot()
    axes.set_title(plain(title, 60), loc="left", fontsize=10, fontweight="bold")
    axes.plot(curve.rates, curve.losses, color="0.75", linewidth=0.8, label="loss of a batch")
    axes.plot(curve.rates, curve.smoothed, color=PALETTE[0], linewidth=1.8, label="smoothed")
    nearest = min(range(len(curve.rates)), key=lambda i: abs(curve.rates[i] - curve.suggestion))
    axes.plot(
        [curve.suggestion],
        [curve.smoothed[nearest]],
        "o",
        color=PALETTE[1],
        label=f"falls fastest: lr {curve.suggestion:.2g}",
    )
    axes.axvline(current, color="0.4", linestyle="--", linewidth=1.0, label=f"the recipe's: lr {current:.2g}")
    low, high = min(curve.smoothed), max(curve.smoothed)
    first = max(curve.smoothed[: max(1, len(curve.smoothed) // 2)])
    top = first + 0.5 * (first - low) if first > low else high
    axes.set_ylim(low - 0.08 * (top - low or 1.0), top + 1e-12)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", **LEGEND)
    save(figure, file)
