"""What teams share: inputs, evaluation, play and pictures, on agents that come and go."""

import dataclasses
import math

import pytest
import torch

from torchstone.envs.team_envs import make_team_envs
from torchstone.errors import BadInput
from torchstone.systems.multiagent import mappo, qmix
from torchstone.tasks.multiagent import team as task

TOY = "pettingzoo:toy_teams"
RECIPE = dataclasses.replace(
    mappo.RECIPES["smoke"], data=TOY, max_episode_steps=8, num_envs=2, steps=2, eval_episodes=3, device="cpu"
)
# what each agent is given for its stay: a 0 + 1 + 2, b 10 + … + 13, c 21 + … + 25
TOTAL = 3 + 46 + 115


def test_inputs():
    x = torch.arange(12.0).view(2, 3, 2)
    assert task.with_identity(x)[1].tolist() == [[6, 7, 1, 0, 0], [8, 9, 0, 1, 0], [10, 11, 0, 0, 1]]


@pytest.mark.parametrize("system", [mappo, qmix])
def test_a_team_that_comes_and_goes_is_trained_and_played(system, tmp_path):
    """The return is the sum of what all were given while they were there."""
    fields = {"data": TOY, "max_episode_steps": 8, "eval_episodes": 3, "device": "cpu"}
    if system is qmix:
        fields |= {"exploration": "epsilon", "num_envs": 2, "buffer_size": 6, "batch_size": 4}
    run = next(system.build(dataclasses.replace(system.RECIPES["smoke"], **fields)))
    for _ in range(2):
        metrics = run.update(next(run.stream))
        assert math.isfinite(metrics["loss"])
        assert metrics["episodic_return"] == TOTAL
    found = run.test()
    assert found["return"] == TOTAL
    assert found["agent_return"] == pytest.approx(TOTAL / 3)
    assert found["random_return"] == TOTAL
    assert found["return_std"] == 0
    model, metadata = run.state["model"], run.metadata
    assert system.play(model, metadata, episodes=2, video=tmp_path / "one.gif") == [TOTAL] * 2
    assert (tmp_path / "one.gif").stat().st_size > 50
    assert system.evaluate(model, metadata, TOY, held_out=True)["return"] == TOTAL
    with pytest.raises(BadInput, match="train one for it"):
        system.evaluate(model, metadata, "matrix:penalty", held_out=False)


def test_evaluation_plays_the_same_episodes_for_all():
    run, other = (next(mappo.build(dataclasses.replace(RECIPE, seed=seed))) for seed in (0, 1))
    ours, theirs = (next(task.play_team(r.state["model"], TOY, 2, 8, task.TEST)) for r in (run, other))
    assert torch.equal(ours.observation, theirs.observation)
    random = task.RandomTeam(make_team_envs(TOY).team, 0)
    actions = next(task.play_team(random, TOY, 40, 8, 3)).action
    assert actions.amax((0, 1)).tolist() == [1, 3, 2]
