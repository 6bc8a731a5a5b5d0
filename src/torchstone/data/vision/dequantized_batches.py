"""Batches of likelihood training: integer images, dequantization noise, and noise for latent variables."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
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

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> LikelihoodBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.DEQUANTIZATION, source.position)
        images, _ = next(source)
        u, epsilon = source.share_noise(torch.rand, generator, *images.shape[1:]), None
        if self.noise_shape is not None:
            epsilon = source.share_noise(torch.randn, generator, *self.noise_shape)
        return LikelihoodBatch(images, u, epsilon)


def identity_stats(channels: int) -> dict:
    """Metadata with which `Batches` leaves images as integers from 0 to 255."""
    return {"mean": [0.0] * channels, "std": [1 / 255] * channels}


def all_images(split: ImageSplit) -> UInt8[Tensor, "count channel height width"]:
    """Every image of a split, as one tensor."""
    return split.take(torch.arange(len(split), device=split.labels.device))
