"""Pictures of masks: truth and prediction side by side, and predictions laid over photographs."""

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.plots.canvas import PALETTE, canvas, plain, save

COLUMNS = 4
LISTED = 24  # classes that a legend names at most


def class_colors(count: int) -> Float[np.ndarray, "count 3"]:
    """A colour on 0..1 for each class: light grey for the first, the house's, then even steps of hue."""
    found: list[tuple[float, ...]] = [(0.93, 0.93, 0.93)]
    found += [tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in PALETTE]
    turn = (math.sqrt(5) - 1) / 2  # of a circle: never near one that was there
    while len(found) < count:
        place = len(found) - len(PALETTE)
        found.append(colorsys.hsv_to_rgb(place * turn % 1, 0.8, 0.85 - 0.3 * (place % 2)))
    return np.array(found[:count])


def colorize_mask(mask: Int64[Tensor, "height width"], count: int) -> Float[np.ndarray, "height width 3"]:
    """A mask in its classes' colours; void is white."""
    table = np.ones((IGNORE_INDEX + 1, 3))
    table[:count] = class_colors(count)
    return table[mask.numpy()]


def overlay_mask(
    picture: UInt8[np.ndarray, "height width 3"], mask: Int64[Tensor, "height width"], count: int
) -> Float[np.ndarray, "height width 3"]:
    """The picture, tinted by half wherever the mask is not background."""
    pixels = picture / 255
    tinted = 0.45 * pixels + 0.55 * colorize_mask(mask, count)
    return np.where((mask.numpy() > 0)[..., None], tinted, pixels)


def plot_predictions(
    pictures: UInt8[Tensor, "n 3 height width"],
    truth: Int64[Tensor, "n height width"],
    guesses: Int64[Tensor, "n height width"],
    classes: Sequence[str],
    overlaps: Sequence[float],
    file: str | Path,
) -> None:
    """Draws triples of picture, truth and prediction, with the share of pixels that are right.

    Args:
        overlaps: each class's intersection over union on the whole split, for the legend.
    """
    columns = 2 if len(pictures) > 1 else 1
    rows, count = math.ceil(len(pictures) / columns), len(classes)
    side, gap, head, foot = 1.25, 0.12, 0.62, 0.3 + 0.22 * _lines(count)
    width = columns * (3 * side + 4 * gap) + gap
    height = rows * (side + 0.24) + head + foot
    figure = canvas(width, height, layout=None)
    known = [value for value in overlaps if not math.isnan(value)]
    mean = sum(known) / max(1, len(known))
    title = f"mean intersection over union {mean:.3f} (each class below)\npicture, truth, prediction (pixels right)"
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height, va="top")
    for i in range(len(pictures)):
        left = gap + (i % columns) * (3 * side + 4 * gap)
        top = head + (i // columns) * (side + 0.24)
        counted = truth[i] != IGNORE_INDEX
        right = float((guesses[i] == truth[i])[counted].float().mean())
        tiles = [pictures[i].permute(1, 2, 0).numpy() / 255]
        tiles += [colorize_mask(mask[i], count) for mask in (truth, guesses)]
        for place, tile in enumerate(tiles):
            box = ((left + place * (side + gap)) / width, 1 - (top + side) / height)
            axes = figure.add_axes((*box, side / width, side / height))
            _bare(axes, tile)
        axes.set_xlabel(f"{100 * right:.1f} %", fontsize=8, labelpad=2)
    labels = [f"{n} {v:.2f}" for n, v in zip(classes, overlaps, strict=True)]
    _legend(figure, labels)
    save(figure, file)


def plot_overlays(
    drawn: Sequence[tuple[str, Image.Image, Int64[Tensor, "height width"]]],
    classes: Sequence[str],
    file: str | Path,
) -> None:
    """Draws each picture and beside it the same with its mask laid over; the legend says the shares of
    the pixels where there is one picture."""
    rows, count, side = len(drawn), len(classes), 3.4
    foot = 0.2 + 0.22 * _lines(count)
    ratios = [min(1.6, max(0.4, image.height / image.width)) for _, image, _ in drawn]
    height = side * sum(ratios) + 0.3 * rows + foot
    figure = canvas(2 * side + 0.3, height, layout=None)
    top = 0.0
    for (name, image, mask), ratio in zip(drawn, ratios, strict=True):
        pixels = np.asarray(image.convert("RGB"))
        for place, tile in enumerate((pixels / 255, overlay_mask(pixels, mask, count))):
            box = (
                (0.1 + place * (side + 0.1)) / (2 * side + 0.3),
                1 - (top + 0.28 + side * ratio) / height,
                side / (2 * side + 0.3),
                side * ratio / height,
            )
            axes = figure.add_axes(box)
            _bare(axes, tile)
            if not place:
                axes.set_title(plain(name, 44), fontsize=9, loc="left", pad=4)
        top += side * ratio + 0.3
    shares = None
    if rows == 1:
        mask = drawn[0][2]
        shares = [float((mask == c).float().mean()) for c in range(count)]
    _legend(
        figure,
        [f"{n} {100 * s:.1f} %" for n, s in zip(classes, shares, strict=True)] if shares else list(classes),
    )
    save(figure, file)


def _bare(axes, tile: np.ndarray) -> None:
    axes.imshow(tile.clip(0, 1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.75")


def _lines(count: int) -> int:
    return math.ceil(min(count, LISTED) / COLUMNS)


def _legend(figure, labels: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    chosen = class_colors(len(labels))[:LISTED]
    handles = [
        Patch(facecolor=c, edgecolor="0.6", label=plain(text, 26))
        for c, text in zip(chosen, labels, strict=False)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=COLUMNS, frameon=False, fontsize=8)
