"""Bits per dimension: how long a code a diffusion gives pictures, by its variational bound.

Ho, Jain and Abbeel 2020 (arXiv:2006.11239), equations 5, 8 and 13, section 3.3:

    L = KL(q(x_T | x₀) ‖ N(0, I)) + Σ_t KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)) − log p(x₀ | x₁)
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from torchstone.parts.diffusion.noise_schedule import Noise

Pictures = Float[Tensor, "batch channel height width"]
PerPicture = Float[Tensor, " batch"]


def exact(process: Any, device: torch.device | str = "cpu") -> Noise:
    """The tables in float64: near no noise the bound divides small numbers by each other."""
    return Noise(process.noise().betas.double().to(device))


def term(
    model: Any,
    noise: Noise,
    x: Pictures,
    epsilon: Pictures,
    t: Int64[Tensor, " batch"],
    context: Tensor | None = None,
) -> PerPicture:
    """The bound's part of level t, in nats a dimension, for one draw x_t of each picture.

    Args:
        noise: of `exact`.
        x: pictures of 256 values from −1 to 1.
    """
    process, x, epsilon = model.process, x.double(), epsilon.double()
    noisy = noise.add(x, epsilon, t)
    said = model(noisy.float(), t, context).double()
    clean, _ = process.told_clean(noise, said, noisy, t)
    mean, variance = noise.posterior(x, noisy, t, t - 1)
    guess, _ = noise.posterior(clean, noisy, t, t - 1)
    # at the last step the posterior has no width: that of the step before serves (their code)
    spread = variance if not process.large else 1 - noise.kept(t, x) / noise.kept(t - 1, x)
    last = (t == 0).view(variance.shape)
    narrow = noise.betas[:1]
    if len(noise) > 1:
        narrow = noise.variance(torch.ones_like(t), torch.zeros_like(t), x)
    spread = torch.where(last, narrow, spread)
    ratio = torch.where(last, torch.ones_like(spread), variance / spread)
    apart = 0.5 * (ratio - 1 - ratio.log() + (mean - guess).square() / spread)
    coded = -discretised(x, guess, spread.sqrt())
    return torch.where(last, coded, apart).flatten(1).mean(1)


def discretised(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """log of a Gaussian's mass in each value's bin of width 2/255; the outermost reach on for ever
    (equation 13)."""

    def below(edge: Tensor) -> Tensor:
        return torch.special.ndtr((edge - mean) / sigma)

    upper = torch.where(x > 0.999, torch.ones_like(x), below(x + 1 / 255))
    lower = torch.where(x < -0.999, torch.zeros_like(x), below(x - 1 / 255))
    return (upper - lower).clamp(min=1e-12).log()


def start(noise: Noise, x: Pictures) -> PerPicture:
    """KL of x_T, whatever the picture, from N(0, I), in nats a dimension."""
    t = torch.full((len(x),), len(noise) - 1, device=x.device)
    kept = noise.kept(t, x)
    each = 0.5 * (kept * x.double().square() - kept - (1 - kept).log())
    return each.flatten(1).mean(1)


@torch.no_grad()
def bits(
    model: Any,
    pictures: UInt8[Tensor, "count channel height width"],
    *,
    rounds: int = 4,
    seed: int = 0,
    batch: int = 256,
) -> float:
    """Bits per dimension of `pictures`, told nothing of them: an estimate without bias of the bound.

    Each picture is looked at on `rounds` levels, and all of them together on all levels evenly, so that
    the sum over levels is T times the mean; the same seed gives the same number.
    """
    was_training = model.training
    model.eval()
    device = pictures.device
    noise = exact(model.process, device)
    levels, count = len(noise), len(pictures)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for number in range(rounds):
        # places (i + u) / count of the way, handed out at random
        places = torch.randperm(count, generator=generator).double()
        shift = torch.rand((), generator=generator, dtype=torch.float64)
        places = (places * rounds + number + shift) / (count * rounds)
        t = (places * levels).long().clamp(max=levels - 1)
        for rows in torch.arange(count).split(batch):
            chosen = pictures[rows.to(device)]
            x = chosen.float() / 127.5 - 1
            epsilon = torch.randn(x.shape, generator=generator).to(device)
            each = levels * term(model, noise, x, epsilon, t[rows].to(device))
            if not number:
                each = each + rounds * start(noise, x)
            total += each.sum().cpu()
    model.train(was_training)
    return float(total) / (count * rounds) / math.log(2)
