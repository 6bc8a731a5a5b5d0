"""Adaptive discriminator augmentation: what the discriminator looks at is transformed, with a strength that
follows its overfitting.

Karras et al. 2020 (arXiv:2006.06676), sections 2 and 3, appendix B. Real and generated images are both
transformed, each transformation with probability p, so that the generator does not learn them as long as p
is below about 0.8. The strength p rises while the discriminator's logits of real images are positive too
often (r_t = E sign D(x) > 0.6: it knows them by heart), and falls otherwise.

The groups of transformations are those that the paper found to be useful for small sets of images: pixel
blitting (flips, quarter turns, shifts by whole pixels), geometry (scale, rotation, shift) and color
(brightness, contrast, luma flip, hue, saturation).
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

NUM_UNIFORM, NUM_NORMAL = 21, 7  # random numbers that the transformations of an image take
TARGET = 0.6  # of r_t
SCALE_STD = 0.2 * math.log(2)  # of the logarithm of a scale
CONTRAST_STD = 0.5 * math.log(2)
SATURATION_STD = math.log(2)
SHIFT = 0.125  # of the side: largest shift by whole pixels, standard deviation of the other
BRIGHTNESS_STD = 0.2

Images = Float[Tensor, "batch channel height width"]
Matrices = Float[Tensor, "batch three three"]


class AugmentDraws(NamedTuple):
    """Random numbers of the transformations: uniform on 0..1, and N(0, 1)."""

    uniform: Float[Tensor, "batch {NUM_UNIFORM}"]
    normal: Float[Tensor, "batch {NUM_NORMAL}"]


def augment(images: Images, p: Float[Tensor, ""], draws: AugmentDraws) -> Images:
    """The transformed images, differentiable as often as one likes; at p = 0 the images themselves.

    Args:
        images: square, of one or three channels, on −1..1.
        p: probability of each transformation.
    """
    warped = warp(images, geometry(p, draws, images.shape[-1]))
    matrix, offset = color(p, draws)
    if images.shape[1] == 1:  # the mean of the three channels of a gray image
        return warped * matrix.mean(1).sum(1)[:, None, None, None] + offset.mean(1)[:, None, None, None]
    return torch.einsum("bij,bjhw->bihw", matrix, warped) + offset[:, :, None, None]


def geometry(p: Float[Tensor, ""], draws: AugmentDraws, size: int) -> Matrices:
    """From positions in the transformed image to those in the original, both from the center in pixels."""
    u, n = draws.uniform.unbind(1), draws.normal.unbind(1)
    is_rotated = 1 - (1 - p).clamp(min=0).sqrt()  # before and after the anisotropic scale: p that either is
    flip = 1 - 2 * (u[0] < p) * (u[1] < 0.5)
    turns = (u[2] < p) * (u[3] * 4).floor()
    pixels = [(u[4] < p) * ((2 * each - 1) * SHIFT * size).round() for each in (u[5], u[6])]
    scale = ((u[7] < p) * n[0] * SCALE_STD).exp()
    first = (u[8] < is_rotated) * (2 * u[9] - 1) * math.pi
    stretch = ((u[10] < p) * n[1] * SCALE_STD).exp()
    second = (u[11] < is_rotated) * (2 * u[12] - 1) * math.pi
    shift = [(u[13] < p) * each * SHIFT * size for each in (n[2], n[3])]
    one = torch.ones_like(scale)
    steps = (
        affine(flip * one, one),
        rotation(turns * (math.pi / 2)),
        affine(one, one, *pixels),
        affine(scale, scale),
        rotation(first),
        affine(stretch, 1 / stretch),
        rotation(second),
        affine(one, one, *shift),
    )
    matrix = steps[0]
    for step in steps[1:]:
        matrix = matrix @ step
    return matrix


def affine(x: Tensor, y: Tensor, shift_x: Tensor | None = None, shift_y: Tensor | None = None) -> Matrices:
    """Scales and shifts along both axes."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    shift_x, shift_y = (zero if each is None else each for each in (shift_x, shift_y))
    return torch.stack([x, zero, shift_x, zero, y, shift_y, zero, zero, one], 1).unflatten(1, (3, 3))


def rotation(angle: Float[Tensor, " batch"]) -> Matrices:
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).unflatten(1, (3, 3))


