"""Distributions over actions against torch's, and the score-function gradient against the analytic one."""

import pytest
import torch
from torch import distributions

from torchstone.parts.rl.distributions import Categorical, Gaussian, SquashedGaussian, mask_logits

G = torch.Generator


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=G().manual_seed(seed), dtype=torch.float64)


def test_categorical_equals_torch():
    logits = 3 * randn(6, 5)
    ours, theirs = Categorical(logits), distributions.Categorical(logits=logits)
    action = torch.arange(6) % 5
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    assert torch.equal(ours.mode(), theirs.probs.argmax(-1))


def test_categorical_samples_with_its_probabilities():
    expected = torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = Categorical.noise((200_000, 4), G().manual_seed(0))
    estimate = Categorical(expected.log().expand_as(noise)).sample(noise).bincount() / 200_000
    print("expected", expected.tolist(), "estimate", estimate.tolist())
    assert torch.allclose(estimate, expected, atol=0.004)  # 3.6 standard errors


def test_mask_logits_gives_no_probability_and_no_gradient():
    logits = randn(3, 4).float().requires_grad_()
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    policy = Categorical(mask_logits(logits, mask))
    noise = Categorical.noise((1000, 3, 4), G().manual_seed(1))
    action = policy.sample(noise)
    assert mask.expand(1000, 3, 4).gather(-1, action[..., None]).all()
    few = distributions.Categorical(logits=logits[0, mask[0]])
    torch.testing.assert_close(policy.entropy()[0], few.entropy())
    (policy.entropy().sum() + policy.log_prob(action[0]).mean()).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~mask] == 0).all()


@pytest.mark.parametrize("shared", [True, False])
def test_gaussian_equals_torch(shared):
    mean, log_std = randn(6, 3), randn(*((3,) if shared else (6, 3)), seed=1)
    ours = Gaussian(mean, log_std)
    theirs = distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)
    action = 2 * randn(6, 3, seed=2)
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.sample(action), mean + log_std.exp() * action)


def test_squashed_gaussian_equals_torch_transformed():
    mean, log_std = randn(7, 3), randn(7, 3, seed=1)
    ours = SquashedGaussian(mean, log_std)
    normal = distributions.Normal(mean, log_std.exp())
    theirs = distributions.TransformedDistribution(normal, distributions.TanhTransform())
    raw = ours.pre_tanh_sample(randn(7, 3, seed=2))
    torch.testing.assert_close(ours.log_prob(raw), theirs.log_prob(raw.tanh()).sum(-1))
    torch.testing.assert_close(ours.atanh(raw.tanh()), raw, rtol=1e-6, atol=1e-6)


def test_squashed_gaussian_integrates_to_one():
    action = torch.linspace(-1 + 1e-7, 1 - 1e-7, 2_000_001, dtype=torch.float64)[:, None]
    policy = SquashedGaussian(torch.tensor([1.5]).double(), torch.tensor([-0.3]).double())
    density = policy.log_prob(policy.atanh(action)).exp()
    total = float(torch.trapezoid(density, action[:, 0]))
    print("integral", total)
    assert abs(total - 1) < 1e-4
    log_prob = policy.log_prob(torch.tensor([[40.0]], dtype=torch.float64))
    assert torch.isfinite(log_prob).all()


def test_score_function_gradient_equals_analytic_gradient_of_bandit():
    """∇ Σ_a π(a) r(a) = π ∘ (r - Σ π r), estimated as E[∇ log π(a) (r(a) - b)] for any baseline b."""
    reward = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    logits = torch.tensor([0.2, -0.4, 0.1, 0.9], dtype=torch.float64, requires_grad=True)
    chance = logits.detach().softmax(0)
    analytic = chance * (reward - chance @ reward)
    noise = Categorical.noise((400_000, 4), G().manual_seed(0)).double()
    with torch.no_grad():
        action = Categorical(logits.expand(400_000, 4)).sample(noise)
    spreads = []
    for baseline in (0.0, float(chance @ reward)):
        log_prob = Categorical(logits).logits.log_softmax(0)[action]
        (estimate,) = torch.autograd.grad((log_prob * (reward[action] - baseline)).mean(), logits)
        print("baseline", baseline, "estimate", estimate.tolist(), "analytic", analytic.tolist())
        torch.testing.assert_close(estimate, analytic, rtol=0, atol=0.005)
        score = torch.nn.functional.one_hot(action, 4) - chance
        spreads.append(float((score * (reward[action] - baseline)[:, None]).var(0).sum()))
    print("variance without and with a baseline", spreads)
    assert spreads[1] < 0.9 * spreads[0]


def test_kl_divergence_equals_torch():
    torch.manual_seed(0)
    from torch.distributions import kl_divergence

    logits = torch.randn(2, 7, 4).double()
    ours = Categorical(logits[0]).kl_divergence(Categorical(logits[1]))
    theirs = kl_divergence(*(torch.distributions.Categorical(logits=each) for each in logits))
    print("categorical", (ours - theirs).abs().max().item())
    torch.testing.assert_close(ours, theirs)
    mean, log_std = torch.randn(2, 7, 3).double(), torch.randn(2, 3).double()
    ours = Gaussian(mean[0], log_std[0]).kl_divergence(Gaussian(mean[1], log_std[1]))
    normals = [
        torch.distributions.Normal(m, s.exp().expand_as(m)) for m, s in zip(mean, log_std, strict=True)
    ]
    torch.testing.assert_close(ours, kl_divergence(*normals).sum(-1))
