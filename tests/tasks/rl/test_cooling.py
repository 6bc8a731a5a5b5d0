"""Cooling: the controllers' rules by hand, evaluation in other weather, and a picture of a week; a toy room runs."""

import json

import numpy as np
import pytest
import torch
import toy_room
from PIL import Image
from toy_room import Room

import torchstone as ts
from torchstone.envs.make import make_env
from torchstone.envs.vector_env import is_snapshot_exact
from torchstone.errors import BadInput
from torchstone.plots.cooling import energy_against_band
from torchstone.tasks.rl.cooling import BandIntegral, FixedSetpoints, SupplyReset, play_week, thermostat_alone

SPEC = "energyplus:2zone_datacenter"


def observed(outdoor: list[float], zone: list[float]):
    """Observations with these temperatures in °C; the west zone is a degree below."""
    values = torch.zeros(len(outdoor), 11)
    values[:, 0] = (torch.tensor(outdoor) - 15) / 15
    values[:, 2] = (torch.tensor(zone) - 24) / 5
    values[:, 3] = values[:, 2] - 0.2
    return values


def test_supply_reset_is_linear_between_16_and_21_degrees_outdoors():
    state = (torch.full((1, 4, 1), 17.9),)
    action, (most,) = SupplyReset(26.0).greedy(observed([5.0, 16.0, 18.5, 25.0], [25.0] * 4), None, state)
    assert action[:, 0].tolist() == [26.0] * 4
    assert action[:, 1].tolist() == pytest.approx([18.0, 18.0, 15.0, 12.0], abs=1e-4)
    assert most[0, :, 0].tolist() == pytest.approx([18.0] * 4)


def test_supply_reset_trims_and_responds():
    rule, state = SupplyReset(26.0), (torch.full((1, 2, 1), 15.0),)
    action, state = rule.greedy(observed([5.0, 5.0], [26.2, 26.4]), None, state)
    assert action[:, 1].tolist() == pytest.approx([15.1, 14.7])
    for _ in range(40):
        action, state = rule.greedy(observed([5.0, 5.0], [26.2, 26.4]), None, state)
    assert action[:, 1].tolist() == pytest.approx([18.0, 12.0])
    assert rule.initial_state(3)[0].shape == (1, 3, 1)


def test_band_integral_moves_towards_the_warmer_zone():
    rule = BandIntegral(target=26.5, gain=0.5)
    action, (state,) = rule.greedy(observed([5.0, 5.0], [25.5, 30.0]), None, rule.initial_state(2))
    assert action[:, 0].tolist() == pytest.approx([24.5, 22.25])
    assert torch.equal(state[0], action)


def test_an_agent_is_validated_and_tested_in_other_weather(tmp_path, monkeypatch, capsys):
    toy_room.install(monkeypatch)
    opened = []
    read = toy_room.energyplus.read_files
    monkeypatch.setattr(
        toy_room.energyplus, "read_files", lambda name, split: opened.append(split) or read(name, split)
    )
    fields = {"total_timesteps": 64, "learning_starts": 32, "batch_size": 16, "eval_episodes": 2}
    ts.train("sac/cooling", out=tmp_path / "run", quiet=True, device="cpu", max_episode_steps=40, **fields)
    assert set(opened) == {"train", "validation", "test"}
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    print(metrics)
    saving = 1 - metrics["test/hvac_kilowatts"] / metrics["test/fixed_hvac_kilowatts"]
    assert metrics["test/hvac_saving"] == pytest.approx(saving)
    assert 0 <= metrics["test/in_band"] <= 1
    picture = next((tmp_path / "run").rglob("week.png"))
    assert np.asarray(Image.open(picture)).std() > 10
    assert ts.evaluate(tmp_path / "run") == {
        name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")
    }
    ts.play(tmp_path / "run", episodes=1, picture=tmp_path / "one.png", seed=5)
    assert (tmp_path / "one.png").exists()
    with pytest.raises(BadInput, match="against is of games"):
        ts.play(tmp_path / "run", against="random")


def test_whoever_plays_has_the_same_weather(monkeypatch):
    toy_room.install(monkeypatch)
    cool = play_week(FixedSetpoints(21.0), f"{SPEC}:thermostat:test", 7, steps=50)
    warm = play_week(FixedSetpoints(26.0, 13.0), f"{SPEC}:test", 7, steps=50)
    other = play_week(FixedSetpoints(26.0, 13.0), f"{SPEC}:test", 8, steps=50)
    assert [each.outdoor for each in cool.readings] == [each.outdoor for each in warm.readings]
    assert [each.outdoor for each in other.readings] != [each.outdoor for each in warm.readings]
    assert warm.setpoints.tolist() == [[26.0, 13.0]] * 50
    assert cool.readings[-1].power > warm.readings[-1].power
    assert thermostat_alone(f"{SPEC}:test") == thermostat_alone(f"{SPEC}:thermostat:test")
    assert thermostat_alone(f"{SPEC}:interlock:test") == thermostat_alone(f"{SPEC}:test")
    env, _ = make_env(f"{SPEC}:thermostat:test", (), None)
    assert env.action_space.shape == (1,)


def test_resuming_is_exact_and_no_room_is_left_open(monkeypatch):
    toy_room.install(monkeypatch)
    Room.running = 0
    assert is_snapshot_exact(SPEC)
    assert Room.running == 0


def test_energy_against_band_draws_each_kind_in_a_color_of_its_own(tmp_path):
    points = {"a": (30.0, 1.0, "fixed"), "b": (25.0, 0.9, "agent"), "c": (28.0, 0.5, "agent")}
    energy_against_band(points, "title", tmp_path / "energy.png")
    pixels = np.asarray(Image.open(tmp_path / "energy.png").convert("RGB")).reshape(-1, 3)
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == color).all(1).sum() > 20


@pytest.mark.sweep
def test_a_killed_training_with_the_engine_goes_on_to_the_bit(tmp_path):
    from torchstone.envs.vector_env import VectorEnv

    actions = torch.rand(30, 2, 2, generator=torch.Generator().manual_seed(0)) * 6 + 12
    actions[..., 0] += 8
    one, other = VectorEnv(SPEC, 2, seed=3), VectorEnv(SPEC, 2, seed=9)
    for each in actions[:20]:
        one.step(each)
    other.load_state_dict(one.state_dict())
    for each in actions[20:]:
        a, b = one.step(each), other.step(each)
        assert torch.equal(a.next_observation, b.next_observation)
        assert torch.equal(a.reward, b.reward)
    one.close(), other.close()
