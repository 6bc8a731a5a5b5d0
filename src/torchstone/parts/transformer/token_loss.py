"""Cross-entropy of tokens with label smoothing, and the unigram baseline it is compared with."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def token_loss(
    logits: Float[Tensor, "batch time vocab"],
    labels: Int64[Tensor, "batch time"],
    *,
    pad: int,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Mean cross-entropy (nats) and accuracy over the labels that are not `pad`, and their number.

    With label smoothing ε the label's probability is 1 − ε, and ε is spread over the whole vocabulary
    (Szegedy et al. 2015, arXiv:1512.00567, section 7).
    """
    loss = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=pad, label_smoothing=label_smoothing
    )
    is_token = labels != pad
    count = is_token.sum()
    correct = (logits.detach().argmax(2) == labels) & is_token
    return {"loss": loss, "accuracy": correct.sum() / count, "weight": count}


def unigram_loss(
    train: Int64[Tensor, " train"], targets: Int64[Tensor, " targets"], vocab_size: int
) -> float:
    """Cross-entropy (nats) of `targets` under the token frequencies of `train`, with add-one smoothing."""
    counts = torch.bincount(train.cpu(), minlength=vocab_size).double() + 1  # no token is impossible
    return float(-(counts / counts.sum()).log()[targets.cpu()].mean())
