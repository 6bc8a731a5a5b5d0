"""Termination: as the environments themselves say, on states that they reach and on states that are set."""

import math

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.envs import termination
from torchstone.errors import BadInput


def over(name, observation):
    observation = torch.as_tensor(np.asarray(observation), dtype=torch.float64)
    found = termination.KNOWN[name](observation, torch.zeros(len(observation), 1), observation)
    assert found.dtype == torch.bool
    return found.tolist()


def test_inverted_pendulum_terminates_where_the_environment_does():
    env = gymnasium.make("InvertedPendulum-v5").unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    rng, states, expected = np.random.default_rng(0), [], []
    for angle in (*rng.uniform(-0.4, 0.4, 120), 0.199, -0.199, 0.205, -0.205):
        env.set_state(np.array([rng.normal(), angle]), rng.normal(size=2))
        observation, reward, terminated, *_ = env.step(env.action_space.sample())
        assert reward == float(not terminated)
        states.append(observation)
        expected.append(terminated)
    env.close()
    print(sum(expected), "of", len(expected), "terminate")
    assert over("InvertedPendulum-v5", states) == expected
    assert 30 < sum(expected) < 100
    nan = [[0.0, math.nan, 0.0, 0.0], [math.inf, 0.0, 0.0, 0.0]]
    assert over("InvertedPendulum-v5", nan) == [True, True]


@pytest.mark.parametrize(
    ("name", "height"), [("Hopper-v5", 1), ("Walker2d-v5", 1), ("Ant-v5", 2), ("Humanoid-v5", 2)]
)
def test_walkers_terminate_where_the_environment_does(name, height):
    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    rng, states, expected = np.random.default_rng(0), [], []
    for _ in range(300):
        qpos = env.init_qpos + rng.normal(scale=0.15, size=env.model.nq)
        qpos[height] += rng.normal(scale=0.4)
        if rng.random() < 0.2 and name == "Hopper-v5":
            qpos[rng.integers(3, env.model.nq)] = rng.choice([-150.0, 150.0])
        env.set_state(qpos, rng.normal(size=env.model.nv))
        states.append(env._get_obs())
        expected.append(not env.is_healthy)
    env.close()
    print(name, sum(expected), "of", len(expected), "terminate")
    assert over(name, states) == expected
    assert 20 < sum(expected) < 295


def test_hopper_is_over_beyond_100_on_either_side():
    """The size of a comparison, instead of a comparison of the size, lets -150 pass."""
    state = torch.zeros(3, 11)
    state[:, 0] = 1.2
    state[1, 4], state[2, 4] = -150.0, 150.0
    assert over("Hopper-v5", state) == [False, True, True]


def test_mountain_car_is_over_at_the_flag_as_in_gymnasium():
    env = gymnasium.make("MountainCarContinuous-v0").unwrapped
    env.reset(seed=0)
    rng, states, expected = np.random.default_rng(0), [], []
    for _ in range(200):
        env.state = np.array([rng.uniform(0.35, 0.55), rng.uniform(-0.02, 0.07)], dtype=np.float32)
        observation, _, terminated, *_ = env.step(np.zeros(1))
        states.append(observation)
        expected.append(bool(terminated))
    assert over("MountainCarContinuous-v0", states) == expected
    assert 20 < sum(expected) < 180


def test_what_is_known_and_what_is_not():
    assert termination.find_termination("auto", "Pendulum-v1") is termination.never
    assert termination.find_termination("never", "Hopper-v5") is termination.never
    own = termination.find_termination("torchstone.envs.termination:ant", "anything")
    assert own is termination.ant
    for name, spec, message in (
        (
            "auto",
            "BipedalWalker-v3",
            r"BipedalWalker-v3 .*not known.*--termination never, or module:function",
        ),
        ("nevre", "Pendulum-v1", "no termination 'nevre': auto, never, or module:function"),
        ("torchstone.envs.termination:no", "Pendulum-v1", "no termination 'torchstone.envs.termination:no'"),
        ("no_such_module:f", "Pendulum-v1", "no_such_module, which is not installed"),
    ):
        with pytest.raises(BadInput, match=message) as refused:
            termination.find_termination(name, spec)
        print(refused.value)
