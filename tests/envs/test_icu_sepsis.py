"""Treatment of sepsis: a small process in the package's files, both forms of the environment, and, in make
test-all, the package's published values and its own episodes."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from sepsis_tables import ACTIONS, STATES, write_tables

from torchstone.envs import icu_sepsis
from torchstone.envs.make import make_env
from torchstone.envs.vector_env import VectorEnv, is_snapshot_exact
from torchstone.errors import BadInput
from torchstone.parts.rl.tabular_mdp import sample_episodes


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """The environment on small tables."""
    chance = write_tables(tmp_path)

    def clear():
        icu_sepsis.load_sepsis.cache_clear()
        icu_sepsis._draws.cache_clear()

    monkeypatch.setattr(icu_sepsis, "find_tables", lambda: tmp_path)
    clear()
    yield chance
    clear()


def test_the_files_are_read(tables):
    sepsis = icu_sepsis.load_sepsis()
    assert sepsis.mdp.shape == (STATES, ACTIONS)
    dense = torch.zeros(STATES, ACTIONS, STATES, dtype=torch.double)
    dense[sepsis.mdp.state, sepsis.mdp.action, sepsis.mdp.next_state] = sepsis.mdp.probability
    assert np.array_equal(dense.numpy(), tables)
    assert sepsis.mdp.is_terminal.tolist() == [False] * 9 + [True] * 3
    assert sepsis.mdp.is_admissible.sum(1).tolist() == [4] * STATES
    # the empty rows of terminal states change nothing
    assert 0 < sepsis.mdp.expected_return(sepsis.clinicians) < 1


def test_both_forms_play_the_tables(tables):
    mdp = icu_sepsis.load_sepsis().mdp
    truth, draws = mdp.expected_return(mdp.uniform_policy()), np.random.default_rng(0)
    for num_envs, steps in ((64, 60), (3, 500)):
        envs, returns = VectorEnv("ICU-Sepsis-v2", num_envs, seed=1), []
        is_native = isinstance(envs.backend, icu_sepsis.VectorICUSepsis)
        assert is_native == (num_envs == 64)
        assert envs.action_mask.shape == (num_envs, ACTIONS)
        for _ in range(steps):
            state = envs.observation.argmax(1)
            assert torch.equal(envs.action_mask, mdp.is_admissible[state])
            assert not mdp.is_terminal[state].any()
            assert (envs.observation.sum(1) == 1).all()
            step = envs.step(torch.from_numpy(draws.integers(ACTIONS, size=num_envs)))
            assert torch.equal(mdp.is_terminal[step.next_observation.argmax(1)], step.terminated)
            assert len(step.returns) == int((step.terminated | step.truncated).sum())
            returns += step.returns
        error = 4 * np.std(returns) / len(returns) ** 0.5
        assert abs(np.mean(returns) - truth) < error


def test_episodes_begin_as_the_tables_say_and_the_limit_truncates(tables):
    envs = VectorEnv("ICU-Sepsis-v2", 800, seed=3, max_episode_steps=1)
    assert set(envs.observation.argmax(1).tolist()) == set(range(8))
    step = envs.step(torch.zeros(800, dtype=torch.long))
    assert (step.terminated | step.truncated).all()
    assert not (step.terminated & step.truncated).any()
    assert step.truncated.any()


def test_a_restored_state_goes_on_to_the_bit(tables):
    assert is_snapshot_exact("ICU-Sepsis-v2")
    for num_envs in (2, 8):
        one, other = (
            VectorEnv("ICU-Sepsis-v2", num_envs, seed=3),
            VectorEnv("ICU-Sepsis-v2", num_envs, seed=9),
        )
        assert one.is_exact
        action = torch.zeros(num_envs, dtype=torch.long)
        for _ in range(5):
            one.step(action), other.step(action)
        other.load_state_dict(one.state_dict())
        for _ in range(10):
            a, b = one.step(action), other.step(action)
            assert torch.equal(a.next_observation, b.next_observation)
            assert a.returns == b.returns
            assert torch.equal(one.observation, other.observation)
            assert torch.equal(one.action_mask, other.action_mask)


def test_without_the_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    icu_sepsis.load_sepsis.cache_clear()
    with pytest.raises(BadInput, match="pip install --no-deps icu-sepsis"):
        make_env("ICU-Sepsis-v2", (), None)
    with pytest.raises(BadInput, match="install it anew"):
        icu_sepsis.load_sepsis(tmp_path)


@pytest.mark.sweep
def test_published_values():
    """README of the package: random 0.78, expert 0.78, optimal 0.88; exactly, from its tables."""
    icu_sepsis.load_sepsis.cache_clear()
    sepsis = icu_sepsis.load_sepsis()
    mdp = sepsis.mdp
    assert mdp.shape == (716, 25)
    assert mdp.expected_return(mdp.uniform_policy()) == pytest.approx(0.78007, abs=1e-5)
    assert mdp.expected_return(sepsis.clinicians) == pytest.approx(0.78184, abs=1e-5)
    for gamma, value in ((1.0, 0.87514), (0.99, 0.8682), (0.95, 0.8393)):  # greedy for a discount earns less
        policy = mdp.deterministic_policy(mdp.value_iteration(gamma)[1])
        assert mdp.expected_return(policy) == pytest.approx(value, abs=1e-4)
    assert int((mdp.start > 0).sum()) == 712
    assert sepsis.clinicians[-3:].sum() == 0
    episodes = sample_episodes(mdp, sepsis.clinicians, 20_000, torch.Generator().manual_seed(0))
    assert float(episodes.returns.mean()) == pytest.approx(0.78184, abs=0.012)


@pytest.mark.sweep
def test_the_same_seed_gives_the_packages_own_episodes(monkeypatch):
    """Its environment itself, step by step; the old Gym that it imports is not needed for that."""
    gym = types.ModuleType("gym")
    gym.Env, gym.ActionWrapper, gym.Wrapper, gym.Space = object, object, object, object
    gym.spaces = types.SimpleNamespace(Discrete=object, MultiDiscrete=object, Box=object)
    registration = types.ModuleType("gym.envs.registration")
    registration.register = lambda **kwargs: None
    modules = {"gym": gym, "gym.spaces": gym.spaces, "gym.envs": types.ModuleType("gym.envs")}
    for name, module in (modules | {"gym.envs.registration": registration}).items():
        monkeypatch.setitem(sys.modules, name, module)
    from icu_sepsis.envs.sepsis import ICUSepsisEnv  # of make test-all alone

    icu_sepsis.load_sepsis.cache_clear()
    theirs, draws = ICUSepsisEnv(), np.random.default_rng(0)
    ours = icu_sepsis.icu_sepsis()
    for episode in range(30):
        a, b = theirs.reset(seed=episode)[0], ours.reset(seed=episode)[0]
        assert a == b
        done = False
        while not done:
            action = int(draws.integers(25))
            x = theirs.step(np.array([action // 5, action % 5]))
            y = ours.step(action)
            assert x[:4] == y[:4]
            done = x[2]
            assert theirs._admissible_actions[x[0]] == y[4]["action_mask"].nonzero()[0].tolist() or done
