"""Memorization: how near samples are to training images, and sheets that show the nearest ones."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from torchstone.data.vision.captioned import Captioned
from torchstone.data.vision.dataset import ImageSplit
from torchstone.parts.metrics.fidelity_diversity import nearest_neighbor
from torchstone.plots.sample_grid import BACKGROUND

Pixels = UInt8[Tensor, "count channel height width"]

IMAGE_SIZE, TEXT_HEIGHT, GAP = 96, 36, 6  # pixels of an image on a sheet, three lines below it, spacing
LINE_LENGTH = 17  # letters
MAX_SEARCHED = 20_000  # training images that are searched


def downsample(images: Pixels) -> Float[Tensor, "count values"]:
    """Pixels from 0 to 1, averaged over 2 × 2, so that a line shifted by one is nearly the same line."""
    return F.avg_pool2d(images.cpu().float() / 255, 2).flatten(1)


def searched_images(split: ImageSplit) -> Pixels:
    """The first `MAX_SEARCHED` images of a split."""
    rows = torch.arange(min(len(split), MAX_SEARCHED), device=split.labels.device)
    return split.take(rows).cpu()


def nearest_training_image(samples: Pixels, train: ImageSplit) -> Int64[Tensor, " count"]:
    """The index of the training image nearest to each sample, by the distance of `downsample`d pixels."""
    return nearest_neighbor(downsample(samples), downsample(searched_images(train)))


def nn_distance_ratio(samples: Pixels, train: ImageSplit, test: ImageSplit) -> float:
    """Distance of samples to their nearest training images, relative to that of held-out images (medians):
    0 for copies, 1 for images as new as real ones."""
    training = downsample(searched_images(train))

    def distance(images: Pixels) -> float:
        x = downsample(images)
        return float((x - training[nearest_neighbor(x, training)]).norm(dim=1).median())

    return distance(samples) / max(distance(searched_images(test)), 1e-9)


def caption_match(samples: Pixels, targets: Pixels) -> float:
    """Samples of captions against the images with these captions, row by row: the fraction of the other
    images that are farther from a sample than its own image, on average. 1 if each sample is nearest to its
    own image, 0.5 by chance."""
    distances = torch.cdist(downsample(samples), downsample(targets))
    farther = (distances.diagonal()[:, None] < distances).double().sum(1)
    return float(farther.mean() / max(len(samples) - 1, 1))


def save_nearest_sheet(
    samples: Pixels,
    data: Captioned,
    file: str | Path,
    *,
    captions: Sequence[str] | None = None,
    columns: int = 8,
) -> Path:
    """A sheet: each sample with the caption it was generated for; below it the nearest training image with
    its own caption."""
    nearest_rows = nearest_training_image(samples, data.train)
    nearest_images = searched_images(data.train)[nearest_rows]
    labels = data.train.labels.cpu()[nearest_rows].tolist()
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    cell = IMAGE_SIZE + TEXT_HEIGHT
    size = (columns * (IMAGE_SIZE + GAP) + GAP, rows * (2 * cell + 2 * GAP) + GAP)
    sheet = Image.new("RGB", size, (BACKGROUND,) * 3)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number in range(len(samples)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (IMAGE_SIZE + GAP), GAP + row * (2 * cell + 2 * GAP)
        pair = (
            (samples[number], captions[number] if captions else ""),
            (nearest_images[number], f"nearest: {data.captions[labels[number]]}"),
        )
        for i, (pixels, text) in enumerate(pair):
            array = np.ascontiguousarray(pixels.cpu().numpy().transpose(1, 2, 0))
            image = Image.fromarray(array).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.NEAREST)
            sheet.paste(image, (left, top + i * cell))
            lines = "\n".join(textwrap.wrap(text, LINE_LENGTH)[:3])
            pen.multiline_text((left, top + i * cell + IMAGE_SIZE), lines, "white", font, spacing=1)
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
    return file
