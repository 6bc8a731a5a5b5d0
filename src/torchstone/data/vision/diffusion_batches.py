"""Pictures with a noise level and noise for each: what a denoising network is trained on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.data.vision.batches import ImageBatches
from torchstone.parts.seeding import SeedStream, derive_seed


class Noised(NamedTuple):
    """One batch: x (share, channel, height, width), levels t (share,), noise like x, and what each is to
    be told of its picture: labels (share,), tokens (share, places) or nothing."""

    x: Float[Tensor, "share channel height width"]
    t: Int64[Tensor, " share"]
    epsilon: Float[Tensor, "share channel height width"]
    context: Int64[Tensor, "share *places"] | None


class Noising:
    """Endless `Noised`, out of `Batches`.

    Levels and noise are drawn for the whole batch from a generator seeded by seed and position, on the
    CPU: neither resuming nor more processes nor another device change any number.

    Args:
        levels: how many there are; each is as likely.
        tell: from labels, and which of them to keep silent about, to the context; without it none.
        drop: the share of pictures that nothing is told of (Ho and Salimans 2022, arXiv:2207.12598).
    """

    def __init__(
        self,
        batches: ImageBatches,
        levels: int,
        *,
        tell: Callable[[Tensor, Bool[Tensor, " share"]], Tensor] | None = None,
        drop: float = 0.0,
    ):
        self.batches, self.levels, self.tell, self.drop = batches, levels, tell, drop

    def __iter__(self) -> "Noising":
        return self

    def __next__(self) -> Noised:
        source = self.batches
        generator = torch.Generator().manual_seed(
            derive_seed(source.seed, SeedStream.DIFFUSION_NOISE, source.position)
        )
        x, labels = next(source)
        rows = slice(source.first, source.first + source.share)
        t = torch.randint(self.levels, (source.batch_size,), generator=generator)[rows]
        silent = (torch.rand(source.batch_size, generator=generator) < self.drop)[rows]
        noise = torch.randn(source.batch_size, *x.shape[1:], generator=generator)[rows]
        t, silent, noise = (each.to(x.device, non_blocking=True) for each in (t, silent, noise))
        return Noised(x, t, noise, self.tell(labels, silent) if self.tell else None)

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)
