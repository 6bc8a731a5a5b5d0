"""Pictures of a classifier's answers: what it confuses, and where it is wrong."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.plots.canvas import canvas, plain, save

WRITTEN = 20  # classes up to which every count is written out


def plot_confusion_matrix(
    matrix: Int[Tensor, "classes classes"], classes: Sequence[str], file: str | Path
) -> None:
    """Draws counts (row: true class, column: predicted class), coloured by their share of the row.

    Each class's recall stands at the right; up to 20 classes, all counts are written.

    Raises:
        BadInput: there are not as many names as classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import FixedLocator

    counts = matrix.cpu().numpy()
    n = len(counts)
    if len(classes) != n:
        raise BadInput(f"{len(classes)} class names for a confusion matrix of {n} classes")
    total, right = int(counts.sum()), int(counts.trace())
    per_row = counts.sum(1, keepdims=True)
    share = counts / np.maximum(per_row, 1)
    written = n <= WRITTEN
    side = max(3.2, 0.46 * n) if written else 8.5
    names = [plain(name, 18) for name in classes]
    margin = 0.6 + 0.075 * max(map(len, names))
    figure = canvas(side + margin + 2.9, side + min(margin, 2.2) + 0.8)
    axes, recall = figure.subplots(1, 2, sharey=True, width_ratios=(side, 1.1))

    # The root lifts small shares: one mistake in a hundred can still be seen.
    shown = axes.imshow(
        share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest"
    )
    step = 1 if written else math.ceil(n / 25)
    axes.xaxis.set_major_locator(FixedLocator(range(0, n, step)))
    axes.yaxis.set_major_locator(FixedLocator(range(0, n, step)))
    upright = max(map(len, names)) > 3
    axes.set_xticklabels(names[::step], rotation=90 if upright else 0, fontsize=8)
    axes.set_yticklabels(names[::step], fontsize=8)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    if written:
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.88", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[i, j] > 0.3 else "black"
            weight = "bold" if i == j else "normal"
            axes.text(j, i, f"{counts[i, j]}", color=colour, fontsize=8, fontweight=weight,
                      ha="center", va="center")  # fmt: skip

    diagonal = share.diagonal()
    recall.barh(range(n), diagonal, height=0.8 if written else 1.0, color="#7fb0d8")
    recall.set_xlim(0, 1)
    recall.set_xticks([0, 0.5, 1], ["0", "50", "100 %"], fontsize=8)
    recall.tick_params(axis="y", which="both", length=0, labelleft=False)
    recall.tick_params(which="minor", length=0)
    recall.spines[["top", "right"]].set_visible(False)
    recall.set_title("recall", fontsize=9)
    for i in range(n if written else 0):
        text = f"{100 * diagonal[i]:.1f} %" if per_row[i] else "none seen"
        recall.text(0.04, i, text, fontsize=8, va="center")
    bar = figure.colorbar(shown, ax=[axes, recall], fraction=0.03, pad=0.02)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1", "5", "20", "50", "100 %"])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("share of the true class", fontsize=8)
    figure.suptitle(f"accuracy {100 * right / max(total, 1):.2f} %  ({right:,} of {total:,})", fontsize=11)
    save(figure, file)


def worst_mistakes(
    labels: Int64[Tensor, " n"],
    probabilities: Float[Tensor, "n classes"],
    most: int,
    predictions: Int64[Tensor, " n"] | None = None,
) -> Int64[Tensor, " shown"]:
    """Indices of the mistakes, highest confidence in the wrong class first; `most` at most.

    Equal confidences keep the data's order. `predictions` is by default the likeliest class.
    """
    predictions = probabilities.argmax(1) if predictions is None else predictions
    wrong = (predictions != labels).nonzero()[:, 0]
    confidence = probabilities[wrong, predictions[wrong]]
    return wrong[confidence.argsort(descending=True, stable=True)[:most]]


def plot_mistakes(
    images: UInt8[Tensor, "n channel height width"],
    labels: Int64[Tensor, " n"],
    predictions: Int64[Tensor, " n"],
    probabilities: Float[Tensor, "n classes"],
    classes: Sequence[str],
    file: str | Path,
    most: int = 36,
) -> None:
    """Draws the worst mistakes, each with `true → predicted (confidence)`.

    Where there is no mistake, the right answers that were least certain, and the title says so.
    """
    index = worst_mistakes(labels, probabilities, most, predictions)
    wrong, n = int((predictions != labels).sum()), len(labels)
    if wrong:
        title = f"{wrong:,} mistakes in {n:,} pictures" if wrong > 1 else f"1 mistake in {n:,} pictures"
        title += f": the {len(index)} most confident" if wrong > len(index) else ""
    else:
        index = probabilities.gather(1, labels[:, None])[:, 0].argsort(stable=True)[:most]
        title = f"no mistake in {n:,} pictures: the {len(index)} least certain right answers"
    title += "\ntrue → predicted (confidence)" if wrong else "\nclass (confidence)"

    columns = max(3, min(6, math.ceil(math.sqrt(len(index)))))
    rows = max(1, math.ceil(len(index) / columns))
    width, height, head = 1.75, 1.95, 0.65
    figure = canvas(width * columns, height * rows + head, layout=None)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / (height * rows + head), va="top")
    for place, i in enumerate(index.tolist()):
        left, top = (place % columns) * width, head + (place // columns) * height
        tile = figure.add_axes(
            (
                (left + 0.2) / (width * columns),
                1 - (top + 1.4) / (height * rows + head),
                1.35 / (width * columns),
                1.35 / (height * rows + head),
            )
        )
        show_image(tile, images[i].cpu().float() / 255)
        tile.set_axis_off()
        true, said = (classes[int(each[i])] for each in (labels, predictions))
        sure = 100 * float(probabilities[i, predictions[i]])
        # Never "100 %" of what is not sure.
        sure = f"({sure:.0f} %)" if sure < 99.5 else f"({min(sure, 99.9):.1f} %)"
        if not wrong:
            text = plain(true, 22) + ("\n" if len(true) > 12 else " ") + sure
        elif len(true) + len(said) <= 12:
            text = f"{plain(true)} → {plain(said)} {sure}"
        else:
            text = f"{plain(true, 20)} →\n{plain(said, 14)} {sure}"
        tile.text(0.5, -0.04, text, transform=tile.transAxes, fontsize=8, ha="center", va="top")
    save(figure, file)


def show_image(axes, picture: Float[Tensor, "channel height width"]) -> None:
    """Draws a picture on 0..1; of other than three channels, their mean in grey."""
    grey = len(picture) != 3
    pixels = picture.mean(0) if grey else picture.permute(1, 2, 0)
    axes.imshow(
        pixels.clamp(0, 1).numpy(),
        cmap="gray" if grey else None,
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )


def overlay_heatmap(
    picture: Float[Tensor, "channel height width"], heat: Float[Tensor, "height width"]
) -> Float[np.ndarray, "height width 3"]:
    """The picture in grey, and over it the heat from clear (0) to yellow (its largest).

    One pixel in a hundred may be beyond the scale, so that a single one does not dim the others.
    """
    import matplotlib

    most = float(heat.flatten().quantile(0.99)) or float(heat.max()) or 1.0
    share = (heat / most).clamp(0, 1).numpy()
    grey = picture.mean(0).clamp(0, 1).numpy()[..., None]
    colour = matplotlib.colormaps["inferno"](share)[..., :3]
    clear = 1 - 0.8 * share[..., None] ** 0.7
    return clear * grey * 0.8 + (1 - clear) * colour
