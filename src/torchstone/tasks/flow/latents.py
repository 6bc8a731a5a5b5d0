"""The latent space of an image flow: encoding without loss, interpolation, and attributes as directions.

Kingma and Dhariwal 2018 (Glow, arXiv:1807.03039), section 5: an image moves toward an attribute along the
difference between the mean latent of the images that have it and the mean latent of those that do not.
Attributes are here the classes of the training images; training itself is class-free.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.flow.likelihood import inverse_logit, to_uint8
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.plots.sample_grid import save_image_grid
from torchstone.tasks.anomaly import check_finite
from torchstone.tasks.flow.dequantization import sample_dequantized
from torchstone.tasks.latent_paths import latent_paths

Latents = Float[Tensor, "count numbers"]
Pixels = UInt8[Tensor, "count channel height width"]

COLUMNS, NUM_PATHS = 9, 8  # of a grid of paths; rows of it
MEAN_IMAGES = 1000  # training images, at most, that mean latents are of
MAX_NUMBERS = 200_000  # of all mean latents together, which are saved as JSON
DECIMALS = 4  # of each
CHUNK_SIZE = 500  # images at a time


@torch.no_grad()
def encode_images(model: Any, images: Pixels, levels: int) -> Latents:
    """z of each image, in evaluation mode, with dequantization noise that is always the same."""
    generator, chunks = torch.Generator().manual_seed(0), []
    with eval_mode(model):
        for rows in images.split(CHUNK_SIZE):
            x, _ = sample_dequantized(model, rows, levels, generator)
            chunks.append(model.flow(x)[0])
    return torch.cat(chunks)


@torch.no_grad()
def decode_latents(model: Any, z: Latents, levels: int) -> Pixels:
    """Images, on the CPU.

    Raises:
        NotFinite: one of them has a number that is NaN or infinite.
    """
    device = next(model.parameters()).device
    with eval_mode(model):
        x = torch.cat([model.inverse(rows)[0] for rows in z.to(device).split(CHUNK_SIZE)])
    return to_uint8(inverse_logit(check_finite(x, "images"))[0], levels).cpu()


def num_mean_images(data: ImageDataset) -> int:
    """How many images `class_latents` encodes: 0 where it gives none."""
    numbers = len(data.classes) * data.metadata["channels"] * data.metadata["size"] ** 2
    return 0 if len(data.classes) < 2 or numbers > MAX_NUMBERS else min(MEAN_IMAGES, len(data.train))


def class_latents(model: Any, data: ImageDataset, levels: int) -> dict[str, list[float]]:
    """The mean latent of each class over evenly spaced training images, as JSON; empty where there is one
    class only, or too many for their size."""
    count = num_mean_images(data)
    if not count:
        return {}
    index = evenly_spaced(len(data.train), count).to(data.train.labels.device)
    labels, z = data.train.labels[index], encode_images(model, data.train.take(index), levels)
    means = {name: z[labels == label].mean(0) for label, name in enumerate(data.classes)}
    return {
        name: [round(number, DECIMALS) for number in mean.tolist()]
        for name, mean in means.items()
        if bool(torch.isfinite(mean).all())  # of no image it is NaN
    }


def class_direction(
    means: Mapping[str, Sequence[float]] | None, from_label: str | None, to_label: str | None
) -> tuple[Float[Tensor, " numbers"], Float[Tensor, " numbers"]]:
    """The mean latent of the first class, and what leads from it to that of the second.

    Raises:
        BadInput: one label alone, no such class, or a run without mean latents.
    """
    if from_label is None or to_label is None:
        raise BadInput("a direction leads from one class to another: give both --from-label and --to-label")
    if not means:
        raise BadInput("this run has no mean latents of classes: train glow on images of two classes or more")
    for label in (from_label, to_label):
        if label not in means:
            raise BadInput(f"no class {label!r}: {did_you_mean(label, means)}")
    first, last = (torch.tensor(means[label]) for label in (from_label, to_label))
    return first, last - first


def save_interpolations(model: Any, images: Pixels, levels: int, file: str | Path) -> Path:
    """A row each: the straight line in latent space from one image to another."""
    z = encode_images(model, images[: 2 * NUM_PATHS], levels)
    first, last = z[0::2], z[1::2]
    paths = latent_paths(first[: len(last)], last, COLUMNS)
    return save_image_grid(decode_latents(model, paths, levels), file, columns=COLUMNS)


def save_directions(
    model: Any, data: ImageDataset, means: Mapping[str, Sequence[float]], levels: int, file: str | Path
) -> Path | None:
    """A row each: a test image of a class moved to the next class; None where there are no means."""
    labels, names = data.test.labels.tolist(), [name for name in data.classes if name in means]
    pairs = zip(names, names[1:] + names[:1], strict=True)
    rows = [(data.classes.index(name), name, other) for name, other in pairs if name != other]
    rows = [row for row in rows if row[0] in labels][:NUM_PATHS]
    if not rows:
        return None
    index = torch.tensor([labels.index(label) for label, *_ in rows], device=data.test.labels.device)
    z = encode_images(model, data.test.take(index), levels)
    moves = torch.stack([class_direction(means, name, other)[1] for _, name, other in rows]).to(z)
    paths = latent_paths(z, z + moves, COLUMNS)
    return save_image_grid(decode_latents(model, paths, levels), file, columns=COLUMNS)
