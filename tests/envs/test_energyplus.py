"""EnergyPlus as an environment: rewards, seeds, replay and the handover, with a small engine in its place; the engine
itself where it is installed, in the sweep."""

import importlib.util
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import toy_room
from toy_room import Room

from torchstone.cli.main import main
from torchstone.envs import energyplus, make
from torchstone.envs.energyplus import Reading, data_center, edit_model, observation, reward
from torchstone.envs.energyplus_process import EnergyPlusError, EnergyPlusProcess
from torchstone.envs.env_state import restore, snapshot
from torchstone.envs.make import in_split, make_env
from torchstone.errors import BadInput

SPEC = "energyplus:2zone_datacenter"
READING = Reading(20.0, 50.0, 25.0, 24.0, 16.0, 0.5, 18e6, 9e6, 90e6)


@pytest.fixture
def rooms():
    Room.running = 0
    return lambda **options: data_center(Room, 3, **options)


def rollout(env, actions):
    return [(o.tolist(), r) for o, r, *_ in map(env.step, actions)]


def test_reward_is_energy_and_what_is_outside_of_the_narrowed_band():
    assert reward(READING) == pytest.approx(-27e6 / 900 / 10e3)  # 30 kW
    # half a kelvin beyond is as bad as it gets
    for east, west, penalty in ((26.8, 18.2, 0.0), (27.0, 24.0, 0.4), (17.0, 28.0, 2.0), (24.0, 26.9, 0.2)):
        found = reward(READING._replace(east=east, west=west)) - reward(READING)
        assert found == pytest.approx(-penalty), (east, west)
    assert READING._replace(east=27.0).is_in_band
    assert not READING._replace(west=27.01).is_in_band
    assert not READING._replace(east=17.9).is_in_band


def test_the_observation_is_in_units_of_about_one():
    values = observation(READING, day=91, steps=24)  # six in the morning, a quarter of a year on
    expected = [1 / 3, 0.5, 0.2, 0.0, 0.5, 1.0, 100e3 / 120e3, 1.0, 0.0]
    assert values[:9] == pytest.approx(expected, abs=1e-6)
    assert values[9:] == pytest.approx([math.sin(2 * math.pi * 0.25), 0.0], abs=1e-3)


def test_weather_and_day_follow_from_the_seed(rooms):
    env, found = rooms(), set()
    for seed in range(40):
        env.reset(seed=seed)
        first = env.weather, env.day
        env.reset(seed=seed)
        assert (env.weather, env.day) == first
        found.add(first)
    assert {weather for weather, _ in found} == {0, 1, 2}
    assert min(day for _, day in found) < 60
    assert max(day for _, day in found) > 300
    env.reset(seed=0)
    first = env.weather, env.day
    env.reset()  # the next episode is another one
    assert (env.weather, env.day) != first
    assert Room.running == 1


def test_a_checkpoint_plays_the_actions_again(rooms):
    actions = np.random.default_rng(0).uniform([20, 12], [27, 18], (30, 2)).astype(np.float32)
    one, other = rooms(), rooms()
    one.reset(seed=4), other.reset(seed=9)
    rollout(one, actions[:20]), rollout(other, actions[20:])
    restore(other, snapshot(one))
    assert rollout(one, actions[20:]) == rollout(other, actions[20:])
    assert one.reset()[0].tolist() == other.reset()[0].tolist()
    assert Room.running == 2
    one.close(), other.close(), other.close()
    assert Room.running == 0


def test_without_the_replay_it_does_not(rooms):
    """The test above can fail."""
    one, other = rooms(), rooms()
    one.reset(seed=4), other.reset(seed=4)
    actions = np.full((20, 2), 20.0, np.float32)
    rollout(one, actions)
    type(other).replay = lambda self: self._begin()
    restore(other, snapshot(one))
    assert rollout(one, actions[:1]) != rollout(other, actions[:1])


