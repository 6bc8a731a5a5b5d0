"""Images with one of their two captions each: which one is drawn anew every time."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.parts.seeding import SeedStream, derive_generator

# (rows of images, uniform numbers on 0..1) -> rows of captions
DrawCaptions = Callable[[Int64[Tensor, " share"], Float[Tensor, " share"]], Int64[Tensor, " share"]]


class MixedCaptions:
    """Endless (images, rows of captions), from `ImageBatches` whose labels are rows of images.

    Which caption an image has is drawn anew whenever it comes, by seed and position, on the CPU: neither
    resuming nor more processes nor another device change any.
    """

    def __init__(self, batches: ImageBatches, draw: DrawCaptions):
        self.batches, self.draw = batches, draw

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __getattr__(self, name: str) -> Any:
        """Of the joint batch: seed, position, batch_size, and this process's share."""
        if name == "batches":  # not set yet
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __next__(self) -> tuple[Float[Tensor, "share channel height width"], Int64[Tensor, " share"]]:
        generator = derive_generator(self.batches.seed, SeedStream.CAPTIONS, self.batches.position)
        u = self.batches.share_noise(torch.rand, generator)
        images, labels = next(self.batches)
        return images, self.draw(labels, u)
