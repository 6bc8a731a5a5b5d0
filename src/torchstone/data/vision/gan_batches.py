"""Batches of adversarial training: real images for the discriminator, and latent noise for both networks."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.parts.gan.adaptive_augment import NUM_NORMAL, NUM_UNIFORM, AugmentDraws
from torchstone.parts.seeding import SeedStream, derive_generator


class DiscriminatorBatch(NamedTuple):
    """One step of the discriminator: real images with labels, noise for as many generated ones, and the
    interpolation weights of a gradient penalty, uniform on 0..1."""

    real: Float[Tensor, "share channel height width"]
    labels: Int64[Tensor, " share"]
    z: Float[Tensor, "share latent"]
    interpolation: Float[Tensor, " share"]


class GeneratorBatch(NamedTuple):
    """One step of the generator: noise, and the labels to generate."""

    z: Float[Tensor, "share latent"]
    labels: Int64[Tensor, " share"]


class GanBatch(NamedTuple):
    discriminator_batches: tuple[DiscriminatorBatch, ...]
    generator_batch: GeneratorBatch


class GanBatches:
    """Endless `GanBatch`, from `Batches`.

    Each has `discriminator_steps` steps of the discriminator with images of their own, then one of the
    generator with fresh noise and the labels of the last images.

    Noise is drawn for the full batch from a generator seeded by seed and position, on the CPU: neither
    resuming nor more processes nor another device change any number.
    """

    def __init__(self, batches: ImageBatches, latent_dim: int, *, discriminator_steps: int = 1):
        self.batches, self.latent_dim = batches, latent_dim
        self.discriminator_steps = discriminator_steps

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> GanBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.GAN_LATENT, source.position)
        latent = partial(source.share_noise, torch.randn, generator, self.latent_dim)
        steps = tuple(
            DiscriminatorBatch(*next(source), latent(), source.share_noise(torch.rand, generator))
            for _ in range(self.discriminator_steps)
        )
        return GanBatch(steps, GeneratorBatch(latent(), steps[-1].labels))


class StyleDraws(NamedTuple):
    """What one pass of a StyleGAN's generator takes: two latents, the layer from which the second one rules
    (uniform on 0..1, and whether it does at all likewise), noise of all layers, and the random numbers of
    `parts/gan/adaptive_augment.py` for the images."""

    z: Float[Tensor, "share two latent"]
    crossover: Float[Tensor, "share two"]
    noise: Float[Tensor, "share numbers"]
    augment: AugmentDraws


class StyleBatch(NamedTuple):
    """One update: real images with labels and two draws of their augmentation, for the loss and for R1; draws
    for the discriminator's step, the generator's, and for path lengths, with noise of an image's shape."""

    real: Float[Tensor, "share channel height width"]
    labels: Int64[Tensor, " share"]
    augment: AugmentDraws
    r1_augment: AugmentDraws
    discriminator: StyleDraws
    generator: StyleDraws
    path: StyleDraws
    path_noise: Float[Tensor, "share channel height width"]


class StyleGanBatches:
    """Endless `StyleBatch`, from `Batches`; random numbers as in `GanBatches`."""

    def __init__(self, batches: ImageBatches, latent_dim: int, noise_size: int):
        self.batches, self.latent_dim, self.noise_size = batches, latent_dim, noise_size

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> StyleBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.GAN_LATENT, source.position)
        uniform = partial(source.share_noise, torch.rand, generator)
        normal = partial(source.share_noise, torch.randn, generator)

        def augment() -> AugmentDraws:
            return AugmentDraws(uniform(NUM_UNIFORM), normal(NUM_NORMAL))

        def draws() -> StyleDraws:
            return StyleDraws(normal(2, self.latent_dim), uniform(2), normal(self.noise_size), augment())

        real, labels = next(source)
        return StyleBatch(
            real, labels, augment(), augment(), draws(), draws(), draws(), normal(*real.shape[1:])
        )
