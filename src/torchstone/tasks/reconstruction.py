"""How well an autoencoder keeps images, the same for every kind: error, Fréchet distance, sheets."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset, ImageSplit, normalize
from torchstone.data.vision.dequantized_batches import all_images
from torchstone.parts.indices import spread_over_classes
from torchstone.parts.metrics.fidelity_diversity import frechet_distance
from torchstone.parts.modes import eval_mode
from torchstone.plots.sample_grid import save_image_grid, symmetric_range, to_uint8
from torchstone.tasks.anomaly import check_finite
from torchstone.tasks.vision.feature_classifier import ClassifierSpec, train_or_load_classifier

Pixels = UInt8[Tensor, "count channel height width"]
Rebuild = Callable[[Float[Tensor, "batch channel height width"]], Tensor]  # images to their reconstructions

CHUNK_SIZE = 500  # images at a time
COLUMNS = 12  # of the sheet of reconstructions
RANGE = 2.0  # of normalized pixels, −1..1


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB, of images on −1..1."""
    return 10 * math.log10(RANGE**2 / max(mse, 1e-12))


@torch.no_grad()
def reconstruct(model: Any, rebuild: Rebuild, images: Pixels, picture: dict[str, Any]) -> Pixels:
    """The reconstructions of images, on the CPU."""
    with eval_mode(model):
        parts = [rebuild(normalize(x, picture)) for x in images.split(CHUNK_SIZE)]
    return to_uint8(check_finite(torch.cat(parts), "reconstructions"), picture).cpu()


def reconstruction_distance(
    model: Any, rebuild: Rebuild, splits: Sequence[ImageSplit], data: ImageDataset, classifier: ClassifierSpec
) -> dict[str, float]:
    """The Fréchet distance of reconstructions from the images that they are of."""
    features, picture = train_or_load_classifier(data, classifier), symmetric_range(data.metadata)
    images = torch.cat([all_images(split) for split in splits])
    rebuilt = reconstruct(model, rebuild, images, picture)
    pair = (features.extract(each).features for each in (rebuilt, images))
    return {"reconstruction_frechet_distance": float(frechet_distance(*pair))}


def save_reconstructions(
    model: Any, rebuild: Rebuild, split: ImageSplit, picture: dict[str, Any], file: Path, rows: int = 4
) -> None:
    """Images, and below each its reconstruction."""
    chosen = spread_over_classes(split.labels, rows * COLUMNS).to(split.labels.device)
    images = split.take(chosen)
    rebuilt = reconstruct(model, rebuild, images, picture)
    pairs = zip(images.cpu().split(COLUMNS), rebuilt.split(COLUMNS), strict=True)
    save_image_grid(torch.cat([row for pair in pairs for row in pair]), file, columns=COLUMNS)
