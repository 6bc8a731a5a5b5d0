"""What is known of an environment: another one under the same name is told apart."""

import importlib
import json
import sys
from pathlib import Path

import gymnasium
import pytest

from torchstone.cli.main import main
from torchstone.data import identity
from torchstone.envs.make import facts
from torchstone.errors import BadInput
from torchstone.tasks.rl.evaluate import record_env

SOURCE = """
import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (SIZE,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(SIZE, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(SIZE, np.float32), REWARD, self.time == 3, False, {}


def make(size=0):
    return Walk()
"""
WORDS = ["--total-timesteps", "32", "--num-steps", "16", "--num-envs", "1", "--epochs", "1", "--hidden", "4"]


@pytest.fixture(name="write")
def _write(tmp_path, monkeypatch):
    """Write the module `walks` into the current folder, and forget the one that was imported."""
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()

    def write(reward: float = 1.0, size: int = 2) -> None:
        text = SOURCE.replace("REWARD", repr(reward)).replace("SIZE", str(size))
        (tmp_path / "walks.py").write_text(f"{text}\n# {reward} {size}\n")
        sys.modules.pop("walks", None)
        for file in tmp_path.glob("__pycache__/walks*"):
            file.unlink()

    yield write
    sys.modules.pop("walks", None)


@pytest.mark.parametrize("name", ["Walk", "make"])
def test_a_class_or_function_of_a_module_in_the_current_folder_is_an_environment(name, write, capsys):
    write()
    known = facts(f"walks:{name}")
    print(known.identity)
    assert known.observation_space.shape == (2,)
    assert set(known.identity["source"]) == {"walks"}
    assert main(["train", "ppo/smoke", "--data", "walks:Wolk", "--out", "run"]) == 2
    assert "did you mean walks:Walk" in capsys.readouterr().err


def test_an_environment_that_changed_is_not_gone_on_with_unless_data_says_so(write, capsys):
    write(1.0)
    options = ["--data", "walks:Walk", "--out", "run", "--device", "cpu", "--eval-episodes", "2", *WORDS]
    longer = ["resume", "run", "--steps", "64"]
    assert main(["train", "ppo/smoke", *options]) == 0
    saved = json.loads(Path("run/recipe.json").read_text())["data"][0]["environment"]
    assert saved["wrappers"] == []
    assert set(saved["source"]) == {"walks"}
    write(2.0)
    capsys.readouterr()
    assert [main(longer), main(["eval", "run"])] == [2, 2]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("torchstone: ")]
    print(*lines, sep="\n")
    assert len(lines) == 2
    assert all("its source walks has changed" in line and "--data" in line for line in lines)
    assert main(["play", "run", "--episodes", "2"]) == 0  # as it is now
    assert main([*longer, "--data", "walks:Walk"]) == 0
    result = json.loads(Path("run/result.json").read_text())["metrics"]
    print(result)
    assert result["test/return"] == 6.0
    assert main(["eval", "run"]) == 0
    write(2.0, size=3)
    capsys.readouterr()
    assert main(["play", "run"]) == 2
    line = capsys.readouterr().err
    print(line)
    assert "now has observations of [3] and 2 actions, and the agent was trained on [2] and 2" in line


def identity_of(spec: str, wrappers: tuple = (), limit: int | None = None) -> list[dict]:
    with identity.listen() as heard:
        record_env(spec, wrappers, limit)
    return json.loads(json.dumps(heard.sources))


def test_identity_knows_spaces_arguments_wrappers_and_time_limit():
    gymnasium.register(
        "Lake-v7", "gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv", kwargs={"map_name": "4x4"}
    )
    before = identity_of("Lake-v7")
    assert identity.differences(before, identity_of("Lake-v7")) is None
    others = {
        "its wrappers was [] and is now ['FlattenObservation']": identity_of(
            "Lake-v7", ("FlattenObservation",)
        ),
        "its chosen time limit was None and is now 9": identity_of("Lake-v7", limit=9),
    }
    gymnasium.register(
        "Lake-v7", "gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv", kwargs={"map_name": "8x8"}
    )
    others["its kwargs was {'map_name': '4x4'} and is now {'map_name': '8x8'}"] = identity_of("Lake-v7")
    for expected, now in others.items():
        found = identity.differences(before, now)
        print(found)
        assert expected in found
    assert "its observation space was Box(0.0, 1.0, (16,)" in found
    known_by_name_only = [{key: value for key, value in before[0].items() if key != "environment"}]
    assert identity.differences(known_by_name_only, identity_of("Lake-v7")) is None


def test_facts_are_not_of_an_environment_that_had_the_name_before():
    """As in a notebook, where a cell is run again."""
    for size in (2, 3):
        space = gymnasium.spaces.Box(0, 1, (size,))

        class Cell(gymnasium.Env):
            observation_space, action_space = space, gymnasium.spaces.Discrete(size)

        gymnasium.register("Cell-v0", entry_point=Cell)
        found = facts("Cell-v0")[:2]
        print(found)
        assert found == (space, gymnasium.spaces.Discrete(size))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vector", "is a vector of environments"),
        ("nothing", "gives a NoneType, which is no environment of Gymnasium"),
        ("spaceless", "states no observation_space"),
    ],
)
def test_what_is_no_single_environment_is_refused(name, message, monkeypatch):
    class Spaceless(gymnasium.Env):
        action_space = gymnasium.spaces.Discrete(2)

    module = type(sys)("others")
    module.vector = lambda: gymnasium.make_vec("CartPole-v1", 2)
    module.nothing = lambda: None
    module.spaceless = Spaceless
    monkeypatch.setitem(sys.modules, "others", module)
    with pytest.raises(BadInput, match=message) as caught:
        facts(f"others:{name}")
    print(caught.value)
