"""Pictures of a network in training: loss landscape, histograms by layer, gradient noise scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchstone.plots.canvas import LEGEND, PALETTE, canvas, percent, plain, save


def draw_landscape(landscape: Any, title: str, file: str | Path) -> None:
    """The plane as a map of the loss, and two slices through the weights."""
    offsets, losses = np.array(landscape.offsets), np.array(landscape.losses)
    figure = canvas(9.0, 3.9)
    figure.suptitle(plain(title, 90), fontsize=11, fontweight="bold")
    left, right = figure.subplots(1, 2)
    finite = np.where(np.isfinite(losses), losses, np.nan)
    heights = np.clip(finite, None, np.nanpercentile(finite, 95))
    image = left.contourf(offsets, offsets, heights, levels=18, cmap="viridis")
    left.plot([0], [0], "+", color="white", markersize=10)
    left.set_aspect("equal")
    left.set_xlabel("second direction", fontsize=8)
    left.set_ylabel("first direction", fontsize=8)
    bar = figure.colorbar(image, ax=left, shrink=0.9)
    bar.set_label("loss (highest 5 % cut off)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    middle = len(offsets) // 2
    right.plot(offsets, losses[:, middle], "o-", color=PALETTE[0], markersize=3, label="along the first")
    right.plot(offsets, losses[middle], "o-", color=PALETTE[1], markersize=3, label="along the second")
    right.axvline(0, color="0.6", linewidth=0.8)
    right.set_ylabel("loss", fontsize=8)
    right.set_xlabel("distance in norms of the filters", fontsize=8)
    right.legend(**LEGEND)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
    right.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def draw_histograms(layers: Sequence[Any], title: str, unit: str, file: str | Path) -> None:
    """A row for each layer: the histogram of log₁₀ of its values' magnitudes; the share of zeros in numbers.

    Args:
        layers: with `name` and `values`, the first at the top.
    """
    figure = canvas(7.6, 0.9 + 0.34 * max(3, len(layers)))
    axes = figure.add_subplot()
    axes.set_title(plain(title, 90), loc="left", fontsize=10, fontweight="bold")
    magnitudes = [layer.values.abs().double().numpy() for layer in layers]
    logs = [np.log10(m[(m > 0) & np.isfinite(m)]) for m in magnitudes]
    spans = [np.percentile(each, [0.1, 99.9]) for each in logs if len(each)]
    low, high = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (-1.0, 1.0)
    edges = np.linspace(low - 0.2, high + 0.2, 81)
    for row, (each, all_of) in enumerate(zip(logs, magnitudes, strict=True)):
        counts = np.histogram(each, edges)[0] if len(each) else np.zeros(80)
        heights = 0.85 * counts / max(1, counts.max())
        centers, base = (edges[1:] + edges[:-1]) / 2, len(layers) - 1 - row
        axes.fill_between(centers, base, base + heights, color=PALETTE[row % 2 * 5], linewidth=0, alpha=0.85)
        zeros = float((all_of == 0).mean()) if len(all_of) else 0.0
        axes.text(edges[-1], base + 0.1, f" {percent(zeros)} zero", fontsize=7, color="0.35")
    axes.set_yticks([len(layers) - 1 - row + 0.3 for row in range(len(layers))])
    axes.set_yticklabels([plain(layer.name, 34) for layer in layers], fontsize=7)
    axes.set_xlim(edges[0], edges[-1] + 0.13 * (edges[-1] - edges[0]))  # room for the shares
    axes.set_ylim(0, max(1, len(layers)))
    axes.set_xlabel(f"log₁₀ |{unit}|", fontsize=8)
    axes.tick_params(labelsize=8, axis="x")
    axes.grid(True, axis="x", color="0.9", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    save(figure, file)


def draw_noise_scale(scale: Any, layers: Sequence[str], title: str, file: str | Path) -> None:
    """Bars of the noise scale by layer, on a logarithmic axis, with that of the whole gradient and the batch.

    Args:
        layers: those that are drawn, the first at the top.
    """
    figure = canvas(7.6, 1.3 + 0.24 * max(3, len(layers)))
    figure.suptitle(plain(title, 90), fontsize=10, fontweight="bold")
    axes = figure.add_subplot()
    values = [scale.layers[name] for name in layers]
    known = [v for v in [*values, scale.total, scale.batch] if v]
    low, high = min(known) / 3, max(known) * 3
    for row, value in enumerate(values):
        if value:
            axes.barh(row, value - low, left=low, color=PALETTE[0], height=0.7)
        else:
            axes.text(low * 1.1, row, "more than these batches tell", fontsize=7, va="center", color="0.4")
    if scale.total:
        axes.axvline(scale.total, color=PALETTE[1], label=f"whole gradient: {scale.total:.3g}")
    axes.axvline(scale.batch, color="0.3", linestyle="--", label=f"the run's batch: {scale.batch}")
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_yticks(range(len(layers)))
    axes.set_yticklabels([plain(name, 34) for name in layers], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(f"gradient noise scale tr(Σ)/‖G‖², rows of a batch ({scale.batches} batches)", fontsize=8)
    axes.tick_params(labelsize=8, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, **LEGEND)
    save(figure, file)
