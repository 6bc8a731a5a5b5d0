"""Values as distributions over a support: MuZero's transform, two-hot targets, and n-step targets.

Schrittwieser et al. 2019, arXiv:1911.08265, appendix F: a network gives the logits of 2 S + 1 atoms -S,
..., S. A value x is h(x) as the mean of the two atoms beside it, and is read back as h⁻¹ of the mean of all
atoms.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EPSILON = 1e-3


def scale_value(x: Float[Tensor, "*shape"], epsilon: float = EPSILON) -> Float[Tensor, "*shape"]:
    """h(x) = sign(x) (√(|x| + 1) - 1) + ε x (Pohlen et al. 2018, arXiv:1805.11593, proposition A.2)."""
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + epsilon * x


def unscale_value(y: Float[Tensor, "*shape"], epsilon: float = EPSILON) -> Float[Tensor, "*shape"]:
    """h⁻¹(y) = sign(y) (((√(1 + 4 ε (|y| + 1 + ε)) - 1) / (2 ε))² - 1)."""
    root = (1 + 4 * epsilon * (y.abs() + 1 + epsilon)).sqrt()
    return y.sign() * (((root - 1) / (2 * epsilon)).square() - 1)


def two_hot(y: Float[Tensor, "*batch"], size: int) -> Float[Tensor, "*batch atoms"]:
    """Probabilities of the atoms -size, ..., size with mean y, on the two beside it; y is clamped to them."""
    y = y.clamp(-size, size) + size
    lower = y.floor().clamp(max=2 * size - 1)  # at the upper end too there is an atom above
    weight = y - lower
    probabilities = torch.zeros(*y.shape, 2 * size + 1, dtype=y.dtype, device=y.device)
    index = lower.long()[..., None]
    probabilities.scatter_(-1, index, (1 - weight)[..., None])
    return probabilities.scatter_(-1, index + 1, weight[..., None])


def value_target(x: Float[Tensor, "*batch"], size: int, scale: bool = True) -> Float[Tensor, "*batch atoms"]:
    """What a network's softmax is trained on where the value is x; without `scale` h is left out."""
    return two_hot(scale_value(x) if scale else x, size)


def expected_value(logits: Float[Tensor, "*batch atoms"], scale: bool = True) -> Float[Tensor, "*batch"]:
    """h⁻¹ of the mean of the atoms; without `scale` that mean."""
    size = logits.shape[-1] // 2
    atoms = torch.arange(-size, size + 1, dtype=logits.dtype, device=logits.device)
    mean = logits.softmax(-1) @ atoms
    return unscale_value(mean) if scale else mean


def n_step_targets(
    reward: Float[Tensor, "time batch"],
    discount: Float[Tensor, "time batch"],
    value: Float[Tensor, "steps batch"],
    n: int,
) -> tuple[Float[Tensor, "positions batch"], Bool[Tensor, "positions batch"]]:
    """z_t = r_t + γ_t r_{t+1} + … + γ_t ⋯ γ_{t+n-1} v_{t+n} of consecutive steps, and which positions
    are beyond the end of the first one's episode: there targets are 0, an absorbing state's.

    Args:
        reward: of the action at each step, `time` = positions + n - 1 of them.
        discount: γ after each step: 0 where its action ended the episode, so that nothing of the next one
            counts; negative where the other player moves next.
        value: of the state at each step, one more than rewards.
    """
    positions = len(value) - n
    z = value[n:]
    for i in range(n - 1, -1, -1):
        # a product with what lies beyond the end would let an infinite value in
        following = torch.where(discount[i : i + positions] == 0, 0, z)
        z = reward[i : i + positions] + discount[i : i + positions] * following
    is_beyond = torch.zeros_like(z, dtype=torch.bool)
    is_beyond[1:] = (discount[: positions - 1] == 0).cummax(0).values
    return z.masked_fill(is_beyond, 0), is_beyond
