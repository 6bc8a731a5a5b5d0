"""Noise schedules and one step of the way back, against diffusers' schedulers and against Bayes' rule."""

import dataclasses
import itertools
import math

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.hub.diffusers_schedulers import process
from torchstone.parts.diffusion.noise_schedule import Noise, schedule
from torchstone.parts.diffusion.process import Process
from torchstone.references.diffusers import import_diffusers

NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
TOLD = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
CLOSE = 1e-6


def close(ours, theirs, said):
    apart = float((ours - theirs).abs().max())
    print(f"{said}: {apart:.1e}")
    assert apart <= CLOSE, f"{said}: {apart:.2e} apart"


@pytest.mark.parametrize("levels", [20, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_tables_noise_and_targets_are_the_published_schedulers(name, levels):
    theirs = import_diffusers().DDPMScheduler(levels, beta_schedule=NAMES[name])
    ours = Noise(schedule(name, levels))
    close(ours.betas, theirs.betas, "β")
    close(ours.table[1:], theirs.alphas_cumprod, "ᾱ")
    x, epsilon = torch.randn(2, levels, 3, 2, 2)
    t = torch.arange(levels)
    close(ours.add(x, epsilon, t), theirs.add_noise(x, epsilon, t), "x_t")
    close(ours.target("v", x, epsilon, t), theirs.get_velocity(x, epsilon, t), "v")
    assert ours.target("epsilon", x, epsilon, t) is epsilon
    assert ours.target("x0", x, epsilon, t) is x


def test_published_figures_of_the_linear_schedule():
    kept = Noise(schedule("linear", 1000)).table[1:]
    print(float(kept[-1]), float(kept[499]))
    assert float(kept[-1]) == pytest.approx(4.03583e-5, rel=2e-5)
    assert float(kept[499]) == pytest.approx(0.0785872, rel=1e-5)
    sd = Noise(schedule("scaled_linear", 1000, 0.00085, 0.012)).table[1:]
    assert float(sd[-1]) == pytest.approx(0.00466010, rel=1e-5)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("told", TOLD)
def test_one_ddpm_step_is_the_published_schedulers(told, variance):
    for spacing, steps, clip in itertools.product(
        ("leading", "trailing", "linspace"), (1000, 50, 7), (True, False)
    ):
        theirs = import_diffusers().DDPMScheduler(
            prediction_type=TOLD[told], variance_type=variance, clip_sample=clip,
            timestep_spacing=spacing,
        )  # fmt: skip
        worst = follows(theirs, steps)
        assert worst <= CLOSE, f"{spacing}, {steps}, {clip}: {worst:.2e}"


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("told", TOLD)
def test_one_ddim_step_is_the_published_schedulers(told, eta):
    for spacing, steps, whole, offset in itertools.product(
        ("leading", "trailing", "linspace"), (1000, 50, 7), (True, False), (0, 1)
    ):
        if offset and (spacing != "leading" or steps == 1000):
            continue
        theirs = import_diffusers().DDIMScheduler(
            prediction_type=TOLD[told], set_alpha_to_one=whole, steps_offset=offset,
            clip_sample=whole, timestep_spacing=spacing,
        )  # fmt: skip
        worst = follows(theirs, steps, eta=eta)
        assert worst <= CLOSE, f"{spacing}, {steps}, {whole}, {offset}: {worst:.2e}"


def follows(theirs, steps: int, **eta) -> float:
    """The furthest that one of our steps is from theirs, over some levels of the whole way."""
    ours = Process(**process({"_class_name": type(theirs).__name__, **plain(theirs.config)}))
    noise = ours.noise()
    theirs.set_timesteps(steps)
    way = ours.way(steps)
    assert [t for t, _ in way] == theirs.timesteps.tolist()
    worst = 0.0
    for t, s in way[:: max(1, steps // 12)] + way[-2:]:
        x, said = torch.randn(2, 4, 3, 3)
        if ours.told == "epsilon":
            said = x * (1 - noise.table[t + 1]).sqrt() + 0.1 * said  # else the unclipped x₀ is huge
        rows = (torch.full((4,), t), torch.full((4,), s))
        mean, sigma, clean = ours.step(noise, said, x, *rows, **eta)
        generator = torch.Generator().manual_seed(t)
        wanted = theirs.step(said, t, x, generator=generator, **eta)
        drawn = torch.randn(x.shape, generator=generator.manual_seed(t))
        scale = wanted.pred_original_sample.abs().max().clamp(min=1)
        worst = max(worst, float((mean + sigma * drawn - wanted.prev_sample).abs().max() / scale))
        worst = max(worst, float((clean - wanted.pred_original_sample).abs().max() / scale))
    return worst


def plain(config):
    return {k: v for k, v in config.items() if not k.startswith("_use_")}


def tables(levels=40):
    return Noise(schedule("cosine", levels).double())


def test_the_posterior_is_bayes_rule():
    """q(x_s | x_t, x₀) ∝ q(x_t | x_s) q(x_s | x₀): precisions add up."""
    noise = tables()
    x, noisy = torch.randn(2, 6, 5, dtype=torch.float64)
    t, s = torch.tensor([39, 30, 20, 10, 5, 1]), torch.tensor([38, 3, 19, 0, 2, 0])
    kept, before = noise.table[t + 1][:, None], noise.table[s + 1][:, None]
    step = kept / before
    # x_t = √step x_s + …: what x_t says of x_s, and what x₀ says of it
    precisions = step / (1 - step), 1 / (1 - before)
    wanted = (precisions[0] * noisy / step.sqrt() + precisions[1] * before.sqrt() * x) / sum(precisions)
    mean, variance = noise.posterior(x, noisy, t, s)
    assert torch.allclose(mean, wanted, rtol=1e-12)
    assert torch.allclose(variance, 1 / sum(precisions), rtol=1e-10)


def test_steps_of_noise_join_to_one():
    """Mean and variance of noising to s and on to t are those of noising to t."""
    noise = tables()
    x = torch.full((200_000, 1), 0.7, dtype=torch.float64)
    s, t = (torch.full((len(x),), level) for level in (7, 21))
    there = noise.again(noise.add(x, torch.randn_like(x), s), torch.randn_like(x), s, t)
    kept = float(noise.table[22])
    assert float(there.mean()) == pytest.approx(0.7 * kept**0.5, abs=0.01)
    assert float(there.var()) == pytest.approx(1 - kept, rel=0.02)


@pytest.mark.parametrize("told", TOLD)
def test_what_is_said_is_read_back(told):
    noise = tables()
    x, epsilon = torch.randn(2, 40, 3, dtype=torch.float64)
    t = torch.arange(40)
    noisy = noise.add(x, epsilon, t)
    said = noise.target(told, x, epsilon, t)
    clean, same = noise.read(told, said, noisy, t)
    assert torch.allclose(clean, x, atol=1e-8)
    assert torch.allclose(same, epsilon, atol=1e-8)
    by = torch.randn_like(x)
    _, moved = noise.read(told, noise.moved(told, said, by, t), noisy, t)
    assert torch.allclose(moved, epsilon + by, atol=1e-8)


def test_ddim_with_eta_1_is_ddpm_and_with_eta_0_goes_back():
    noise = tables()
    x, epsilon = torch.randn(2, 39, 4, dtype=torch.float64)
    t = torch.arange(1, 40)
    noisy = noise.add(x, epsilon, t)
    for s in (t - 1, t // 2):
        mean, sigma = noise.implicit(x, epsilon, t, s, 1.0)
        wanted, width = noise.ancestral(x, noisy, t, s)
        assert torch.allclose(mean, wanted, atol=1e-9)
        assert torch.allclose(sigma, width, atol=1e-12)
        down, none = noise.implicit(x, epsilon, t, s)
        assert not none.any()
        assert torch.allclose(down, noise.add(x, epsilon, s))
        assert torch.allclose(noise.implicit(x, epsilon, s, t)[0], noisy)


def test_ways_pass_what_table_2_of_lin_et_al_says():
    ten = {
        "leading": [900, 800, 700, 600, 500, 400, 300, 200, 100, 0],
        "trailing": [999, 899, 799, 699, 599, 499, 399, 299, 199, 99],
        "linspace": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    }
    for spacing, levels in ten.items():
        way = Process(spacing=spacing).way(10)
        assert [t for t, _ in way] == levels
        assert [s for _, s in way] == [*levels[1:], -1]
    assert Process(levels=5).way() == [(4, 3), (3, 2), (2, 1), (1, 0), (0, -1)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: schedule("cosin", 10), "unknown noise schedule 'cosin': .*cosine"),
        (lambda: schedule("linear", 0), "at least 1 level"),
        (lambda: schedule("linear", 10, 0.5, 0.1), "0 < first <= last < 1"),
        (lambda: Process(told="eps"), "no told 'eps'"),
        (lambda: Process(sampler="euler"), "no sampler 'euler'"),
        (lambda: Process().way(1001), "1 to 1000 steps, not 1001"),
        (lambda: Process().way(0), "1 to 1000 steps, not 0"),
    ],
)
def test_wrong_numbers_are_refused(make, said):
    with pytest.raises(BadInput, match=said):
        make()


def test_a_gaussian_comes_out_as_it_went_in():
    """For data N(0, 0.5²) the best ε is known; DDPM's and DDIM's ways with it end in that variance."""
    made = Process(schedule="cosine", levels=400, clip=None)
    noise = made.noise()
    for sampler, eta, steps in (("ddpm", 0.0, 400), ("ddim", 0.0, 100), ("ddim", 1.0, 400)):
        ours = dataclasses.replace(made, sampler=sampler)
        x = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(1))
        for t, s in ours.way(steps):
            kept = noise.table[t + 1]
            said = (1 - kept).sqrt() * x / (0.25 * kept + 1 - kept)
            rows = torch.full((len(x),), t), torch.full((len(x),), s)
            mean, sigma, _ = ours.step(noise, said, x, *rows, eta)
            x = mean + sigma * torch.randn_like(x)
        print(sampler, eta, float(x.std()))
        assert float(x.std()) == pytest.approx(0.5, rel=0.02)
    assert math.isclose(float(x.mean()), 0, abs_tol=0.01)
