"""Batches of likelihood training: integer images, dequantization noise, and noise for latent variables."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageSplit
from torchstone.parts.seeding import SeedStream, derive_generator


class LikelihoodBatch(NamedTuple):
    """Images from 0 to 255, uniform noise on 0..1 of their shape, and N(0, 1) noise of a chosen shape."""

    images: Float[Tensor, "share channel height width"]
    u: Float[Tensor, "share channel height width"]
    epsilon: Float[Tensor, "share *shape"] | None


class LikelihoodBatches:
    """Endless `LikelihoodBatch`, from `Batches` whose metadata is `identity_stats`.

    Noise is drawn for the full batch from a generator seeded by seed and position, on the CPU: neither
    resuming nor more processes nor another device change any number.

    Args:
        noise_shape: of `epsilon`, without the batch; by default there is none.
    """

    def __init__(self, batches: ImageBatches, noise_shape: tuple[int, ...] | None = None):
        self.batches, self.noise_shape = batches, noise_shape

    def __iter__(self) -> "LikelihoodBatches":
        return self

    def __next__(self) -> LikelihoodBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.DEQUANTIZATION, source.position)
        images, _ = next(source)
        rows = slice(source.first, source.first + source.share)

        def noise(distribution, shape: tuple[int, ...]) -> Tensor:
            values = distribution(source.batch_size, *shape, generator=generator)[rows]
            return values.to(source.device, non_blocking=True)

        u = noise(torch.rand, tuple(images.shape[1:]))
        epsilon = None if self.noise_shape is None else noise(torch.randn, self.noise_shape)
        return LikelihoodBatch(images, u, epsilon)

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)


def identity_stats(channels: int) -> dict:
    """Metadata with which `Batches` leaves images as integers from 0 to 255."""
    return {"mean": [0.0] * channels, "std": [1 / 255] * channels}


def all_images(split: ImageSplit) -> UInt8[Tensor, "count channel height width"]:
    """Every image of a split, as one tensor."""
    return split.take(torch.arange(len(split), device=split.labels.device))
