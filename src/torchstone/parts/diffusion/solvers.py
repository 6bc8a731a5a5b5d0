"""Solvers of the reverse process in few steps: DDIM, PLMS, DPM-Solver++ (2M) and Euler.

All four follow one ordinary differential equation from noise to x₀; they differ in how its slope is
extrapolated between two timesteps.

    DDIM           Song, Meng and Ermon 2020, arXiv:2010.02502: x̂₀ is constant over a step
    PLMS           Liu et al. 2022, arXiv:2202.09778: ε̂ by the Adams–Bashforth formula of up to four steps
    DPM-Solver++   Lu et al. 2022, arXiv:2211.01095, algorithm 2: x̂₀ is linear in log(α/σ), from two steps
    Euler          Karras et al. 2022, arXiv:2206.00364, algorithm 1 without its correction: x/α and σ/α

Which timesteps are visited is read from `DiffusionProcess.compat`, by the rules of published schedulers: of
n steps DPM-Solver++ spaces n + 1 points, PLMS evaluates one twice, and Euler's may lie between two timesteps.
Tables are in float32, as those that published networks are sampled with.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.diffusion.process import DiffusionProcess

SOLVERS = ("ddim", "plms", "dpm_solver++", "euler")
# weights of the latest slopes, the newest first (Adams and Bashforth)
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class Solver:
    """One trajectory: which timesteps, and the step from each to the next. It remembers earlier slopes: steps
    are taken in order, from any of them on, and every trajectory has a solver of its own.

    `timesteps` are those that the network is evaluated at, noisiest first. `initial_std` is the standard
    deviation of the noise that a trajectory begins with.

    Args:
        process: schedule, prediction type and spacing of a trained network.
        name: one of `SOLVERS`.
        steps: number of steps; PLMS evaluates the network once more.

    Raises:
        BadInput: an unknown solver, a prediction type that PLMS does not take, or a number of steps that is
            not possible.
    """

    def __init__(self, process: DiffusionProcess, name: str, steps: int):
        if name not in SOLVERS:
            raise BadInput(f"unknown sampler {name!r}: {did_you_mean(name, SOLVERS)}")
        if name == "plms" and process.prediction_type == "x0":
            raise BadInput("plms needs a network that predicts epsilon or v, not x0: use ddim")
        self.process, self.name = dataclasses.replace(process, sampler="ddim"), name
        self.schedule = process.noise_schedule()
        self.initial_std = 1.0
        self.slopes: list[Tensor] = []  # of earlier steps: ε̂ of PLMS, x̂₀ of DPM-Solver++
        self.pending: Tensor | None = None  # of PLMS: x before the first step, which is taken twice
        pairs = self.process.timestep_pairs(steps)
        self.stride = process.timesteps // steps
        self.timesteps: list[float] = [t for t, _ in pairs]
        self.following = [s for _, s in pairs]
        if name == "plms":
            self.timesteps = [*self.timesteps[:2], *self.timesteps[1:]]
        elif name != "ddim":
            self.timesteps = spaced_timesteps(process, name, steps)
            self.sigmas = noise_levels(self.schedule.alphas_cumprod, self.timesteps)
        if name == "euler":
            most = self.sigmas.max()
            leading = process.compat.timestep_spacing == "leading"
            self.initial_std = float((most**2 + 1) ** 0.5 if leading else most)

    def to(self, device: torch.device | str) -> "Solver":
        """This solver, with its tables on another device."""
        self.schedule = self.schedule.to(device)
        return self

    def scale_input(self, x: Tensor, index: int) -> Tensor:
        """What the network is given: of unit variance where data and noise are."""
        return x / (self.sigmas[index] ** 2 + 1) ** 0.5 if self.name == "euler" else x

    def add_noise(self, x0: Tensor, epsilon: Tensor, index: int) -> Tensor:
        """Clean latents as they are before step `index`; after the last step as they were."""
        if index >= len(self.timesteps):
            return x0
        if self.name == "euler":
            return x0 + self.sigmas[index] * epsilon
        if self.name == "dpm_solver++":
            alpha, sigma = alpha_sigma(self.sigmas[index])
            return alpha * x0 + sigma * epsilon
        return self.schedule.add_noise(x0, epsilon, self._timestep(x0, self.timesteps[index]))

    def step(self, output: Tensor, x: Tensor, index: int) -> Tensor:
        """x at the next timestep, from the network's output at `timesteps[index]`."""
        steps = {"ddim": self._ddim, "plms": self._plms, "dpm_solver++": self._dpm, "euler": self._euler}
        return steps[self.name](output, x, index)

    def _timestep(self, x: Tensor, t: float) -> Tensor:
        return torch.full((len(x),), int(t), device=x.device)

    def _ddim(self, output: Tensor, x: Tensor, index: int) -> Tensor:
        t, s = self._timestep(x, self.timesteps[index]), self._timestep(x, self.following[index])
        x0, epsilon = self.process.predict_x0(self.schedule, output, x, t)
        return self.schedule.ddim_step(x0, epsilon, t, s)[0]

    def _plms(self, output: Tensor, x: Tensor, index: int) -> Tensor:
        timestep = int(self.timesteps[index])
        following = timestep - self.stride
        slope = output
        is_second = self.pending is not None
        if is_second:  # the first step again, with the mean of the slopes at both of its ends
            timestep, following = timestep + self.stride, timestep
            slope, x, self.pending = (output + self.slopes[-1]) / 2, self.pending, None
        else:
            self.slopes = [*self.slopes[-3:], output]
            if len(self.slopes) == 1:
                self.pending = x
            weights = ADAMS_BASHFORTH[len(self.slopes) - 1]
            terms = [w * each for w, each in zip(weights, reversed(self.slopes), strict=True)]
            slope = torch.stack(terms).sum(0)
        final = -1 if self.process.compat.final_step_to_zero else 0
        t, s = self._timestep(x, timestep), self._timestep(x, max(following, final))
        if self.process.prediction_type == "v":
            slope = self.schedule.predict_x0_and_epsilon("v", slope, x, t)[1]
        x0, epsilon = self.schedule.predict_x0_and_epsilon("epsilon", slope, x, t)
        return self.schedule.ddim_step(x0, epsilon, t, s)[0]

    def _x0(self, output: Tensor, x: Tensor, index: int) -> Tensor:
        """x̂₀ at a noise level between timesteps, x being of unit variance."""
        alpha, sigma = alpha_sigma(self.sigmas[index])
        kind = self.process.prediction_type
        if kind == "v":
            return alpha * x - sigma * output
        return (x - sigma * output) / alpha if kind == "epsilon" else output

    def _dpm(self, output: Tensor, x: Tensor, index: int) -> Tensor:
        x0 = self._x0(output, x, index)
        earlier, self.slopes = self.slopes, [x0]
        (alpha_t, sigma_t), (alpha_s, sigma_s) = map(
            alpha_sigma, (self.sigmas[index + 1], self.sigmas[index])
        )
        h = half_log_snr(alpha_t, sigma_t) - half_log_snr(alpha_s, sigma_s)
        factor = alpha_t * (torch.exp(-h) - 1.0)
        x_t = (sigma_t / sigma_s) * x - factor * x0
        if not earlier or index == len(self.timesteps) - 1:  # the last step is to no noise: of first order
            return x_t
        h_before = half_log_snr(alpha_s, sigma_s) - half_log_snr(*alpha_sigma(self.sigmas[index - 1]))
        return x_t - 0.5 * factor * (1.0 / (h_before / h)) * (x0 - earlier[0])

    def _euler(self, output: Tensor, x: Tensor, index: int) -> Tensor:
        sigma = self.sigmas[index]
        x0 = self._x0(output, x / (sigma**2 + 1) ** 0.5, index)
        return x + (x - x0) / sigma * (self.sigmas[index + 1] - sigma)


