"""Accuracy over the number of examples in the context, with its spread over draws of examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame, plain, save

CURVES = {
    "accuracy": "sum of log-likelihoods",
    "normalized_accuracy": "per character",
    "calibrated_accuracy": "calibrated",
}


def draw_few_shot(metrics: Mapping[str, Any], shots: Sequence[int], file: str | Path, title: str) -> None:
    """Draws what `few_shot` measures: each accuracy as a line with a bar of one standard deviation to either
    side, the chance level, and the most frequent label's accuracy or the best possible one.

    Numbers of shots are evenly spaced, as they usually grow by a factor.
    """
    figure = canvas(6.4, 4.2)
    axes = figure.add_subplot()
    frame(axes, title)
    at = range(len(shots))
    named = [name for name in CURVES if f"{name}/{shots[0]}" in metrics]
    for index, name in enumerate(named):
        label = CURVES[name] if len(named) > 1 else "accuracy"
        means = [metrics[f"{name}/{k}"] for k in shots]
        spread = [metrics[f"{name}_std/{k}"] for k in shots]
        moved = [x + 0.04 * (index - (len(named) - 1) / 2) for x in at]  # bars do not cover each other
        axes.errorbar(
            moved, means, spread, marker="o", markersize=4, capsize=3, color=PALETTE[index], label=label
        )
    if f"optimal_accuracy/{shots[0]}" in metrics:
        best = [metrics[f"optimal_accuracy/{k}"] for k in shots]
        axes.plot(at, best, linestyle=":", color="0.3", linewidth=1.4, label="best possible")
    if (majority := metrics.get("majority_accuracy")) is not None:
        axes.axhline(majority, linestyle=":", color="0.3", linewidth=1.4, label="most frequent label")
    chance = metrics["chance"]
    axes.axhline(chance, linestyle="--", color="0.6", linewidth=1.2, label=f"chance {chance:.3g}")
    axes.set(ylim=(0, 1.02), xlabel=plain("examples in the context"), ylabel="accuracy")
    axes.set_xticks(list(at), [str(k) for k in shots])
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3, **LEGEND)
    save(figure, file)
