"""A traffic light: the switch rule, seeds, reward and replay on a toy crossing; SUMO itself in the sweep."""

import itertools

import numpy as np
import pytest
import torch
import toy_crossing
from toy_crossing import SIGNAL, ToyEngine

from torchstone.envs import traffic as module
from torchstone.envs.make import facts, make_env
from torchstone.envs.sumo_process import Phase, Signal
from torchstone.envs.traffic import find_scenario, green_phases, traffic, yellow_state
from torchstone.envs.vector_env import VectorEnv, is_snapshot_exact
from torchstone.errors import BadInput

CROSSING = "toy_crossing:crossing"


def crossing():
    return toy_crossing.crossing().unwrapped


def hour(env, actions, **reset):
    """Observations, rewards, and when each decision came."""
    observation, _ = env.reset(**reset)
    observations, rewards, times, is_over = [observation], [], [], False
    while not is_over:
        times.append(env.detectors.time)
        observation, reward, terminated, is_over, _ = env.step(actions(len(times)))
        assert not terminated
        observations.append(observation)
        rewards.append(reward)
    return np.stack(observations), rewards, times


def test_phases_are_the_programs_greens():
    assert green_phases(SIGNAL) == ["Gr", "rG"]
    phases = [Phase(state, 1, 1, 1) for state in ("rrr", "GrG", "yrG", "rGG", "GrG", "ssr")]
    assert green_phases(Signal("s", tuple(phases), (), ())) == [
        "GrG",
        "rGG",
    ]  # all red is no choice, nor twice


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [("Gr", "rG", "yr"), ("GGggrr", "rrGGGG", "yyggrr"), ("GsrO", "sGrO", "ysrO"), ("gG", "Gg", "gG")],
)
def test_only_who_loses_green_is_yellow(before, after, between):
    assert yellow_state(before, after) == between


def test_every_action_is_carried_out():
    """sumo-rl drops an action that comes within 7 s of a switch without a word."""
    env = crossing()
    _, _, times = hour(env, lambda t: t % 2, seed=0)  # switch at every decision
    calls = env.engine.calls
    greens = [state for _, state in calls if "G" in state]
    assert len(greens) >= len(times) - 1  # the hour may end in yellow
    assert greens == [SIGNAL.phases[0].state if t % 2 == 0 else "rG" for t in range(1, len(greens) + 1)]
    assert np.diff(times).tolist() == [7] * (len(times) - 1)


def test_a_switch_takes_yellow_and_the_least_green():
    env = crossing()
    env.reset(seed=0)
    for action in (0, 1, 1, 0):
        env.step(action)
    assert env.engine.calls[1:] == [(5, "yr"), (7, "rG"), (17, "ry"), (19, "Gr")]
    assert env.detectors.time == 24  # 5 + 7 + 5 + 7


def test_no_phase_is_switched_to_green_without_yellow_and_greens_last():
    generator = np.random.default_rng(0)
    env = crossing()
    hour(env, lambda t: int(generator.integers(2)), seed=1)
    changes = env.engine.calls
    for (begin, state), (end, following) in itertools.pairwise(changes):
        assert end - begin == 2 if "y" in state else end - begin >= 5
        assert ("y" in state) != ("y" in following)


