"""Samples beside the training pictures nearest to them, with captions: so that copying is seen."""

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
from torchstone.parts.metrics import fidelity_diversity
from torchstone.plots.sample_grid import BETWEEN

Pixels = UInt8[Tensor, "count channel height width"]

SIDE, TEXT, GAP = 96, 36, 6  # pixels: of a picture on a sheet, of three lines below it, between two
LETTERS = 17  # a line
MOST = 20_000  # training pictures that are looked through


def coarse(pictures: Pixels) -> Float[Tensor, "count values"]:
    """0..1, averaged over 2 × 2 pixels: a line that has moved by one is nearly the same line."""
    return F.avg_pool2d(pictures.cpu().float() / 255, 2).flatten(1)


def looked_through(split: ImageSplit) -> Pixels:
    rows = torch.arange(min(len(split), MOST), device=split.labels.device)
    return split.take(rows).cpu()


def nearest(made: Pixels, train: ImageSplit) -> Int64[Tensor, " count"]:
    """Which training picture is nearest to each, by the mean square of `coarse` differences."""
    return fidelity_diversity.nearest(coarse(made), coarse(looked_through(train)))


def nearness(made: Pixels, train: ImageSplit, test: ImageSplit) -> float:
    """How far samples are from their nearest training pictures, by how far held-out pictures are from
    theirs (medians): 0 for copies, 1 for pictures as new as real ones."""
    known = coarse(looked_through(train))

    def apart(pictures: Pixels) -> float:
        x = coarse(pictures)
        return float((x - known[fidelity_diversity.nearest(x, known)]).norm(dim=1).median())

    return apart(made) / max(apart(looked_through(test)), 1e-9)


def matched(made: Pixels, theirs: Pixels) -> float:
    """Samples of captions beside the pictures with these captions, row by row: how many of the other
    pictures are farther from a sample than its own, on average. 1 if each is found by its sample, 0.5 by
    chance."""
    apart = torch.cdist(coarse(made), coarse(theirs))
    farther = (apart.diagonal()[:, None] < apart).double().sum(1)
    return float(farther.mean() / max(len(made) - 1, 1))


def beside(
    made: Pixels,
    data: Captioned,
    file: str | Path,
    *,
    asked: Sequence[str] | None = None,
    columns: int = 8,
) -> Path:
    """A sheet: each sample, with what was `asked` for; below it the nearest training picture, with its
    own caption."""
    near = nearest(made, data.train)
    theirs = looked_through(data.train)[near]
    captions = [data.captions[row] for row in data.train.labels.cpu()[near].tolist()]
    columns = min(columns, len(made))
    rows = -(-len(made) // columns)
    cell = SIDE + TEXT
    size = (columns * (SIDE + GAP) + GAP, rows * (2 * cell + 2 * GAP) + GAP)
    whole = Image.new("RGB", size, (BETWEEN,) * 3)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(10)
    for number in range(len(made)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (SIDE + GAP), GAP + row * (2 * cell + 2 * GAP)
        said = asked[number] if asked else ""
        both = ((made[number], said), (theirs[number], f"nearest: {captions[number]}"))
        for place, (picture, text) in enumerate(both):
            array = np.ascontiguousarray(picture.cpu().numpy().transpose(1, 2, 0))
            image = Image.fromarray(array).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            whole.paste(image, (left, top + place * cell))
            lines = "\n".join(textwrap.wrap(text, LETTERS)[:3])
            pen.multiline_text((left, top + place * cell + SIDE), lines, "white", font, spacing=1)
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    whole.save(file)
    return file
