"""The contrastive loss: of the columns of a row, which belongs to it? Several may."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def contrastive_loss(
    logits: Float[Tensor, "rows columns"], positive: Bool[Tensor, "rows columns"] | None = None
) -> Float[Tensor, ""]:
    """−mean_i 1/|Pᵢ| Σ_{j ∈ Pᵢ} log softmax_j(sᵢ), in nats; at chance ln(columns).

    InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, equation 4), and with several positives the loss of
    Khosla et al. 2020 (arXiv:2004.11362, equation 2) and Yang et al. 2022 (arXiv:2204.03610, equation 3): a
    batch that holds a caption twice would else teach that a picture's own caption is not its own.

    Args:
        positive: True where column j belongs to row i, at least once a row; by default the diagonal.
    """
    log_p = logits.log_softmax(1)
    if positive is None:
        return -log_p.diagonal().mean()
    # where a log p is −∞ and no positive, 0 times it would be NaN
    share = positive.to(log_p) / positive.sum(1, keepdim=True)
    return -(torch.where(positive, log_p, 0.0) * share).sum(1).mean()


def symmetric_contrastive_loss(
    logits: Float[Tensor, "images texts"], positive: Bool[Tensor, "images texts"] | None = None
) -> Float[Tensor, ""]:
    """½ (`contrastive_loss` of the rows + that of the columns).

    Zhang et al. 2020 (ConVIRT, arXiv:2010.00747, equations 2 to 4, with λ = ½), Radford et al. 2021 (CLIP,
    arXiv:2103.00020, figure 3).
    """
    transposed = None if positive is None else positive.T
    return (contrastive_loss(logits, positive) + contrastive_loss(logits.T, transposed)) / 2
