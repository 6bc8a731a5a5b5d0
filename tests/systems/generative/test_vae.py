"""The VAE: published counts, its loss against the definition, shapes, and invalid recipes."""

import math

import pytest
import torch

import torchstone as ts
from torchstone.data.vision.dequantized_batches import LikelihoodBatch
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.parts.vae.elbo import bernoulli_log_prob, iwae_bound, kl_to_prior, log_importance_weights
from torchstone.systems import CATALOGUE
from torchstone.systems.generative import vae
from torchstone.systems.generative.vae import RECIPES, VAE, VARIANTS
from torchstone.verify import verify


def entry(name: str = "vae"):
    return next(each for each in CATALOGUE if each.name == name)


def smoke(**fields):
    return replace_fields(RECIPES["smoke"], {"device": "cpu", **fields})


def test_vae_verify_counts_and_loss():
    checks = verify(entry())
    for check in checks:
        print(check.name, check.measured, check.expected)
    assert all(check.passed for check in checks)
    counts = {check.measured for check in checks}
    assert {652_824, 815_824, 425_284, 502_005} <= counts


@pytest.mark.parametrize("name", VARIANTS)
def test_vae_variant_shapes(name):
    make, shape = VARIANTS[name]
    model, x = make(), torch.rand(2, *shape)
    mean, logvar = model.encode(x)
    assert mean.shape == logvar.shape == (2, model.latent_dim)
    assert model.decode(mean).shape == (2, *shape)
    logits, *_ = model(x, torch.randn(2, 3, model.latent_dim))
    assert logits.shape == (2, 3, *shape)
    assert torch.allclose(model(x)[0], model.decode(mean))


def test_vae_latent_samples_are_independent():
    """The third sample of the second picture depends on that picture and that noise alone."""
    model = VAE(size=5, widths=(7,), latent_dim=3)
    x, epsilon = torch.rand(4, 1, 5, 5), torch.randn(4, 6, 3)
    together = model(x, epsilon)[0]
    alone = model(x[1:2], epsilon[1:2, 2:3])[0]
    assert torch.allclose(together[1, 2], alone[0, 0], atol=1e-6)


def test_vae_training_gradients_match_definition():
    """The update's own loss, from a batch of its stream, by torch.distributions one number at a time."""
    run = next(vae.build(smoke(ema_decay=0.0, latent_samples=3, lr=1e-12)))
    batch: LikelihoodBatch = next(run.stream)
    model = run.state["model"]
    metrics = run.update(batch)
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    x = (batch.images / 255 >= 0.5).float()
    mean, logvar = model.encode(x)
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    loss = torch.distributions.kl_divergence(q, prior).sum(1)
    for each in batch.epsilon.unbind(1):
        z = q.loc + q.scale * each
        p = torch.distributions.Bernoulli(logits=model.decode(z))
        loss = loss - p.log_prob(x).flatten(1).sum(1) / 3
    model.zero_grad()
    loss.mean().backward()
    error = max(
        float((ours[n] - p.grad).abs().max() / p.grad.abs().max()) for n, p in model.named_parameters()
    )
    print(f"loss {float(metrics['loss']):.4f} and {loss.mean().item():.4f}; gradients {error:.1e} error")
    assert float(metrics["loss"]) == pytest.approx(float(loss.mean()), rel=1e-5)
    assert float(metrics["elbo"]) == pytest.approx(-float(loss.mean()), rel=1e-5)
    assert error < 1e-4


def test_vae_iwae_loss_matches_definition():
    run = next(vae.build(smoke(ema_decay=0.0, latent_samples=5, use_iwae=True, lr=1e-12)))
    batch = next(run.stream)
    metrics, model = run.update(batch), run.state["model"]
    with torch.no_grad():
        x = (batch.images / 255 >= 0.5).float()
        logits, mean, logvar = model(x, batch.epsilon)
        z = mean[:, None] + (logvar / 2).exp()[:, None] * batch.epsilon
        weights = log_importance_weights(bernoulli_log_prob(logits, x), z, batch.epsilon, logvar)
        bound = bernoulli_log_prob(logits, x).mean() - kl_to_prior(mean, logvar).sum(1).mean()
    assert float(metrics["loss"]) == pytest.approx(-float(iwae_bound(weights).mean()), rel=1e-5)
    assert float(metrics["elbo"]) == pytest.approx(float(bound), rel=1e-5)
    assert -float(metrics["loss"]) > float(metrics["elbo"])


def test_vae_beta_and_free_bits_change_loss():
    plain, weighted, free = (
        next(vae.build(smoke(ema_decay=0.0, lr=1e-12, **fields)))
        for fields in ({}, {"beta": 4.0}, {"free_bits": 2.0})
    )
    batch = next(plain.stream)
    losses = [{n: float(v) for n, v in run.update(batch).items()} for run in (plain, weighted, free)]
    print(losses)
    kl = losses[0]["kl"]
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"] + 3 * kl, rel=1e-4)
    assert losses[2]["loss"] == pytest.approx(losses[0]["loss"] - kl + 8 * 2.0, rel=1e-4)
    assert losses[0]["elbo"] == losses[1]["elbo"] == losses[2]["elbo"]


def test_vae_output_bias_starts_at_pixel_frequency():
    model = VAE(size=8, widths=(16,), latent_dim=4)
    frequency = torch.rand(1, 8, 8)
    model.init_output_bias(frequency)
    metrics = model.decode(torch.zeros(1, 4)).sigmoid()[0]
    assert torch.allclose(metrics, frequency.clamp(0.001, 0.999), atol=0.2)
    bias = model.decoder[-2].bias.sigmoid().view(1, 8, 8)
    assert torch.allclose(bias, frequency.clamp(0.001, 0.999), atol=1e-5)
    conv = VAE(size=8, widths=(6,), latent_dim=2, use_conv=True)
    conv.init_output_bias(frequency)
    assert float(conv.decoder[-1].bias.sigmoid()) == pytest.approx(float(frequency.mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_samples": 0}, "latent_samples must be at least 1"),
        ({"eval_samples": -1}, "eval_samples must be at least 0"),
        ({"beta": -1.0}, "at least 0"),
        ({"free_bits": math.inf}, "at least 0"),
        ({"use_iwae": True, "beta": 2.0}, "leave beta 1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"data": "digitz"}, "digits"),
    ],
)
def test_vae_rejects_invalid_recipe(fields, message):
    with pytest.raises(BadInput, match=message):
        next(vae.build(smoke(**fields)))


def test_vae_conv_rejects_odd_size():
    with pytest.raises(BadInput, match="cannot be halved"):
        VAE(size=9, use_conv=True)


def test_vae_create_variant():
    assert ts.create("vae_plane").latent_dim == 2
    assert ts.create("vae", latent_dim=5).latent_dim == 5
