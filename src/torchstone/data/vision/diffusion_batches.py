"""Images with a timestep and noise for each: what a diffusion model is trained on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.data.vision.caption_batches import MixedCaptions
from torchstone.data.vision.latent_batches import LatentBatches
from torchstone.parts.seeding import SeedStream, derive_generator

# (labels, dropped) -> the network's condition; where `dropped` is True, the one that says nothing
MakeContext = Callable[[Int64[Tensor, " share"], Bool[Tensor, " share"]], Tensor]


class DiffusionBatch(NamedTuple):
    """One batch: x (share, channel, height, width), timesteps t (share,), noise like x, and the condition:
    labels (share,), token ids (share, tokens) or None."""

    x: Float[Tensor, "share channel height width"]
    t: Int64[Tensor, " share"]
    epsilon: Float[Tensor, "share channel height width"]
    context: Int64[Tensor, "share *tokens"] | None


class DiffusionBatches:
    """Endless `DiffusionBatch`es out of batches of images or of their latents.

    Timesteps and noise are generated for the joint batch from seed and position, on the CPU: neither
    resuming nor more processes nor another device change any number.

    Args:
        timesteps: how many there are; each is as likely.
        make_context: from labels, and where to drop them, to the condition; without it there is none.
        cond_drop_prob: probability of dropping the condition, for classifier-free guidance (Ho and
            Salimans 2022, arXiv:2207.12598).
    """

    def __init__(
        self,
        batches: ImageBatches | LatentBatches | MixedCaptions,
        timesteps: int,
        *,
        make_context: MakeContext | None = None,
        cond_drop_prob: float = 0.0,
    ):
        self.batches, self.timesteps = batches, timesteps
        self.make_context, self.cond_drop_prob = make_context, cond_drop_prob

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> DiffusionBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.DIFFUSION_NOISE, source.position)
        x, labels = next(source)
        rows = slice(source.first, source.first + source.share)
        t = torch.randint(self.timesteps, (source.batch_size,), generator=generator)[rows]
        dropped = (torch.rand(source.batch_size, generator=generator) < self.cond_drop_prob)[rows]
        epsilon = torch.randn(source.batch_size, *x.shape[1:], generator=generator)[rows]
        t, dropped, epsilon = (each.to(x.device, non_blocking=True) for each in (t, dropped, epsilon))
        context = self.make_context(labels, dropped) if self.make_context else None
        return DiffusionBatch(x, t, epsilon, context)