def spaced_timesteps(process: DiffusionProcess, name: str, steps: int) -> list[float]:
    """The timesteps of DPM-Solver++ and of Euler, noisiest first."""
    count, compat = process.timesteps, process.compat
    is_dpm = name == "dpm_solver++"
    if compat.timestep_spacing == "trailing":
        return [float(t) for t in np.arange(count, 0, -count / steps).round() - 1]
    if compat.timestep_spacing == "linspace":
        if is_dpm:
            return np.linspace(0, count - 1, steps + 1).round()[:0:-1].tolist()
        return np.linspace(0, count - 1, steps, dtype=np.float32)[::-1].tolist()
    points = np.arange(steps + 1)[:0:-1] if is_dpm else np.arange(steps)[::-1]
    return (points * (count // (steps + is_dpm)) + compat.steps_offset).astype(float).tolist()


def noise_levels(alphas_cumprod: Tensor, timesteps: list[float]) -> Tensor:
    """σ/α at each timestep, linear between two of them, and 0 at the end."""
    table = (((1 - alphas_cumprod) / alphas_cumprod) ** 0.5).numpy()
    levels = np.interp(timesteps, np.arange(len(table)), table)
    return torch.from_numpy(np.append(levels, 0.0).astype(np.float32))


def alpha_sigma(level: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ, α² + σ² = 1, of σ/α."""
    alpha = 1 / (level**2 + 1) ** 0.5
    return alpha, level * alpha


def half_log_snr(alpha: Tensor, sigma: Tensor) -> Any:
    return torch.log(alpha) - torch.log(sigma)
