"""Environments and wrappers by name: spaces of every kind, other packages' modules, errors of one line."""

import importlib.metadata
import sys
import types
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import torchstone as ts
from torchstone.cli.main import main
from torchstone.envs import make
from torchstone.envs.make import left_out, make_env, reward_number
from torchstone.envs.vector_env import VectorEnv
from torchstone.errors import BadInput


class Mission(spaces.Space):
    """Text by a space of its own, which Gymnasium cannot flatten."""

    def __init__(self):
        super().__init__(dtype=str)

    def sample(self, *_, **__):
        return "go"

    def contains(self, x):
        return isinstance(x, str)


class Parts(gymnasium.Env):
    """Observations of the space that it is given; two steps to an episode."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space, reward: Any = 1.0, end: Any = True):
        self.observation_space, self.reward, self.end, self.steps = space, reward, end, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        end = self.end if self.steps == 2 else False
        return self.observation_space.sample(), self.reward, end, False, {}


def register(name: str, **kwargs: Any) -> str:
    gymnasium.register(name, entry_point=Parts, kwargs=kwargs)
    return name


def test_dict_observations_leave_text_out_and_scale_bytes():
    space = spaces.Dict(
        {
            "direction": spaces.Discrete(4),
            "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
            "mission": Mission(),
            "inner": spaces.Tuple([spaces.Text(8), spaces.Box(-9, 9, (2,), np.float32)]),
        }
    )
    name = register("Quest-v0", space=space)
    envs, plain = VectorEnv(name, seed=5), make_env(name, (), None)[0].env
    seed = int(np.random.SeedSequence(5).generate_state(1)[0])
    given, _ = plain.reset(seed=seed)
    vector = envs.observation[0]
    image, inner = given["image"].reshape(-1) / np.float32(255), given["inner"][1]
    expected = {"direction": np.eye(4)[given["direction"]], "image": image, "inner": inner}
    pieces = [expected[key] for key in space.spaces if key in expected]
    print(vector.shape, "left out:", left_out(name))
    assert left_out(name) == ["inner.0", "mission"] or left_out(name) == ["mission", "inner.0"]
    assert vector.dtype == torch.float32
    np.testing.assert_allclose(vector.numpy(), np.concatenate(pieces).astype(np.float32), rtol=1e-6)
    assert make_env(name, ("FlattenObservation",), None)[0].observation_space.shape == vector.shape


def test_train_says_what_text_it_leaves_out(tmp_path):
    space = spaces.Dict({"numbers": spaces.Box(-1, 1, (3,), np.float32), "mission": Mission()})
    options = {"total_timesteps": 256, "epochs": 1, "eval_episodes": 2, "quiet": True, "device": "cpu"}
    run = ts.train("ppo/smoke", data=register("Text-v0", space=space), out=tmp_path / "run", **options)
    print(run.metadata["data"])
    assert "text is left out of the observations: mission" in run.metadata["data"]
    assert run.results["test/return"] == 2.0


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Box(0, 1, (2,))),
        spaces.Graph(spaces.Box(0, 1, (2,)), None),
        spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1, (2,))]),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Sequence(spaces.Discrete(2))}),
        spaces.Text(5),
        Mission(),
    ],
    ids=lambda space: type(space).__name__,
)
def test_spaces_without_fixed_size_are_refused(space, tmp_path, capsys):
    name = f"Refused{type(space).__name__}-v0"
    register(name, space=space)
    code = main(["train", "ppo/smoke", "--data", name, "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err.strip()
    print(code, error)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "no fixed size" in error or "nothing but text" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (spaces.Discrete(3, start=1), 3, [0, 0, 1]),
        (spaces.Discrete(3, start=1), np.array([1.0]), [1, 0, 0]),  # an array of one, as floats
        (spaces.Discrete(3), -1, None),
        (spaces.Discrete(3), 3, None),
        (spaces.Discrete(3), 0.5, None),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([2, 3], start=[5, 1]), np.array([5, 3]), [1, 0, 0, 0, 1]),
        (spaces.MultiDiscrete([2, 3]), np.array([2, 0]), None),  # would be the first of the next
        (spaces.MultiBinary([2, 2]), np.eye(2, dtype=np.int8), [1, 0, 0, 1]),
        (spaces.MultiBinary(2), np.array([7, 0]), None),
        (spaces.Box(-1, 1, (), np.float32), 0.5, [0.5]),
        (spaces.Box(0, 1000, (2,), np.int64), np.array([0, 500]), [0, 0.5]),
        (spaces.Box(0, 1000, (2,), np.int64), np.array([0.5, 0]), None),  # no whole number
        (spaces.Box(0, np.iinfo(np.int64).max, (2,), np.int64), np.array([0, 5]), [0, 5]),  # no bound
        (spaces.Box(0, 255, (1, 2), np.float32), np.array([[51, 255]]), [0.2, 1]),  # grey frames
        (spaces.Box(0, 255, (1, 2), np.float32), np.array([[0, 512]]), None),
        (spaces.Box(-2, 2, (1, 2), np.float32), np.array([[-2, 1]]), [[-2, 1]]),
        (spaces.Box(np.float32([0, 0]), np.float32([2, np.inf])), np.float32([2, 7]), [2, 7]),
    ],
)
def test_observations_are_what_their_space_says_or_refused(space, value, expected):
    """Gymnasium's flattening takes -1 for the last category, and 2 of 2 for the first of the next part."""

    class Constant(Parts):
        def reset(self, *, seed=None, options=None):
            return value, {}

    name = "Constant-v0"
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, entry_point=Constant, kwargs={"space": space})
    if expected is None:
        with pytest.raises(BadInput, match="Constant-v0: env 0 failed at step 0 at reset") as caught:
            VectorEnv(name)
        print(caught.value)
        return
    found = VectorEnv(name).observation[0]
    print(space, value, found)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("nested", [False, True], ids=["FlattenObservation", "dict"])
