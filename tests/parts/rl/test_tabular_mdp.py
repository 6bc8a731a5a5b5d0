"""Exact values of known processes, against brute force over policies and against episodes."""

import itertools

import pytest
import torch

from torchstone.parts.rl.tabular_mdp import TabularMDP, sample_episodes


def random_mdp(states=4, actions=2, seed=0, terminal=1):
    """Dense tables of which the last states are terminal, with rewards of transitions."""
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(states, actions, states, generator=generator, dtype=torch.double)
    chance[:, :, 0] *= torch.rand(states, actions, generator=generator) > 0.5  # some never happen
    chance[..., -1] += 0.3
    chance = chance / chance.sum(2, keepdim=True)
    reward = torch.randn(chance.shape, generator=generator, dtype=torch.double)
    rows = chance.nonzero(as_tuple=True)
    start = torch.rand(states, generator=generator, dtype=torch.double)
    start[-terminal:] = 0
    return (
        TabularMDP(
            *rows,
            chance[rows],
            reward[rows],
            start / start.sum(),
            is_terminal=torch.arange(states) >= states - terminal,
            is_admissible=torch.ones(states, actions, dtype=torch.bool),
        ),
        chance,
        reward,
    )


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_values_are_those_of_sums_over_steps(gamma):
    mdp, chance, reward = random_mdp()
    policy = torch.rand(mdp.shape, dtype=torch.double)
    policy = policy / policy.sum(1, keepdim=True)
    policy[-1] = 0  # of a terminal state: need not sum to 1
    value = torch.zeros(4, dtype=torch.double)
    for _ in range(600):  # V of ever longer episodes
        q = torch.einsum("sat,sat->sa", chance, reward + gamma * value)
        value = (policy * q).sum(1)
        value[-1] = 0
    assert torch.allclose(mdp.state_values(policy, gamma), value, atol=1e-10)
    assert mdp.expected_return(policy, gamma) == pytest.approx(float(mdp.start @ value), abs=1e-10)


def test_value_iteration_finds_the_best_of_all_policies():
    mdp, _, _ = random_mdp(seed=3)
    value, action = mdp.value_iteration(tolerance=1e-12)
    policies = [torch.tensor([*choice, 0]) for choice in itertools.product(range(2), repeat=3)]
    best = max(mdp.expected_return(mdp.deterministic_policy(policy)) for policy in policies)
    assert float(mdp.start @ value) == pytest.approx(best, abs=1e-9)
    assert mdp.expected_return(mdp.deterministic_policy(action)) == pytest.approx(best, abs=1e-9)
    # an optimum that ignores the future is another one
    greedy = mdp.expected_reward.argmax(1)
    assert mdp.expected_return(mdp.deterministic_policy(greedy)) < best - 1e-3


def test_terminal_states_are_worth_nothing_whatever_value_is_given():
    mdp, *_ = random_mdp()
    value = torch.arange(4, dtype=torch.double) + 1
    assert torch.equal(mdp.q_values(value), mdp.q_values(value.masked_fill(mdp.is_terminal, 0.0)))
    assert mdp.q_values(value)[mdp.is_terminal].abs().max() == 0


def test_inadmissible_actions_are_not_chosen():
    mdp, _, _ = random_mdp(seed=3)
    _, action = mdp.value_iteration()
    mdp.is_admissible[0, action[0]] = False
    other = mdp.value_iteration()[1]
    assert other[0] == 1 - action[0]


def test_episodes_have_the_tables_frequencies():
    mdp, chance, reward = random_mdp(seed=1)
    generator = torch.Generator().manual_seed(0)
    state = torch.arange(3).repeat_interleave(2).repeat(20_000)
    action = torch.tensor([0, 1]).repeat(60_000)
    uniform = torch.rand(len(state), generator=generator, dtype=torch.double)
    following, earned = mdp.sample_next(state, action, uniform)
    count = torch.zeros(3, 2, 4).index_put(
        (state, action, following), torch.ones(len(state)), accumulate=True
    )
    assert torch.allclose(count.double() / 20_000, chance[:3], atol=0.02)
    assert torch.equal(earned, reward[state, action, following])
    assert (chance[state, action, following] > 0).all()
    policy = mdp.uniform_policy()
    episodes = sample_episodes(mdp, policy, 20_000, generator)
    error = 4 * float(episodes.returns.std()) / 20_000**0.5
    assert float(episodes.returns.mean()) == pytest.approx(mdp.expected_return(policy), abs=error)
    assert not mdp.is_terminal[episodes.state[episodes.is_on]].any()
    assert (episodes.reward[~episodes.is_on] == 0).all()
