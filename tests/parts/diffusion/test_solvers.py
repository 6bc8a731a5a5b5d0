"""Solvers equal diffusers' schedulers step by step, and reach the exact solution at their order."""

import json
import math

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.hub.stable_diffusion import read_scheduler
from torchstone.parts.diffusion.process import DiffusersCompat, DiffusionProcess
from torchstone.parts.diffusion.solvers import SOLVERS, Solver
from torchstone.references.diffusers import import_diffusers

# of Stable Diffusion's schedule
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CLASSES = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpm_solver++": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
}
# two of the schedulers compute in single precision whatever they are given
TOLERANCES = {"ddim": 1e-12, "plms": 1e-12, "dpm_solver++": 2e-6, "euler": 2e-6}
SPACINGS = ("leading", "trailing", "linspace")


def theirs(name, **settings):
    kind, own = CLASSES[name]
    return getattr(import_diffusers(), kind)(**BETAS, **own, **settings)


def config_of(scheduler):
    return json.loads(scheduler.to_json_string())


def output(x, t):
    """A smooth network that depends on both."""
    return torch.sin(3 * x) * 0.5 + 0.3 * x + t / 2000


def errors(name, steps, start=0, **settings) -> list[float]:
    """The largest difference after each step, relative to the latents."""
    scheduler = theirs(name, **settings)
    solver_name, process = read_scheduler(config_of(scheduler))
    assert solver_name == name
    solver = Solver(process, name, steps)
    scheduler.set_timesteps(steps)
    if name in ("ddim", "plms"):  # of the same β, in double precision
        solver.schedule = solver.schedule.to_float64()
        scheduler.alphas_cumprod = solver.schedule.alphas_cumprod
        first = scheduler.alphas_cumprod[0]
        to_one = scheduler.config.set_alpha_to_one
        scheduler.final_alpha_cumprod = torch.ones_like(first) if to_one else first
    assert solver.timesteps == pytest.approx(scheduler.timesteps.tolist(), abs=1e-9)
    assert solver.initial_std == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-6)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    clean = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    x = y = noise * solver.initial_std
    if start:
        x = solver.add_noise(clean, noise, start)
        y = scheduler.add_noise(clean, noise, scheduler.timesteps[start : start + 1])
    found = [float((x - y).abs().max() / y.abs().max())]
    for index, t in enumerate(scheduler.timesteps[start:], start):
        given = scheduler.scale_model_input(y, t)
        found.append(float((solver.scale_input(x, index) - given).abs().max() / given.abs().max()))
        x = solver.step(output(solver.scale_input(x, index), solver.timesteps[index]), x, index)
        y = scheduler.step(output(given, float(t)), t, y).prev_sample
        found.append(float((x - y).abs().max() / y.abs().max()))
        if index + 1 < len(scheduler.timesteps):  # of in-painting
            kept = scheduler.add_noise(clean, noise, scheduler.timesteps[index + 1 : index + 2])
            own = solver.add_noise(clean, noise, index + 1)
            found.append(float((own - kept).abs().max() / kept.abs().max()))
    return found


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_equal_to_diffusers_step_by_step(name, spacing):
    cases = [
        (7, 0, {}),
        (20, 5, {"steps_offset": 1, "prediction_type": "v_prediction"}),
        (1, 0, {"steps_offset": 1}),
    ]
    for steps, start, settings in cases:
        if name in ("ddim", "plms"):
            settings = {**settings, "set_alpha_to_one": steps == 7}
        found = errors(name, steps, start, timestep_spacing=spacing, **settings)
        print(f"{name}, {spacing}, {steps} steps from {start}: largest difference {max(found):.2g}")
        assert max(found) < TOLERANCES[name]


@pytest.mark.parametrize("name", ["ddim", "dpm_solver++", "euler"])
def test_a_network_that_predicts_x0(name):
    assert max(errors(name, 6, prediction_type="sample")) < TOLERANCES[name]


def test_set_alpha_to_one_decides_the_last_step_of_ddim():
    """The trap of Stable Diffusion's folders: the last step goes to timestep 0, which is not clean."""
    settings = {"steps_offset": 1, "timestep_spacing": "leading"}
    scheduler = theirs("ddim", set_alpha_to_one=False, **settings)
    solver = Solver(read_scheduler(config_of(scheduler))[1], "ddim", 10)
    clean = Solver(read_scheduler({**config_of(scheduler), "set_alpha_to_one": True})[1], "ddim", 10)
    assert (solver.timesteps[0], solver.timesteps[-1], solver.following[-1]) == (901, 1, 0)
    assert clean.following[-1] == -1
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    assert not torch.allclose(solver.step(x, x, 9), clean.step(x, x, 9))


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("plms", 2), ("dpm_solver++", 2)])
def test_the_order_of_convergence(name, order):
    """Of data N(0, 0.8²) the best denoiser and the exact path are known: x/α ∝ √(0.8² + (σ/α)²)."""
    process = DiffusionProcess(
        1000, clip_sample_range=None, **BETAS, compat=DiffusersCompat("leading", fixed_stride=name == "plms")
    )
    table = process.noise_schedule().alphas_cumprod.double()
    spread = 0.8**2

    def epsilon(x, t):
        level = torch.tensor(
            float(torch.lerp(*(table[i].log() for i in (int(t), min(int(t) + 1, 999))), t % 1))
        )
        alpha_bar = level.exp()
        return x * (1 - alpha_bar).sqrt() / (alpha_bar * spread + 1 - alpha_bar)

    def end(steps):
        solver = Solver(process, name, steps)
        x = torch.ones(1, 1, 1, 1, dtype=torch.float64) * solver.initial_std
        start = x if name != "euler" else x / (solver.sigmas[0].double() ** 2 + 1) ** 0.5
        # half of the way: near the end the steps of log(α/σ) grow
        middle = next(i for i, t in enumerate(solver.timesteps) if t < 500)
        for index, t in enumerate(solver.timesteps[:middle]):
            x = solver.step(epsilon(solver.scale_input(x, index), t), x, index)
        t = int(solver.timesteps[middle])
        x = x if name != "euler" else x / (solver.sigmas[middle].double() ** 2 + 1) ** 0.5
        first = table[int(solver.timesteps[0])]
        exact = start * ((table[t] * spread + 1 - table[t]) / (first * spread + 1 - first)).sqrt()
        return float((x / exact - 1).abs().max())

    coarse, fine = end(28), end(112)
    measured = math.log(coarse / fine) / math.log(4)
    print(f"{name}: error {coarse:.3g} of 28 steps, {fine:.3g} of 112: order {measured:.2f}")
    assert measured > order - 0.35


def test_what_cannot_be():
    with pytest.raises(BadInput, match=r"unknown sampler 'dpm_solver': .*dpm_solver\+\+"):
        Solver(DiffusionProcess(), "dpm_solver", 5)
    with pytest.raises(BadInput, match="plms needs a network that predicts epsilon or v"):
        Solver(DiffusionProcess(prediction_type="x0"), "plms", 5)
    with pytest.raises(BadInput, match="1 to 1000 steps, not 0"):
        Solver(DiffusionProcess(), "euler", 0)
