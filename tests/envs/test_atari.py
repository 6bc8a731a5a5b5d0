"""Atari preprocessing: our wrappers equal ALE's vector env up to rounding, and returns are the game's."""

import io

import numpy as np
import pytest
import torch

from torchstone.envs.atari import VectorAtari, area_weights, atari_preprocessing
from torchstone.envs.backends import SyncVectorEnv
from torchstone.envs.make import gym
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput
from torchstone.parts.old_keys import with_new_names

WRAPPERS = ("AtariPreprocessing", "SignReward", "EpisodicLife")


@pytest.mark.parametrize("name", ["Pong", "Breakout", "SpaceInvaders"])
def test_atari_preprocessing_equals_ale_vector_env(name):
    gymnasium = gym()
    from ale_py.vector_env import AtariVectorEnv

    snake = {"SpaceInvaders": "space_invaders"}.get(name, name.lower())
    native = AtariVectorEnv(snake, 1, noop_max=0, use_fire_reset=False, reward_clipping=False)
    plain = gymnasium.make(f"{name}NoFrameskip-v4", disable_env_checker=True)
    ours = atari_preprocessing(plain, noop_max=0, fire_reset=False)
    a, b = native.reset(seed=0)[0][0], ours.reset(seed=0)[0]
    generator, total, steps = np.random.default_rng(0), 0.0, 0
    for _ in range(400):
        difference = np.abs(a.astype(int) - b)  # a half is rounded up here and down there
        assert difference.max() <= 1, f"step {steps}: {difference.max()} apart"
        assert (difference > 0).mean() < 0.01
        action = generator.integers(native.single_action_space.n)
        (a, *theirs), (b, *mine) = native.step(np.array([action])), ours.step(action)
        a, steps = a[0], steps + 1
        assert [float(x[0]) for x in theirs[:3]] == [float(x) for x in mine[:3]]
        total += abs(mine[0])
        if mine[1] or mine[2]:
            break
    print(f"{name}: {steps} steps the same, {total} points")
    assert total
    assert steps > 100


def test_area_weights_cover_all_pixels():
    table = area_weights(210)
    assert table.shape == (84, 210)
    assert np.allclose(table.sum(1), 1)
    assert np.allclose(table.sum(0), 84 / 210)


@pytest.mark.sweep
def test_single_atari_env_resumes_bit_exact():
    one = VectorEnv("ALE/Breakout-v5", seed=0, wrappers=WRAPPERS)
    assert isinstance(one.backend, SyncVectorEnv)
    assert one.is_exact
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        one.step(torch.randint(4, (1,), generator=generator))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = VectorEnv("ALE/Breakout-v5", seed=9, wrappers=WRAPPERS)
    other.load_state_dict(torch.load(file, weights_only=True))
    lives = 0
    for _ in range(250):
        action = torch.randint(4, (1,), generator=generator)
        a, b = one.step(action), other.step(action)
        assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        assert torch.equal(one.observation, other.observation)
        lives += int(a.terminated)
    print("lives lost on the way", lives)
    assert lives > 5


@pytest.mark.parametrize("count", [1, 4])
def test_episodic_life_ends_episode_but_not_game(count):
    envs = VectorEnv("BreakoutNoFrameskip-v4", count, seed=0, wrappers=WRAPPERS)
    assert isinstance(envs.backend, SyncVectorEnv if count == 1 else VectorAtari)
    assert envs.is_exact == (count == 1)
    generator = torch.Generator().manual_seed(0)
    ends, games, rewards = 0, [], set()
    for _ in range(1000 // count + 100):
        step = envs.step(torch.randint(4, (count,), generator=generator))
        assert step.next_observation.dtype == torch.uint8
        assert not step.truncated.any()
        ends, games = ends + int(step.terminated.sum()), games + step.returns
        rewards |= set(step.reward.tolist())
    print(f"{count} envs: {ends} lives, {len(games)} games of {games}")
    assert rewards == {0.0, 1.0}
    assert games
    assert 4 * len(games) < ends <= 5 * len(games) + 4 * count + 1


def test_sign_reward_leaves_returns_unclipped():
    envs = VectorEnv("SpaceInvadersNoFrameskip-v4", 2, seed=0, wrappers=WRAPPERS[:2])
    generator = torch.Generator().manual_seed(0)
    games, total = [], torch.zeros(2)
    while not games:
        step = envs.step(torch.randint(6, (2,), generator=generator))
        total += step.reward
        games = step.returns
    print("points", games, "signs", total.tolist())
    assert games[0] % 5 == 0
    assert games[0] > 4 * float(total[step.terminated][0]) > 0


def test_atari_preprocessing_refuses_other_envs():
    with pytest.raises(BadInput) as caught:
        VectorEnv("CartPole-v1", 2, wrappers=WRAPPERS)
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_atari_env_reads_states_of_earlier_versions():
    """Attributes of our wrappers had other names then: `frames` was `seen`, `life_lost` was `going`."""
    one, other = (VectorEnv("ALE/Breakout-v5", seed=seed, wrappers=WRAPPERS) for seed in (0, 9))
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        one.step(torch.randint(4, (1,), generator=generator))
    state = one.state_dict()
    old_names = {"frames": "seen", "life_lost": "going"}
    for layer in state["backend"]["envs"][0]:
        layer["plain"] = with_new_names(layer["plain"], old_names)
    assert any("seen" in layer["plain"] for layer in state["backend"]["envs"][0])
    other.load_state_dict(state)
    for _ in range(60):
        action = torch.randint(4, (1,), generator=generator)
        a, b = one.step(action), other.step(action)
        assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