def test_an_episode_is_compared_with_the_fixed_set_point_in_its_own_weather(rooms):
    calls = []

    def fixed(weather, day):
        calls.append((weather, day))
        return Room(weather, day)

    env = rooms(compare=energyplus.Compared(fixed))
    env.reset(seed=1)
    key = env.weather, env.day
    rollout(env, np.full((50, 2), (26.0, 12.0), np.float32))
    env.reset()
    assert not calls  # only when asked
    one = env.last_episode()
    again = env.last_episode()
    assert calls == [key]
    assert one == again
    assert one["in_band"] == one["fixed_in_band"] == 1
    assert one["hvac_kilowatts"] < one["fixed_hvac_kilowatts"]
    assert one["it_kilowatts"] == pytest.approx(90)
    other = {**one, "hvac_kilowatts": one["hvac_kilowatts"] / 2}
    means = {name: (one[name] + other[name]) / 2 for name in one}
    saving = env.derive(means)["hvac_saving"]
    assert saving == pytest.approx(1 - 0.75 * one["hvac_kilowatts"] / one["fixed_hvac_kilowatts"])
    rollout(env, np.full((4, 2), (40.0, 12.0), np.float32))
    env.reset()
    assert env.last_episode()["in_band"] < 1


def test_the_thermostat_alone_is_one_action(rooms):
    env = rooms(chooses_supply=False)
    assert env.action_space.shape == (1,)
    assert rooms().action_space.low.tolist() == [20, 12]
    assert rooms().action_space.high.tolist() == pytest.approx([26.8, 18])


def test_the_interlock_bounds_the_supply_air_of_loaded_servers(rooms):
    most = energyplus.SUPPLY_WHEN_LOADED
    for load, chosen, carried_out in (
        (0.7, 18.0, most),
        (1.0, 18.0, most),
        (1.0, 12.0, 12.0),
        (0.69, 18.0, 18.0),
    ):
        assert energyplus.interlock([26.0, chosen], READING._replace(load=load)) == [26.0, carried_out]
    action = np.full((20, 2), (26.0, 18.0), np.float32)
    for env, expected in ((rooms(has_interlock=True), {most, 18.0}), (rooms(), {18.0})):
        env.reset(seed=3)
        loads = [env.reading.load] + [env.step(each)[4]["reading"].load for each in action]
        # by what was known when the action was chosen
        supply = [setpoints[1] for setpoints in env.actions]
        assert set(supply) == expected
        if len(expected) == 2:
            assert [each == most for each in supply] == [load >= energyplus.LOADED for load in loads[:-1]]


def test_the_interlock_is_of_its_own_environment(monkeypatch):
    toy_room.install(monkeypatch)
    for split, steps in (("", energyplus.TRAINING_STEPS), (":validation", 672), (":test", 672)):
        for name, bounded in ((SPEC, 18.0), (f"{SPEC}:interlock", energyplus.SUPPLY_WHEN_LOADED)):
            env, limit = make_env(f"{name}{split}", (), None)
            assert limit == steps
            env.reset(seed=0)
            for _ in range(8):
                env.step(np.array([26.0, 18.0]))
            assert min(setpoints[1] for setpoints in env.unwrapped.actions) == bounded


MODEL = {
    "RunPeriod": {"period": {"begin_month": 1}},
    "Output:Variable": {"all": {}},
    "Schedule:Compact": {"Cooling Setpoints": {}},
    "SetpointManager:SingleZone:Cooling": {"east": {"setpoint_node_or_nodelist_name": "nodes"}},
}


def test_the_run_period_is_a_year_from_the_day_on():
    edited = edit_model(MODEL, 59, chooses_supply=False)
    period = edited["RunPeriod"]["period"]
    assert (period["begin_year"], period["begin_month"], period["begin_day_of_month"]) == (1990, 3, 1)
    assert (period["end_year"], period["end_month"], period["end_day_of_month"]) == (1991, 2, 28)
    assert period["day_of_week_for_start_day"] == "Thursday"
    assert edited["SetpointManager:SingleZone:Cooling"] == MODEL["SetpointManager:SingleZone:Cooling"]
    assert not any(name.startswith("Output") for name in edited)


