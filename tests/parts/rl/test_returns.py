"""Returns and advantages against their definitions, episode by episode, with plain loops."""

import pytest
import torch

from torchstone.parts.rl.returns import (
    discounted_returns,
    gae,
    n_step_returns,
    next_values,
    reverse_scan,
    td_lambda,
)

GAMMA, LAM = 0.9, 0.7


def rollout(seed: int = 0, time: int = 11, envs: int = 5):
    """Rewards, values, every way that an episode can end, and the value of each state of truncation."""
    g = torch.Generator().manual_seed(seed)
    reward, value = (torch.randn(time, envs, generator=g, dtype=torch.float64) for _ in range(2))
    last_value = torch.randn(envs, generator=g, dtype=torch.float64)
    terminated = torch.rand(time, envs, generator=g) < 0.2
    truncated = torch.rand(time, envs, generator=g) < 0.2
    is_truncated = truncated & ~terminated
    assert is_truncated.sum() > 3
    assert (terminated & truncated).any()
    final_values = torch.randn(int(is_truncated.sum()), generator=g, dtype=torch.float64)
    return reward, value, last_value, final_values, terminated, truncated


def expected_next_value(step: int, env: int, value, last_value, final_values, terminated, truncated) -> float:
    """The value of the state that a step led to, by the rules in words."""
    if terminated[step, env]:
        return 0.0
    if truncated[step, env]:
        before = [(t, n) for t, n in (truncated & ~terminated).nonzero().tolist()]
        return float(final_values[before.index((step, env))])
    return float(last_value[env] if step == len(value) - 1 else value[step + 1, env])


def expected_n_step(t: int, n: int, env: int, reward, next_v, done) -> float:
    """Σ γ^k r + γ^n V, stopping where the episode or the rows do."""
    total = 0.0
    for k in range(n):
        total += GAMMA**k * float(reward[t + k, env])
        if done[t + k, env] or k == n - 1 or t + k == len(reward) - 1:
            return total + GAMMA ** (k + 1) * next_v[t + k][env]
    raise AssertionError


@pytest.fixture(name="case")
def _case():
    reward, value, last_value, final_values, terminated, truncated = rollout()
    ends = (terminated, truncated)
    next_value = next_values(value, last_value, final_values, *ends)
    next_v = [
        [expected_next_value(t, n, value, last_value, final_values, *ends) for n in range(reward.shape[1])]
        for t in range(len(reward))
    ]
    return reward, value, next_value, terminated | truncated, next_v


def assert_same(actual, expected) -> None:
    expected = torch.tensor(expected, dtype=torch.float64)
    print("largest difference", float((actual - expected).abs().max()))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def per_step(function, reward):
    return [[function(t, n) for n in range(reward.shape[1])] for t in range(len(reward))]


def test_next_values_are_those_of_the_states_led_to(case):
    _, _, next_value, _, next_v = case
    assert_same(next_value, next_v)


def test_discounted_returns_equal_the_longest_sum(case):
    reward, _, next_value, done, next_v = case
    expected = per_step(lambda t, n: expected_n_step(t, 10**6, n, reward, next_v, done), reward)
    assert_same(discounted_returns(reward, next_value, done, GAMMA), expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 30])
def test_n_step_returns_equal_definition(case, steps):
    reward, _, next_value, done, next_v = case
    expected = per_step(lambda t, n: expected_n_step(t, steps, n, reward, next_v, done), reward)
    assert_same(n_step_returns(reward, next_value, done, GAMMA, steps), expected)


def expected_lambda(t: int, env: int, reward, next_v, done) -> float:
    """(1-λ) Σ_{n<N} λ^{n-1} G^{(n)} + λ^{N-1} G^{(N)}, N remaining steps (Sutton and Barto 12.3)."""
    left = 1
    while not done[t + left - 1, env] and t + left < len(reward):
        left += 1
    each = [expected_n_step(t, n, env, reward, next_v, done) for n in range(1, left + 1)]
    mixed = sum((1 - LAM) * LAM ** (n - 1) * g for n, g in enumerate(each[:-1], 1))
    return mixed + LAM ** (left - 1) * each[-1]


def test_td_lambda_mixes_n_step_returns(case):
    reward, _, next_value, done, next_v = case
    expected = per_step(lambda t, n: expected_lambda(t, n, reward, next_v, done), reward)
    assert_same(td_lambda(reward, next_value, done, GAMMA, LAM), expected)


def test_gae_equals_lambda_return_minus_value(case):
    reward, value, next_value, done, next_v = case
    expected = per_step(lambda t, n: expected_lambda(t, n, reward, next_v, done), reward)
    assert_same(gae(reward, value, next_value, done, GAMMA, LAM) + value, expected)


def test_reverse_scan_continues_from_last():
    gain, decay = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.25]])
    assert reverse_scan(gain, decay, torch.tensor([8.0])).tolist() == [[3.0], [4.0]]
