"""Lengths of training in environment steps, run folders of earlier versions that counted updates, and the
network that observations of each kind get."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest
import torch

import torchstone as ts
from torchstone.cli.main import main
from torchstone.engine.recipe_fields import replace_fields
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput
from torchstone.runs.recipes import read_recipe
from torchstone.systems.reinforcement import a2c, ddpg, dqn, ppo, reinforce
from torchstone.tasks.rl import common
from torchstone.tasks.rl.common import num_updates
from torchstone.tasks.rl.on_policy import make_separate_envs

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
    saved = {"system": system, "recipe": recipe, "fields": fields, "clock": {}}
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


# ------------------------------------------------------------------------- observations of every kind


KINDS = {  # dtype, bounds that the space states, what a pixel of full white is stored as
    "bytes": (np.uint8, (0, 255), 255),
    "unit": (np.float32, (0, 1), 1),
    "float255": (np.float32, (0, 255), 255),
    "short": (np.int16, (0, 1023), 1023),
    "unbounded": (np.float32, (-np.inf, np.inf), 1),
}


class Pictures(gymnasium.Env):
    """A constant 84 × 84 picture, stored as the `kind` says; three steps to an episode."""

    WHITE = np.linspace(0, 1, 84 * 84).reshape(1, 84, 84)  # share of full white

    def __init__(self, kind: str = "bytes", continuous: bool = False, shape: tuple = (1, 84, 84)):
        dtype, bounds, white = KINDS[kind]
        self.observation_space = gymnasium.spaces.Box(*bounds, shape, dtype)
        self.action_space = gymnasium.spaces.Discrete(2)
        if continuous:
            self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.picture = (np.rint(self.WHITE * 255) / 255 * white).astype(dtype).reshape(shape)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.picture, {}

    def step(self, action):
        self.steps += 1
        return self.picture, 1.0, self.steps == 3, False, {}


for _kind in KINDS:
    gymnasium.register(f"Pictures-{_kind}-v0", entry_point=Pictures, kwargs={"kind": _kind})
gymnasium.register("FlatBytes-v0", entry_point=Pictures, kwargs={"continuous": True, "shape": (84 * 84,)})
AGENTS = [
    (ppo, "ppo"),
    (ppo, "ppo_recurrent"),
    (a2c, "a2c"),
    (a2c, "a2c_lstm"),
    (reinforce, "reinforce"),
    (dqn, "dqn"),
]


def outputs(system, variant: str, env: str) -> torch.Tensor:
    """What a network of seed 0 makes of an environment's first observation."""
    recipe = dataclasses.replace(system.RECIPES["smoke"], data=env, variant=variant)
    config = common.model_config(recipe, variant)
    torch.manual_seed(0)
    model = system.VARIANTS[variant].make(**config)
    observation = VectorEnv(env).observation
    with torch.no_grad():
        result = model(observation[:, None] if hasattr(model, "rnn") else observation)
    return torch.cat([x.flatten() for x in result]) if isinstance(result, tuple) else result


@pytest.mark.parametrize(("system", "variant"), AGENTS, ids=[variant for _, variant in AGENTS])
def test_model_config_scales_frames_by_type_and_bounds(system, variant):
    expected = outputs(system, variant, "Pictures-bytes-v0")
    for kind in KINDS:
        found = outputs(system, variant, f"Pictures-{kind}-v0")
        difference = float((found - expected).abs().max() / expected.abs().max())
        print(f"{variant}: frames stored as {kind}: {difference:.2g} from those stored as bytes")
        assert difference < 2e-3 if kind == "short" else difference < 1e-5


def test_observation_scale_is_left_out_for_bytes():
    """So recipes of frames have the metadata that they always had."""
    scales = {
        kind: common.model_config(
            dataclasses.replace(ppo.RECIPES["smoke"], data=f"Pictures-{kind}-v0"), "ppo"
        ).get("observation_scale")
        for kind in KINDS
    }
    print(scales)
    assert scales == {"bytes": None, "unit": 1.0, "float255": None, "short": 1023.0, "unbounded": 1.0}


