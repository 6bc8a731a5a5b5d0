"""Batches for a network with a codebook: images, and where unused entries are put."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself
from torchstone.data.vision.batches import ImageBatches, inner_state, load_inner
from torchstone.parts.seeding import SeedStream, derive_generator


class CodebookBatch(NamedTuple):
    """Images with labels, and for each entry a number on 0..1: which of the batch's vectors it is put at, if
    it is unused."""

    images: Float[Tensor, "share channel height width"]
    labels: Int64[Tensor, " share"]
    candidates: Float[Tensor, " codes"]


class CodebookBatches:
    """Endless `CodebookBatch`, from `ImageBatches`.

    The numbers are drawn by seed and position, on the CPU: neither resuming nor another device changes any.
    """

    def __init__(self, batches: ImageBatches, num_codes: int):
        self.batches, self.num_codes = batches, num_codes

    __iter__, state_dict, load_state_dict = itself, inner_state, load_inner

    def __next__(self) -> CodebookBatch:
        source = self.batches
        generator = derive_generator(source.seed, SeedStream.CODEBOOK, source.position)
        images, labels = next(source)
        candidates = torch.rand(self.num_codes, generator=generator).to(source.device)
        return CodebookBatch(images, labels, candidates)
