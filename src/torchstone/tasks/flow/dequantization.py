"""Dequantization noise at evaluation: uniform, or from a model that has a distribution of its own for it."""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.parts.flow.likelihood import dequantize, logit

Pixels = UInt8[Tensor, "count channel height width"]


def sample_dequantized(
    model: Any, images: Pixels, levels: int, generator: torch.Generator
) -> tuple[Float[Tensor, "count channel height width"], Float[Tensor, " count"]]:
    """x after the logit of dequantized images, and log |det| of the logit − log q(u | image) of each.

    Args:
        model: with `dequantization(images, epsilon) -> (u, log_q)`, or else u is uniform, log_q 0.
        generator: on the CPU, so that every device gets the same noise.
    """
    conditional = getattr(model, "dequantization", None)
    if conditional is None:
        u = torch.rand(images.shape, generator=generator).to(images.device)
        return logit(dequantize(images, u, levels))
    epsilon = torch.randn(images.shape, generator=generator).to(images.device)
    u, log_q = conditional(images.float(), epsilon)
    x, log_det = logit(dequantize(images, u, levels))
    return x, log_det - log_q
