"""Attention rollout: which patches of a picture the class token's answer was mixed from.

Abnar and Zuidema 2020 (arXiv:2005.00928), section 3, "Attention rollout".
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset, normalize
from torchstone.data.vision.preprocess import preprocess
from torchstone.errors import BadInput
from torchstone.plots.canvas import canvas, plain, save
from torchstone.plots.classification import show_image

MOST = 24  # pictures in one drawing


def rollout(
    maps: Sequence[Float[Tensor, "batch heads tokens tokens"]],
) -> Float[Tensor, "batch tokens tokens"]:
    """How much of each input token (column) is in each output token (row); a row sums to 1.

    Weights of the heads are averaged; a layer passes on half of what it is given by its shortcut:

        A = ½ (W + I)        R₁ = A₁,  Rₗ = Aₗ Rₗ₋₁        (section 3, equation 1)
    """
    mixed = None
    for weights in maps:
        mean = weights.mean(1)
        step = (mean + torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)) / 2
        mixed = step if mixed is None else step @ mixed
    if mixed is None:
        raise ValueError("no layer's weights to roll out")
    return mixed


@torch.no_grad()
def relevance(
    model: Any, images: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch rows columns"]:
    """The rollout from the class token to the patches, as they lie in the picture; sums to 1.

    `model.attention_maps(images)` gives each layer's weights, first layer first, class token first;
    `model.grid(height, width)` how many patches lie down and across.
    """
    mixed = rollout(model.attention_maps(images))[:, 0, 1:]
    mixed = mixed / mixed.sum(1, keepdim=True)
    return mixed.unflatten(1, model.grid(*images.shape[2:]))


def draw(
    pictures: Float[Tensor, "n channels height width"],
    maps: Float[Tensor, "n rows columns"],
    captions: Sequence[str],
    file: str | Path,
) -> None:
    """Each picture (0..1) and beside it the same under its map: dark where nothing was taken from.

    A map's brightest patch has the most relevance of that picture; patches keep their borders.
    """
    n = len(pictures)
    columns = max(1, min(4, math.ceil(math.sqrt(n / 1.5))))
    rows = math.ceil(n / columns)
    ratio = pictures.shape[2] / pictures.shape[3]
    side, head, foot = 1.5, 0.75, 0.3
    cell, tall = 2 * side + 0.45, side * ratio + foot
    width, height = columns * cell + 0.15, rows * tall + head
    figure = canvas(width, height, layout=None)
    figure.suptitle(
        "attention rollout: picture, and where the class token's answer comes from\n"
        "(yellow: the patch with most of it; black: none)",
        fontsize=9,
        y=1 - 0.1 / height,
        va="top",
    )
    for i, (picture, heat) in enumerate(zip(pictures.cpu(), maps.float().cpu(), strict=True)):
        left, top = (i % columns) * cell + 0.2, head + (i // columns) * tall
        below = 1 - (top + side * ratio) / height
        for place in (0, 1):
            box = (left + place * (side + 0.08)) / width, below, side / width, side * ratio / height
            axes = figure.add_axes(box)
            show_image(axes, picture)
            axes.set_axis_off()
            if place:
                shape = tuple(picture.shape[1:])
                over = F.interpolate(heat[None, None], size=shape, mode="nearest")[0, 0]
                axes.imshow(over.numpy(), cmap="inferno", vmin=0, alpha=0.65)
        text = plain(captions[i], 34)
        figure.text((left + side) / width, below - 0.04 / height, text, fontsize=8, ha="center", va="top")
    save(figure, file)


def report(model: nn.Module, data: ImageDataset, folder: Path) -> None:
    """Draw the rollout over test pictures, two of each class as long as there is room."""
    labels = data.test.labels
    each = max(1, MOST // 2 // len(data.classes))
    index = torch.cat([(labels == label).nonzero()[:each, 0] for label in range(len(data.classes))])[:MOST]
    raw = data.test.take(index)
    images = normalize(raw, data.metadata)
    model.eval()
    with torch.no_grad():
        guesses = model(images).argmax(1).tolist()
    captions = [
        data.classes[true] + ("" if true == said else f", said to be {data.classes[said]}")
        for true, said in zip(labels[index].tolist(), guesses, strict=True)
    ]
    draw(raw.float() / 255, relevance(model, images), captions, folder / "rollout.png")


def explain(model: Any, metadata: dict, inputs: Sequence[Path | str], file: str | Path) -> None:
    """Draw the rollout over image files, with the model's answers.

    Raises:
        BadInput: there are none or too many, or one is missing or no picture.
    """
    if not 0 < len(inputs) <= MOST:
        raise BadInput(f"give 1 to {MOST} image files to explain, not {len(inputs)}")
    device = next(model.parameters()).device
    raw = torch.cat([preprocess(each, metadata["picture"]).to(device) for each in inputs])
    images = normalize(raw, metadata["picture"])
    model.eval()
    with torch.no_grad():
        sure, best = model(images).softmax(1).max(1)
    captions = [
        f"{Path(each).name}: {metadata['classes'][label]} ({chance:.0%})"
        for each, label, chance in zip(inputs, best.tolist(), sure.tolist(), strict=True)
    ]
    draw(raw.float() / 255, relevance(model, images), captions, file)
