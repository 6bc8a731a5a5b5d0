"""Search results: a row of pictures for each query, the most similar first."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from torchstone.plots.canvas import canvas, place_image, plain, save, whole_axes

SIDE, GAP, LABEL, HEAD = 0.8, 0.12, 2.6, 0.45  # inches
RIGHT = "#009E73"  # frame around what belongs to the query


def plot_retrieval(
    queries: Sequence[str],
    images: Sequence[Sequence[UInt8[Tensor, "channel height width"]]],
    file: str | Path,
    *,
    title: str,
    captions: Sequence[Sequence[str]] | None = None,
    relevant: Sequence[Sequence[bool]] | None = None,
) -> None:
    """Plots each query, and beside it the pictures that it found.

    Args:
        images: of each query, all rows of equal length or shorter.
        captions: below each picture.
        relevant: whether a picture belongs to the query: then it is framed.
    """
    columns = max(map(len, images))
    row = SIDE + GAP + (0.16 if captions else 0.0)
    figure = canvas(LABEL + columns * (SIDE + GAP) + GAP, len(queries) * row + HEAD, layout=None)
    height = figure.get_figheight()
    figure.suptitle(plain(title, 110), fontsize=10, y=1 - 0.1 / height, va="top")
    sheet = whole_axes(figure)
    for number, (query, found) in enumerate(zip(queries, images, strict=True)):
        bottom = height - HEAD - number * row - SIDE
        sheet.text(LABEL - 0.1, bottom + SIDE / 2, plain(query, 36), fontsize=9, ha="right", va="center")
        for place, image in enumerate(found):
            left = LABEL + place * (SIDE + GAP)
            pixels = image.permute(1, 2, 0).cpu().numpy()
            place_image(
                sheet, pixels if pixels.shape[2] == 3 else pixels.repeat(3, 2), (left, bottom, SIDE, SIDE)
            )
            if captions is not None:
                text = plain(captions[number][place], 15)
                sheet.text(left + SIDE / 2, bottom - 0.03, text, fontsize=6, ha="center", va="top")
            if relevant is not None and relevant[number][place]:
                x, y = [left, left + SIDE], [bottom, bottom + SIDE]
                sheet.plot(
                    [x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=RIGHT, lw=2.5
                )
    save(figure, file)


def plot_found(
    query: str,
    images: Sequence[UInt8[Tensor, "channel height width"]],
    names: Sequence[str],
    similarities: Sequence[float],
    file: str | Path,
) -> None:
    """Plots the pictures that a search found, the most similar first, with name and similarity of each."""
    columns, side, head = min(6, max(3, len(images))), 1.35, 0.55
    width, height = 1.75, 1.95
    rows = -(-len(images) // columns)
    figure = canvas(width * columns, height * rows + head, layout=None)
    title = f"{plain(query, 60)}: the {len(images)} most similar pictures (cosine)"
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / (height * rows + head), va="top")
    sheet = whole_axes(figure)
    for number, (image, name, similarity) in enumerate(zip(images, names, similarities, strict=True)):
        left = (number % columns) * width + 0.2
        bottom = figure.get_figheight() - head - (number // columns) * height - 1.4
        place_image(sheet, image.permute(1, 2, 0).cpu().numpy(), (left, bottom, side, side))
        label = f"{plain(name, 20)}\n{similarity:.2f}"
        sheet.text(left + side / 2, bottom - 0.054, label, fontsize=8, ha="center", va="top")
    save(figure, file)
