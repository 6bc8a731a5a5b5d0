"""Sampling: guidance, classifiers, inpainting and inversion, with a denoiser known in closed form."""

import math

import pytest
import torch
from gaussian_denoiser import GaussianDenoiser, noise
from torch import nn

from torchstone.data.vision.dataset import normalize
from torchstone.errors import BadInput
from torchstone.metrics.classifier_features import FeatureClassifier, resize_uint8
from torchstone.systems.generative.ddpm import p_sample
from torchstone.tasks.diffusion.sampler import (
    ClassifierGuidance,
    Inpainting,
    SamplingConfig,
    classifier_guided_denoiser,
    classifier_input,
    classifier_on_x0,
    ddim_invert,
    full_timesteps,
    generate,
    guided_denoiser,
    sample_images,
    sample_loop,
)


def test_guided_denoiser_extrapolates_beyond_the_label():
    model = GaussianDenoiser()
    x, t = torch.randn(3, 1, 2, 2), torch.tensor([5, 50, 150])
    label = torch.tensor([0, 2, 2])
    conditional, unconditional = model(x, t, label), model(x, t)
    for s in (0.0, 1.0, 2.5):
        w = s - 1  # Ho and Salimans count so
        expected = (1 + w) * conditional - w * unconditional
        assert torch.allclose(guided_denoiser(model, label, s)(x, t), expected, atol=1e-5)
    assert torch.equal(guided_denoiser(model, None, 3.0)(x, t), unconditional)
    x_T, labels = noise(4000, model), torch.full((4000,), 2)
    means = []
    for s in (0.0, 1.0, 2.0):
        denoise_fn = guided_denoiser(model, labels, s)
        samples = generate(p_sample, model, x_T, SamplingConfig(50), denoise_fn=denoise_fn)
        means.append(float(samples.mean()))
    print(means)
    # ε is affine in the mean: s shifts each sample as far as s labels would
    assert means == pytest.approx([0.0, 1.0, 2.0], abs=0.03)


@pytest.mark.parametrize("prediction_type", ["epsilon", "x0", "v"])
def test_classifier_guided_denoiser_samples_the_posterior(prediction_type):
    """Pixels N(0, ½²), observed as 0.8 with noise of width τ: the posterior is Bayes' Gaussian."""
    model, tau = GaussianDenoiser(prediction_type=prediction_type), 0.4
    schedule = model.schedule

    def log_prob_fn(x, t):
        """log p(0.8 | x_t) in full: x₀ given x_t is a Gaussian."""
        alpha_bar = schedule.alpha_bar(t, x)
        variance = alpha_bar * 0.25 + 1 - alpha_bar
        mean, rest = alpha_bar.sqrt() * 0.25 * x / variance, 0.25 * (1 - alpha_bar) / variance
        return (-0.5 * (0.8 - mean).square() / (tau**2 + rest)).flatten(1).sum(1)

    def sample(count, steps, scale):
        denoise_fn = classifier_guided_denoiser(
            guided_denoiser(model), model.process, schedule, log_prob_fn, scale
        )
        return generate(p_sample, model, noise(count, model), SamplingConfig(steps), denoise_fn=denoise_fn)

    x = noise(2, model)
    guided = classifier_guided_denoiser(guided_denoiser(model), model.process, schedule, log_prob_fn, 1.0)
    shifted = guided(x, torch.tensor([5, 50]))
    assert not x.requires_grad, "its gradient is taken of a copy"
    assert not shifted.requires_grad
    samples = sample(4000, 100, 1.0)
    precision = 1 / 0.25 + 1 / tau**2
    mean, std = 0.8 / tau**2 / precision, precision**-0.5
    print(float(samples.mean()), mean, float(samples.std()), std)
    assert float(samples.mean()) == pytest.approx(mean, abs=0.02)
    assert float(samples.std()) == pytest.approx(std, rel=0.05)
    assert float(sample(400, 50, -1.0).mean()) < -0.2


def test_classifier_on_x0_gets_the_predicted_clean_image():
    model = GaussianDenoiser()
    x, t = torch.randn(2, 1, 2, 2), torch.tensor([3, 90])
    process, schedule = model.process, model.schedule
    x0 = classifier_on_x0(guided_denoiser(model), process, schedule, lambda x, t: x)(x, t)
    expected, _ = schedule.predict_x0_and_epsilon("epsilon", model(x, t), x, t)
    assert torch.equal(x0, expected)


def test_classifier_guidance_moves_samples_towards_a_label():
    class Brightness(nn.Module):
        """Class 2 is whatever is bright."""

        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(4.0), requires_grad=False)

        def forward(self, x):
            logit = self.slope * x[..., 2:-2, 2:-2].mean((1, 2, 3))
            return torch.stack([-logit, 0 * logit, logit], 1)

    metadata = {"mean": [0.5], "std": [0.25], "channels": 1, "ink": True}
    classifier = FeatureClassifier(Brightness(), metadata, ("dark", "gray", "bright"), 1.0)
    model = GaussianDenoiser(shape=(1, 28, 28))

    def sample(label, scale):
        guidance = ClassifierGuidance(classifier, torch.full((20,), label), scale)
        return sample_images(p_sample, model, 20, SamplingConfig(20), classifier_guidance=guidance)

    bright, dark = sample(2, 40.0), sample(0, 40.0)
    plain = sample_images(p_sample, model, 20, SamplingConfig(20))
    means = [float(images.float().mean()) for images in (dark, plain, bright)]
    print(means)
    assert means[0] < means[1] - 5
    assert means[2] > means[1] + 5
    assert torch.equal(sample(0, 0.0), plain)


