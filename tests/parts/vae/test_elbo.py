"""The bounds against their definitions, written out sample by sample with torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from torchstone.parts.vae.elbo import (
    bernoulli_log_prob,
    beta_kl,
    iwae_bound,
    kl_to_prior,
    log_importance_weights,
    reparameterize,
)


def example(samples: int = 4):
    """Three pictures of 2 × 3, two latents, a linear decoder."""
    torch.manual_seed(0)
    mean, logvar = (torch.randn(3, 2).double().requires_grad_() for _ in range(2))
    weight = torch.randn(6, 2).double().requires_grad_()
    x = torch.rand(3, 1, 2, 3).double().round()
    return mean, logvar, weight, x, torch.randn(3, samples, 2).double()


def decode(weight: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return (z @ weight.T).unflatten(-1, (1, 2, 3))


def ours(mean, logvar, weight, x, epsilon):
    z = reparameterize(mean, logvar, epsilon)
    likelihood = bernoulli_log_prob(decode(weight, z), x)
    bound = likelihood.mean(1) - kl_to_prior(mean, logvar).sum(1)
    return bound, iwae_bound(log_importance_weights(likelihood, z, epsilon, logvar))


def written(mean, logvar, weight, x, epsilon):
    """Kingma and Welling's equation 10 and Burda et al.'s 8, one number at a time."""
    bounds, weighted = [], []
    for i in range(len(x)):
        q = Independent(Normal(mean[i], (logvar[i] / 2).exp()), 1)
        prior = Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)
        told, ratios = [], []
        for e in epsilon[i]:
            z = mean[i] + (logvar[i] / 2).exp() * e
            p = Independent(Bernoulli(logits=decode(weight, z)), 3)
            told.append(p.log_prob(x[i]))
            ratios.append(told[-1] + prior.log_prob(z) - q.log_prob(z))
        bounds.append(sum(told) / len(told) - kl_divergence(q, prior))
        weighted.append((sum(each.exp() for each in ratios) / len(ratios)).log())
    return torch.stack(bounds), torch.stack(weighted)


def test_elbo_and_iwae_match_definition_with_gradients():
    mean, logvar, weight, x, epsilon = example()
    for name, a, b in zip(
        ("bound", "weighted bound"),
        ours(mean, logvar, weight, x, epsilon),
        written(mean, logvar, weight, x, epsilon),
        strict=True,
    ):
        slopes = [
            torch.autograd.grad(each.sum(), (mean, logvar, weight), retain_graph=True) for each in (a, b)
        ]
        apart = max(float((s - t).abs().max()) for s, t in zip(*slopes, strict=True))
        print(f"{name} {a.tolist()}, {(a - b).abs().max().item():.1e} apart, gradients {apart:.1e}")
        assert torch.allclose(a, b, atol=1e-12)
        assert apart < 1e-12
        assert float(slopes[0][1].abs().min()) > 1e-6


def test_kl_to_prior_matches_torch_and_monte_carlo():
    mean, logvar = torch.randn(2, 5, 3).double()
    q, prior = Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)
    assert torch.allclose(kl_to_prior(mean, logvar), kl_divergence(q, prior), atol=1e-12)
    z = q.sample((200_000,))
    by_chance = (q.log_prob(z) - prior.log_prob(z)).mean(0)
    apart = float((by_chance - kl_to_prior(mean, logvar)).abs().max())
    print(f"closed form and 200,000 samples {apart:.4f} apart")
    assert apart < 0.03
    assert float(kl_to_prior(torch.zeros(1, 1), torch.zeros(1, 1))) == 0


def test_iwae_bound_tightens_with_samples():
    """Burda et al., theorem 1, on a model whose likelihood is known by quadrature."""
    mean, logvar, weight, x, _ = example()
    grid = (torch.arange(400).double() + 0.5) / 400 * 16 - 8
    z = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        joint = Normal(0.0, 1.0).log_prob(z).sum(1) + bernoulli_log_prob(
            decode(weight, z)[None].expand(3, -1, -1, -1, -1), x
        )
        exact = float((torch.logsumexp(joint, 1) + 2 * math.log(16 / 400)).mean())
        generator, found = torch.Generator().manual_seed(0), {}
        for k in (1, 5, 50, 5000):
            epsilon = torch.randn(3, 200_000, 2, generator=generator).double()
            weights = log_importance_weights(
                bernoulli_log_prob(decode(weight, reparameterize(mean, logvar, epsilon)), x),
                reparameterize(mean, logvar, epsilon), epsilon, logvar,
            )  # fmt: skip
            each = weights.unflatten(1, (-1, k))
            found[k] = float(torch.stack([iwae_bound(rows) for rows in each]).mean())
    print(f"log p {exact:.4f}; bounds of k samples {found}")
    assert found[1] < found[5] < found[50] < found[5000] <= exact + 0.01
    assert found[5000] == pytest.approx(exact, abs=0.05)
    assert found[1] == pytest.approx(float(ours(*example(4000))[0].mean()), abs=0.2)


def test_beta_kl_free_bits_per_latent():
    each = torch.tensor([[0.0, 3.0], [1.0, 1.0]])  # means 0.5 and 2
    assert float(beta_kl(each)) == 2.5
    assert float(beta_kl(each, beta=4.0)) == 10
    assert float(beta_kl(each, free_bits=1.0)) == 3
    assert float(beta_kl(each, beta=2.0, free_bits=1.0)) == 6
    each.requires_grad_()
    (slope,) = torch.autograd.grad(beta_kl(each, free_bits=1.0), each)
    assert slope.tolist() == [[0, 0.5], [0, 0.5]]


def test_iwae_bound_does_not_overflow():
    assert float(iwae_bound(torch.tensor([[-4000.0, -5000.0]]))) == pytest.approx(-4000 - math.log(2))


def test_bernoulli_log_prob_of_gray_is_cross_entropy():
    logits, x = torch.randn(2, 1, 3, 3).double(), torch.rand(2, 1, 3, 3).double()
    p = logits.sigmoid()
    slow = (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
    assert torch.allclose(bernoulli_log_prob(logits, x), slow, atol=1e-12)
    assert bool(
        torch.isfinite(bernoulli_log_prob(1e4 * torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))).all()
    )
