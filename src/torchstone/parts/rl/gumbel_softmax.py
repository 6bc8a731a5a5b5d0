"""Gumbel-softmax: samples of categories that gradients pass through."""

import torch
from jaxtyping import Float
from torch import Tensor


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise -ln(-ln U), whose argmax over logits + noise is a sample of the softmax."""
    exponential = torch.empty(shape).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(exponential.dtype).tiny).log()


def gumbel_softmax(
    logits: Float[Tensor, "*batch category"],
    noise: Float[Tensor, "*batch category"],
    temperature: float = 1.0,
    *,
    hard: bool = True,
) -> Float[Tensor, "*batch category"]:
    """softmax((logits + noise) / τ); `hard` rounds it to one-hot on the way forward and leaves the gradient
    as it is (the straight-through estimator; Jang et al. 2016, arXiv:1611.01144, section 2.2; Maddison et
    al. 2016, arXiv:1611.00712). Oracle: `torch.nn.functional.gumbel_softmax` with the same noise.

    Args:
        noise: of `gumbel_noise`; 0 for the most likely category.
        logits: -∞ for a category that is never sampled.
    """
    soft = ((logits + noise) / temperature).softmax(-1)
    if not hard:
        return soft
    index = soft.argmax(-1, keepdim=True)
    one_hot = torch.zeros_like(soft).scatter(-1, index, 1.0)
    return one_hot - soft.detach() + soft
