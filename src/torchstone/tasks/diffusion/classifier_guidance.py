"""A classifier's guidance out of the judge of samples, which has only ever seen clean pictures."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.metrics.classifier_features import FeatureClassifier, resize_for_classifier
from torchstone.tasks.diffusion.sampler import Says, looks_clean, steered

Around = Callable[[Int64[Tensor, " rows"], Says], Says]


def around(model: Any, judging: FeatureClassifier, labels: Int64[Tensor, " count"], scale: float) -> Around:
    """What `diffuse.drawn` takes as `says`: the network's word, moved towards each picture's label.

    Args:
        scale: s of `denoise.steered`, 0 for none.
    """
    device = next(model.parameters()).device
    process, noise = model.process, model.process.noise().to(device)

    def steer(rows: Int64[Tensor, " rows"], says: Says) -> Says:
        def weighs(clean: Tensor, t: Tensor) -> Tensor:
            logits = judging.network(seen(clean, judging.metadata))
            return logits.log_softmax(1).gather(1, labels[rows].to(device)[:, None])[:, 0]

        return steered(says, process, noise, looks_clean(says, process, noise, weighs), scale)

    return steer


def seen(
    x: Float[Tensor, "batch channel height width"], metadata: dict[str, Any]
) -> Float[Tensor, "batch channel side side"]:
    """Pictures of −1 to 1 as the judge takes them; `quality.fitted` with a gradient."""
    x = resize_for_classifier((x + 1) / 2, metadata)
    shape = (1, len(metadata["mean"]), 1, 1)
    mean, std = (torch.tensor(metadata[each], device=x.device).view(shape) for each in ("mean", "std"))
    return (x - mean) / std
