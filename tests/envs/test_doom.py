"""Take Cover: episodes follow from their seeds, checkpoints play them again, and a missing simulator is one line."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torchstone as ts
from torchstone.envs.make import make_env
from torchstone.envs.vector_env import VectorEnv, is_snapshot_exact
from torchstone.errors import BadInput


def steps(envs, count, first=0):
    frames = []
    for t in range(first, first + count):
        step = envs.step(torch.full((envs.num_envs,), t // 12 % 3))
        frames.append((step.next_observation.clone(), step.reward, step.terminated))
    return frames


def test_take_cover_is_what_the_paper_has():
    env, limit = make_env("TakeCover-v0", (), None)
    frame, _ = env.reset(seed=1)
    assert limit == 2100
    assert (frame.shape, frame.dtype, env.action_space.n) == ((3, 64, 64), np.uint8, 3)
    total, is_over = 0.0, False
    while not is_over:  # who stands still is hit
        frame, reward, is_over, truncated, _ = env.step(1)
        assert reward == 1.0
        assert not truncated
        total += reward
    assert 50 < total < 1000
    assert not frame.any()  # after the last action there is no picture
    env.close()


def test_no_settings_are_read_from_the_current_folder_or_left_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env, _ = make_env("TakeCover-v0", (), None)
    env.reset(seed=1)
    folder = Path(env.unwrapped.folder.name)
    env.close()
    assert not list(tmp_path.iterdir())
    assert not folder.exists()


def test_the_player_moves_left_and_right():
    """The wall that comes near is on the side that was walked to."""
    frames = {}
    for action in (0, 2):
        env, _ = make_env("TakeCover-v0", (), None)
        env.reset(seed=5)
        for _ in range(40):
            frame, *_ = env.step(action)
        frames[action] = frame.astype(float)
        env.close()
    left, right = frames[0], frames[2]
    mirrored = np.abs(left - right[..., ::-1]).mean()
    print("difference", np.abs(left - right).mean(), "mirrored", mirrored)
    assert mirrored < np.abs(left - right).mean()


def test_a_checkpoint_continues_the_very_episode():
    assert is_snapshot_exact("TakeCover-v0")
    one, other = VectorEnv("TakeCover-v0", 2, seed=3), VectorEnv("TakeCover-v0", 2, seed=9)
    steps(one, 60)
    other.load_state_dict(one.state_dict())
    for a, b in zip(steps(one, 40, 60), steps(other, 40, 60), strict=True):
        assert all(map(torch.equal, a, b))
    one.close(), other.close()


@pytest.mark.sweep
def test_without_the_replay_it_does_not():
    """The test above can fail."""
    one, other = VectorEnv("TakeCover-v0", 1, seed=3), VectorEnv("TakeCover-v0", 1, seed=9)
    steps(one, 60)
    type(other.backend.envs[0].unwrapped).replay = lambda self: None
    other.load_state_dict(one.state_dict())
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(steps(one, 40), steps(other, 40), strict=True))
    one.close(), other.close()


def test_a_missing_simulator_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(BadInput, match=r"TakeCover-v0 needs more: pip install 'torchstone\[rl\]'") as refused:
        make_env("TakeCover-v0", (), None)
    assert "\n" not in str(refused.value)


def test_agents_of_vectors_refuse_its_frames(tmp_path):
    with pytest.raises(BadInput, match="ResizeFrames"):
        ts.train("ppo/smoke", data="TakeCover-v0", out=tmp_path / "run", quiet=True)
