"""Playing what was trained: judged on the same episodes each time, filmed, and told in one line what fails."""

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
from torchstone.tasks.rl.evaluate import TEST, VALIDATION, Judge


class Leaning(torch.nn.Module):
    """A controller that needs no training: push where the pole falls."""

    def greedy(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 2] + 0.5 * x[:, 3] > 0).long()


def test_the_judge_counts_one_episode_of_each_world():
    judge = Judge("CartPole-v1", (), None, 6, "cpu")
    good, again = judge(Leaning(), VALIDATION), judge(Leaning(), VALIDATION)
    torch.manual_seed(0)
    poor = judge(ActorCritic((4,), 2), TEST)
    print("leaning", good, "untrained", poor)
    assert good == again
    assert min(good) > 150
    assert max(poor) < 150
    assert len(poor) == 6
    assert judge(ActorCritic((4,), 2), VALIDATION) != judge(ActorCritic((4,), 2), TEST)


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("play") / "run"
    ts.train("ppo/smoke", steps=12, out=folder, device="cpu", quiet=True)
    return folder


def test_play_prints_returns_and_films(run, capsys):
    film = run.parent / "out.mp4"
    assert main(["play", str(run), "--episodes", "4", "--video", str(film), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    print(said)
    assert len(said["returns"]) == 4
    assert abs(said["mean"] - sum(said["returns"]) / 4) < 1e-9
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", film, "-f", "null", "-"]
    told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stderr
    assert "600x400" in told
    assert f"frame={said['returns'][0]:5.0f}" in told, told[-400:]
    assert ts.play(run, episodes=4) == ts.play(run, episodes=4)
    assert ts.play(run, episodes=3, seed=1) != ts.play(run, episodes=3, seed=2)
    assert main(["play", str(run), "--episodes", "2"]) == 0
    assert "mean return" in capsys.readouterr().out


def test_evaluate_gives_the_figure_of_the_test(run):
    wanted = json.loads((run / "result.json").read_text())["metrics"]["test/return"]
    assert ts.evaluate(run)["return"] == wanted
    with pytest.raises(BadInput, match="other spaces"):
        ts.evaluate(run, data="Acrobot-v1")


def test_what_cannot_be_played_or_filmed_is_said(run):
    asks = [
        (lambda: ts.play(run, video="film.avi"), ".mp4 or .gif"),
        (lambda: ts.play(run, video="nowhere/film.mp4"), "no folder"),
        (lambda: ts.play(run, episodes=0), "at least 1 episode"),
        (
            lambda: next(ppo.build(dataclasses.replace(ppo.CARTPOLE, data="CartPole-v9"))),
            "CartPole",
        ),
    ]
    for ask, said in asks:
        with pytest.raises(BadInput) as caught:
            ask()
        print(caught.value)
        assert said in str(caught.value)