@pytest.mark.parametrize(
    ("dtype", "high"), [(np.uint8, 255), (np.float32, 255), (np.int16, 1023), (np.uint8, 1)]
)
def test_flattened_frames_are_scaled_as_frames_are(dtype, high, nested):
    frames = spaces.Box(0, high, (1, 2, 2), dtype)
    space, wrappers = (spaces.Dict({"view": frames}), ()) if nested else (frames, ("FlattenObservation",))
    name = "Framed-v0"
    gymnasium.registry.pop(name, None)
    envs = VectorEnv(register(name, space=space), wrappers=wrappers)
    largest = float(envs.observation_space.high.max())
    print(dtype, high, envs.observation.dtype, largest)
    is_bytes = dtype == np.uint8 and not nested  # which the network scales
    assert largest == (high if is_bytes else 1)
    assert envs.observation.dtype == (torch.uint8 if is_bytes else torch.float32)


@pytest.mark.parametrize(
    ("shape", "arguments", "expected"),
    [
        ((6, 4, 3), "", (3, 84, 84)),
        ((3, 6, 5), "", (3, 84, 84)),
        ((210, 160), "", (1, 84, 84)),
        ((3, 6, 3), ":channels=last", (3, 84, 84)),
        ((12, 6, 6), ":channels=first:size=9", (12, 9, 9)),
        ((3, 6, 3), "", "channels first or last: say which"),
        ((12, 6, 6), "", "channels at neither end: say which"),
        ((12,), "", "which have two or three dimensions"),
        ((12, 6, 3), ":channels=middle", "is first or last, not middle"),
    ],
)
def test_resize_frames_takes_frames_of_any_layout(shape, arguments, expected):
    name = "Resized-v0"
    gymnasium.registry.pop(name, None)
    register(name, space=spaces.Box(0, 255, shape, np.uint8))
    wrappers = (f"ResizeFrames{arguments}",)
    if isinstance(expected, str):
        with pytest.raises(BadInput, match=expected) as caught:
            VectorEnv(name, wrappers=wrappers)
        print(caught.value)
        return
    envs = VectorEnv(name, wrappers=wrappers, seed=3)
    raw = make_env(name, (), None)[0]
    raw.reset(seed=int(np.random.SeedSequence(3).generate_state(1)[0]))
    print(shape, tuple(envs.observation.shape), envs.observation.dtype)
    assert tuple(envs.observation.shape) == (1, *expected)
    assert envs.observation.dtype == torch.uint8
    plain, _ = raw.reset(seed=int(np.random.SeedSequence(3).generate_state(1)[0]))
    axis = 0 if len(shape) == 3 and expected[0] == shape[0] and "last" not in arguments else -1
    channels = plain[None] if len(shape) == 2 else np.moveaxis(plain, axis, 0)
    # area interpolation keeps each channel's mean, up to rounding
    np.testing.assert_allclose(envs.observation[0].double().mean((1, 2)), channels.mean((1, 2)), atol=0.5)


RECORDED = pytest.mark.parametrize("wrappers", [(), ("ClipReward:max_reward=5",)], ids=["plain", "recorded"])


@RECORDED
@pytest.mark.parametrize(
    ("number", "reward"),
    list(enumerate([np.array([1.5]), np.array([[1.5]]), np.float32(1.5), torch.tensor(1.5), [1.5]])),
)
def test_reward_of_one_element_is_a_number(number, reward, wrappers):
    name, space = f"Reward{number}{len(wrappers)}-v0", spaces.Box(0, 1, (2,))
    envs = VectorEnv(register(name, space=space, reward=reward, end=np.array([True])), 2, wrappers=wrappers)
    steps = [envs.step(torch.zeros(2, dtype=torch.int64)) for _ in range(2)]
    print(repr(reward), steps[1].reward, steps[1].returns)
    assert steps[0].reward.tolist() == [1.5, 1.5]
    assert steps[1].returns == [3.0, 3.0]
    assert steps[1].terminated.tolist() == [True, True]
    assert reward_number(reward) == 1.5


