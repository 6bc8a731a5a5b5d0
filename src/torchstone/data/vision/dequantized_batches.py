"""Pictures with the noise that a likelihood is estimated with: within a pixel, and of an unseen cause."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.vision.batches import ImageBatches
from torchstone.parts.seeding import SeedStream, derive_seed

# a metadata for `Batches` that leaves pictures as they are, whole numbers from 0 to 255
WHOLE = {"mean": [0.0], "std": [1 / 255]}


class Chanced(NamedTuple):
    """One batch: pictures from 0 to 255, as much uniform noise on 0..1, and N(0, 1) of the shape asked for."""

    pictures: Float[Tensor, "share channel height width"]
    u: Float[Tensor, "share channel height width"]
    epsilon: Float[Tensor, "share *shape"] | None


class Chances:
    """Endless `Chanced`, out of `Batches` whose metadata is `whole`.

    Noise is drawn for the whole batch from a generator seeded by seed and position, on the CPU: neither
    resuming nor more processes nor another device change any number.

    Args:
        shape: of `epsilon`, without the batch; by default there is none.
    """

    def __init__(self, batches: ImageBatches, shape: tuple[int, ...] | None = None):
        self.batches, self.shape = batches, shape

    def __iter__(self) -> "Chances":
        return self

    def __next__(self) -> Chanced:
        source = self.batches
        generator = torch.Generator().manual_seed(
            derive_seed(source.seed, SeedStream.DEQUANTIZATION, source.position)
        )
        pictures, _ = next(source)
        rows = slice(source.first, source.first + source.share)

        def drawn(of, shape: tuple[int, ...]) -> Tensor:
            numbers = of(source.batch_size, *shape, generator=generator)[rows]
            return numbers.to(source.device, non_blocking=True)

        u = drawn(torch.rand, tuple(pictures.shape[1:]))
        epsilon = None if self.shape is None else drawn(torch.randn, self.shape)
        return Chanced(pictures, u, epsilon)

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)


def whole(channels: int) -> dict:
    """The metadata that leaves pictures of so many channels as they are."""
    return {name: values * channels for name, values in WHOLE.items()}
