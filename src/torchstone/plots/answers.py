"""Images with a question about each, and the answer that a model gave."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from torchstone.plots.canvas import PALETTE, canvas, place_image, plain, save, whole_axes

CORRECT, WRONG = PALETTE[2], PALETTE[1]
COLUMNS = 6
WIDTH, HEIGHT, MARGIN = 1.75, 1.9, 0.5  # inches of a cell, and above them


def plot_answers(
    images: UInt8[Tensor, "count 3 height width"],
    questions: Sequence[str],
    answers: Sequence[str],
    is_right: Sequence[bool],
    file: str | Path,
) -> None:
    """Draw each image above its question and the answer: green if it is right, else orange."""
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    figure = canvas(WIDTH * columns, HEIGHT * rows + MARGIN, layout=None)
    axes = whole_axes(figure)
    for number, image in enumerate(images.numpy()):
        row, column = divmod(number, columns)
        left, bottom = WIDTH * column, HEIGHT * (rows - 1 - row)
        place_image(axes, image.transpose(1, 2, 0), (left + 0.3, bottom + 0.6, WIDTH - 0.6, HEIGHT - 0.75))
        middle = left + WIDTH / 2
        axes.text(middle, bottom + 0.4, plain(questions[number], 30), ha="center", fontsize=7, color="0.35")
        color = CORRECT if is_right[number] else WRONG
        text = plain(answers[number] or "(nothing)", 26)
        axes.text(middle, bottom + 0.2, text, ha="center", fontsize=8.5, color=color, weight="bold")
    title = f"held-out images: {sum(is_right)} of {len(images)} answers are right (green)"
    axes.text(0.15, HEIGHT * rows + 0.2, title, fontsize=10, weight="bold")
    save(figure, file)
