"""The small world for tests: what hits and what misses, and its state in checkpoints."""

import numpy as np

from torchstone.envs.make import make_env
from torchstone.envs.vector_env import is_snapshot_exact


def play(policy, seed, limit=200):
    env, _ = make_env("Dodge-v0", (), None)
    env.reset(seed=seed)
    for t in range(1, limit + 1):
        inner = env.unwrapped
        frame, reward, is_hit, truncated, _ = env.step(policy(inner))
        assert reward == 1.0
        assert not truncated
        assert frame.max() == 255
        if is_hit:
            return t
    return limit


def evade(env):
    """Away from the ball, unless the wall is there."""
    if env.paddle in (0, 6):
        return 1 if abs(env.column - env.paddle) >= 2 else 2 if env.paddle == 0 else 0
    return 0 if env.column >= env.paddle else 2


def test_who_evades_lives_longer_than_who_stands():
    standing = np.mean([play(lambda env: 1, seed) for seed in range(30)])
    evading = np.mean([play(evade, seed) for seed in range(30)])
    print("standing", standing, "evading", evading)
    assert evading > 2 * standing


def test_a_hit_is_where_ball_and_paddle_meet():
    env, limit = make_env("Dodge-v0", (), None)
    assert limit == 200
    inner = env.unwrapped
    for column in range(7):
        env.reset(seed=0)
        inner.paddle, inner.row, inner.column, inner.speed = 3, 5, column, 1
        assert env.step(1)[2] == (2 <= column <= 4)


def test_its_state_is_in_its_attributes():
    assert is_snapshot_exact("Dodge-v0")
