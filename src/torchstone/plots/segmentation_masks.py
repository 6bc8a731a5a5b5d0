"""Plots of masks: truth and prediction side by side, and predictions overlaid on images."""

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.plots.canvas import PALETTE, canvas, percent, plain, save

COLUMNS = 4
MAX_LISTED = 24  # classes in a legend


def class_colors(count: int) -> Float[np.ndarray, "count 3"]:
    """A color on 0..1 for each class: light gray for the first, the palette's, then even steps of hue."""
    colors: list[tuple[float, ...]] = [(0.93, 0.93, 0.93)]
    colors += [tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in PALETTE]
    turn = (math.sqrt(5) - 1) / 2  # of the color circle: never close to an earlier one
    while len(colors) < count:
        i = len(colors) - len(PALETTE)
        colors.append(colorsys.hsv_to_rgb(i * turn % 1, 0.8, 0.85 - 0.3 * (i % 2)))
    return np.array(colors[:count])


def colorize_mask(mask: Int64[Tensor, "height width"], count: int) -> Float[np.ndarray, "height width 3"]:
    """A mask in its classes' colors; ignored pixels are white."""
    table = np.ones((IGNORE_INDEX + 1, 3))
    table[:count] = class_colors(count)
    return table[mask.numpy()]


def overlay_mask(
    image: UInt8[np.ndarray, "height width 3"], mask: Int64[Tensor, "height width"], count: int
) -> Float[np.ndarray, "height width 3"]:
    """The image, tinted by half wherever the mask is not background."""
    pixels = image / 255
    tinted = 0.45 * pixels + 0.55 * colorize_mask(mask, count)
    return np.where((mask.numpy() > 0)[..., None], tinted, pixels)


def plot_predictions(
    images: UInt8[Tensor, "n 3 height width"],
    labels: Int64[Tensor, "n height width"],
    predictions: Int64[Tensor, "n height width"],
    classes: Sequence[str],
    ious: Sequence[float],
    file: str | Path,
) -> None:
    """Plots triples of image, truth and prediction, with the pixel accuracy.

    Args:
        ious: each class's intersection over union on the full split, for the legend.
    """
    columns = 2 if len(images) > 1 else 1
    rows, count = math.ceil(len(images) / columns), len(classes)
    side, gap, head, foot = 1.25, 0.12, 0.62, 0.3 + 0.22 * _legend_rows(count)
    width = columns * (3 * side + 4 * gap) + gap
    height = rows * (side + 0.24) + head + foot
    figure = canvas(width, height, layout=None)
    defined = [iou for iou in ious if not math.isnan(iou)]
    mean = sum(defined) / max(1, len(defined))
    over = f"{len(defined)} of {count} classes, each below" if len(defined) < count else "each class below"
    title = f"mean intersection over union {mean:.3f} ({over})\n"
    title += "image, truth, prediction (pixel accuracy)"
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height, va="top")
    for i in range(len(images)):
        left = gap + (i % columns) * (3 * side + 4 * gap)
        top = head + (i // columns) * (side + 0.24)
        labeled = labels[i] != IGNORE_INDEX
        accuracy = float((predictions[i] == labels[i])[labeled].float().mean()) if labeled.any() else None
        tiles = [images[i].permute(1, 2, 0).numpy() / 255]
        tiles += [colorize_mask(mask[i], count) for mask in (labels, predictions)]
        for column, tile in enumerate(tiles):
            box = ((left + column * (side + gap)) / width, 1 - (top + side) / height)
            axes = figure.add_axes((*box, side / width, side / height))
            _show_tile(axes, tile)
        caption = "no label" if accuracy is None else percent(accuracy).replace("%", " %")
        axes.set_xlabel(caption, fontsize=8, labelpad=2)
    figures = ["not there" if math.isnan(iou) else f"{iou:.2f}" for iou in ious]
    _legend(figure, [f"{name} {figure_}" for name, figure_ in zip(classes, figures, strict=True)])
    save(figure, file)


def plot_overlays(
    overlays: Sequence[tuple[str, Image.Image, Int64[Tensor, "height width"]]],
    classes: Sequence[str],
    file: str | Path,
    shares: Sequence[float],
) -> None:
    """Plots each (name, image, mask): the image and next to it the overlay.

    Args:
        shares: each class's share of the pixels of a single image, for the legend.
    """
    rows, count, side = len(overlays), len(classes), 3.4
    foot = 0.2 + 0.22 * _legend_rows(count)
    ratios = [min(1.6, max(0.4, image.height / image.width)) for _, image, _ in overlays]
    height = side * sum(ratios) + 0.3 * rows + foot
    figure = canvas(2 * side + 0.3, height, layout=None)
    top = 0.0
    for (name, image, mask), ratio in zip(overlays, ratios, strict=True):
        pixels = np.asarray(image.convert("RGB"))
        for column, tile in enumerate((pixels / 255, overlay_mask(pixels, mask, count))):
            box = (
                (0.1 + column * (side + 0.1)) / (2 * side + 0.3),
                1 - (top + 0.28 + side * ratio) / height,
                side / (2 * side + 0.3),
                side * ratio / height,
            )
            axes = figure.add_axes(box)
            _show_tile(axes, tile)
            if not column:
                axes.set_title(plain(name, 44), fontsize=9, loc="left", pad=4)
        top += side * ratio + 0.3
    labels = list(classes)
    if rows == 1:
        labels = [f"{name} {percent(share)}" for name, share in zip(classes, shares, strict=True)]
    _legend(figure, labels)
    save(figure, file)


def _show_tile(axes, tile: np.ndarray) -> None:
    axes.imshow(tile.clip(0, 1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.75")


def _legend_rows(count: int) -> int:
    return math.ceil(min(count, MAX_LISTED) / COLUMNS)


def _legend(figure, labels: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    colors = class_colors(len(labels))[:MAX_LISTED]
    handles = [
        Patch(facecolor=c, edgecolor="0.6", label=plain(text, 26))
        for c, text in zip(colors, labels, strict=False)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=COLUMNS, frameon=False, fontsize=8)
