"""Batches for an autoencoder with Gaussian latents: images with noise, and then the latents themselves."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import EpochSampler, itself, load_position, position_state, share_of_batch
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator


class AutoencoderBatch(NamedTuple):
    """Images, and the noise ε that their latents are sampled with."""

    images: Float[Tensor, "share channel height width"]
    epsilon: Float[Tensor, "share latent_channel rows columns"]


class AutoencoderBatches:
    """Endless `AutoencoderBatch`, from `ImageBatches`; noise by seed and position, on the CPU.

    Args:
        shape: of the latents of an image.
    """

    def __init__(self, batches: ImageBatches, shape: tuple[int, ...]):
        self.batches, self.shape = batches, shape

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> AutoencoderBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.LATENT_NOISE, source.position)
        images, _ = next(source)
        return AutoencoderBatch(images, source.share_noise(torch.randn, generator, *self.shape))


class Moments(NamedTuple):
    """Mean and log σ² of the latents of a whole split, and the images' labels."""

    mean: Float[Tensor, "count latent_channel rows columns"]
    logvar: Float[Tensor, "count latent_channel rows columns"]
    labels: Int64[Tensor, " count"]


class LatentBatches:
    """Endless (z, labels), z = scale · (mean + σ ε) with other noise ε each time: `ImageBatches`, of latents.

    The order of images and the noise are fixed by `seed` and position, on the CPU: neither resuming nor more
    processes nor another device change any number.

    Args:
        scale: 1 / (standard deviation of the latents).
    """

    def __init__(
        self,
        moments: Moments,
        batch_size: int,
        *,
        scale: Float[Tensor, ""],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        if not len(moments.labels):
            raise BadInput("no images to make batches of")
        self.moments, self.scale, self.batch_size, self.seed = moments, scale, batch_size, seed
        self.first, self.share = share_of_batch(batch_size, rank, world_size)
        self.device = moments.labels.device
        self.sampler = EpochSampler(len(moments.labels), [(self.first, self.share)], seed, self.device)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Float[Tensor, "share latent_channel rows columns"], Int64[Tensor, " share"]]:
        mean, logvar, labels = (each[self.sampler.index(self.position)] for each in self.moments)
        generator = derive_generator(self.seed, SeedStream.LATENT_NOISE, self.position)
        noise = torch.randn(self.batch_size, *mean.shape[1:], generator=generator)
        epsilon = noise[self.first : self.first + self.share].to(self.device, non_blocking=True)
        self.position += self.batch_size
        return self.scale * (mean + (0.5 * logvar).exp() * epsilon), labels
