"""Evaluation of agents: the same episodes each time, videos, and errors of one line."""

import dataclasses
import json
import subprocess

import gymnasium
import numpy as np
import pytest
import torch

import torchstone as ts
from torchstone.cli.main import main
from torchstone.envs.episodes import EpisodeRollouts
from torchstone.envs.vector_env import EPISODE_BOUND, VectorEnv
from torchstone.errors import BadInput
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.systems.reinforcement import ppo
from torchstone.tasks.rl.evaluate import TEST, VALIDATION, PolicyEvaluator


class Leaning(torch.nn.Module):
    """A controller that needs no training: push where the pole falls."""

    def greedy(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 2] + 0.5 * x[:, 3] > 0).long()


def test_policy_evaluator_counts_one_episode_per_env():
    evaluator = PolicyEvaluator("CartPole-v1", (), None, 6, "cpu")
    good, again = evaluator(Leaning(), VALIDATION), evaluator(Leaning(), VALIDATION)
    torch.manual_seed(0)
    poor = evaluator(ActorCritic((4,), 2), TEST)
    print("leaning", good, "untrained", poor)
    assert good == again
    assert min(good) > 150
    assert max(poor) < 150
    assert len(poor) == 6
    assert evaluator(ActorCritic((4,), 2), VALIDATION) != evaluator(ActorCritic((4,), 2), TEST)


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("play") / "run"
    ts.train("ppo/smoke", total_timesteps=12 * 256, out=folder, device="cpu", quiet=True)
    return folder


def test_play_prints_returns_and_records_video(run, capsys):
    video = run.parent / "out.mp4"
    assert main(["play", str(run), "--episodes", "4", "--video", str(video), "--json"]) == 0
    message = json.loads(capsys.readouterr().out)
    print(message)
    assert len(message["returns"]) == 4
    assert abs(message["mean"] - sum(message["returns"]) / 4) < 1e-9
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", video, "-f", "null", "-"]
    log = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stderr
    assert "600x400" in log
    assert f"frame={message['returns'][0]:5.0f}" in log, log[-400:]
    assert ts.play(run, episodes=4) == ts.play(run, episodes=4)
    assert ts.play(run, episodes=3, seed=1) != ts.play(run, episodes=3, seed=2)
    assert main(["play", str(run), "--episodes", "2"]) == 0
    assert "mean return" in capsys.readouterr().out


def test_evaluate_equals_test_metric(run):
    expected = json.loads((run / "result.json").read_text())["metrics"]["test/return"]
    assert ts.evaluate(run)["return"] == expected
    with pytest.raises(BadInput, match="other spaces"):
        ts.evaluate(run, data="Acrobot-v1")


def test_play_errors_name_a_remedy(run):
    cases = [
        (lambda: ts.play(run, video="video.avi"), ".mp4 or .gif"),
        (lambda: ts.play(run, video="nowhere/video.mp4"), "no folder"),
        (lambda: ts.play(run, episodes=0), "episodes must be at least 1"),
        (lambda: next(ppo.build(dataclasses.replace(ppo.CARTPOLE, data="CartPole-v9"))), "CartPole"),
    ]
    for call, message in cases:
        with pytest.raises(BadInput) as caught:
            call()
        print(caught.value)
        assert message in str(caught.value)


# ------------------------------------------------------------------- films that cannot be made, ends that never come


class Endless(gymnasium.Env):
    """It never ends; `fault` is raised by the renderer at that frame."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, fault: type[Exception] | None = None, frame: int = 1, render_mode: str | None = None):
        self.fault, self.frame, self.rendered, self.render_mode = fault, frame, 0, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self):
        self.rendered += 1
        if self.fault and self.rendered >= self.frame:
            raise self.fault("no OpenGL context\nto draw into")
        return np.full((64, 64, 3), self.rendered % 256, np.uint8)


class ForeignError(Exception):
    """As simulators have of their own, below `Exception` and nothing else."""


gymnasium.register("Endless-v0", entry_point=Endless)
FAULTS = {"early": (ForeignError, 1), "late": (RuntimeError, 3)}
for _name, (_fault, _frame) in FAULTS.items():
    gymnasium.register(
        f"Blind-{_name}-v0", Endless, kwargs={"fault": _fault, "frame": _frame}, max_episode_steps=6
    )
SHORT = ["--total-timesteps", "256", "--epochs", "1", "--eval-episodes", "2", "--device", "cpu"]


@pytest.mark.parametrize("fault", FAULTS)
def test_training_is_finished_though_no_video_can_be_made(fault, tmp_path, capsys):
    out, video = tmp_path / "run", tmp_path / "episode.mp4"
    words = ["--data", f"Blind-{fault}-v0", "--record-video", "true", "--out", str(out), *SHORT]
    codes = [main(["train", "ppo/smoke", *words]), main(["resume", str(out)])]
    codes.append(main(["play", str(out), "--episodes", "3", "--video", str(video)]))
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "no video" in line]
    print(codes, lines, said.out[-200:])
    assert codes == [0, 0, 0]
    assert len(lines) == 3
    assert all(line.endswith("Error: no OpenGL context to draw into") for line in lines)
    assert json.loads((out / "result.json").read_text())["metrics"]["test/return"] == 6.0
    assert "mean return" in said.out
    assert not video.exists()
    assert sorted(file.name for file in (out / "pictures").iterdir()) == ["curves.png"]


class Still(torch.nn.Module):
    def greedy(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), dtype=torch.int64)


@pytest.mark.parametrize(("limit", "expected"), [(None, EPISODE_BOUND), (0, EPISODE_BOUND), (7, 7)])
def test_policy_evaluator_bounds_episodes_without_a_time_limit(limit, expected):
    evaluator = PolicyEvaluator("Endless-v0", (), limit, 2, "cpu")
    returns = evaluator(Still(), VALIDATION)
    print(limit, returns, evaluator.assumed_limit())
    assert returns == [expected] * 2
    assert evaluator.assumed_limit() == (None if limit else EPISODE_BOUND)


def test_episode_rollouts_bound_episodes_without_a_time_limit():
    envs = VectorEnv("Endless-v0", 2)
    rollout, is_live = next(EpisodeRollouts(ActorCritic((2,), 2), envs, seed=0))
    print(rollout.returns, is_live.shape)
    assert rollout.returns == [EPISODE_BOUND] * 2
    assert rollout.truncated[-1].all()
    assert not rollout.terminated.any()


def test_time_limit_that_is_assumed_is_said(tmp_path):
    options = {"total_timesteps": 256, "epochs": 1, "eval_episodes": 1, "quiet": True, "device": "cpu"}
    run = ts.train("ppo/smoke", data="Endless-v0", out=tmp_path / "run", **options)
    print(run.metadata["data"])
    assert "no time limit, so evaluation cuts episodes after 1,000 steps" in run.metadata["data"]
    with pytest.raises(BadInput, match="max_episode_steps is 0 for no limit, or a number of steps, not -1"):
        VectorEnv("Endless-v0", max_episode_steps=-1)
