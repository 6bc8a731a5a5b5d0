"""Attention rollout: from which patches of an image the class token's output was mixed.

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
from torchstone.parts.modes import eval_mode
from torchstone.plots.canvas import canvas, percent, plain, save
from torchstone.plots.classification import show_image

MAX_IMAGES = 24  # in one figure


def rollout(
    maps: Sequence[Float[Tensor, "batch heads tokens tokens"]],
) -> Float[Tensor, "batch tokens tokens"]:
    """The contribution of each input token (column) to each output token (row); a row sums to 1.

    Attention weights are averaged over heads; half of a layer's output comes through its residual
    connection:

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
    """The rollout from the class token to the patches, as a map over the image; sums to 1.

    `model.attention_maps(images)` gives each layer's weights, first layer first, class token first;
    `model.patch_grid(height, width)` the number of patches (rows, columns).
    """
    mixed = rollout(model.attention_maps(images))[:, 0, 1:]
    mixed = mixed / mixed.sum(1, keepdim=True)
    return mixed.unflatten(1, model.patch_grid(*images.shape[2:]))


def draw(
    images: Float[Tensor, "n channels height width"],
    maps: Float[Tensor, "n rows columns"],
    captions: Sequence[str],
    file: str | Path,
) -> None:
    """Plot each image (0..1) and, to its right, the same under its map: dark where relevance is low.

    A map's brightest patch has the most relevance of that image; patches keep sharp borders.
    """
    n = len(images)
    columns = max(1, min(4, math.ceil(math.sqrt(n / 1.5))))
    rows = math.ceil(n / columns)
    ratio = images.shape[2] / images.shape[3]
    side, head, foot = 1.5, 0.75, 0.3
    cell, tall = 2 * side + 0.45, side * ratio + foot
    width, height = columns * cell + 0.15, rows * tall + head
    figure = canvas(width, height, layout=None)
    figure.suptitle(
        "attention rollout: image, and patches that the class token's output comes from\n"
        "(yellow: the most relevant patch; black: none)",
        fontsize=9,
        y=1 - 0.1 / height,
        va="top",
    )
    for i, (image, heat) in enumerate(zip(images.cpu(), maps.float().cpu(), strict=True)):
        left, top = (i % columns) * cell + 0.2, head + (i // columns) * tall
        below = 1 - (top + side * ratio) / height
        for with_map in (0, 1):
            box = (left + with_map * (side + 0.08)) / width, below, side / width, side * ratio / height
            axes = figure.add_axes(box)
            show_image(axes, image)
            axes.set_axis_off()
            if with_map:
                shape = tuple(image.shape[1:])
                over = F.interpolate(heat[None, None], size=shape, mode="nearest")[0, 0]
                axes.imshow(over.numpy(), cmap="inferno", vmin=0, alpha=0.65)
        text = plain(captions[i], 34)
        figure.text((left + side) / width, below - 0.04 / height, text, fontsize=8, ha="center", va="top")
    save(figure, file)


def report(model: nn.Module, data: ImageDataset, folder: Path) -> None:
    """Plot the rollout over test images, the first of each class."""
    labels = data.test.labels
    per_class = max(1, MAX_IMAGES // 2 // len(data.classes))
    first = [(labels == label).nonzero()[:per_class, 0] for label in range(len(data.classes))]
    index = torch.cat(first)[:MAX_IMAGES]
    raw = data.test.take(index)
    images = normalize(raw, data.metadata)
    with eval_mode(model), torch.no_grad():
        predictions = model(images).argmax(1).tolist()
        maps = relevance(model, images)
    captions = [
        data.classes[true] + ("" if true == guess else f", predicted {data.classes[guess]}")
        for true, guess in zip(labels[index].tolist(), predictions, strict=True)
    ]
    draw(raw.float() / 255, maps, captions, folder / "rollout.png")


def explain(model: Any, metadata: dict, inputs: Sequence[Path | str], file: str | Path) -> None:
    """Plot the rollout over image files, with the model's predictions.

    Raises:
        BadInput: there are none or too many, or one is missing or not an image.
    """
    if not 0 < len(inputs) <= MAX_IMAGES:
        raise BadInput(f"give 1 to {MAX_IMAGES} image files to explain, not {len(inputs)}")
    device = next(model.parameters()).device
    raw = torch.cat([preprocess(each, metadata["picture"]).to(device) for each in inputs])
    images = normalize(raw, metadata["picture"])
    with eval_mode(model), torch.no_grad():
        confidences, predictions = model(images).softmax(1).max(1)
        maps = relevance(model, images)
    captions = [
        f"{Path(file_name).name}: {metadata['classes'][label]} ({percent(confidence)})"
        for file_name, label, confidence in zip(
            inputs, predictions.tolist(), confidences.tolist(), strict=True
        )
    ]
    draw(raw.float() / 255, maps, captions, file)
