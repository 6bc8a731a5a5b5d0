"""What the two players of an adversarial game are given: real pictures, and noise for each step."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.vision.batches import ImageBatches
from torchstone.parts.seeding import SeedStream, derive_seed


class Turn(NamedTuple):
    """One step of the critic: pictures with labels, noise for as many made ones, and where between the two
    a penalty is taken, uniform on 0..1."""

    real: Float[Tensor, "share channel height width"]
    labels: Int64[Tensor, " share"]
    z: Float[Tensor, "share latent"]
    between: Float[Tensor, " share"]


class Wish(NamedTuple):
    """One step of the generator: noise, and what it is to make of it."""

    z: Float[Tensor, "share latent"]
    labels: Int64[Tensor, " share"]


class Round(NamedTuple):
    turns: tuple[Turn, ...]
    wish: Wish


class Rounds:
    """Endless `Round`, out of `Batches`: `turns` steps of the critic, each with pictures of its own, then
    one of the generator, with fresh noise and the last pictures' labels.

    Noise is drawn for the whole batch from a generator seeded by seed and position, on the CPU: neither
    resuming nor more processes nor another device change any number.
    """

    def __init__(self, batches: ImageBatches, latent: int, *, turns: int = 1):
        self.batches, self.latent, self.turns = batches, latent, turns

    def __iter__(self) -> "Rounds":
        return self

    def __next__(self) -> Round:
        source = self.batches
        generator = torch.Generator().manual_seed(
            derive_seed(source.seed, SeedStream.GAN_LATENT, source.position)
        )
        rows = slice(source.first, source.first + source.share)

        def drawn(*shape: int, of=torch.randn) -> Tensor:
            numbers = of(source.batch_size, *shape, generator=generator)[rows]
            return numbers.to(source.device, non_blocking=True)

        turns = tuple(
            Turn(*next(source), drawn(self.latent), drawn(of=torch.rand)) for _ in range(self.turns)
        )
        return Round(turns, Wish(drawn(self.latent), turns[-1].labels))

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)
