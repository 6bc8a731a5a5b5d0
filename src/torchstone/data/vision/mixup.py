"""Mixtures of two pictures of a batch, and with them of their labels.

A mixing is a function `(images, others, draw) -> (images, share)`: `others` are the partners, and
`share` (batch,) is how much of each result is the picture's own, so that its label becomes
share · y + (1 - share) · y'. Pictures are on the 0..255 scale, before or after normalisation alike.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.vision.geometric_ops import Draw, Images, rectangle_mask
from torchstone.errors import BadInput

Mixing = Callable[[Tensor, Tensor, Draw], tuple[Tensor, Tensor]]
STEPS = 2**14  # values that a share can take, of equal chance


def beta_sampler(alpha: float) -> Callable[[Tensor], Tensor]:
    """From numbers uniform in [0, 1) to numbers that follow Beta(α, α): the inverse of its integral.

    Tabled at `STEPS` places, so that one uniform number makes one share on every device.
    """
    if not alpha > 0:
        raise BadInput(f"mixup and cutmix need a number above 0, not {alpha:g}")
    from scipy.special import betaincinv

    middles = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS
    quantiles = torch.from_numpy(betaincinv(alpha, alpha, middles.numpy())).float()

    def shares(uniform: Tensor) -> Tensor:
        return quantiles.to(uniform.device)[(uniform * STEPS).long()]

    return shares


def mixup(alpha: float) -> Mixing:
    """λ x + (1 - λ) x', λ ~ Beta(α, α) for each picture. Zhang et al. 2017, arXiv:1710.09412."""
    shares = beta_sampler(alpha)

    def mixed(images: Images, others: Images, draw: Draw) -> tuple[Images, Float[Tensor, " batch"]]:
        share = shares(draw())
        return torch.lerp(others.float(), images.float(), share.view(-1, 1, 1, 1)), share

    return mixed


def cutmix(alpha: float) -> Mixing:
    """A rectangle of the partner in the picture's place. Yun et al. 2019, arXiv:1905.04899.

    Its sides are √(1 - λ) of the picture's, λ ~ Beta(α, α), its middle anywhere; what would stick out
    is cut, and the share that remains of the picture counts for the label, exactly.
    """
    shares = beta_sampler(alpha)

    def mixed(images: Images, others: Images, draw: Draw) -> tuple[Images, Float[Tensor, " batch"]]:
        height, width = images.shape[2:]
        share, down, right = draw(3).unbind(1)
        side = (1 - shares(share)).sqrt()
        top, bottom = _span(down, side, height)
        left, right = _span(right, side, width)
        where = rectangle_mask(top, left, bottom - top, right - left, images.shape)
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return torch.where(where, others, images), kept

    return mixed


def _span(middle: Tensor, share: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """First and one past the last pixel of `share` of a side around `middle` (0..1), cut to it."""
    middle, half = (middle * side).floor(), (share * side).floor() / 2
    return (middle - half).floor().clamp(min=0), (middle + half).floor().clamp(max=side)


def one_of(*mixings: Mixing) -> Mixing:
    """One of them for each picture, with equal chance."""

    def mixed(images: Images, others: Images, draw: Draw) -> tuple[Images, Float[Tensor, " batch"]]:
        chosen = (draw() * len(mixings)).long()
        results, shares = zip(*(mix(images, others, draw) for mix in mixings), strict=True)
        share = torch.stack(shares).gather(0, chosen[None])[0]
        result = results[0].float()
        for number, each in enumerate(results[1:], 1):
            result = torch.where((chosen == number).view(-1, 1, 1, 1), each.float(), result)
        return result, share

    return mixed
