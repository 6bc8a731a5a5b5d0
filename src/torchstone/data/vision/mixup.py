"""Mixup and CutMix: mixtures of two images of a batch and of their labels.

A mixing is a function `(images, partners, draw) -> (images, weight)`. `weight` (batch,) is how much of
each result is the image's own, so that its label becomes weight · y + (1 - weight) · y'. Images are on
the 0..255 scale or normalized.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.vision.geometric_ops import Draw, Images, rectangle_mask
from torchstone.errors import BadInput

Mixing = Callable[[Tensor, Tensor, Draw], tuple[Tensor, Tensor]]
STEPS = 2**14  # equally likely values of a weight


def beta_sampler(alpha: float) -> Callable[[Tensor], Tensor]:
    """From numbers uniform in [0, 1) to Beta(α, α): the inverse of its cumulative distribution.

    Tabulated at `STEPS` points, so that one uniform number gives the same weight on every device.
    """
    if not alpha > 0:
        raise BadInput(f"mixup and cutmix need a number above 0, not {alpha:g}")
    from scipy.special import betaincinv

    centers = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS
    quantiles = torch.from_numpy(betaincinv(alpha, alpha, centers.numpy())).float()

    def sample(uniform: Tensor) -> Tensor:
        return quantiles.to(uniform.device)[(uniform * STEPS).long()]

    return sample


def mixup(alpha: float) -> Mixing:
    """λ x + (1 - λ) x', λ ~ Beta(α, α) per image. Zhang et al. 2017, arXiv:1710.09412."""
    sample = beta_sampler(alpha)

    def mix(images: Images, partners: Images, draw: Draw) -> tuple[Images, Float[Tensor, " batch"]]:
        weight = sample(draw())
        return torch.lerp(partners.float(), images.float(), weight.view(-1, 1, 1, 1)), weight

    return mix


def cutmix(alpha: float) -> Mixing:
    """A rectangle of the partner pasted into the image. Yun et al. 2019, arXiv:1905.04899.

    Its sides are √(1 - λ) of the image's, λ ~ Beta(α, α), its center anywhere. What would stick out is
    cut off, and the label's weight is the exact share of the image that remains.
    """
    sample = beta_sampler(alpha)

    def mix(images: Images, partners: Images, draw: Draw) -> tuple[Images, Float[Tensor, " batch"]]:
        height, width = images.shape[2:]
        uniform, down, right = draw(3).unbind(1)
        side = (1 - sample(uniform)).sqrt()
        top, bottom = _span(down, side, height)
        left, right = _span(right, side, width)
        mask = rectangle_mask(top, left, bottom - top, right - left, images.shape)
        weight = 1 - (bottom - top) * (right - left) / (height * width)
        return torch.where(mask, partners, images), weight

    return mix


def _span(center: Tensor, share: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """First and one past the last pixel of `share` of a side around `center` (0..1), clipped to it."""
    center, half = (center * side).floor(), (share * side).floor() / 2
    return (center - half).floor().clamp(min=0), (center + half).floor().clamp(max=side)


def one_of(*mixings: Mixing) -> Mixing:
    """One of them for each image, with equal probability."""

    def mix(images: Images, partners: Images, draw: Draw) -> tuple[Images, Float[Tensor, " batch"]]:
        choice = (draw() * len(mixings)).long()
        results, weights = zip(*(mixing(images, partners, draw) for mixing in mixings), strict=True)
        weight = torch.stack(weights).gather(0, choice[None])[0]
        result = results[0].float()
        for number, each in enumerate(results[1:], 1):
            result = torch.where((choice == number).view(-1, 1, 1, 1), each.float(), result)
        return result, weight

    return mix
