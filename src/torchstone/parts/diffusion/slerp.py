"""Spherical interpolation."""

import torch
from jaxtyping import Float
from torch import Tensor


def slerp(
    a: Float[Tensor, "1 dim"], b: Float[Tensor, "1 dim"], theta: Float[Tensor, " count"]
) -> Float[Tensor, "count dim"]:
    """From a (θ = 0) to b (θ = 1) along the great circle, at a constant angle a step; the length goes from
    that of a to that of b (Shoemake 1985, "Animating rotation with quaternion curves", section 3.3).

        sin((1 − θ) ω) / sin ω a + sin(θ ω) / sin ω b,  ω the angle between a and b

    Noise keeps its length on this way, which on the straight one gets shorter. For parallel vectors the two
    ways are one; of opposite ones, which have no such way, it is the straight one too.
    """
    theta = theta[:, None]
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    u, v = a / length_a, b / length_b
    omega = 2 * torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True))
    sine = omega.sin()
    is_line = sine < 1e-4
    sine = torch.where(is_line, 1.0, sine)
    first = torch.where(is_line, 1 - theta, ((1 - theta) * omega).sin() / sine)
    second = torch.where(is_line, theta, (theta * omega).sin() / sine)
    return (first * u + second * v) * torch.lerp(length_a, length_b, theta)
