"""How well the next tokens were told, and how well they would be by their frequencies alone."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def token_loss(
    logits: Float[Tensor, "batch time vocabulary"],
    labels: Int64[Tensor, "batch time"],
    *,
    pad: int,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Mean cross-entropy (nats) and accuracy over the labels that are not `pad`, and their number.

    With smoothing ε the label's probability is 1 − ε and ε is spread over the whole vocabulary
    (Szegedy et al. 2015, arXiv:1512.00567, section 7).
    """
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=pad, label_smoothing=label_smoothing
    )
    real = labels != pad
    count = real.sum()
    right = (logits.detach().argmax(2) == labels) & real
    return {"loss": loss, "accuracy": right.sum() / count, "weight": count}


def unigram_loss(known: Int64[Tensor, " known"], asked: Int64[Tensor, " asked"], vocabulary: int) -> float:
    """Cross-entropy (nats) of `asked`, told by how often each token is in `known`, and once more."""
    counts = torch.bincount(known.cpu(), minlength=vocabulary).double() + 1  # none is impossible
    return float(-(counts / counts.sum()).log()[asked.cpu()].mean())
