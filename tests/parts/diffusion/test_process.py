"""The noise schedule and one reverse step, against diffusers' schedulers, Bayes' rule and closed forms."""

import dataclasses
import itertools
import math

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.hub.diffusers import read_process
from torchstone.parts.diffusion.process import (
    DiffusersCompat,
    DiffusionProcess,
    NoiseSchedule,
    discretized_log_likelihood,
    make_betas,
    prior_kl,
    randn_like,
)
from torchstone.references.diffusers import import_diffusers
from torchstone.systems.generative.ddpm import q_sample

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
PREDICTION_TYPES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
TOLERANCE = 1e-6


def assert_close(ours, theirs, name):
    error = float((ours - theirs).abs().max())
    print(f"{name}: {error:.1e}")
    assert error <= TOLERANCE, f"{name}: error {error:.2e}"


@pytest.mark.parametrize("timesteps", [20, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_schedule_matches_diffusers(name, timesteps):
    """Tables, noisy images and training targets."""
    theirs = import_diffusers().DDPMScheduler(timesteps, beta_schedule=SCHEDULES[name])
    ours = NoiseSchedule(make_betas(name, timesteps))
    assert_close(ours.betas, theirs.betas, "β")
    assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, "ᾱ")
    x, epsilon = torch.randn(2, timesteps, 3, 2, 2)
    t = torch.arange(timesteps)
    assert_close(ours.add_noise(x, epsilon, t), theirs.add_noise(x, epsilon, t), "x_t")
    assert torch.equal(q_sample(ours, x, t, epsilon), ours.add_noise(x, epsilon, t))
    assert torch.equal(ours.add_noise(x, epsilon, t, torch.full_like(t, -1)), ours.add_noise(x, epsilon, t))
    assert_close(ours.training_target("v", x, epsilon, t), theirs.get_velocity(x, epsilon, t), "v")
    assert ours.training_target("epsilon", x, epsilon, t) is epsilon
    assert ours.training_target("x0", x, epsilon, t) is x


def test_make_betas_linear_has_published_alphas_cumprod():
    alphas_cumprod = NoiseSchedule(make_betas("linear", 1000)).alphas_cumprod
    print(float(alphas_cumprod[-1]), float(alphas_cumprod[499]))
    assert float(alphas_cumprod[-1]) == pytest.approx(4.03583e-5, rel=2e-5)
    assert float(alphas_cumprod[499]) == pytest.approx(0.0785872, rel=1e-5)
    stable_diffusion = NoiseSchedule(make_betas("scaled_linear", 1000, 0.00085, 0.012)).alphas_cumprod
    assert float(stable_diffusion[-1]) == pytest.approx(0.00466010, rel=1e-5)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_ddpm_step_matches_diffusers(prediction_type, variance):
    for spacing, steps, clip in itertools.product(
        ("leading", "trailing", "linspace"), (1000, 50, 7), (True, False)
    ):
        theirs = import_diffusers().DDPMScheduler(
            prediction_type=PREDICTION_TYPES[prediction_type],
            variance_type=variance,
            clip_sample=clip,
            timestep_spacing=spacing,
        )
        error = step_error(theirs, steps)
        assert error <= TOLERANCE, f"{spacing}, {steps}, {clip}: {error:.2e}"


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_ddim_step_matches_diffusers(prediction_type, eta):
    for spacing, steps, to_zero, offset in itertools.product(
        ("leading", "trailing", "linspace"), (1000, 50, 7), (True, False), (0, 1)
    ):
        if offset and (spacing != "leading" or steps == 1000):
            continue
        theirs = import_diffusers().DDIMScheduler(
            prediction_type=PREDICTION_TYPES[prediction_type],
            set_alpha_to_one=to_zero,
            steps_offset=offset,
            clip_sample=to_zero,
            timestep_spacing=spacing,
        )
        error = step_error(theirs, steps, eta=eta)
        assert error <= TOLERANCE, f"{spacing}, {steps}, {to_zero}, {offset}: {error:.2e}"


def step_error(theirs, steps: int, **eta) -> float:
    """The largest error of one of our steps, over some timesteps of the whole schedule."""
    config = {k: v for k, v in theirs.config.items() if not k.startswith("_use_")}
    ours = read_process({"_class_name": type(theirs).__name__, **config})
    schedule = ours.noise_schedule()
    theirs.set_timesteps(steps)
    pairs = ours.timestep_pairs(steps)
    assert [t for t, _ in pairs] == theirs.timesteps.tolist()
    worst = 0.0
    for timestep, following in pairs[:: max(1, steps // 12)] + pairs[-2:]:
        x, output = torch.randn(2, 4, 3, 3)
        if ours.prediction_type == "epsilon":  # else the unclipped x₀ is huge
            output = x * (1 - schedule.alphas_cumprod[timestep]).sqrt() + 0.1 * output
        t, s = torch.full((4,), timestep), torch.full((4,), following)
        x0, epsilon = ours.predict_x0(schedule, output, x, t)
        mean, sigma = ours.step(schedule, x0, epsilon, x, t, s, **eta)
        generator = torch.Generator().manual_seed(timestep)
        expected = theirs.step(output, timestep, x, generator=generator, **eta)
        noise = randn_like(x, generator.manual_seed(timestep))
        scale = expected.pred_original_sample.abs().max().clamp(min=1)
        worst = max(worst, float((mean + sigma * noise - expected.prev_sample).abs().max() / scale))
        worst = max(worst, float((x0 - expected.pred_original_sample).abs().max() / scale))
    return worst


def cosine_schedule(timesteps=40):
    return NoiseSchedule(make_betas("cosine", timesteps).double())


def test_posterior_is_bayes_rule():
    """q(x_s | x_t, x₀) ∝ q(x_t | x_s) q(x_s | x₀): precisions add up."""
    schedule = cosine_schedule()
    x, x_t = torch.randn(2, 6, 5, dtype=torch.float64)
    t, s = torch.tensor([39, 30, 20, 10, 5, 1]), torch.tensor([38, 3, 19, 0, 2, 0])
    alpha_bar, alpha_bar_s = schedule.alphas_cumprod[t][:, None], schedule.alphas_cumprod[s][:, None]
    alpha = alpha_bar / alpha_bar_s
    # x_t = √alpha x_s + …: what x_t says of x_s, and what x₀ says of it
    precisions = alpha / (1 - alpha), 1 / (1 - alpha_bar_s)
    expected = (precisions[0] * x_t / alpha.sqrt() + precisions[1] * alpha_bar_s.sqrt() * x) / sum(precisions)
    mean, variance = schedule.posterior(x, x_t, t, s)
    assert torch.allclose(mean, expected, rtol=1e-12)
    assert torch.allclose(variance, 1 / sum(precisions), rtol=1e-10)


def test_add_noise_twice_is_add_noise_once():
    """Mean and variance of noising to s and on to t are those of noising to t."""
    schedule = cosine_schedule()
    x = torch.full((200_000, 1), 0.7, dtype=torch.float64)
    s, t = (torch.full((len(x),), timestep) for timestep in (7, 21))
    x_s = schedule.add_noise(x, torch.randn_like(x), s)
    x_t = schedule.add_noise(x_s, torch.randn_like(x), t, s)
    alpha_bar = float(schedule.alphas_cumprod[21])
    assert float(x_t.mean()) == pytest.approx(0.7 * alpha_bar**0.5, abs=0.01)
    assert float(x_t.var()) == pytest.approx(1 - alpha_bar, rel=0.02)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_predict_x0_and_epsilon_inverts_training_target(prediction_type):
    schedule = cosine_schedule()
    x, epsilon = torch.randn(2, 40, 3, dtype=torch.float64)
    t = torch.arange(40)
    x_t = schedule.add_noise(x, epsilon, t)
    output = schedule.training_target(prediction_type, x, epsilon, t)
    x0, same = schedule.predict_x0_and_epsilon(prediction_type, output, x_t, t)
    assert torch.allclose(x0, x, atol=1e-8)
    assert torch.allclose(same, epsilon, atol=1e-8)
    shift = torch.randn_like(x)
    shifted = schedule.shift_epsilon(prediction_type, output, shift, t)
    _, moved = schedule.predict_x0_and_epsilon(prediction_type, shifted, x_t, t)
    assert torch.allclose(moved, epsilon + shift, atol=1e-8)


def test_ddim_step_is_ddpm_step_at_eta_1_and_invertible_at_eta_0():
    schedule = cosine_schedule()
    x, epsilon = torch.randn(2, 39, 4, dtype=torch.float64)
    t = torch.arange(1, 40)
    x_t = schedule.add_noise(x, epsilon, t)
    for s in (t - 1, t // 2):
        mean, sigma = schedule.ddim_step(x, epsilon, t, s, 1.0)
        expected_mean, expected_sigma = schedule.ddpm_step(x, x_t, t, s)
        assert torch.allclose(mean, expected_mean, atol=1e-9)
        assert torch.allclose(sigma, expected_sigma, atol=1e-12)
        x_s, none = schedule.ddim_step(x, epsilon, t, s)
        assert not none.any()
        assert torch.allclose(x_s, schedule.add_noise(x, epsilon, s))
        assert torch.allclose(schedule.ddim_step(x, epsilon, s, t)[0], x_t)


def test_timestep_pairs_are_those_of_lin_et_al_table_2():
    ten = {
        "leading": [900, 800, 700, 600, 500, 400, 300, 200, 100, 0],
        "trailing": [999, 899, 799, 699, 599, 499, 399, 299, 199, 99],
        "linspace": [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    }
    for spacing, timesteps in ten.items():
        pairs = DiffusionProcess(compat=DiffusersCompat(spacing)).timestep_pairs(10)
        assert [t for t, _ in pairs] == timesteps
        assert [s for _, s in pairs] == [*timesteps[1:], -1]
    assert DiffusionProcess(timesteps=5).timestep_pairs() == [(4, 3), (3, 2), (2, 1), (1, 0), (0, -1)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_betas("cosin", 10), "unknown beta schedule 'cosin': .*cosine"),
        (lambda: make_betas("linear", 0), "at least 1 timestep"),
        (lambda: make_betas("linear", 10, 0.5, 0.1), "0 < beta_start <= beta_end < 1"),
        (lambda: DiffusionProcess(prediction_type="eps"), "unknown prediction_type 'eps'"),
        (lambda: DiffusionProcess(sampler="euler"), "unknown sampler 'euler'"),
        (lambda: DiffusionProcess(variance="learned"), "unknown variance 'learned'"),
        (lambda: DiffusersCompat("odd"), "unknown timestep_spacing 'odd'"),
        (lambda: DiffusionProcess().timestep_pairs(1001), "1 to 1000 steps, not 1001"),
        (lambda: DiffusionProcess().timestep_pairs(0), "1 to 1000 steps, not 0"),
    ],
)
def test_process_refuses_impossible_settings(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_process_from_kwargs_understands_old_names():
    old = {"schedule": "cosine", "levels": 100, "told": "v"}
    new = DiffusionProcess(timesteps=100, beta_schedule="cosine", prediction_type="v")
    assert DiffusionProcess.from_kwargs(old) == new
    assert DiffusionProcess.from_kwargs(dataclasses.asdict(new) | {"compat": new.compat}) == new
    assert DiffusionProcess.from_kwargs({}) == DiffusionProcess()


def test_process_step_keeps_gaussian_data_distribution():
    """For data N(0, 0.5²) the best ε is known; DDPM and DDIM with it end in that variance."""
    base = DiffusionProcess(beta_schedule="cosine", timesteps=400, clip_sample_range=None)
    schedule = base.noise_schedule()
    for sampler, eta, steps in (("ddpm", 0.0, 400), ("ddim", 0.0, 100), ("ddim", 1.0, 400)):
        process = dataclasses.replace(base, sampler=sampler)
        x = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(1))
        for timestep, following in process.timestep_pairs(steps):
            alpha_bar = schedule.alphas_cumprod[timestep]
            output = (1 - alpha_bar).sqrt() * x / (0.25 * alpha_bar + 1 - alpha_bar)
            t, s = torch.full((len(x),), timestep), torch.full((len(x),), following)
            mean, sigma = process.step(schedule, *process.predict_x0(schedule, output, x, t), x, t, s, eta)
            x = mean + sigma * torch.randn_like(x)
        print(sampler, eta, float(x.std()))
        assert float(x.std()) == pytest.approx(0.5, rel=0.02)
    assert math.isclose(float(x.mean()), 0, abs_tol=0.01)


def test_discretized_log_likelihood_sums_to_one():
    """All bins together hold all of a Gaussian's mass."""
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, sigma in ((0.3, 0.05), (-1.2, 0.4), (1.1, 0.3), (0.0, 0.001)):
        mass = discretized_log_likelihood(values, torch.tensor(mean), torch.tensor(sigma)).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
        assert float(mass.max()) > 1e-3


def test_prior_kl_is_a_divergence_of_gaussians():
    schedule = cosine_schedule(5).to_float64()
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 1, 2, 2)
    alpha_bar = schedule.alphas_cumprod[-1]
    x_T = torch.distributions.Normal(alpha_bar.sqrt() * x, (1 - alpha_bar).sqrt())
    standard = torch.distributions.Normal(torch.zeros_like(x), torch.ones_like(x))
    expected = torch.distributions.kl_divergence(x_T, standard).flatten(1).mean(1)
    assert torch.allclose(prior_kl(schedule, x), expected, rtol=1e-9)


def test_process_is_stochastic_with_ddpm_or_any_eta():
    ddpm, ddim = (DiffusionProcess(sampler=sampler) for sampler in ("ddpm", "ddim"))
    found = [
        ddim.is_stochastic(0.0),
        ddim.is_stochastic(0.5),
        ddim.is_stochastic(1.0),
        ddpm.is_stochastic(0.0),
    ]
    print(found)
    assert found == [False, True, True, True]
