"""Memory for experience is said before training, and refused where it cannot fit."""

import dataclasses

import pytest
import torch

from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput
from torchstone.systems.reinforcement import dqn, ppo, reinforce
from torchstone.tasks.rl import storage

GB = 10**9


@pytest.fixture(name="memory")
def _memory(monkeypatch):
    monkeypatch.setattr(storage, "total_memory", lambda device: 16 * GB)


@pytest.mark.parametrize(
    ("num_stack", "steps", "fitting"),
    [(1, 1_000_000, 250_000), (4, 1_000_000, None), (4, 4_000_000, 1_000_000)],
)
def test_replay_buffer_larger_than_memory_is_refused_with_a_size_that_fits(num_stack, steps, fitting, memory):
    """A frame is 84 × 84 = 7,056 bytes, and a stack of four 28,224."""
    recipe = dataclasses.replace(dqn.RECIPES["smoke"], buffer_size=steps)
    observation = torch.zeros(4, 84, 84, dtype=torch.uint8)
    if fitting is None:
        return storage.check_replay_memory(recipe, observation, num_stack, "cpu")
    with pytest.raises(
        BadInput, match=rf"{steps:,} steps takes 28.2 GB, .*16\.0 GB.*--buffer-size"
    ) as caught:
        storage.check_replay_memory(recipe, observation, num_stack, "cpu")
    print(caught.value)
    assert str(caught.value).endswith(f"--buffer-size {fitting}")
    smaller = dataclasses.replace(recipe, buffer_size=fitting)
    storage.check_replay_memory(smaller, observation, num_stack, "cpu")


def test_rollout_larger_than_memory_is_refused_with_a_length_that_fits(memory):
    recipe = dataclasses.replace(ppo.RECIPES["smoke"], num_steps=10**8, num_envs=8)
    with pytest.raises(
        BadInput, match=r"a rollout of 100,000,000 steps of 8 environments takes 38.4 GB"
    ) as caught:
        next(ppo.build(recipe))
    print(caught.value)
    fitting = int(str(caught.value).rpartition(" ")[2])
    assert fitting == int(0.9 * 16 * GB / 2 / (8 * 4 * 4 * 3))  # 4 floats of 4 bytes, three times


def test_memory_of_experience_is_in_the_opening_lines(capsys):
    from torchstone.engine.run import Intervals
    from torchstone.runs.execute import opening_lines

    run = next(dqn.build(dqn.RECIPES["smoke"]))
    lines = opening_lines(run, Intervals())
    print(*lines, sep="\n")
    buffer = run.stream.buffer
    rows = 100_001
    # four floats, an action of 8 bytes, a reward of 4, end and age of 1, two indices of 4
    assert (
        lines[1] == f"replay buffer of {rows:,} steps: {rows * (16 + 8 + 4 + 2 + 8) / 1e6:.1f} MB of memory"
    )
    assert buffer.num_rows == rows
    assert len(opening_lines(next(ppo.build(ppo.RECIPES["smoke"])), Intervals())) == 2  # too small to be said


def test_episodes_that_could_exceed_memory_are_said(memory):
    recipe = dataclasses.replace(reinforce.RECIPES["smoke"], num_envs=100)
    run = next(reinforce.build(recipe))
    assert "storage" not in run.metadata
    envs = VectorEnv("CartPole-v1", 100, max_episode_steps=10**7)
    stream = type(run.stream)(None, envs, seed=0)
    text = storage.check_rollout_memory(recipe, stream, "cpu")
    print(text)
    assert text.startswith("rollout of 100 episodes: up to 48.0 GB of memory, and there are 16.0 GB")


def test_total_memory_is_of_this_machine():
    from torchstone.engine.device import total_memory

    found = total_memory("cpu")
    print(found)
    assert found > 2**28
