"""Agents that are after goals: success rates, pictures, hindsight replay in a run that is cut off and resumed."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import torchstone as ts
from torchstone.cli.main import main
from torchstone.engine.run import Intervals, fit
from torchstone.envs.replay_buffer import TERMINATED
from torchstone.errors import BadInput, Interrupted
from torchstone.systems.reinforcement import sac, td3
from torchstone.tasks.rl.evaluate import TEST, PolicyEvaluator
from torchstone.tasks.rl.goals import play_goals

FIELDS = {
    "data": "toy_goals:PointGoal",
    "her_k": 4,
    "hidden": (32, 32),
    "num_envs": 3,
    "num_steps": 4,
    "gradient_steps": 2,
    "learning_starts": 60,
    "buffer_size": 300,  # goes round
    "max_episode_steps": 5,
    "total_timesteps": 14 * 12,
    "eval_episodes": 20,
    "record_video": False,
    "device": "cpu",
}


class Towards(torch.nn.Module):
    """Pushes the point to its goal, badly."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.3))

    def greedy(self, observation: torch.Tensor) -> torch.Tensor:
        # achieved, desired, speed
        return (self.gain * (observation[:, 2:4] - observation[:, :2])).detach()


ENV = {"spec": "toy_goals:PointGoal", "wrappers": [], "max_episode_steps": 5, "episodes": 20}


def test_success_rate_is_of_the_goals_that_are_played():
    evaluator = PolicyEvaluator("toy_goals:PointGoal", (), 5, 20, "cpu")
    metrics = evaluator.measure(Towards(), TEST, std=True)
    played = play_goals(Towards(), {"env": ENV}, episodes=20, seed=TEST)
    distance = np.linalg.norm(played.achieved[:, -1] - played.desired, axis=1)
    print(metrics, "final distances", distance.round(2))
    assert played.achieved.shape == (20, 6, 2)
    assert metrics["success_rate"] == played.success.mean() == (distance <= 0.3).mean()
    assert 0.1 < metrics["success_rate"] < 0.9
    some = PolicyEvaluator("toy_goals:PointGoal", (), 5, 20, "cpu", num_envs=3)  # several episodes of each
    some(Towards(), TEST)
    assert len(some.successes) == 20


def test_nothing_is_drawn_without_goals():
    env = {"spec": "Pendulum-v1", "wrappers": [], "max_episode_steps": 3}

    class Still(Towards):
        def greedy(self, observation):
            return torch.zeros(len(observation), 1)

    assert play_goals(Still(), {"env": env}, episodes=1, seed=0) is None


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goals") / "run"
    ts.train("sac/smoke", **FIELDS | {"total_timesteps": 48}, normalize=True, out=folder, quiet=True)
    return folder


def test_a_run_has_a_success_rate_and_a_picture(run, capsys):
    result = json.loads((run / "result.json").read_text())
    assert 0 <= result["metrics"]["test/success_rate"] <= 1
    assert (run / "pictures/goals.png").read_bytes().startswith(b"\x89PNG")
    assert main(["play", str(run), "--episodes", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["success_rate"] * 5 == pytest.approx(round(said["success_rate"] * 5))
    assert main(["play", str(run), "--episodes", "5"]) == 0
    assert f"success rate {said['success_rate']:.3g}" in capsys.readouterr().out
    assert main(["eval", str(run)]) == 0
    assert "success_rate" in capsys.readouterr().out


def test_normalizer_has_the_statistics_of_what_was_replayed():
    run = next(sac.build(dataclasses.replace(sac.RECIPES["smoke"], **FIELDS, normalize=True)))
    rows = []
    for _ in range(3):
        batch = next(run.stream)
        rows.append(batch.transitions.observation)
        run.update(batch)
    model, seen = run.state["model"], torch.cat(rows)
    expected = (seen - seen.mean(0)) / seen.std(0, correction=0)
    assert torch.allclose(model.flat(seen), expected.clamp(-5, 5), atol=1e-2)
    assert model.normalizer.mean.abs().max() > 1e-3


@pytest.mark.parametrize("system", [sac, pytest.param(td3, marks=pytest.mark.sweep)])
def test_hindsight_resumes_bit_exact(system, tmp_path):
    recipe = dataclasses.replace(system.RECIPES["smoke"], **FIELDS)
    if system is sac:
        recipe = dataclasses.replace(recipe, normalize=True)
    full = next(system.build(recipe))
    fit(full, tmp_path / "full", quiet=True)
    part = next(system.build(recipe))
    inner, count = part.update, iter(range(100))

    def interrupted(batch):
        if next(count) == 7:
            raise Interrupted("here", 2)
        return inner(batch)

    part.update = interrupted
    with pytest.raises(Interrupted):
        fit(part, tmp_path / "part", quiet=True, intervals=Intervals(save=5))
    again = next(system.build(recipe))
    fit(again, tmp_path / "part", quiet=True)
    models = [run.state["model"].state_dict() for run in (full, again)]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    ours, theirs = (next(run.stream).transitions for run in (full, again))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"her_k": -1}, "her_k"), ({"n_step": 3}, "single steps"), ({"data": "Pendulum-v1"}, "no goals")],
)
def test_hindsight_fields_that_make_no_sense(changes, word):
    with pytest.raises(BadInput, match=word) as caught:
        next(sac.build(dataclasses.replace(sac.RECIPES["smoke"], **FIELDS | changes)))
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_states_that_ended_episodes_are_there_to_be_goals():
    recipe = dataclasses.replace(sac.RECIPES["smoke"], **FIELDS | {"max_episode_steps": 0})
    stream = next(sac.build(recipe)).stream
    next(stream)
    buffer = stream.buffer
    (ended,) = (buffer.end == TERMINATED).nonzero(as_tuple=True)
    print(len(ended), "episodes terminated")
    assert len(ended) > 10
    assert (buffer.final_frames.slot_of_row[ended] >= 0).all()