def test_a_schedule_takes_the_place_of_the_models_own_manager():
    before = json.dumps(MODEL)
    edited = edit_model(MODEL, 0, chooses_supply=True)
    assert "SetpointManager:SingleZone:Cooling" not in edited
    scheduled = edited["SetpointManager:Scheduled"]["east"]
    assert scheduled["schedule_name"] in edited["Schedule:Compact"]
    assert scheduled["setpoint_node_or_nodelist_name"] == "nodes"
    assert json.dumps(MODEL) == before
    for missing in ("RunPeriod", "SetpointManager:SingleZone:Cooling"):
        with pytest.raises(BadInput, match=f"no {missing}"):
            edit_model({k: v for k, v in MODEL.items() if k != missing}, 0, chooses_supply=True)


def test_evaluation_is_in_other_weather():
    assert in_split(SPEC, "test") == f"{SPEC}:test"
    assert in_split(f"{SPEC}:validation", "test") == f"{SPEC}:validation"
    assert in_split("CartPole-v1", "test") == "CartPole-v1"
    names = [name for split in energyplus.WEATHER.values() for name in split]
    assert len(names) == len(set(names)) == 14


# ------------------------------------------------------------------------------------------- the handover
# A library in the engine's place: the functions that the child calls, and a main loop that calls back.
LIBRARY = """
import ctypes, types
class Api:
    def __init__(self):
        self.registered, self.value, self.step = [], 0.0, -2
    def __getattr__(self, name):
        function = types.SimpleNamespace()
        found = getattr(Api, "do_" + name, None)
        call = (lambda *a: found(self, *a)) if found else (lambda *a: 0)
        class Function:
            argtypes = restype = None
            def __call__(_, *a): return call(*a)
        return Function()
    def do_stateNew(self): return 1
    def do_apiDataFullyReady(self, state): return 1
    def do_warmupFlag(self, state): return self.step < 0
    def do_kindOfSim(self, state): return 3
    def do_getVariableHandle(self, state, kind, key): return -1 if key == b"nowhere" else 7
    def do_getMeterHandle(self, state, name): return 8
    def do_getActuatorHandle(self, state, *names): return 9
    def do_getVariableValue(self, state, handle): return float(self.step)
    def do_getMeterValue(self, state, handle): return self.value
    def do_setActuatorValue(self, state, handle, value): self.value += value
    def do_callbackEndOfZoneTimeStepAfterZoneReporting(self, state, f): self.registered.append(f)
    def do_energyplus(self, state, count, arguments):
        print("Warming up")
        for self.step in range(-2, 4):
            for f in self.registered: f(state)
        print("   **  Fatal  ** out of weather", flush=True)
        return 1
ctypes.CDLL = lambda path: Api()
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A process whose child has `LIBRARY` for the engine."""
    source = Path(energyplus.__file__).with_name("energyplus_process.py").read_text()
    script = tmp_path / "child.py"
    script.write_text(LIBRARY + source.replace("import contextlib\nimport ctypes\n", "import contextlib\n"))
    monkeypatch.setattr("torchstone.envs.energyplus_process.__file__", str(script))

    def start(key="Environment"):
        return EnergyPlusProcess(
            Path("library"),
            Path("model"),
            Path("weather"),
            TemporaryDirectory(dir=tmp_path),
            variables=[("Temperature", key)],
            meters=["Electricity:HVAC"],
            actuators=[("a", "b", "c"), ("d", "e", "f")],
        )

    return start


