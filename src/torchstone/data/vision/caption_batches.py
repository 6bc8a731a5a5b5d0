"""Images with one of their two captions each: which one is drawn anew every time."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.parts.seeding import SeedStream, derive_generator


class MixedCaptions:
    """Endless (images, rows of captions), from `ImageBatches` whose labels are rows of the short captions.

    Row i is the short caption of image i, row `count` + i the synthetic one. Each draw of an image takes the
    synthetic one with the probability `synthetic_ratio`, independently; by seed and position, on the CPU:
    neither resuming nor more processes nor another device change any. That a condition is dropped for
    classifier-free guidance is drawn elsewhere, and has no part in it.

    Args:
        count: of images that have captions.
    """

    def __init__(self, batches: ImageBatches, count: int, synthetic_ratio: float):
        self.batches, self.count, self.synthetic_ratio = batches, count, synthetic_ratio

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __getattr__(self, name: str) -> Any:
        """Of the joint batch: seed, position, batch_size, and this process's share."""
        if name == "batches":  # not set yet
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __next__(
        self,
    ) -> tuple[Float[Tensor, "share channel height width"], Int64[Tensor, " share"]]:
        generator = derive_generator(self.batches.seed, SeedStream.CAPTIONS, self.batches.position)
        is_synthetic = self.batches.share_noise(torch.rand, generator) < self.synthetic_ratio
        images, labels = next(self.batches)
        return images, labels + self.count * is_synthetic