@pytest.mark.parametrize(
    ("system", "env", "fields"),
    [
        ("dqn/smoke", "Pictures-bytes-v0", {"total_timesteps": 128, "learning_starts": 64}),
        ("ppo/smoke", "Pictures-bytes-v0", {"total_timesteps": 256, "epochs": 1}),
        ("ddpg/smoke", "FlatBytes-v0", {"total_timesteps": 16, "learning_starts": 16}),
    ],
)
@pytest.mark.sweep
def test_flat_bytes_train_in_every_agent(system, env, fields, tmp_path):
    """Flattened frames are a vector of bytes, which networks take as floats."""
    wrappers = ("FlattenObservation",) if "Pictures" in env else ()
    options = {**fields, "eval_episodes": 2, "hidden": (8, 8), "quiet": True, "device": "cpu"}
    run = ts.train(system, data=env, wrappers=wrappers, out=tmp_path / "run", **options)
    print(run.metadata["model_config"], run.results)
    assert run.metadata["model_config"]["observation_shape"] == [84 * 84]
    assert run.results["test/return"] == 3.0


def test_vector_env_refuses_bounds_and_types_that_are_not_true():
    class Untrue(Pictures):
        def __init__(self, kind: str, factor: float):
            super().__init__(kind)
            self.picture = self.picture * np.float32(factor)

    cases = {"unit": (255, "from 0 to 255, and its space states 0 to 1"), "bytes": (1 / 255, "no bytes")}
    for kind, (factor, message) in cases.items():
        gymnasium.register(f"Untrue-{kind}-v0", Untrue, kwargs={"kind": kind, "factor": factor})
        with pytest.raises(BadInput, match=message) as caught:
            VectorEnv(f"Untrue-{kind}-v0")
        print(caught.value)


def test_frames_with_channels_last_are_the_same_to_a_network():
    gymnasium.registry.pop("Last-v0", None)
    gymnasium.register("Last-v0", Pictures, kwargs={"shape": (84, 84, 1)})
    found = outputs(ppo, "ppo", "Last-v0")
    assert torch.equal(found, outputs(ppo, "ppo", "Pictures-bytes-v0"))


@pytest.mark.parametrize(
    ("shape", "wrappers", "advice"),
    [
        ((7, 7, 3), (), "--wrappers ResizeFrames, or --wrappers FlattenObservation for"),
        ((96, 96, 3), ("SignReward",), "--wrappers SignReward,ResizeFrames, or"),
        (
            (4, 84, 84, 3),
            ("SignReward",),
            "which no network here takes: --wrappers SignReward,FlattenObservation",
        ),
    ],
)
def test_model_config_names_wrappers_that_fit_the_observations(shape, wrappers, advice):
    class Large(Pictures):
        def __init__(self):
            self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
            self.action_space = gymnasium.spaces.Discrete(2)

    gymnasium.registry.pop("Large-v0", None)
    gymnasium.register("Large-v0", Large)
    recipe = dataclasses.replace(ppo.RECIPES["smoke"], data="Large-v0", wrappers=wrappers)
    with pytest.raises(BadInput, match=advice) as caught:
        common.model_config(recipe, "ppo")
    print(caught.value)


def test_bounds_of_the_type_are_no_bounds():
    """Else all frames would be zeros to a network."""
    box = gymnasium.spaces.Box
    frames = {
        "float32": box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1, 84, 84), np.float32),
        "int64": box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1, 84, 84), np.int64),
        "half": box(0, np.inf, (1, 84, 84), np.float32),
        "symmetric": box(-128, 127, (1, 84, 84), np.int16),
        "constant": box(0, 0, (1, 84, 84), np.uint8),
    }
    scales = {name: common.observation_scale(space) for name, space in frames.items()}
    print(scales)
    assert scales == {"float32": 1.0, "int64": 1.0, "half": 1.0, "symmetric": 128.0, "constant": 1.0}


# ------------------------------------------------------------- what a training begins with is told


