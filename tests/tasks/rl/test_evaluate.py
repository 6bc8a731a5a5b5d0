"""Evaluation of agents: the same episodes each time, videos, and errors of one line."""

import dataclasses
import json
import subprocess

import pytest
import torch

import torchstone as ts
from torchstone.cli.main import main
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
        (lambda: ts.play(run, episodes=0), "at least 1 episode"),
        (lambda: next(ppo.build(dataclasses.replace(ppo.CARTPOLE, data="CartPole-v9"))), "CartPole"),
    ]
    for call, message in cases:
        with pytest.raises(BadInput) as caught:
            call()
        print(caught.value)
        assert message in str(caught.value)
