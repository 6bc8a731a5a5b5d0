"""Pictures, each with a caption, a timestep and noise: what a prior of embeddings and a decoder train on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import inner_state, load_inner
from torchstone.data.vision.image_text_batches import ImageTextBatches
from torchstone.parts.seeding import SeedStream, derive_generator


class UnclipBatch(NamedTuple):
    """One batch: images (share, channel, height, width), tokens (share, time), timesteps t (share,), noise
    (share, …) and whether the decoder is given the embedding of the image (share,)."""

    images: Float[Tensor, "share channel height width"]
    tokens: Int64[Tensor, "share time"]
    t: Int64[Tensor, " share"]
    epsilon: Float[Tensor, "share *shape"]
    keeps_embedding: Bool[Tensor, " share"]


class UnclipBatches:
    """Endless `UnclipBatch`es out of `ImageTextBatches`.

    All is drawn for the joint batch from seed and position, on the CPU: neither resuming nor more processes
    nor another device change any number.

    Args:
        timesteps: how many there are; each is as likely.
        shape: of the noise of one picture.
        empty: tokens of the empty text, which stands for one that is dropped.
        text_drop_prob, embedding_drop_prob: probabilities of dropping either, independently of each other.
    """

    def __init__(
        self,
        batches: ImageTextBatches,
        timesteps: int,
        shape: Sequence[int],
        empty: Int64[Tensor, " time"],
        *,
        text_drop_prob: float = 0.0,
        embedding_drop_prob: float = 0.0,
    ):
        self.batches, self.timesteps, self.shape = batches, timesteps, tuple(shape)
        self.empty = empty.to(batches.tokens.device)
        self.text_drop_prob, self.embedding_drop_prob = text_drop_prob, embedding_drop_prob

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> UnclipBatch:
        source = self.batches.batches
        generator = derive_generator(source.seed, SeedStream.DIFFUSION_NOISE, source.position)
        images, tokens, _, _ = next(self.batches)
        chance = source.share_noise(torch.rand, generator, 3)
        epsilon = source.share_noise(torch.randn, generator, *self.shape)
        t = (chance[:, 0] * self.timesteps).long().clamp(max=self.timesteps - 1)
        drops_text = chance[:, 1] < self.text_drop_prob
        tokens = torch.where(drops_text[:, None], self.empty, tokens)
        return UnclipBatch(images, tokens, t, epsilon, chance[:, 2] >= self.embedding_drop_prob)
