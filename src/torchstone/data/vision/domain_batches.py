"""Batches of two domains: in orders of their own, or picture by picture with their partners."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.augment import Augmentation
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.image_domains import DomainSplit
from torchstone.parts.seeding import SeedStream, derive_generator, derive_seed

Images = Float[Tensor, "share channel height width"]


class UnpairedBatch(NamedTuple):
    """Pictures of both domains, and of each row the chance of two pools of generated images: for each a coin
    and which stored image it is about, uniform on 0..1, on the CPU."""

    a: Images
    b: Images
    chance: Float[Tensor, "share 2 2"]


class PairedBatch(NamedTuple):
    """Pictures, and their partners."""

    a: Images
    b: Images


class UnpairedBatches:
    """Endless `UnpairedBatch`, values on −1..1; each domain has its own order, and its own epochs.

    Chance comes from a generator seeded by seed and position, for the joint batch: neither resuming nor more
    processes change any.
    """

    def __init__(
        self,
        split: DomainSplit,
        batch_size: int,
        *,
        seed: int,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        seeds = (seed, derive_seed(seed, SeedStream.SECOND_DOMAIN, 0))
        self.batches, self.others = (
            image_batches(images, batch_size, seed=number, augment=augment, rank=rank, world_size=world_size)
            for images, number in zip((split.a, split.b), seeds, strict=True)
        )

    __iter__ = itself

    def __next__(self) -> UnpairedBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.IMAGE_POOL, source.position)
        chance = torch.rand(source.batch_size, 2, 2, generator=generator)
        rows = slice(source.first, source.first + source.share)
        return UnpairedBatch(next(source)[0], next(self.others)[0], chance[rows])

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)
        self.others.load_state_dict(state)


class PairedBatches:
    """Endless `PairedBatch`, values on −1..1, of the pictures with a partner; both are augmented alike."""

    def __init__(
        self,
        split: DomainSplit,
        batch_size: int,
        *,
        seed: int,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        a, b = split.pairs.unbind(1)
        both = torch.cat([split.a[a], split.b[b]], 1)
        self.batches = image_batches(
            both, batch_size, seed=seed, augment=augment, rank=rank, world_size=world_size
        )

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> PairedBatch:
        return PairedBatch(*next(self.batches)[0].chunk(2, 1))


def image_batches(
    images: Tensor, batch_size: int, *, seed: int, augment: Augmentation | None, rank: int, world_size: int
) -> ImageBatches:
    """Batches of images without labels, on −1..1."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    half = [0.5] * images.shape[1]
    return ImageBatches(
        ImageSplit(labels, images),
        batch_size,
        seed=seed,
        metadata={"mean": half, "std": half},
        augment=augment,
        rank=rank,
        world_size=world_size,
    )
