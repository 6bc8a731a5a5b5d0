"""Plots of a classifier's predictions: confusion matrix, worst mistakes, heatmap overlays."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.plots.canvas import canvas, percent, place_image, plain, save, whole_axes

MAX_ANNOTATED = 20  # classes up to which every count is annotated


def plot_confusion_matrix(
    matrix: Int[Tensor, "classes classes"], classes: Sequence[str], file: str | Path
) -> None:
    """Plots counts (row: true class, column: predicted class), colored by their share of the row.

    Each class's recall is on the right; up to 20 classes, all counts are annotated.

    Raises:
        BadInput: the number of names is not the number of classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import FixedLocator

    counts = matrix.cpu().numpy()
    n = len(counts)
    if len(classes) != n:
        raise BadInput(f"{len(classes)} class names for a confusion matrix of {n} classes")
    total, correct = int(counts.sum()), int(counts.trace())
    per_row = counts.sum(1, keepdims=True)
    share = counts / np.maximum(per_row, 1)
    is_annotated = n <= MAX_ANNOTATED
    side = max(3.2, 0.46 * n) if is_annotated else 8.5
    names = [plain(name, 18) for name in classes]
    margin = 0.6 + 0.075 * max(map(len, names))
    figure = canvas(side + margin + 2.9, side + min(margin, 2.2) + 0.8)
    axes, recall = figure.subplots(1, 2, sharey=True, width_ratios=(side, 1.1))

    # The square root emphasizes small shares: one mistake in a hundred is still visible.
    mappable = axes.imshow(
        share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest"
    )
    step = 1 if is_annotated else math.ceil(n / 25)
    axes.xaxis.set_major_locator(FixedLocator(range(0, n, step)))
    axes.yaxis.set_major_locator(FixedLocator(range(0, n, step)))
    has_long_names = max(map(len, names)) > 3
    axes.set_xticklabels(names[::step], rotation=90 if has_long_names else 0, fontsize=8)
    axes.set_yticklabels(names[::step], fontsize=8)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    if is_annotated:
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.88", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        for i, j in zip(*np.nonzero(counts), strict=True):
            axes.text(
                j,
                i,
                f"{counts[i, j]}",
                color="white" if share[i, j] > 0.3 else "black",
                fontsize=8,
                fontweight="bold" if i == j else "normal",
                ha="center",
                va="center",
                in_layout=False,  # each is in its cell; measuring them takes longer than drawing
            )

    diagonal = share.diagonal()
    recall.barh(range(n), diagonal, height=0.8 if is_annotated else 1.0, color="#7fb0d8")
    recall.set_xlim(0, 1)
    recall.set_xticks([0, 0.5, 1], ["0", "50", "100 %"], fontsize=8)
    recall.tick_params(axis="y", which="both", length=0, labelleft=False)
    recall.tick_params(which="minor", length=0)
    recall.spines[["top", "right"]].set_visible(False)
    recall.set_title("recall", fontsize=9)
    for i in range(n if is_annotated else 0):
        text = percent(diagonal[i]).replace("%", " %") if per_row[i] else "no examples"
        recall.text(0.04, i, text, fontsize=8, va="center")
    bar = figure.colorbar(mappable, ax=[axes, recall], fraction=0.03, pad=0.02)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1", "5", "20", "50", "100 %"])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the true class", fontsize=8)
    figure.suptitle(
        f"accuracy {percent(correct / max(total, 1), 2)[:-1]} %  ({correct:,} of {total:,})", fontsize=11
    )
    save(figure, file)


def worst_mistakes(
    labels: Int64[Tensor, " n"],
    probabilities: Float[Tensor, "n classes"],
    max_count: int,
    predictions: Int64[Tensor, " n"] | None = None,
) -> Int64[Tensor, " shown"]:
    """Indices of at most `max_count` mistakes, highest confidence in the wrong class first.

    Ties keep the data's order. `predictions` is by default the most probable class.
    """
    predictions = probabilities.argmax(1) if predictions is None else predictions
    wrong = (predictions != labels).nonzero()[:, 0]
    confidence = probabilities[wrong, predictions[wrong]]
    return wrong[confidence.argsort(descending=True, stable=True)[:max_count]]