class Valve(gymnasium.Env):
    """One step; a mask if it is asked for."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, space: gymnasium.Space, mask: bool = False):
        self.action_space, self.info = space, {"action_mask": np.array([1, 0], np.int8)} if mask else {}

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), dict(self.info)

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, True, False, dict(self.info)


@pytest.mark.parametrize(
    ("system", "space", "mask", "said"),
    [
        (ppo, gymnasium.spaces.Box(100, 200, (1,), np.float32), False, "its actions are from 100 to 200"),
        (
            a2c,
            gymnasium.spaces.Box(-0.01, 0.01, (1,), np.float32),
            False,
            "its actions are from -0.01 to 0.01",
        ),
        (reinforce, gymnasium.spaces.Box(0, 255, (1,), np.uint8), False, "its actions are from 0 to 255"),
        (ppo, gymnasium.spaces.Box(-2, 2, (1,), np.float32), False, None),
        (ppo, gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32), False, None),
        (dqn, gymnasium.spaces.Discrete(2), True, "its action mask is not used"),
        (ppo, gymnasium.spaces.Discrete(2), True, None),
        (dqn, gymnasium.spaces.Discrete(2), False, None),
    ],
)
def test_what_an_agent_does_not_use_or_hardly_reaches_is_said(system, space, mask, said):
    gymnasium.registry.pop("Valve-v0", None)
    gymnasium.register("Valve-v0", Valve, kwargs={"space": space, "mask": mask})
    run = next(system.build(dataclasses.replace(system.RECIPES["smoke"], data="Valve-v0", device="cpu")))
    print(run.metadata["data"])
    notes = [part for part in run.metadata["data"].split("; ") if part.startswith("its action")]
    assert len(notes) == (said is not None)
    if said is None:
        return
    assert notes[0].startswith(said)
    if "--wrappers " in notes[0]:
        wrapper = notes[0].partition("--wrappers ")[2].split()[0]
        inner = VectorEnv("Valve-v0", wrappers=(wrapper,)).action_space
        assert (inner.low.item(), inner.high.item()) == (-1, 1)


@pytest.mark.parametrize(
    ("system", "recipe", "episodes", "evaluations"),
    [
        (
            "ppo",
            "cartpole",
            8,
            7,
        ),  # 20 episodes of 500 steps would be a tenth of all steps: twice are too few
        ("ppo", "lunarlander", 20, 13),
        ("dqn", "cartpole", 8, 3),
        ("ddpg", "pendulum", 8, 3),
        ("reinforce", "cartpole", 20, 20),  # both are whole episodes
        ("a2c", "a3c", 12, 10),
    ],
)
def test_evaluation_takes_a_tenth_of_the_environment_steps(system, recipe, episodes, evaluations):
    from torchstone.engine.run import EVALUATION_SHARE, FORWARDS, Intervals

    recipe = {"ppo": ppo, "a2c": a2c, "dqn": dqn, "ddpg": ddpg, "reinforce": reinforce}[system].RECIPES[
        recipe
    ]
    limit = VectorEnv(recipe.data).episode_limit
    examples, found = common.examples_of(recipe, limit)
    due = Intervals().resolve(recipe.updates, examples)
    count = -(-recipe.updates // due.evaluate)
    share = count * examples.val / (recipe.updates * examples.batch * FORWARDS)
    print(f"{count} evaluations of {found} episodes, {examples}: at most {share:.1%} of the work")
    assert (found, count) == (episodes, evaluations)
    assert share <= EVALUATION_SHARE
    steps = getattr(recipe, "total_timesteps", None) or recipe.total_episodes
    assert 0 <= recipe.updates * examples.batch - steps < examples.batch


def test_fewer_episodes_during_training_and_all_at_the_end_are_said(tmp_path, capsys):
    out, words = tmp_path / "run", ["--num-envs", "1", "--num-steps", "64", "--total-timesteps", "2400"]
    words += ["--max-episode-steps", "20", "--eval-episodes", "20", "--epochs", "1", "--device", "cpu"]
    assert main(["train", "ppo/smoke", "--out", str(out), *words]) == 0
    said = capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["split"] == "val"]
    print(said, steps)
    assert "validation plays 8 episodes of at most 20 steps, and at the end 20, as the test does" in said
    assert (
        "38 updates of 64 environment steps; validation every 10 on at most 160, up to 11% of the work"
        in said
    )
    assert steps == [0, 10, 20, 30, 38]


def test_separate_envs_begin_by_the_recipe_s_seed_each_in_a_state_of_its_own():
    begun = []
    for seed in (0, 0, 1):
        recipe = replace_fields(a2c.RECIPES["a3c"], {"seed": seed, "num_envs": 3})
        begun.append([tuple(envs.observation.flatten().tolist()) for envs in make_separate_envs(recipe)])
    print(begun)
    assert begun[0] == begun[1]
    assert len({*begun[0], *begun[2]}) == 6
