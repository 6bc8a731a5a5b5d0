"""Atari's screens: our machine shows what ALE's own vector form shows, up to rounding, and both count the game's returns."""

import io

import numpy as np
import pytest
import torch

from torchstone.envs.atari import Ataris, screened, shrink
from torchstone.envs.backends import Loop
from torchstone.envs.make import gym
from torchstone.envs.vector_env import Worlds
from torchstone.errors import BadInput

EYES = ("AtariPreprocessing", "SignReward", "EpisodicLife")


@pytest.mark.parametrize("name", ["Pong", "Breakout", "SpaceInvaders"])
def test_both_forms_show_the_same(name):
    gymnasium = gym()
    from ale_py.vector_env import AtariVectorEnv

    snake = {"SpaceInvaders": "space_invaders"}.get(name, name.lower())
    native = AtariVectorEnv(snake, 1, noop_max=0, use_fire_reset=False, reward_clipping=False)
    plain = gymnasium.make(f"{name}NoFrameskip-v4", disable_env_checker=True)
    ours = screened(plain, idle=0, fire=False)
    a, b = native.reset(seed=0)[0][0], ours.reset(seed=0)[0]
    draw, gained, steps = np.random.default_rng(0), 0.0, 0
    for _ in range(400):
        far = np.abs(a.astype(int) - b)  # a half is rounded up here and down there
        assert far.max() <= 1, f"step {steps}: {far.max()} apart"
        assert (far > 0).mean() < 0.01
        action = draw.integers(native.single_action_space.n)
        (a, *theirs), (b, *mine) = native.step(np.array([action])), ours.step(action)
        a, steps = a[0], steps + 1
        assert [float(x[0]) for x in theirs[:3]] == [float(x) for x in mine[:3]]
        gained += abs(mine[0])
        if mine[1] or mine[2]:
            break
    print(f"{name}: {steps} steps the same, {gained} points")
    assert gained
    assert steps > 100


def test_areas_share_all_pixels():
    table = shrink(210)
    assert table.shape == (84, 210)
    assert np.allclose(table.sum(1), 1)
    assert np.allclose(table.sum(0), 84 / 210)


def test_one_machine_goes_on_bit_for_bit():
    one = Worlds("ALE/Breakout-v5", seed=0, wrappers=EYES)
    assert isinstance(one.kind, Loop)
    assert one.exact
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        one.step(torch.randint(4, (1,), generator=draw))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = Worlds("ALE/Breakout-v5", seed=9, wrappers=EYES)
    other.load_state_dict(torch.load(file, weights_only=True))
    lives = 0
    for _ in range(250):
        action = torch.randint(4, (1,), generator=draw)
        a, b = one.step(action), other.step(action)
        assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
        assert torch.equal(one.observation, other.observation)
        lives += int(a.terminated)
    print("lives lost on the way", lives)
    assert lives > 5


@pytest.mark.parametrize("count", [1, 4])
def test_a_lost_life_ends_an_episode_and_not_the_game(count):
    worlds = Worlds("BreakoutNoFrameskip-v4", count, seed=0, wrappers=EYES)
    assert isinstance(worlds.kind, Loop if count == 1 else Ataris)
    assert worlds.exact == (count == 1)
    draw = torch.Generator().manual_seed(0)
    ends, games, rewards = 0, [], set()
    for _ in range(1000 // count + 100):
        step = worlds.step(torch.randint(4, (count,), generator=draw))
        assert step.observation.dtype == torch.uint8
        assert not step.truncated.any()
        ends, games = ends + int(step.terminated.sum()), games + step.returns
        rewards |= set(step.reward.tolist())
    print(f"{count} worlds: {ends} lives, {len(games)} games of {games}")
    assert rewards == {0.0, 1.0}
    assert games
    assert 4 * len(games) < ends <= 5 * len(games) + 4 * count + 1


def test_returns_are_points_and_rewards_their_signs():
    worlds = Worlds("SpaceInvadersNoFrameskip-v4", 2, seed=0, wrappers=EYES[:2])
    draw = torch.Generator().manual_seed(0)
    games, total = [], torch.zeros(2)
    while not games:
        step = worlds.step(torch.randint(6, (2,), generator=draw))
        total += step.reward
        games = step.returns
    print("points", games, "signs", total.tolist())
    assert games[0] % 5 == 0
    assert games[0] > 4 * float(total[step.terminated][0]) > 0


def test_what_is_no_atari_game_is_refused():
    with pytest.raises(BadInput) as caught:
        Worlds("CartPole-v1", 2, wrappers=EYES)
    print(caught.value)
    assert "\n" not in str(caught.value)
