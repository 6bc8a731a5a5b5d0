"""Lengths of training in environment steps, and run folders of earlier versions that counted updates."""

import json

import pytest

import torchstone as ts
from torchstone.cli.main import main
from torchstone.errors import BadInput
from torchstone.runs.recipes import read_recipe
from torchstone.systems.reinforcement import a2c, dqn, ppo, reinforce
from torchstone.tasks.rl.common import num_updates

# fields of an earlier version's recipe.json that decide on the length, and the length of today
OLD_RECIPES = [
    ("ppo", "cartpole", {"worlds": 4, "length": 16, "steps": 7}, {"total_timesteps": 448}),
    (
        "a2c",
        "cartpole",
        {"worlds": 8, "length": 5, "actors": "together", "steps": 3},
        {"total_timesteps": 120},
    ),
    ("a2c", "a3c", {"worlds": 8, "length": 5, "actors": "stale", "steps": 3}, {"total_timesteps": 15}),
    ("dqn", "cartpole", {"worlds": 2, "length": 256, "first": 9, "steps": 5}, {"total_timesteps": 2560}),
    ("ddpg", "pendulum", {"worlds": 1, "length": 8, "steps": 11}, {"total_timesteps": 88}),
    ("reinforce", "cartpole", {"worlds": 6, "steps": 4}, {"total_episodes": 24}),
]


@pytest.mark.parametrize(("total", "per_update", "expected"), [(1, 256, 1), (256, 256, 1), (257, 256, 2)])
def test_num_updates_rounds_up_to_whole_updates(total, per_update, expected):
    assert num_updates(total, per_update) == expected


def test_updates_of_recipes_follow_from_total_timesteps():
    lengths = {
        "ppo": ppo.RECIPES["cartpole"].updates,
        "ppo/lunarlander": ppo.RECIPES["lunarlander"].updates,
        "a2c": a2c.RECIPES["cartpole"].updates,
        "a3c": a2c.RECIPES["a3c"].updates,
        "dqn": dqn.RECIPES["cartpole"].updates,
        "reinforce": reinforce.RECIPES["cartpole"].updates,
    }
    assert lengths == {
        "ppo": 390,
        "ppo/lunarlander": 61,
        "a2c": 12_500,
        "a3c": 40_000,
        "dqn": 190,
        "reinforce": 250,
    }


@pytest.mark.parametrize(("system", "recipe", "fields", "expected"), OLD_RECIPES)
def test_read_recipe_multiplies_out_old_steps(system, recipe, fields, expected, tmp_path):
    saved = {"system": system, "recipe": recipe, "fields": fields, "intervals": {}}
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    _, _, read = read_recipe(tmp_path)
    ((name, total),) = expected.items()
    assert getattr(read, name) == total
    assert read.updates == fields["steps"]
    assert read.num_envs == fields["worlds"]


@pytest.mark.parametrize(
    ("system", "option"),
    [("ppo", "total-timesteps"), ("dqn", "total-timesteps"), ("reinforce", "total-episodes")],
)
def test_steps_are_refused_with_the_field_that_replaced_them(system, option, capsys):
    assert main(["train", f"{system}/smoke", "--steps", "100"]) == 2
    error = capsys.readouterr().err
    print(error)
    assert f"--{option}" in error
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(BadInput, match=f"--{option}"):
        ts.train(f"{system}/smoke", steps=100)


@pytest.mark.parametrize("total", [0, -5])
def test_total_timesteps_must_be_positive(total):
    with pytest.raises(BadInput, match="total_timesteps must be at least 1"):
        ts.train("ppo/smoke", total_timesteps=total)
