"""Regression figures: predicted against true numbers."""

from pathlib import Path

from jaxtyping import Num
from torch import Tensor

from torchstone.plots.canvas import PALETTE, canvas, frame, plain, save

MAX_POINTS = 2000


def plot_predictions(predicted: Num[Tensor, " rows"], y: Num[Tensor, " rows"], name: str, file: Path) -> None:
    """Draw a point for each row, at most `MAX_POINTS`, and the line on which predictions are right."""
    step = max(1, -(-len(y) // MAX_POINTS))
    true, guess = y[::step].cpu().numpy(), predicted[::step].cpu().numpy()
    figure = canvas(5, 5)
    axes = figure.add_subplot()
    frame(axes, f"{plain(name)}, test rows")
    axes.scatter(true, guess, s=8, color=PALETTE[0], alpha=0.5, linewidths=0)
    ends = [float(min(true.min(), guess.min())), float(max(true.max(), guess.max()))]
    axes.plot(ends, ends, color="0.3", linewidth=1)
    axes.set_xlabel("true", fontsize=8)
    axes.set_ylabel("predicted", fontsize=8)
    save(figure, file)
