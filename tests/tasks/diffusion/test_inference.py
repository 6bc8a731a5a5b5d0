"""Inference: conditions, the variational bound in closed form, and the guidance sweep."""

import math

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser
from torch import nn

from torchstone.errors import BadInput
from torchstone.metrics.classifier_features import ClassifierFeatures, FeatureClassifier
from torchstone.parts.diffusion.process import vb_term
from torchstone.tasks.diffusion.inference import (
    SWEEP_SCALES,
    SampleRequest,
    bits_per_dim,
    guidance_sweep,
    make_context,
    plot_guidance_sweep,
)
from torchstone.tasks.diffusion.sampler import SamplingConfig


def test_vb_term_is_a_divergence_of_gaussians():
    model = GaussianDenoiser(timesteps=12, beta_schedule="linear", beta_end=0.3)
    schedule = model.process.noise_schedule().to_float64()
    t = torch.arange(1, 12)
    x0 = torch.randint(256, (11, 1, 2, 2)).double() / 127.5 - 1
    epsilon = torch.randn(11, 1, 2, 2, dtype=torch.float64)
    x_t = schedule.add_noise(x0, epsilon, t)
    predicted, _ = model.process.predict_x0(schedule, model(x_t.float(), t).double(), x_t, t)
    mean, variance = schedule.posterior(x0, x_t, t, t - 1)
    predicted_mean, _ = schedule.posterior(predicted, x_t, t, t - 1)
    posteriors = (torch.distributions.Normal(m, variance.sqrt()) for m in (mean, predicted_mean))
    expected = torch.distributions.kl_divergence(*posteriors).flatten(1).mean(1)
    term = vb_term(model, model.process, schedule, x0, epsilon, t)
    assert torch.allclose(term, expected, rtol=1e-9)
    assert float(expected.min()) > 0


def test_bits_per_dim_is_the_bound_worked_out_by_hand():
    """For Gaussian pixels every term is known: what x_t leaves open of x₀, by the step's variance."""
    std, timesteps = 0.25, 100
    generator = torch.Generator().manual_seed(5)
    x = (std * torch.randn(2000, 1, 4, 4, generator=generator)).clamp(-1, 1)
    images = ((x + 1) * 127.5).round().to(torch.uint8)
    kwargs = {
        "timesteps": timesteps,
        "beta_schedule": "linear",
        "shape": (1, 4, 4),
        "beta_start": 1e-3,
        "beta_end": 0.2,
    }
    alpha_bar = (1 - torch.linspace(1e-3, 0.2, timesteps, dtype=torch.float64)).cumprod(0)
    before, after = alpha_bar[:-1], alpha_bar[1:]
    variance = (1 - before) / (1 - after) * (1 - after / before)
    weight = before.sqrt() * (1 - after / before) / (1 - after)
    remaining = std**2 * (1 - after) / (after * std**2 + 1 - after)
    middle = (weight**2 * remaining / variance / 2).sum()
    end = 0.5 * (alpha_bar[-1] * std**2 - alpha_bar[-1] - (1 - alpha_bar[-1]).log())
    # the first timestep: the 255ths' mass under a Gaussian of the second's width, by sampling
    x0 = images.double().flatten() / 127.5 - 1
    first = alpha_bar[0]
    x_t = first.sqrt() * x0 + (1 - first).sqrt() * torch.randn(x0.shape).double()
    predicted = first.sqrt() * std**2 * x_t / (first * std**2 + 1 - first)
    normal = torch.distributions.Normal(predicted, variance[0].sqrt())
    mass = normal.cdf(x0 + 1 / 255) - normal.cdf(x0 - 1 / 255)
    decoder_nll = -mass.log()[x0.abs() < 0.99].mean()
    expected = float(middle + end + decoder_nll) / math.log(2)
    bits = bits_per_dim(GaussianDenoiser(std=std, **kwargs), images, rounds=8)
    entropy = math.log2(std * math.sqrt(2 * math.pi * math.e) * 127.5)
    print(bits, expected, entropy)
    assert bits == pytest.approx(expected, rel=0.015)
    assert bits > entropy, "no code is shorter than the entropy"
    torch.manual_seed(123)
    again = bits_per_dim(GaussianDenoiser(std=std, **kwargs), images, rounds=8)
    assert again == bits, "the same seed, whatever the global generator"
    other_seed = bits_per_dim(GaussianDenoiser(std=std, **kwargs), images, seed=1)
    assert other_seed != bits
    assert other_seed == pytest.approx(expected, rel=0.03)
    worse = bits_per_dim(GaussianDenoiser(std=0.5, **kwargs), images)
    assert worse > bits + 0.1, "a worse network codes as well"