def warp(images: Images, matrix: Matrices) -> Images:
    """Bilinear interpolation at the positions that `matrix` leads to; beyond its border an image is mirrored.

    By gathering, not by torch's `grid_sample`, whose gradient has no gradient.
    """
    size = images.shape[-1]
    center = (size - 1) / 2
    axis = torch.arange(size, device=images.device, dtype=images.dtype) - center
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    positions = torch.stack([x.flatten(), y.flatten(), torch.ones_like(x).flatten()])
    source = (matrix.to(images.dtype) @ positions)[:, :2] + center  # (batch, 2, pixels)
    period = 2 * (size - 1)
    source = (size - 1) - ((source.remainder(period)) - (size - 1)).abs()
    source = source.clamp(0, size - 1)
    corner = source.floor().clamp(max=max(size - 2, 0))
    fraction = source - corner
    left, top = corner.long().unbind(1)
    right_weight, bottom_weight = fraction.unbind(1)
    pixels = images.flatten(2)

    def at(dy: int, dx: int, weight: Tensor) -> Tensor:
        index = (top + dy) * size + left + dx
        return pixels.gather(2, index[:, None].expand(-1, pixels.shape[1], -1)) * weight[:, None]

    upper = at(0, 0, (1 - bottom_weight) * (1 - right_weight)) + at(0, 1, (1 - bottom_weight) * right_weight)
    lower = at(1, 0, bottom_weight * (1 - right_weight)) + at(1, 1, bottom_weight * right_weight)
    return (upper + lower).unflatten(2, images.shape[2:])


def color(p: Float[Tensor, ""], draws: AugmentDraws) -> tuple[Matrices, Float[Tensor, "batch three"]]:
    """The matrix and the offset that an image's colors get."""
    u, n = draws.uniform.unbind(1), draws.normal.unbind(1)
    eye = torch.eye(3).to(draws.uniform)
    luma = torch.full_like(eye, 1 / 3)  # v vᵀ, of the gray axis v
    brightness = (u[14] < p) * n[4] * BRIGHTNESS_STD
    contrast = ((u[15] < p) * n[5] * CONTRAST_STD).exp()
    is_flipped = ((u[16] < p) * (u[17] < 0.5)).to(eye.dtype)
    angle = (u[18] < p) * (2 * u[19] - 1) * math.pi
    saturation = ((u[20] < p) * n[6] * SATURATION_STD).exp()
    flip = eye - 2 * luma * is_flipped[:, None, None]
    # rotation about v (Rodrigues): cos I + sin [v]ₓ + (1 − cos) v vᵀ
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]).to(eye) / math.sqrt(3)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    hue = cosine * eye + sine * cross + (1 - cosine) * luma
    saturate = luma + (eye - luma) * saturation[:, None, None]
    matrix = saturate @ hue @ flip * contrast[:, None, None]
    offset = (saturate @ hue @ flip @ (contrast * brightness)[:, None, None].expand(-1, 3, 1))[:, :, 0]
    return matrix, offset


class AugmentStrength:
    """p, and the signs of logits since it was last changed.

    Every `interval` updates p goes up or down by so much that it would get from 0 to 1 within
    `images_to_one` images. It stays on the device, without a synchronization.
    """

    def __init__(
        self,
        batch_size: int,
        images_to_one: float,
        *,
        interval: int = 4,
        target: float = TARGET,
        device: torch.device | str = "cpu",
    ):
        self.step = batch_size * interval / images_to_one if images_to_one else 0.0
        self.interval, self.target, self.count = interval, target, 0
        self.p, self.sign_sum = torch.zeros((), device=device), torch.zeros((), device=device)

    def update(self, mean_sign: Float[Tensor, ""]) -> None:
        """Take note of E sign D(x) of one update's real images, of all processes."""
        if not self.step:
            return
        self.sign_sum, self.count = self.sign_sum + mean_sign, self.count + 1
        if self.count == self.interval:
            excess = self.sign_sum / self.count - self.target
            self.p.add_(self.step * excess.sign()).clamp_(0, 1)
            self.sign_sum, self.count = torch.zeros_like(self.sign_sum), 0

    def state_dict(self) -> dict[str, Any]:
        return {"p": self.p, "sign_sum": self.sign_sum, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.p.copy_(state["p"])
        self.sign_sum, self.count = state["sign_sum"].to(self.p.device), state["count"]
