"""Sample quality, by one measure for every family: features of a classifier trained on the same data set.

The features are those of the last hidden layer of a LeNet-5, trained on the training split of the very set by
that system's own recipe (`records/lenet5-mnist5k.json` is its record; `tasks/vision/feature_classifier.py`
trains and caches it). It separates the classes of its set, and therefore notices a missing class or a
broken stroke better than features of photographs do. It is not Inception: its distances compare only with
distances on the same set.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageSplit, normalize
from torchstone.engine.console import track
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.metrics import fidelity_diversity
from torchstone.plots.sample_grid import save_image_grid

Pixels = UInt8[Tensor, "count channel height width"]
Features = Float[Tensor, "count features"]

IMAGE_SIZE = 32  # of LeNet-5's input
PADDED_SIZES = range(24, IMAGE_SIZE + 1)  # sides at which ink on an empty background is padded, not resized
MAX_TRAIN_IMAGES = 60_000  # that the classifier learns from
CHUNK_SIZE = 1000
MAX_COMPARED = 2000  # samples and images whose pairwise distances are taken
CONFIDENT = 0.95  # probability from which a prediction counts as confident


class ClassifierFeatures(NamedTuple):
    """What the classifier makes of images: features, and class probabilities."""

    features: Float[Tensor, "count features"]
    probabilities: Float[Tensor, "count classes"]

    @property
    def labels(self) -> Int64[Tensor, " count"]:
        return self.probabilities.argmax(1)

    @property
    def confident_rate(self) -> float:
        """Fraction of images that the classifier is at least 95 % sure of."""
        return float((self.probabilities.amax(1) >= CONFIDENT).double().mean())


@dataclasses.dataclass(frozen=True)
class FeatureClassifier:
    """A classifier whose features samples are compared in; `accuracy` is its own, on the test split."""

    network: nn.Module
    metadata: dict[str, Any]
    classes: tuple[str, ...]
    accuracy: float

    @torch.no_grad()
    def extract(self, images: Pixels) -> ClassifierFeatures:
        """Features of images of any size, on any device; the result is on the CPU."""
        last = [m for m in self.network.modules() if isinstance(m, nn.Linear)][-1]
        device = next(self.network.parameters()).device
        features: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].cpu()))
        try:
            logits = [
                self.network(normalize(resize_uint8(rows.to(device), self.metadata), self.metadata)).cpu()
                for rows in images.split(CHUNK_SIZE)
            ]
        finally:
            hook.remove()
        return ClassifierFeatures(torch.cat(features), torch.cat(logits).softmax(1))

    def extract_split(
        self, split: ImageSplit, max_images: int | None = None
    ) -> tuple[ClassifierFeatures, Tensor]:
        """Features and labels of (up to `max_images` evenly spaced) images of a split."""
        index = evenly_spaced(len(split), max_images or len(split)).to(split.labels.device)
        parts = index.split(CHUNK_SIZE)
        chunks = [self.extract(split.take(rows)) for rows in track(parts, "features, batch", len(parts))]
        return ClassifierFeatures(*map(torch.cat, zip(*chunks, strict=True))), split.labels[index].cpu()

    def extract_all(self, splits: Sequence[ImageSplit]) -> tuple[ClassifierFeatures, Tensor]:
        """Features and labels of all images of several splits."""
        features, labels = zip(*map(self.extract_split, splits), strict=True)
        return ClassifierFeatures(*map(torch.cat, zip(*features, strict=True))), torch.cat(labels)


def resize_uint8(images: Pixels, metadata: dict[str, Any]) -> UInt8[Tensor, "count channel side side"]:
    """Images at the size of LeNet-5's input: ink on an empty background is padded, all else resized."""
    if images.shape[-1] == IMAGE_SIZE:
        return images
    return resize_for_classifier(images.float(), metadata).round().clamp(0, 255).byte()


def resize_for_classifier(
    x: Float[Tensor, "count channel height width"], metadata: dict[str, Any]
) -> Float[Tensor, "count channel side side"]:
    """`resize_uint8`, of floats, differentiable."""
    side = x.shape[-1]
    if side == IMAGE_SIZE:
        return x
    if metadata.get("ink") and side in PADDED_SIZES:
        margin = IMAGE_SIZE - side
        return F.pad(x, [margin // 2, margin - margin // 2] * 2)
    return F.interpolate(x, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)


def sample_metrics(
    fake: ClassifierFeatures,
    real: ClassifierFeatures,
    real_labels: Int64[Tensor, " others"],
    target_labels: Tensor | None = None,
) -> dict[str, float]:
    """Metrics of samples against real images. All are the better the nearer they are to those of the data.

    `frechet_distance`, `precision`, `recall`, `relative_variance` (1 for data), `covered_classes` (how many),
    `min_class_share` (fraction of samples in the rarest class), `confident_rate` (fraction that the
    classifier is at least 95 % sure of), and with `target_labels`, `label_accuracy`.

    Args:
        target_labels: the labels that samples were generated for.
    """
    num_classes = fake.probabilities.shape[1]
    frequencies, real_frequencies = (
        fidelity_diversity.class_frequencies(labels, num_classes) for labels in (fake.labels, real_labels)
    )
    # samples cycle through the labels, so every other one would be of every other class
    subset = real.features[evenly_spaced(len(real.features), MAX_COMPARED)]
    precision, recall = fidelity_diversity.precision_recall(fake.features[:MAX_COMPARED], subset)
    metrics = {
        "frechet_distance": fidelity_diversity.frechet_distance(fake.features, real.features),
        "precision": precision,
        "recall": recall,
        "relative_variance": fidelity_diversity.relative_variance(fake.features, real.features),
        "covered_classes": fidelity_diversity.covered_classes(frequencies, real_frequencies).sum(),
        "min_class_share": frequencies[real_frequencies > 0].min(),
        "confident_rate": fake.confident_rate,
    }
    if target_labels is not None:
        metrics["label_accuracy"] = fidelity_diversity.label_accuracy(target_labels, fake.labels)
    return {name: float(value) for name, value in metrics.items()}


def frechet_statement(
    fake: Features, real: Float[Tensor, "others features"], real_labels: Int64[Tensor, " others"]
) -> dict[str, float]:
    """What a Fréchet distance is to be read with, as it depends on all four: the dimension of the features,
    the numbers of samples and of real images, and the distance between two halves of the real ones."""
    return {
        "frechet_distance_floor": float(fidelity_diversity.frechet_floor(real, real_labels)),
        "frechet_features": real.shape[1],
        "frechet_samples": len(fake),
        "frechet_images": len(real),
    }


def save_nearest_sheet(
    classifier: FeatureClassifier, samples: Pixels, train: ImageSplit, file: str | Path, *, columns: int = 12
) -> Path:
    """Write a grid of samples, each above its nearest training image, so that memorization shows."""
    samples = samples[: max(columns, len(samples) // columns * columns)].cpu()
    features, _ = classifier.extract_split(train, MAX_TRAIN_IMAGES)
    index = evenly_spaced(len(train), MAX_TRAIN_IMAGES).to(train.labels.device)
    nearest = fidelity_diversity.nearest_neighbor(classifier.extract(samples).features, features.features)
    neighbors = train.take(index[nearest.to(index.device)]).cpu()
    rows: list[Tensor] = []
    for sample_row, neighbor_row in zip(samples.split(columns), neighbors.split(columns), strict=True):
        rows += [sample_row, neighbor_row]
    return save_image_grid(torch.cat(rows), file, columns=columns)
