"""Sampling the next token: temperature, top-k and top-p (nucleus)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput


def filter_logits(
    logits: Float[Tensor, "batch vocab"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "batch vocab"]:
    """Logits over `temperature`, with the excluded tokens at −∞.

    `top_k` keeps the k most likely tokens; `top_p` the fewest most likely ones whose probability reaches
    p (nucleus sampling, Holtzman et al. 2019, arXiv:1904.09751).

    Raises:
        BadInput: a value out of range.
    """
    if temperature <= 0:
        raise BadInput(f"the temperature must be above 0, not {temperature} (greedy: top_k 1)")
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise BadInput(f"top_p is a probability above 0 and up to 1, not {top_p}")
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        threshold = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True, stable=True)
        probs = ordered.softmax(-1)
        # a token is excluded if those before it reach top_p already
        excluded = probs.cumsum(-1) - probs >= top_p
        logits = logits.masked_fill(torch.zeros_like(excluded).scatter(1, order, excluded), -torch.inf)
    return logits


def sample_token(
    logits: Float[Tensor, "batch vocab"], generator: torch.Generator | None = None
) -> Int64[Tensor, " batch"]:
    """One token per row, drawn by its probability; the generator is on the logits' device."""
    return torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
