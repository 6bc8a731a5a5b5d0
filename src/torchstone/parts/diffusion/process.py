"""The diffusion process: noise schedule, forward and reverse steps, and the variational bound.

Ho, Jain and Abbeel 2020 (DDPM, arXiv:2006.11239), Nichol and Dhariwal 2021 (the cosine schedule,
arXiv:2102.09672), Song, Meng and Ermon 2020 (DDIM, arXiv:2010.02502), Salimans and Ho 2022 (v-prediction,
arXiv:2202.00512). Timesteps count from 0, the least noise, to T − 1; −1 stands for the clean image x₀.

    x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε,  ᾱ_t = Π (1 − β_s)      v = √ᾱ_t ε − √(1 − ᾱ_t) x₀

`NoiseSchedule` holds the tables and the closed forms. `DiffusionProcess` is the configuration: which
schedule, what the network predicts, and how samples are drawn.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput, did_you_mean

Batch = Float[Tensor, "batch *shape"]
PerRow = Float[Tensor, "batch *ones"]  # one number per image, shaped to be multiplied onto a `Batch`
PerImage = Float[Tensor, " batch"]
Timesteps = Int64[Tensor, " batch"]
DenoiseFn = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> the network's output

BETA_SCHEDULES = ("linear", "scaled_linear", "cosine")
PREDICTION_TYPES = ("epsilon", "x0", "v")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
SAMPLERS = ("ddpm", "ddim")
VARIANCES = ("fixed_small", "fixed_large")
# names that checkpoints of earlier versions use for fields of `DiffusionProcess`
OLD_NAMES = {"schedule": "beta_schedule", "levels": "timesteps", "told": "prediction_type"}


def make_betas(
    schedule: str, timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Float[Tensor, " timesteps"]:
    """β_t, the variance of the noise that step t adds.

    - `linear`: from `beta_start` to `beta_end` (Ho et al., section 4)
    - `scaled_linear`: the same for √β (Rombach et al. 2021, arXiv:2112.10752)
    - `cosine`: ᾱ falls as cos² ((t/T + s) / (1 + s) · π/2), s = 0.008, β at most 0.999 (Nichol and
      Dhariwal, equation 17); `beta_start` and `beta_end` are not used

    Raises:
        BadInput: an unknown schedule; no timesteps; β outside (0, 1).
    """
    if schedule not in BETA_SCHEDULES:
        raise BadInput(f"unknown beta schedule {schedule!r}: {did_you_mean(schedule, BETA_SCHEDULES)}")
    if timesteps < 1 or not 0 < beta_start <= beta_end < 1:
        raise BadInput(
            f"a noise schedule needs at least 1 timestep and 0 < beta_start <= beta_end < 1, not {timesteps} "
            f"timesteps, {beta_start} and {beta_end}"
        )
    if schedule == "linear":
        return torch.linspace(beta_start, beta_end, timesteps)
    if schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, timesteps) ** 2

    def alpha_bar(fraction: float) -> float:
        return math.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [1 - alpha_bar((t + 1) / timesteps) / alpha_bar(t / timesteps) for t in range(timesteps)]
    return torch.tensor([min(beta, 0.999) for beta in betas])


class NoiseSchedule:
    """Tables of β and ᾱ, and the closed forms of the forward process, the posterior and both samplers.

    Everything is computed in the precision of `betas`: published weights were trained and are used with
    tables made in float32.
    """

    def __init__(self, betas: Float[Tensor, " timesteps"]):
        self.betas = betas
        # ᾱ shifted by one: timestep −1, the clean image, is the first entry
        self._alpha_bar = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> Float[Tensor, " timesteps"]:
        """ᾱ_0 … ᾱ_{T−1}."""
        return self._alpha_bar[1:]

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same tables on another device."""
        copy = NoiseSchedule.__new__(NoiseSchedule)
        copy.betas, copy._alpha_bar = self.betas.to(device), self._alpha_bar.to(device)
        return copy

    def to_float64(self) -> "NoiseSchedule":
        """The same β with ᾱ in float64: the variational bound divides small numbers by each other."""
        return NoiseSchedule(self.betas.double())

    def alpha_bar(self, t: Timesteps, x: Batch) -> PerRow:
        """ᾱ_t, shaped to be multiplied onto `x` row by row."""
        return self._alpha_bar[t + 1].view(-1, *[1] * (x.ndim - 1))

    def add_noise(self, x: Batch, epsilon: Batch, t: Timesteps, s: Timesteps | None = None) -> Batch:
        """A sample of q(x_t | x_s) for timesteps t > s, `x` being x_s; by default x₀.

        q(x_t | x_s) = N(√(ᾱ_t / ᾱ_s) x_s, (1 − ᾱ_t / ᾱ_s) I)
        """
        alpha = self.alpha_bar(t, x)
        if s is not None:
            alpha = alpha / self.alpha_bar(s, x)
        return alpha.sqrt() * x + (1 - alpha).sqrt() * epsilon

    def training_target(self, prediction_type: str, x0: Batch, epsilon: Batch, t: Timesteps) -> Batch:
        """What a network that predicts `epsilon`, `x0` or `v` should output for x_t."""
        if prediction_type == "v":
            alpha_bar = self.alpha_bar(t, x0)
            return alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * x0
        return epsilon if prediction_type == "epsilon" else x0

    def predict_x0_and_epsilon(
        self, prediction_type: str, output: Batch, x_t: Batch, t: Timesteps
    ) -> tuple[Batch, Batch]:
        """(x̂₀, ε̂) from the network's output for x_t."""
        alpha_bar = self.alpha_bar(t, x_t)
        if prediction_type == "v":
            x0 = alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
            return x0, alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
        if prediction_type == "epsilon":
            return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt(), output
        return output, self.epsilon_from_x0(output, x_t, t)

    def epsilon_from_x0(self, x0: Batch, x_t: Batch, t: Timesteps) -> Batch:
        """The noise that turns x₀ into x_t."""
        alpha_bar = self.alpha_bar(t, x_t)
        return (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()

    def shift_epsilon(self, prediction_type: str, output: Batch, shift: Batch, t: Timesteps) -> Batch:
        """The output that means ε̂ + `shift`: all prediction types are affine in ε."""
        alpha_bar = self.alpha_bar(t, shift)
        slopes = {"epsilon": 1.0, "x0": -((1 - alpha_bar) / alpha_bar).sqrt(), "v": alpha_bar.rsqrt()}
        return output + slopes[prediction_type] * shift

    def posterior_variance(self, t: Timesteps, s: Timesteps, x: Batch) -> PerRow:
        """β̃, the variance of q(x_s | x_t, x₀) for timesteps s < t."""
        alpha_bar, alpha_bar_s = self.alpha_bar(t, x), self.alpha_bar(s, x)
        return (1 - alpha_bar_s) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_s)

    def posterior(self, x0: Batch, x_t: Batch, t: Timesteps, s: Timesteps) -> tuple[Batch, PerRow]:
        """Mean and variance of q(x_s | x_t, x₀), s < t (Ho et al., equations 6 and 7, at s = t − 1)."""
        alpha_bar, alpha_bar_s = self.alpha_bar(t, x_t), self.alpha_bar(s, x_t)
        alpha = alpha_bar / alpha_bar_s  # 1 − β of all steps from s to t
        mean = alpha_bar_s.sqrt() * (1 - alpha) / (1 - alpha_bar) * x0
        mean = mean + alpha.sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar) * x_t
        return mean, self.posterior_variance(t, s, x_t)

    def ddpm_step(
        self,
        x0: Batch,
        x_t: Batch,
        t: Timesteps,
        s: Timesteps,
        *,
        variance: str = "fixed_small",
        is_last: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Batch, PerRow]:
        """Mean and standard deviation of x_s in ancestral sampling (Ho et al., algorithm 2).

        Args:
            variance: `fixed_small`, that of the posterior, β̃; or `fixed_large`, that of the forward
                step, β (their section 3.2 names both).
            is_last: rows whose σ is 0; by default those that go to x₀.
        """
        mean, squared = self.posterior(x0, x_t, t, s)
        if variance == "fixed_large":
            squared = 1 - self.alpha_bar(t, x_t) / self.alpha_bar(s, x_t)
        is_last = s < 0 if is_last is None else is_last
        return mean, squared.sqrt() * ~is_last.view(squared.shape)

    def ddim_step(
        self, x0: Batch, epsilon: Batch, t: Timesteps, s: Timesteps, eta: float = 0.0
    ) -> tuple[Batch, PerRow]:
        """Mean and standard deviation of x_s in DDIM (Song et al., equations 12 and 16).

        Args:
            eta: 0 is deterministic, and can be inverted (s > t); 1 is the posterior of `ddpm_step`.
        """
        alpha_bar_s = self.alpha_bar(s, x0)
        sigma = torch.zeros_like(alpha_bar_s)
        if eta:
            sigma = eta * self.posterior_variance(t, s, x0).sqrt()
        return alpha_bar_s.sqrt() * x0 + (1 - alpha_bar_s - sigma**2).sqrt() * epsilon, sigma