def plot_mistakes(
    images: UInt8[Tensor, "n channel height width"],
    labels: Int64[Tensor, " n"],
    predictions: Int64[Tensor, " n"],
    probabilities: Float[Tensor, "n classes"],
    classes: Sequence[str],
    file: str | Path,
    max_shown: int = 36,
) -> None:
    """Plots the worst mistakes, each with `true → predicted (confidence)`.

    Where there is no mistake, the least confident correct predictions, as the title says.
    """
    index = worst_mistakes(labels, probabilities, max_shown, predictions)
    wrong, n = int((predictions != labels).sum()), len(labels)
    if wrong:
        title = f"{wrong:,} mistakes in {n:,} images" if wrong > 1 else f"1 mistake in {n:,} images"
        title += f": the {len(index)} most confident" if wrong > len(index) else ""
    else:
        index = probabilities.gather(1, labels[:, None])[:, 0].argsort(stable=True)[:max_shown]
        title = f"no mistake in {n:,} images: the {len(index)} least confident correct ones"
    title += "\ntrue → predicted (confidence)" if wrong else "\nclass (confidence)"

    columns = max(3, min(6, math.ceil(math.sqrt(len(index)))))
    rows = max(1, math.ceil(len(index) / columns))
    width, height, head = 1.75, 1.95, 0.65
    figure = canvas(width * columns, height * rows + head, layout=None)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / (height * rows + head), va="top")
    sheet = whole_axes(figure)
    for position, i in enumerate(index.tolist()):
        left = (position % columns) * width + 0.2
        bottom = figure.get_figheight() - head - (position // columns) * height - 1.4
        pixels, scale = displayed(images[i].cpu().float() / 255)
        place_image(sheet, pixels, (left, bottom, 1.35, 1.35), **scale)
        true, predicted = (classes[int(each[i])] for each in (labels, predictions))
        confidence = f"({percent(float(probabilities[i, predictions[i]]))})"
        if not wrong:
            text = plain(true, 22) + ("\n" if len(true) > 12 else " ") + confidence
        elif len(true) + len(predicted) <= 12:
            text = f"{plain(true)} → {plain(predicted)} {confidence}"
        else:
            text = f"{plain(true, 20)} →\n{plain(predicted, 14)} {confidence}"
        sheet.text(left + 1.35 / 2, bottom - 0.054, text, fontsize=8, ha="center", va="top")
    save(figure, file)


def show_image(axes, image: Float[Tensor, "channel height width"]) -> None:
    """Shows an image on 0..1; of other than three channels, their mean in gray."""
    pixels, scale = displayed(image)
    axes.imshow(pixels, interpolation="nearest", **scale)


def displayed(image: Float[Tensor, "channel height width"]) -> tuple[np.ndarray, dict]:
    """An image as matplotlib takes it: its pixels, and how values are colored."""
    is_gray = len(image) != 3
    pixels = image.mean(0) if is_gray else image.permute(1, 2, 0)
    return pixels.clamp(0, 1).numpy(), {"cmap": "gray" if is_gray else None, "vmin": 0, "vmax": 1}


def overlay_heatmap(
    image: Float[Tensor, "channel height width"], heatmap: Float[Tensor, "height width"]
) -> Float[np.ndarray, "height width 3"]:
    """The image in gray, and over it the heatmap from transparent (0) to yellow (its maximum).

    One pixel in a hundred may exceed the scale, so that a single one does not dim the others.
    """
    import matplotlib

    limit = float(heatmap.flatten().quantile(0.99)) or float(heatmap.max()) or 1.0
    share = (heatmap / limit).clamp(0, 1).numpy()
    gray = image.mean(0).clamp(0, 1).numpy()[..., None]
    color = matplotlib.colormaps["inferno"](share)[..., :3]
    transparency = 1 - 0.8 * share[..., None] ** 0.7
    return transparency * gray * 0.8 + (1 - transparency) * color