def test_guidance_sweep_samples_every_scale_and_both_samplers(tmp_path):
    configs = []

    def sample(config):
        configs.append(config)
        return torch.full((30, 1, 2, 2), len(configs), dtype=torch.uint8)

    features = torch.randn(30, 4)

    def extract(images):
        number = int(images[0, 0, 0, 0])
        labels = (torch.arange(30) + (torch.arange(30) >= 5 * number)) % 3
        return ClassifierFeatures(features / number, torch.eye(3)[labels])

    classifier = FeatureClassifier(nn.Identity(), {}, (), 1.0)
    object.__setattr__(classifier, "extract", extract)
    real = ClassifierFeatures(features, torch.eye(3)[torch.arange(30) % 3]), torch.arange(30) % 3
    metrics = guidance_sweep(sample, classifier, real, torch.arange(30) % 3, 40)
    assert [config.guidance_scale for config in configs] == [*SWEEP_SCALES, 1.0, 1.0]
    assert [config.steps for config in configs[-2:]] == [40, 40]
    assert [config.sampler for config in configs[-2:]] == ["ddim", "ddpm"]
    agreement = [metrics[f"guided_{s:g}_label_accuracy"] for s in SWEEP_SCALES]
    diversity = [metrics[f"guided_{s:g}_diversity"] for s in SWEEP_SCALES]
    assert agreement == pytest.approx([5 * (n + 1) / 30 for n in range(6)])
    assert diversity == pytest.approx([1 / (n + 1) ** 2 for n in range(6)])
    assert metrics["ddim_frechet_distance"] < metrics["ddpm_frechet_distance"]
    plot_guidance_sweep({f"test/{name}": value for name, value in metrics.items()}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    plot_guidance_sweep({}, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
    configs.clear()
    unlabeled = guidance_sweep(sample, classifier, real, None, 500)
    assert not any(name.startswith("guided") for name in unlabeled)


def test_make_context_is_each_label_in_turn_or_one():
    metadata = {"classes": ["zero", "one", "two"]}
    assert make_context(metadata, 4).tolist() == [0, 1, 2, 0]
    assert make_context(metadata, 2, "two").tolist() == [2, 2]
    for label, prompt, message in ((3, None, "no label '3'"), (None, "cat", "reads no text: use --label")):
        with pytest.raises(BadInput, match=message):
            make_context(metadata, 2, label, prompt)
    with pytest.raises(BadInput, match="knows no labels"):
        make_context({}, 2, "two")
    assert make_context({}, 2) is None


def test_sample_request_takes_what_is_not_given_from_the_recipe():
    recipe = SamplingConfig(25, "ddim", guidance_scale=2.0)
    assert SampleRequest().sampling(recipe) == recipe
    request = SampleRequest(sampling_steps=7, sampler="ddpm", guidance_scale=0.0, eta=0.5, seed=3)
    assert request.sampling(recipe) == SamplingConfig(7, "ddpm", 0.5, 0.0, 3)
    with pytest.raises(BadInput, match="num_samples must be at least 1, not 0"):
        SampleRequest(num_samples=0)
