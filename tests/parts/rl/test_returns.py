"""Returns and advantages against their definitions, episode by episode, with plain loops."""

import pytest
import torch

from torchstone.parts.rl.returns import backward, discounted, gae, n_step, successors, td_lambda

GAMMA, LAM = 0.9, 0.7


def rollout(seed: int = 0, time: int = 11, worlds: int = 5):
    """Rewards, values, and every way that an episode can end; the value of each state that is cut at."""
    g = torch.Generator().manual_seed(seed)
    reward, value = (torch.randn(time, worlds, generator=g, dtype=torch.float64) for _ in range(2))
    last = torch.randn(worlds, generator=g, dtype=torch.float64)
    terminated = torch.rand(time, worlds, generator=g) < 0.2
    truncated = torch.rand(time, worlds, generator=g) < 0.2
    cuts = truncated & ~terminated
    assert cuts.sum() > 3
    assert (terminated & truncated).any()
    cut = torch.randn(int(cuts.sum()), generator=g, dtype=torch.float64)
    return reward, value, last, cut, terminated, truncated


def after(step: int, world: int, value, last, cut, terminated, truncated) -> float:
    """What the state that a step led to is worth, by the rules in words."""
    if terminated[step, world]:
        return 0.0
    if truncated[step, world]:
        before = [(t, n) for t, n in (truncated & ~terminated).nonzero().tolist()]
        return float(cut[before.index((step, world))])
    return float(last[world] if step == len(value) - 1 else value[step + 1, world])


def n_step_return(t: int, n: int, world: int, reward, worth, ended) -> float:
    """Σ γ^k r + γ^n V, stopping where the episode or the rows do."""
    total = 0.0
    for k in range(n):
        total += GAMMA**k * float(reward[t + k, world])
        if ended[t + k, world] or k == n - 1 or t + k == len(reward) - 1:
            return total + GAMMA ** (k + 1) * worth[t + k][world]
    raise AssertionError


@pytest.fixture(name="case")
def _case():
    reward, value, last, cut, terminated, truncated = rollout()
    ends = (terminated, truncated)
    following = successors(value, last, cut, *ends)
    worth = [
        [after(t, n, value, last, cut, *ends) for n in range(reward.shape[1])] for t in range(len(reward))
    ]
    return reward, value, following, terminated | truncated, worth


def same(found, wanted) -> None:
    wanted = torch.tensor(wanted, dtype=torch.float64)
    print("largest difference", float((found - wanted).abs().max()))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def every(of, reward):
    return [[of(t, n) for n in range(reward.shape[1])] for t in range(len(reward))]


def test_what_follows_a_step_is_the_state_that_it_led_to(case):
    _, _, following, _, worth = case
    same(following, worth)


def test_discounted_is_the_longest_sum(case):
    reward, _, following, ended, worth = case
    wanted = every(lambda t, n: n_step_return(t, 10**6, n, reward, worth, ended), reward)
    same(discounted(reward, following, ended, GAMMA), wanted)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 30])
def test_n_step(case, steps):
    reward, _, following, ended, worth = case
    wanted = every(lambda t, n: n_step_return(t, steps, n, reward, worth, ended), reward)
    same(n_step(reward, following, ended, GAMMA, steps), wanted)


def lambda_return(t: int, world: int, reward, worth, ended) -> float:
    """(1-λ) Σ_{n<N} λ^{n-1} G^{(n)} + λ^{N-1} G^{(N)}, N being the steps that are left (Sutton and Barto 12.3)."""
    left = 1
    while not ended[t + left - 1, world] and t + left < len(reward):
        left += 1
    each = [n_step_return(t, n, world, reward, worth, ended) for n in range(1, left + 1)]
    mixed = sum((1 - LAM) * LAM ** (n - 1) * g for n, g in enumerate(each[:-1], 1))
    return mixed + LAM ** (left - 1) * each[-1]


def test_td_lambda_mixes_n_step_returns(case):
    reward, _, following, ended, worth = case
    wanted = every(lambda t, n: lambda_return(t, n, reward, worth, ended), reward)
    same(td_lambda(reward, following, ended, GAMMA, LAM), wanted)


def test_gae_is_the_lambda_return_less_the_value(case):
    reward, value, following, ended, worth = case
    wanted = every(lambda t, n: lambda_return(t, n, reward, worth, ended), reward)
    same(gae(reward, value, following, ended, GAMMA, LAM) + value, wanted)


def test_backward_goes_on_from_what_comes_after():
    gain, decay = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.25]])
    assert backward(gain, decay, torch.tensor([8.0])).tolist() == [[3.0], [4.0]]