def _refuse_unknown(config: Any, name: str, known: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in known:
        raise BadInput(f"unknown {name} {value!r}: {did_you_mean(value, known)}")


@dataclass(frozen=True)
class DiffusersCompat:
    """Settings in which published schedulers differ; the defaults are the papers' rules.

    Args:
        timestep_spacing, steps_offset: which timesteps are visited in fewer than T steps: `leading`,
            `trailing` or `linspace` (Lin et al. 2023, arXiv:2305.08891, table 2).
        final_step_to_zero: the last step goes to x₀, not to timestep 0 (`set_alpha_to_one`).
        recompute_epsilon: after clipping, ε̂ is the noise that belongs to the clipped x̂₀. Without it
            DDIM's two terms contradict each other a little, as in most published code.
        fixed_stride: a DDIM step goes to t − ⌊T/steps⌋, not to the next timestep visited (they differ
            where steps do not divide T).
        noise_until_zero: DDPM's last step is noisy unless it starts at timestep 0.
    """

    timestep_spacing: str = "leading"
    steps_offset: int = 0
    final_step_to_zero: bool = True
    recompute_epsilon: bool = True
    fixed_stride: bool = False
    noise_until_zero: bool = False

    def __post_init__(self) -> None:
        _refuse_unknown(self, "timestep_spacing", TIMESTEP_SPACINGS)


@dataclass(frozen=True)
class DiffusionProcess:
    """All settings of a diffusion model besides its network's.

    Args:
        timesteps, beta_schedule, beta_start, beta_end: as `make_betas` takes them.
        prediction_type: what the network predicts: `epsilon`, `x0` or `v`.
        clip_sample_range: x̂₀ is clipped to ± this at each step; None for no clipping.
        sampler: `ddpm`, ancestral sampling, or `ddim`.
        variance: of DDPM's steps: `fixed_small` is β̃, `fixed_large` is β.
        compat: deviations of published schedulers.
    """

    timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_type: str = "epsilon"
    clip_sample_range: float | None = 1.0
    sampler: str = "ddpm"
    variance: str = "fixed_small"
    compat: DiffusersCompat = DiffusersCompat()

    def __post_init__(self) -> None:
        _refuse_unknown(self, "prediction_type", PREDICTION_TYPES)
        _refuse_unknown(self, "sampler", SAMPLERS)
        _refuse_unknown(self, "variance", VARIANCES)

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> "DiffusionProcess":
        """The process of a saved `model_config`; names of earlier versions are understood."""
        return cls(**{OLD_NAMES.get(name, name): value for name, value in kwargs.items()})

    def noise_schedule(self) -> NoiseSchedule:
        return NoiseSchedule(make_betas(self.beta_schedule, self.timesteps, self.beta_start, self.beta_end))

    def timestep_pairs(self, steps: int | None = None) -> list[tuple[int, int]]:
        """(t, next timestep s) of each sampling step, noisiest first; by default all timesteps.

        Raises:
            BadInput: more steps than timesteps, or none.
        """
        T, compat = self.timesteps, self.compat
        count = T if steps is None else steps
        if not 1 <= count <= T:
            raise BadInput(f"sampling takes 1 to {T} steps, not {count}")
        if compat.timestep_spacing == "linspace":
            visited = np.linspace(0, T - 1, count).round().tolist()
        elif compat.timestep_spacing == "leading":
            visited = [i * (T // count) + compat.steps_offset for i in range(count)]
        else:
            visited = [round(T - i * (T / count)) - 1 for i in reversed(range(count))]
        descending = [min(int(t), T - 1) for t in reversed(visited)]
        if compat.fixed_stride and self.sampler == "ddim":
            following = [max(t - T // count, -1) for t in descending]
        else:
            following = [*descending[1:], -1]
        if not compat.final_step_to_zero:
            following = [max(s, 0) for s in following]
        return list(zip(descending, following, strict=True))

    def is_stochastic(self, eta: float) -> bool:
        """Whether sampling steps add noise."""
        return self.sampler == "ddpm" or eta > 0

    def predict_x0(
        self, schedule: NoiseSchedule, output: Batch, x_t: Batch, t: Timesteps
    ) -> tuple[Batch, Batch]:
        """(x̂₀, ε̂) from the network's output for x_t, x̂₀ clipped."""
        x0, epsilon = schedule.predict_x0_and_epsilon(self.prediction_type, output, x_t, t)
        if self.clip_sample_range is not None:
            x0 = x0.clamp(-self.clip_sample_range, self.clip_sample_range)
            if self.compat.recompute_epsilon:
                epsilon = schedule.epsilon_from_x0(x0, x_t, t)
        return x0, epsilon

    def step(
        self,
        schedule: NoiseSchedule,
        x0: Batch,
        epsilon: Batch,
        x_t: Batch,
        t: Timesteps,
        s: Timesteps,
        eta: float = 0.0,
    ) -> tuple[Batch, PerRow]:
        """Mean and standard deviation of x_s, s < t, by the process's sampler.

        Args:
            x0, epsilon: of `predict_x0`.
            eta: of DDIM.
        """
        if self.sampler == "ddim":
            return schedule.ddim_step(x0, epsilon, t, s, eta)
        is_last = t <= 0 if self.compat.noise_until_zero else s < 0
        return schedule.ddpm_step(x0, x_t, t, s, variance=self.variance, is_last=is_last)


def randn_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of `x`, generated on the generator's device."""
    noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    return noise.to(x.device)


# ------------------------------------------------------------------------------- variational bound


def vb_term(
    denoise_fn: DenoiseFn,
    process: DiffusionProcess,
    schedule: NoiseSchedule,
    x0: Batch,
    epsilon: Batch,
    t: Timesteps,
) -> PerImage:
    """The term of the variational bound at timestep t, in nats per dimension, for one sample of x_t.

        KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)), and −log p(x₀ | x₁) at t = 0

    Ho et al., equations 5, 8 and 13.

    Args:
        schedule: in float64.
        x0: images of 256 values from −1 to 1.
    """
    x0, epsilon = x0.double(), epsilon.double()
    x_t = schedule.add_noise(x0, epsilon, t)
    output = denoise_fn(x_t.float(), t).double()
    predicted, _ = process.predict_x0(schedule, output, x_t, t)
    mean, variance = schedule.posterior(x0, x_t, t, t - 1)
    predicted_mean, _ = schedule.posterior(predicted, x_t, t, t - 1)
    predicted_variance = variance
    if process.variance == "fixed_large":
        predicted_variance = 1 - schedule.alpha_bar(t, x0) / schedule.alpha_bar(t - 1, x0)
    # at the last step the posterior has no width: that of the step before serves (their code)
    is_last = (t == 0).view(variance.shape)
    last_variance = schedule.betas[:1]
    if len(schedule) > 1:
        last_variance = schedule.posterior_variance(torch.ones_like(t), torch.zeros_like(t), x0)
    predicted_variance = torch.where(is_last, last_variance, predicted_variance)
    ratio = torch.where(is_last, torch.ones_like(predicted_variance), variance / predicted_variance)
    squared_error = (mean - predicted_mean).square()
    kl = 0.5 * (ratio - 1 - ratio.log() + squared_error / predicted_variance)
    decoder_nll = -discretized_log_likelihood(x0, predicted_mean, predicted_variance.sqrt())
    return torch.where(is_last, decoder_nll, kl).flatten(1).mean(1)


def discretized_log_likelihood(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """log of a Gaussian's mass in each value's bin of width 2/255; the two outermost bins are unbounded
    (Ho et al., equation 13)."""

    def cdf(edge: Tensor) -> Tensor:
        return torch.special.ndtr((edge - mean) / sigma)

    upper = torch.where(x > 0.999, torch.ones_like(x), cdf(x + 1 / 255))
    lower = torch.where(x < -0.999, torch.zeros_like(x), cdf(x - 1 / 255))
    return (upper - lower).clamp(min=1e-12).log()


def prior_kl(schedule: NoiseSchedule, x0: Batch) -> PerImage:
    """KL(q(x_T | x₀) ‖ N(0, I)), in nats per dimension."""
    t = torch.full((len(x0),), len(schedule) - 1, device=x0.device)
    alpha_bar = schedule.alpha_bar(t, x0)
    kl = 0.5 * (alpha_bar * x0.double().square() - alpha_bar - (1 - alpha_bar).log())
    return kl.flatten(1).mean(1)
