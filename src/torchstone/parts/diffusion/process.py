"""The way back from noise: which levels it passes, and one step of it.

The rules are Ho, Jain and Abbeel's (DDPM, arXiv:2006.11239) and Song, Meng and Ermon's (DDIM,
arXiv:2010.02502); how few of many levels are chosen is table 2 of Lin et al. 2023 (arXiv:2305.08891).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.diffusion.noise_schedule import TOLD, Noise, schedule

Batch = Float[Tensor, "batch *shape"]
SPACINGS = ("leading", "trailing", "linspace")
SAMPLERS = ("ddpm", "ddim")


@dataclass(frozen=True)
class Process:
    """All numbers of a diffusion beside the network's.

    Args:
        schedule, levels, first, last: of `noise.schedule`.
        told: what the network says: `epsilon`, `x0` or `v`.
        clip: values of x₀ beyond ± this are cut off at each step; None for no limit.
        sampler: `ddpm` draws anew at every step, `ddim` by `eta`.
        large: DDPM's variance is β instead of β̃.
        rederive: after clipping, ε is that which belongs to the clipped x₀; without it DDIM's two
            terms contradict each other a little, as in most published code.
        spacing, offset: which levels a shorter way passes.
        whole: the last step goes to no noise at all, not to the lowest level.
        published: as the published schedulers go where that is not the papers' way: a DDIM step goes
            to t − T/steps, not to the next level (they differ where steps do not divide T), and a
            last DDPM step that is large draws too, unless it begins at level 0.
    """

    schedule: str = "linear"
    levels: int = 1000
    first: float = 1e-4
    last: float = 0.02
    told: str = "epsilon"
    clip: float | None = 1.0
    sampler: str = "ddpm"
    large: bool = False
    rederive: bool = True
    spacing: str = "leading"
    offset: int = 0
    whole: bool = True
    published: bool = False

    def __post_init__(self):
        for name, known in (("told", TOLD), ("sampler", SAMPLERS), ("spacing", SPACINGS)):
            if getattr(self, name) not in known:
                wrong = getattr(self, name)
                raise BadInput(f"a diffusion has no {name} {wrong!r}: {did_you_mean(wrong, known)}")

    def noise(self) -> Noise:
        """The tables."""
        return Noise(schedule(self.schedule, self.levels, self.first, self.last))

    def way(self, steps: int | None = None) -> list[tuple[int, int]]:
        """(level, next level) of each step, noisiest first; by default all levels.

        Raises:
            BadInput: more steps than levels, or none.
        """
        count = self.levels if steps is None else steps
        if not 1 <= count <= self.levels:
            raise BadInput(f"sampling takes 1 to {self.levels} steps, not {count}")
        if self.spacing == "linspace":
            places = np.linspace(0, self.levels - 1, count).round().tolist()
        elif self.spacing == "leading":
            places = [i * (self.levels // count) + self.offset for i in range(count)]
        else:
            share = self.levels / count
            places = [round(self.levels - i * share) - 1 for i in reversed(range(count))]
        down = [min(int(place), self.levels - 1) for place in reversed(places)]
        if self.published and self.sampler == "ddim":
            after = [max(t - self.levels // count, -1) for t in down]
        else:
            after = [*down[1:], -1]
        return list(zip(down, after if self.whole else [max(s, 0) for s in after], strict=True))

    def told_clean(
        self, noise: Noise, said: Batch, noisy: Batch, t: Int64[Tensor, " batch"]
    ) -> tuple[Batch, Batch]:
        """(x₀, ε) as the network means them, x₀ clipped."""
        clean, epsilon = noise.read(self.told, said, noisy, t)
        if self.clip is not None:
            clean = clean.clamp(-self.clip, self.clip)
            if self.rederive:
                epsilon = noise.epsilon(clean, noisy, t)
        return clean, epsilon

    def step(
        self,
        noise: Noise,
        said: Batch,
        noisy: Batch,
        t: Int64[Tensor, " batch"],
        s: Int64[Tensor, " batch"],
        eta: float = 0.0,
    ) -> tuple[Batch, Float[Tensor, "batch *ones"], Batch]:
        """Mean and standard deviation of x_s, given what the network `said` of x_t; and its x₀."""
        clean, epsilon = self.told_clean(noise, said, noisy, t)
        if self.sampler == "ddpm":
            ends = t <= 0 if self.published else s < 0
            mean, sigma = noise.ancestral(clean, noisy, t, s, large=self.large, ends=ends)
        else:
            mean, sigma = noise.implicit(clean, epsilon, t, s, eta)
        return mean, sigma, clean
