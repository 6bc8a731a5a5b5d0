"""Gaussian noise put into data in many small steps, and taken out again: schedules, their tables, one step.

Ho, Jain and Abbeel 2020 (DDPM, arXiv:2006.11239), Nichol and Dhariwal 2021 (the cosine schedule,
arXiv:2102.09672), Song, Meng and Ermon 2020 (DDIM, arXiv:2010.02502), Salimans and Ho 2022 (v,
arXiv:2202.00512). Noise levels count from 0, the least, to T − 1; −1 stands for no noise at all.

    x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε,  ᾱ_t = Π (1 − β_s)      v = √ᾱ_t ε − √(1 − ᾱ_t) x₀
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput, did_you_mean

Batch = Float[Tensor, "batch *shape"]
Levels = Int64[Tensor, " batch"]

SCHEDULES = ("linear", "scaled_linear", "cosine")
TOLD = ("epsilon", "x0", "v")


def schedule(name: str, levels: int, first: float = 1e-4, last: float = 0.02) -> Float[Tensor, " levels"]:
    """The share β of new noise at each level.

    - `linear`: from `first` to `last` (Ho et al., section 4)
    - `scaled_linear`: the same for √β (Rombach et al. 2021, arXiv:2112.10752)
    - `cosine`: ᾱ falls as cos² ((t/T + s) / (1 + s) · π/2), s = 0.008, β at most 0.999 (Nichol and
      Dhariwal, equation 17); `first` and `last` are not asked

    Raises:
        BadInput: an unknown name; no levels; numbers that are no shares.
    """
    if name not in SCHEDULES:
        raise BadInput(f"unknown noise schedule {name!r}: {did_you_mean(name, SCHEDULES)}")
    if levels < 1 or not 0 < first <= last < 1:
        raise BadInput(
            f"a noise schedule needs at least 1 level and 0 < first <= last < 1, not {levels} levels, "
            f"{first} and {last}"
        )
    if name == "linear":
        return torch.linspace(first, last, levels)
    if name == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, levels) ** 2

    def kept(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    falls = [1 - kept((t + 1) / levels) / kept(t / levels) for t in range(levels)]
    return torch.tensor([min(fall, 0.999) for fall in falls])


class Noise:
    """The tables of a schedule, and what they make of data, noise and a network's word.

    All is computed in the precision of `betas`: published weights were trained and are used with
    tables made in float32.
    """

    def __init__(self, betas: Float[Tensor, " levels"]):
        self.betas = betas
        # ᾱ, one place later: level −1 is the first entry, where nothing has been added
        self.table = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])

    def __len__(self) -> int:
        return len(self.betas)

    def to(self, device: torch.device | str) -> "Noise":
        """The same tables on another device."""
        moved = Noise.__new__(Noise)
        moved.betas, moved.table = self.betas.to(device), self.table.to(device)
        return moved

    def kept(self, t: Levels, x: Batch) -> Float[Tensor, "batch *ones"]:
        """ᾱ_t, to be multiplied onto `x` row by row."""
        return self.table[t + 1].view(-1, *[1] * (x.ndim - 1))

    def add(self, x: Batch, epsilon: Batch, t: Levels) -> Batch:
        """A draw of q(x_t | x₀) = N(√ᾱ_t x₀, (1 − ᾱ_t) I)  (Ho et al., equation 4)."""
        kept = self.kept(t, x)
        return kept.sqrt() * x + (1 - kept).sqrt() * epsilon

    def again(self, x: Batch, epsilon: Batch, s: Levels, t: Levels) -> Batch:
        """A draw of q(x_t | x_s) for a level t > s: more noise upon what is noisy already."""
        step = self.kept(t, x) / self.kept(s, x)
        return step.sqrt() * x + (1 - step).sqrt() * epsilon

    def target(self, told: str, x: Batch, epsilon: Batch, t: Levels) -> Batch:
        """What a network that tells `epsilon`, `x0` or `v` ought to say."""
        if told == "v":
            kept = self.kept(t, x)
            return kept.sqrt() * epsilon - (1 - kept).sqrt() * x
        return epsilon if told == "epsilon" else x

    def read(self, told: str, said: Batch, noisy: Batch, t: Levels) -> tuple[Batch, Batch]:
        """(x₀, ε) out of what the network said of `noisy`, x_t."""
        kept = self.kept(t, noisy)
        if told == "v":
            clean = kept.sqrt() * noisy - (1 - kept).sqrt() * said
            return clean, kept.sqrt() * said + (1 - kept).sqrt() * noisy
        if told == "epsilon":
            return (noisy - (1 - kept).sqrt() * said) / kept.sqrt(), said
        return said, self.epsilon(said, noisy, t)

    def epsilon(self, clean: Batch, noisy: Batch, t: Levels) -> Batch:
        """The noise that turns x₀ into x_t."""
        kept = self.kept(t, noisy)
        return (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()

    def moved(self, told: str, said: Batch, by: Batch, t: Levels) -> Batch:
        """What the network would have said, had it meant ε + `by`: all that it may tell is affine in ε."""
        kept = self.kept(t, by)
        slope = {"epsilon": 1.0, "x0": -((1 - kept) / kept).sqrt(), "v": kept.rsqrt()}[told]
        return said + slope * by

    def variance(self, t: Levels, s: Levels, x: Batch) -> Float[Tensor, "batch *ones"]:
        """β̃, the variance of q(x_s | x_t, x₀) for a level s < t."""
        kept, before = self.kept(t, x), self.kept(s, x)
        return (1 - before) / (1 - kept) * (1 - kept / before)

    def posterior(
        self, clean: Batch, noisy: Batch, t: Levels, s: Levels
    ) -> tuple[Batch, Float[Tensor, "batch *ones"]]:
        """Mean and variance of q(x_s | x_t, x₀), s < t (Ho et al., equations 6 and 7, at s = t − 1)."""
        kept, before = self.kept(t, noisy), self.kept(s, noisy)
        step = kept / before  # 1 − β of all that is between
        mean = before.sqrt() * (1 - step) / (1 - kept) * clean
        mean = mean + step.sqrt() * (1 - before) / (1 - kept) * noisy
        return mean, self.variance(t, s, noisy)

    def ancestral(
        self,
        clean: Batch,
        noisy: Batch,
        t: Levels,
        s: Levels,
        *,
        large: bool = False,
        ends: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Batch, Float[Tensor, "batch *ones"]]:
        """Mean and standard deviation of the next, less noisy x_s (Ho et al., algorithm 2).

        Args:
            large: the variance is that of the step forwards, β, not that of the posterior, β̃ (their
                section 3.2 names both).
            ends: where nothing is drawn; by default at the last step, to level −1.
        """
        mean, variance = self.posterior(clean, noisy, t, s)
        if large:
            variance = 1 - self.kept(t, noisy) / self.kept(s, noisy)
        ends = s < 0 if ends is None else ends
        return mean, variance.sqrt() * ~ends.view(variance.shape)

    def implicit(
        self, clean: Batch, epsilon: Batch, t: Levels, s: Levels, eta: float = 0.0
    ) -> tuple[Batch, Float[Tensor, "batch *ones"]]:
        """Mean and standard deviation of the next x_s along DDIM's way (Song et al., equations 12, 16).

        Args:
            eta: 0 goes without a draw, and back again too (s > t); 1 is the posterior of `ancestral`.
        """
        before = self.kept(s, clean)
        sigma = torch.zeros_like(before)
        if eta:
            sigma = eta * self.variance(t, s, clean).sqrt()
        return before.sqrt() * clean + (1 - before - sigma**2).sqrt() * epsilon, sigma
