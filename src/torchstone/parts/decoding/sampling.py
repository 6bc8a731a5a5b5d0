"""From logits to a next token."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput


def filter_logits(
    logits: Float[Tensor, "batch vocabulary"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "batch vocabulary"]:
    """Logits over `temperature`; all but the `top_k` best, or all but the fewest best whose
    probability reaches `top_p` (Holtzman et al. 2019, arXiv:1904.09751), at −∞."""
    if temperature <= 0:
        raise BadInput(f"the temperature must be above 0, not {temperature} (greedy: top_k 1)")
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise BadInput(f"top_p is a probability above 0 and up to 1, not {top_p}")
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        best, order = logits.sort(descending=True, stable=True)
        chances = best.softmax(-1)
        # a token is left out if those before it reach top_p already
        out = chances.cumsum(-1) - chances >= top_p
        logits = logits.masked_fill(torch.zeros_like(out).scatter(1, order, out), -torch.inf)
    return logits


def sample_token(
    logits: Float[Tensor, "batch vocabulary"], generator: torch.Generator | None = None
) -> Int64[Tensor, " batch"]:
    """One token a row, by its probability; the generator is on the logits' device."""
    return torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