@pytest.mark.parametrize("policy", [lambda t: 0, lambda t: t % 2, lambda t: t // 3 % 2])
def test_an_hour_is_as_long_whatever_is_done(policy):
    env = crossing()
    hour(env, policy, seed=2)
    assert env.detectors.time == toy_crossing.SECONDS
    assert len(env.actions) <= env._max_episode_steps == 60
    assert VectorEnv(CROSSING).episode_limit == 60


def test_a_seed_begins_a_sequence_of_days_and_not_one_day_for_ever():
    env = crossing()
    days = [
        hour(env, lambda t: t // 2 % 2, seed=5)[0],
        *(hour(env, lambda t: t // 2 % 2)[0] for _ in range(3)),
    ]
    seeds = env.engine.begun
    assert len(set(seeds)) == 4
    assert not any(np.array_equal(days[0], other) for other in days[1:])
    again = hour(env, lambda t: t // 2 % 2, seed=5)[0]
    assert np.array_equal(days[0], again)
    hour(env, lambda t: 0)
    assert env.engine.begun[4:] == seeds[:2]


def test_training_sees_another_day_in_each_episode():
    envs = VectorEnv(CROSSING, 2, seed=3)
    for t in range(130):
        envs.step(torch.full((2,), t % 2))
    begun = [seed for env in envs.backend.envs for seed in env.unwrapped.engine.begun]
    print(begun)
    assert len(begun) == len(set(begun)) >= 6


def test_the_reward_is_minus_the_mean_waiting():
    env = crossing()
    env.reset(seed=0)
    waiting, total, is_over = [], 0.0, False
    while not is_over:
        *_, reward, _, is_over, _ = env.step(0)
        waiting += [sample.waiting for sample in env.detectors.samples]
        total += reward
    assert len(waiting) == 60
    # east waits for ever: samples at every fifth second, the reward at each
    assert total == pytest.approx(-sum(waiting), rel=0.05)
    assert total < -1000


def test_an_observation_shows_each_lane():
    env = crossing()
    env.reset(seed=0)
    for action in (1, 0, 0):
        observation, *_ = env.step(action)
    seen = env.detectors
    assert observation.dtype == np.float32
    expected = [1, 0, 10 / 60]
    expected += [seen.vehicles[lane] / 10 for lane in SIGNAL.lanes]
    expected += [seen.stopped[lane] / 10 for lane in SIGNAL.lanes]
    expected += [seen.near[lane] / 10 for lane in SIGNAL.lanes]
    expected += [seen.waiting[lane] / 100 for lane in SIGNAL.lanes]
    np.testing.assert_allclose(observation, expected, rtol=1e-6)
    assert env.observation_space.contains(observation)
    assert observation[-1] > 0


def test_a_checkpoint_continues_the_very_day():
    assert is_snapshot_exact(CROSSING)
    one, other = VectorEnv(CROSSING, 2, seed=3), VectorEnv(CROSSING, 2, seed=9)
    for t in range(70):
        one.step(torch.full((2,), t // 3 % 2))
    other.load_state_dict(one.state_dict())
    for t in range(60):  # into the next day
        actions = torch.full((2,), t % 2)
        assert all(map(torch.equal, one.step(actions)[:4], other.step(actions)[:4]))
    assert one.replays
    assert not VectorEnv("CartPole-v1").replays


def test_without_its_last_action_it_does_not():
    """The test above can fail."""
    one, other = VectorEnv(CROSSING, 1, seed=3), VectorEnv(CROSSING, 1, seed=9)
    for t in range(10):
        one.step(torch.full((1,), t // 3 % 2))
    inner = other.backend.envs[0].unwrapped
    replay = type(inner).replay
    type(inner).replay = lambda self: (self.actions.pop(), replay(self))
    other.load_state_dict(one.state_dict())
    assert not torch.equal(
        one.step(torch.tensor([1])).next_observation, other.step(torch.tensor([1])).next_observation
    )


def test_a_frame_shows_lights_and_vehicles():
    env = crossing()
    env.reset(seed=0)
    for _ in range(10):
        env.step(0)
    frame = env.render()
    colors = {tuple(color) for color in frame.reshape(-1, 3)}
    assert frame.shape == (480, 480, 3)
    assert {(40, 170, 70), (200, 40, 40), (150, 150, 150), (20, 20, 20)} <= colors
    before = frame.copy()
    env.step(1)
    assert not np.array_equal(before, env.render())


def test_a_missing_simulator_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "is_installed", lambda: False)
    with pytest.raises(BadInput, match=r"^sumo:cologne1 needs SUMO.*: pip install 'torchstone\[traffic\]'$"):
        make_env("sumo:cologne1", (), None)


def test_a_scenario_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "is_installed", lambda: True)
    monkeypatch.setattr(
        module, "known_scenarios", lambda: iter([("cologne1", tmp_path / "cologne1.sumocfg")])
    )
    with pytest.raises(BadInput, match=r"no scenario 'sumo:colonge1': did you mean cologne1"):
        find_scenario("sumo:colonge1")
    with pytest.raises(BadInput, match=r"no file .*my.sumocfg"):
        find_scenario(f"sumo:{tmp_path}/my.sumocfg")
    (tmp_path / "my.sumocfg").touch()
    assert find_scenario(f"sumo:{tmp_path}/my.sumocfg") == tmp_path / "my.sumocfg"


def test_several_signals_are_refused():
    class Two(ToyEngine):
        def describe(self):
            return toy_crossing.SCENARIO._replace(signals=(SIGNAL, SIGNAL))

    with pytest.raises(BadInput, match="has 2 signals, and an agent controls one"):
        traffic("two", engine=Two)


def sumo_hour(envs, actions):
    steps = [envs.step(torch.tensor([action])) for action in actions]
    return torch.cat([step.next_observation for step in steps]), torch.cat([step.reward for step in steps])


ACTIONS = [t // 3 % 4 for t in range(80)]


@pytest.mark.sweep
def test_sumo_is_a_function_of_seed_and_actions_and_two_seeds_are_two_days():
    envs = VectorEnv("sumo:cologne1", seed=1)
    first = sumo_hour(envs, ACTIONS)
    envs.reset(2)
    other = sumo_hour(envs, ACTIONS)
    envs.reset(1)
    again = sumo_hour(envs, ACTIONS)
    assert all(map(torch.equal, first, again))  # in a process that has played before
    assert not torch.equal(first[0], other[0])
    envs.close()


@pytest.mark.sweep
def test_an_hour_does_not_depend_on_those_before():
    """In one process the same seed is another day from the third episode on, seen at the end of the hour."""
    from torchstone.envs.sumo_process import SumoProcess

    process, hours = SumoProcess(find_scenario("sumo:cologne1")), []
    for _ in range(3):
        time, cost = process.begin(12345).time, []
        while time < 28_800:
            detectors = process.advance([{}] * 60)
            time = detectors.time
            cost.append(detectors.cost)
        hours.append(cost)
    process.close()
    assert hours[0] == hours[1] == hours[2]
    assert sum(hours[0]) / 3600 == pytest.approx(8.586, abs=0.01)


@pytest.mark.sweep
def test_a_checkpoint_in_sumo_continues_the_very_day():
    one, other = VectorEnv("sumo:cologne1", seed=3), VectorEnv("sumo:cologne1", seed=9)
    sumo_hour(one, ACTIONS)
    other.load_state_dict(one.state_dict())
    assert one.is_exact
    assert all(map(torch.equal, sumo_hour(one, ACTIONS[::-1]), sumo_hour(other, ACTIONS[::-1])))
    one.close(), other.close()


@pytest.mark.sweep
def test_sumo_carries_out_every_switch():
    env, _ = make_env("sumo:cologne1", (), None)
    inner = env.unwrapped
    env.reset(seed=0)
    states = []
    for t in range(40):
        env.step(t % 4)
        states += [state for (state,) in inner.detectors.states]
        assert states[-1] == inner.timer.greens[t % 4]
    assert states.count(inner.timer.greens[1]) == 50  # 10 times 5 s
    assert env.render().shape == (480, 480, 3)
    process = inner.engine.process
    env.close()
    assert process.poll() == 0  # nothing is left running


@pytest.mark.sweep
def test_the_fixed_program_waits_as_in_sumo_alone():
    """8.8 s and 15.6 vehicles (sumo-rl's measure, libsumo straight, seed 1)."""
    from torchstone.envs.traffic_control import Hour

    env, _ = make_env("sumo:cologne1", (), None)
    inner, hour = env.unwrapped, Hour()
    inner.engine.begin(1)
    for _ in range(720):
        hour.add(inner.engine.advance([{}] * 5), inner.signal)
    env.close()
    assert hour.measures["waiting"] == pytest.approx(8.818, abs=0.2)
    assert hour.measures["stopped"] == pytest.approx(15.56, abs=0.4)


@pytest.mark.sweep
@pytest.mark.parametrize("spec", ["sumo:cologne3", "sumo:berlin"])
def test_other_scenarios_are_refused_in_one_line(spec):
    with pytest.raises(BadInput, match=r"has 3 signals|no scenario 'sumo:berlin'.*cologne1") as refused:
        facts(spec)
    assert "\n" not in str(refused.value)


@pytest.mark.sweep
def test_what_sumo_cannot_run_is_said(tmp_path):
    (tmp_path / "bad.sumocfg").write_text("<configuration/>")
    with pytest.raises(BadInput, match=r"cannot be run: "):
        facts(f"sumo:{tmp_path}/bad.sumocfg")