@pytest.mark.parametrize(("size", "ink"), [(28, True), (20, True), (28, False), (32, False)])
def test_classifier_input_pads_ink_and_resizes_other_images(size, ink):
    metadata = {"mean": [0.5], "std": [0.25], "channels": 1, "ink": ink}
    images = torch.randint(256, (2, 1, size, size), dtype=torch.uint8)
    expected = normalize(resize_uint8(images, metadata), metadata)
    output = classifier_input(images.float() / 127.5 - 1, metadata)
    assert torch.allclose(output, expected, atol=0.01)  # `fitted` rounds


@pytest.mark.parametrize("resample_steps", [1, 4])
def test_inpainting_keeps_the_known_part_and_fits_the_rest(resample_steps):
    """Two pixels that are always equal: one is known, and the other has to become the same."""

    class Twins(GaussianDenoiser):
        def forward(self, x, t, context=None):
            alpha_bar = self.schedule.alpha_bar(t, x)
            mean = x.mean((2, 3), keepdim=True)  # the noise of two is half as wide
            x0 = alpha_bar.sqrt() * 0.25 * mean / (alpha_bar * 0.25 + (1 - alpha_bar) / 2)
            return (x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()

    model = Twins(shape=(1, 1, 2), sampler="ddpm")
    images = torch.linspace(-0.9, 0.9, 200).view(-1, 1, 1, 1).expand(-1, 1, 1, 2)
    inpainting = Inpainting(images, torch.tensor([[[[True, False]]]]), resample_steps)
    config = SamplingConfig(50, seed=1)
    samples = generate(p_sample, model, noise(200, model), config, inpainting=inpainting)
    assert torch.equal(samples[..., 0], images[..., 0])
    error = float((samples[..., 1] - images[..., 1]).abs().mean())
    print(resample_steps, error)
    assert error < (0.1 if resample_steps > 1 else 0.35)
    assert error > 0


def test_ddim_invert_finds_the_noise_with_more_steps_nearer():
    model = GaussianDenoiser(prediction_type="v")
    x_T = noise(50, model)
    errors = []
    for steps in (10, 50, 200):
        samples = generate(p_sample, model, x_T, SamplingConfig(steps))
        found = ddim_invert(model, samples, steps=steps)
        errors.append(float((found - x_T).abs().mean()))
    print(errors)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_sample_loop_refuses_impossible_settings():
    model, x_T = GaussianDenoiser(), torch.zeros(1, 1, 2, 2)
    for config, message in (
        (SamplingConfig(eta=1.5), "eta is between 0"),
        (SamplingConfig(0), "1 to 200 steps, not 0"),
        (SamplingConfig(201), "1 to 200 steps, not 201"),
        (SamplingConfig(sampler="euler"), "unknown sampler 'euler'"),
    ):
        with pytest.raises(BadInput, match=message):
            generate(p_sample, model, x_T, config)
    never = Inpainting(x_T, torch.ones_like(x_T, dtype=torch.bool), 0)
    with pytest.raises(BadInput, match="resample_steps must be at least 1, not 0"):
        generate(p_sample, model, x_T, inpainting=never)
    with pytest.raises(BadInput, match="not finite"):
        sample_images(p_sample, GaussianDenoiser(mean=math.nan), 2, SamplingConfig(3))


def test_sample_loop_restores_mode_gradients_and_global_generator():
    model = GaussianDenoiser().train()
    for x, _ in sample_loop(p_sample, model, torch.zeros(1, 1, 2, 2), SamplingConfig(4)):
        assert torch.is_grad_enabled()
        assert not x.requires_grad
        assert not model.training
    assert model.training
    state = torch.get_rng_state()
    first, same, other = (
        sample_images(p_sample, model, 9, SamplingConfig(4, "ddpm", seed=seed)) for seed in (1, 1, 2)
    )
    generate(p_sample, model, noise(1, model), SamplingConfig(4, "ddpm"))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_sampling_config_from_metadata_understands_old_names():
    old = {"steps": 5, "sampler": "ddim", "guidance": 2.0}
    assert SamplingConfig.from_metadata(old) == SamplingConfig(5, "ddim", guidance_scale=2.0)


def test_sampling_config_refuses_steps_that_the_process_does_not_have():
    process = GaussianDenoiser(timesteps=20).process
    assert SamplingConfig(20).process(process).timesteps == 20
    for steps in (0, 21):
        with pytest.raises(BadInput, match=f"sampling takes 1 to 20 steps, not {steps}"):
            SamplingConfig(steps).process(process)


def test_full_timesteps_are_one_per_image():
    assert full_timesteps(torch.zeros(3, 1), 5).tolist() == [5, 5, 5]


def test_guidance_leaves_further_channels_to_the_label():
    """Those of a learned variance are not extrapolated."""

    class WithVariance(GaussianDenoiser):
        def forward(self, x, t, context=None):
            output = super().forward(x, t, context)
            return torch.cat([output, 2 * output], 1)

    model = WithVariance()
    x, t, label = torch.randn(3, 1, 2, 2), torch.tensor([5, 50, 150]), torch.tensor([0, 2, 2])
    conditional, unconditional = model(x, t, label), model(x, t)
    found = guided_denoiser(model, label, 3.0)(x, t)
    expected = unconditional + 3 * (conditional - unconditional)
    assert torch.allclose(found[:, :1], expected[:, :1], atol=1e-5)
    assert torch.allclose(found[:, 1:], conditional[:, 1:], atol=1e-5)
