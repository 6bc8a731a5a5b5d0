"""Exploration, Polyak averaging and Q-targets against their definitions."""

import math

import pytest
import torch
from torch import nn

from torchstone.parts.rl.exploration import EpsilonGreedy, Noisy, falling
from torchstone.parts.rl.q_learning import importance, taken, target
from torchstone.parts.rl.target_network import follow, follower


def test_a_schedule_falls_in_a_line():
    rate = falling(1.0, 0.2, 100, after=50)
    assert [rate(t) for t in (0, 50, 75, 100, 150, 10_000)] == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.2, 0.2])
    assert falling(1.0, 0.2, 0)(0) == 0.2


def test_epsilon_is_the_share_of_random_actions_each_as_likely():
    """With ε, the best action has 1 - ε + ε/n, the others ε/n each."""
    epsilon, n, count = 0.4, 4, 40_000
    explorer = EpsilonGreedy(lambda x: torch.full((len(x),), 2), n, lambda _: epsilon)
    explorer.begin(count // 8, 8, 0, torch.Generator().manual_seed(0))
    acted = torch.cat([explorer.act(t, torch.zeros(8, 3)) for t in range(count // 8)])
    share = acted.bincount(minlength=n) / count
    wanted = torch.full((n,), epsilon / n)
    wanted[2] += 1 - epsilon
    print("shares", share.tolist(), "wanted", wanted.tolist())
    assert (share - wanted).abs().max() < 4 * math.sqrt(0.25 / count)


def test_epsilon_falls_with_the_steps_of_all_worlds():
    asked = []
    explorer = EpsilonGreedy(lambda x: x, 2, lambda frames: asked.append(frames) or 0.5)
    explorer.begin(3, 5, 100, torch.Generator().manual_seed(0))
    assert asked == [100, 105, 110]


def noisy(**options) -> Noisy:
    return Noisy(lambda x: torch.zeros(len(x), 2), 2, 500, **options)


def lived(explorer: Noisy, steps: int) -> torch.Tensor:
    explorer.begin(steps, 500, 0, torch.Generator().manual_seed(1))
    return torch.stack([explorer.act(t, torch.zeros(500, 3)) for t in range(steps)])


def test_the_noise_is_ornstein_and_uhlenbecks():
    """Its variance settles at σ²dt / (1 - (1-θdt)²), its correlation over a step is 1 - θdt."""
    theta, sigma, dt = 0.3, 0.1, 0.5
    x = lived(noisy(sigma=sigma, theta=theta, dt=dt), 400)[100:]
    kept = 1 - theta * dt
    wanted = sigma**2 * dt / (1 - kept**2)
    correlation = ((x[1:] * x[:-1]).mean() / x.var()).item()
    print(f"variance {x.var():.5f} wanted {wanted:.5f}, correlation {correlation:.4f} {kept:.4f}")
    assert abs(x.var().item() / wanted - 1) < 0.02
    assert abs(correlation - kept) < 0.005


def test_gaussian_noise_is_fresh_at_every_step():
    x = lived(noisy(sigma=0.2), 400)
    correlation = ((x[1:] * x[:-1]).mean() / x.var()).item()
    print(f"deviation {x.std():.4f}, correlation {correlation:.4f}")
    assert abs(x.std().item() - 0.2) < 0.002
    assert abs(correlation) < 0.005


def test_noise_begins_anew_with_an_episode_and_goes_on_from_a_state():
    explorer, other = noisy(sigma=0.1, theta=0.1), noisy(sigma=0.1, theta=0.1)
    lived(explorer, 5)
    other.load_state_dict(explorer.state_dict())
    ended = torch.arange(500) < 250
    explorer.end(ended)
    assert not explorer.state[:250].any()
    assert explorer.state[250:].all()
    other.end(ended)
    assert torch.equal(lived(explorer, 3), lived(other, 3))


def test_first_steps_are_anything_evenly_and_actions_stay_inside():
    x = lived(noisy(sigma=0.1, first=500 * 50), 60)
    early, late = x[:50].flatten(), x[50:].flatten()
    quarters = torch.histc(early, 4, -1, 1) / len(early)
    print("quarters", quarters.tolist(), "later deviation", late.std().item())
    assert (quarters - 0.25).abs().max() < 0.01
    assert abs(late.std() - 0.1) < 0.01
    wild = lived(noisy(sigma=30.0), 5)
    assert wild.min() == -1
    assert wild.max() == 1


def test_a_follower_goes_a_share_of_the_way():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    copy = follower(model)
    assert not any(p.requires_grad for p in copy.parameters())
    old = [p.clone() for p in copy.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    model(torch.randn(8, 3))
    follow(copy, model, 0.25)
    for p, was, new in zip(copy.parameters(), old, model.parameters(), strict=True):
        assert torch.allclose(p, 0.75 * was + 0.25 * new, atol=1e-7)
    assert torch.equal(copy[1].running_mean, model[1].running_mean)
    follow(copy, model, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), model.parameters(), strict=True))


def test_targets_row_by_row():
    generator = torch.Generator().manual_seed(0)
    reward, discount = torch.randn(9, generator=generator), torch.rand(9, generator=generator)
    q, choice = (torch.randn(9, 4, generator=generator) for _ in range(2))
    plain, double = target(reward, discount, q), target(reward, discount, q, choice)
    for i in range(9):
        assert plain[i] == reward[i] + discount[i] * max(q[i].tolist())
        chosen = max(range(4), key=lambda a, i=i: choice[i, a].item())
        assert double[i] == reward[i] + discount[i] * q[i, chosen]
    assert (double < plain).any()
    action = torch.arange(9) % 4
    assert taken(q, action).tolist() == [q[i, i % 4].item() for i in range(9)]


def test_weights_make_up_for_chances():
    """At β = 1, Σ P(i) w_i x_i is the mean over all rows, up to the common factor."""
    chance = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    x = torch.tensor([3.0, -1.0, 2.0, 5.0])
    weight = importance(chance, 4, 1.0)
    assert weight.max() == 1
    found = (chance * weight * x).sum() / (chance * weight).sum()
    assert abs(found - x.mean()) < 1e-6
    assert torch.equal(importance(chance, 4, 0.0), torch.ones(4))
