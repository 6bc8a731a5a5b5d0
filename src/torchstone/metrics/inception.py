"""Fréchet inception distance (FID), precision and recall of samples, from Inception's features.

Heusel et al. 2017 (arXiv:1706.08500). The network is the one of 2015 on which published figures are based, as
torch-fidelity ports it, its image resizing included; `hub/inception.py` loads it. The features are compared
by `parts/metrics/fidelity_diversity.py`, like those of a set's own classifier
(`metrics/classifier_features.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.dataset import ImageSplit
from torchstone.engine.console import track
from torchstone.metrics.classifier_features import frechet_statement
from torchstone.parts.metrics import fidelity_diversity

Pixels = UInt8[Tensor, "count channel height width"]
Features = Float[Tensor, "count features"]  # 2048 of them

CHUNK_SIZE = 50  # images at a time, at 299 × 299


@torch.no_grad()
def extract_features(network: Any, images: Pixels) -> Features:
    """Globally pooled features before the last layer, on the CPU; with its progress."""
    device = next(network.parameters()).device
    chunks = images.split(CHUNK_SIZE)
    bar = track(chunks, "extracting Inception features, batch", len(chunks))
    return torch.cat([network(rows.expand(-1, 3, -1, -1).to(device))[0].cpu() for rows in bar])


def inception_metrics(samples: Pixels, splits: Sequence[ImageSplit], network: Any) -> dict[str, float]:
    """`inception_frechet_distance` (FID), `inception_precision` and `inception_recall` against real images,
    and `frechet_statement`.

    Published distances are those of 50,000 samples. With fewer they are higher, so compare equal counts.
    """
    real = [s.take(torch.arange(len(s), device=s.labels.device)).cpu() for s in splits]
    real_features, fake_features = (extract_features(network, x) for x in (torch.cat(real), samples.cpu()))
    precision, recall = fidelity_diversity.precision_recall(fake_features, real_features)
    metrics = {
        "frechet_distance": fidelity_diversity.frechet_distance(fake_features, real_features),
        "precision": precision,
        "recall": recall,
    }
    labels = torch.cat([split.labels.cpu() for split in splits])
    stated = {name: float(value) for name, value in metrics.items()}
    stated |= frechet_statement(fake_features, real_features, labels)
    return {f"inception_{name}": value for name, value in stated.items()}