def test_the_child_hands_over_after_each_step_of_the_run_period(child):
    engine = child()
    assert engine.read() == (0.0, 0.0)  # nothing of the warm-up
    engine.write(1.5, 0.25)
    assert engine.read() == (1.0, 1.75)
    engine.write(0.0, 1.0)
    assert engine.read() == (2.0, 2.75)
    folder = Path(engine.folder.name)
    assert (folder / "stdout.txt").exists()
    engine.close()  # in the middle
    assert not folder.exists()
    assert engine.process.poll() is not None


def test_a_child_ends_with_its_parent_and_leaves_nothing(child):
    for waits in (True, False):  # for the answer; with a report that nobody reads
        engine = child()
        if waits:
            engine.read()
        folder = Path(engine.folder.name)
        engine.process.stdout.close()
        engine.process.stdin.close()
        assert engine.process.wait(timeout=60) == 0
        assert not folder.exists()


def test_the_end_of_the_engine_is_its_own_words(child):
    engine = child()
    engine.read()
    for _ in range(3):
        engine.write(0.0, 0.0)
        engine.read()
    engine.write(0.0, 0.0)
    with pytest.raises(EnergyPlusError, match="ended with 1: Fatal out of weather"):
        engine.read()
    engine.close()


def test_what_the_model_lacks_is_named(child):
    engine = child("nowhere")
    with pytest.raises(EnergyPlusError, match="ended with 3: the model has no Temperature, nowhere"):
        engine.read()
    engine.close()


def test_no_engine_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    make._facts.cache_clear()
    energyplus.bundled.cache_clear()
    assert main(["train", "sac/cooling", "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert "pip install 'torchstone[cooling]'" in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_no_model_or_weather_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(energyplus, "find_library", lambda: Path("library"))
    with pytest.raises(BadInput, match=r"no model energyplus:nowhere: .*FOLDER"):
        make_env("energyplus:nowhere", (), None)
    with pytest.raises(BadInput, match=r"0 models .* and 0 weather files \(train/"):
        make_env(f"energyplus:{tmp_path}", (), None)
    (tmp_path / "one.epJSON").write_text(json.dumps(MODEL))
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.epw").write_text("weather")
    env, limit = make_env(f"energyplus:{tmp_path}:test", (), None)
    assert limit == 672
    assert env.spec.kwargs["weather"] == "test"
    env, _ = make_env(f"energyplus:{tmp_path}:thermostat", (), None)
    assert env.action_space.shape == (1,)


# ------------------------------------------------------------------------------------------ the engine itself
@pytest.mark.sweep
def test_the_engine_is_exact_and_keeps_its_set_points():
    from torchstone.envs.vector_env import is_snapshot_exact

    assert is_snapshot_exact(SPEC)
    env, _ = make_env(f"{SPEC}:test", (), None)
    env.reset(seed=1)
    for zone in (22.0, 26.0):
        for _ in range(40):  # at night the servers warm a zone slowly
            *_, info = env.step(np.array([zone, 12.0]))
        reading = info["reading"]
        print(zone, reading)
        assert abs(reading.east - zone) < 0.1
        assert 0 < reading.power < reading.it_power
    env.close()


@pytest.mark.sweep
def test_constant_set_points_give_the_known_temperatures():
    """Measured before in another program: the model's own manager, 14 days of January in Chicago."""
    make_engine = energyplus.engines(energyplus.read_files("2zone_datacenter", "train"), chooses_supply=False)
    found = {}
    for setpoint in (20.0, 24.0):
        readings = energyplus.constant_episode(make_engine(0, 0), (setpoint,), 14 * 96)
        temperature = np.mean([each.west for each in readings])
        found[setpoint] = np.mean([each.power for each in readings])
        print(setpoint, temperature, found[setpoint])
        assert temperature == pytest.approx({20.0: 20.84, 24.0: 24.41}[setpoint], abs=0.05)
    assert found[20.0] == pytest.approx(9522, rel=0.03)
    assert found[24.0] == pytest.approx(9410, rel=0.03)