@RECORDED
@pytest.mark.parametrize(("number", "reward"), list(enumerate([np.ones(2), "1.5", None])))
def test_reward_that_is_no_number_is_refused(number, reward, wrappers):
    name, space = f"NoReward{number}{len(wrappers)}-v0", spaces.Box(0, 1, (2,))
    envs = VectorEnv(register(name, space=space, reward=reward), wrappers=wrappers)
    with pytest.raises(BadInput, match=r"failed at step 1 on action 0: .*is not one number") as caught:
        envs.step(torch.zeros(1, dtype=torch.int64))
    print(caught.value)


@pytest.fixture(name="package")
def _package(monkeypatch):
    """A package beside Gymnasium, with an environment and a wrapper."""
    module = types.ModuleType("beside")

    class Twice(gymnasium.RewardWrapper):
        def __init__(self, env, factors: tuple, enabled: bool):
            super().__init__(env)
            self.factor = sum(factors) if enabled else 1

        def reward(self, reward):
            return self.factor * reward

    module.Twice = Twice
    monkeypatch.setitem(sys.modules, "beside", module)
    if "Beside-v0" not in gymnasium.registry:
        register("Beside-v0", space=spaces.Box(0, 1, (2,)))
    return module


def test_wrappers_of_other_packages_take_literals(package):
    wrapper = "beside:Twice:factors=(2,3):enabled=true"
    step = VectorEnv("beside:Beside-v0", wrappers=[wrapper]).step(torch.zeros(1, dtype=torch.int64))
    print(wrapper, step.reward)
    assert step.reward.tolist() == [5.0]


def test_wrapper_lists_of_the_command_line_keep_commas_in_arguments(package, tmp_path, capsys):
    """A comma begins a new wrapper only before a name, and outside brackets."""
    wrappers = "PartialObservation:keep=0,1,beside:Twice:factors=(2,3):enabled=True"
    words = ["--total-timesteps", "256", "--eval-episodes", "2", "--epochs", "1", "--device", "cpu"]
    out = tmp_path / "run"
    code = main(
        [
            "train",
            "ppo/smoke",
            "--data",
            "beside:Beside-v0",
            "--wrappers",
            wrappers,
            "--out",
            str(out),
            *words,
        ]
    )
    print(code, capsys.readouterr().out)
    assert code == 0
    found = ts.runs.recipes.read_recipe(out)[2].wrappers
    assert found == ("PartialObservation:keep=0,1", "beside:Twice:factors=(2,3):enabled=True")


@pytest.mark.parametrize(
    ("spec", "wrappers", "message"),
    [
        ("Hopper-v2", (), "the newest version here is Hopper-v5"),
        ("nowhere:Beside-v0", (), "needs the module nowhere"),
        ("CartPole-v1", ("nowhere.wrappers:Grid",), "needs the module nowhere"),
        ("CartPole-v1", ("gymnasium.wrappers:ClipRewards",), "did you mean ClipReward"),
        ("CartPole-v1", ("ClipRewards",), "one of another package is module:Class"),
        ("CartPole-v1", ("FrameStackObservation:stack_size=(",), "does not fit"),
        ("CartPole-v1", ("ResizeObservation:shape=(84,84)",), "does not fit"),
    ],
)
def test_make_env_refuses_in_one_line(spec, wrappers, message, recwarn):
    with pytest.raises(BadInput, match=message) as caught:
        VectorEnv(spec, wrappers=wrappers)
    print(caught.value)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


def test_make_env_reports_what_a_constructor_raises():
    class Broken(gymnasium.Env):
        def __init__(self):
            raise RuntimeError("no licence\nfound")

    gymnasium.register("Broken-v0", entry_point=Broken)
    with pytest.raises(BadInput, match="Broken-v0 cannot be made: RuntimeError: no licence") as caught:
        VectorEnv("Broken-v0")
    print(caught.value)


def test_make_env_says_what_an_assertion_without_words_asserted(tmp_path, monkeypatch):
    lines = [
        "import gymnasium",
        "class Odd(gymnasium.Env):",
        "    def __init__(self):",
        "        assert 3 == 4",
    ]
    (tmp_path / "odd_env.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"odd_env:Odd cannot be made: AssertionError: assert 3 == 4$"):
        VectorEnv("odd_env:Odd")


@pytest.mark.parametrize(("version", "is_new"), [("3.11.0", False), ("3.12.0", True), ("4.0.0", True)])
def test_make_env_names_a_mujoco_that_gymnasium_robotics_bears(version, is_new, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    words = make._older_mujoco("gymnasium_robotics:FetchReach-v4")
    print(words)
    assert words.endswith("pip install 'torchstone[robotics]'") == is_new
    assert make._older_mujoco("CartPole-v1") == ""
