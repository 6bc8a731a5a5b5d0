"""Controllers of a traffic light on the toy crossing, by hand."""

import numpy as np
import pytest
import toy_crossing
from toy_crossing import SIGNAL

from torchstone.envs.sumo_process import Detectors, Phase, Sample, Signal
from torchstone.envs.traffic import SignalTimer
from torchstone.envs.traffic_control import (
    PROGRAMS,
    Hour,
    longest_queue,
    longest_wait,
    max_pressure,
    play_baselines,
    play_hour,
    rule_choice,
    served_links,
)


def detectors(vehicles=(0, 0), stopped=(0, 0), waiting=(0.0, 0.0), behind=(0, 0), **more):
    lanes = dict(zip(SIGNAL.lanes, vehicles, strict=True)) | dict(
        zip(("south_0", "west_0"), behind, strict=True)
    )
    still = dict(zip(SIGNAL.lanes, stopped, strict=True)) | {"south_0": 0, "west_0": 0}
    seconds = dict(zip(SIGNAL.lanes, waiting, strict=True))
    fields = {"time": 5.0, "near": {}, "cost": 0.0, "states": [], "samples": [], "arrived": 0, **more}
    return Detectors(vehicles=lanes, stopped=still, waiting=seconds, **fields)


def test_pressure_is_before_less_behind():
    timer = SignalTimer(SIGNAL)
    assert max_pressure(timer, SIGNAL, detectors((3, 5), behind=(0, 4))) == [3.0, 1.0]


def test_a_lane_of_two_green_links_counts_twice_in_pressure_and_once_in_a_queue():
    links = (("a_0", "x_0"), ("a_0", "y_0"), ("b_0", "x_0"), ("", ""))
    signal = Signal("s", tuple(Phase(state, 1, 1, 1) for state in ("GgrG", "rrGG")), links, ("a_0", "b_0"))
    timer = SignalTimer(signal)
    assert served_links(timer, signal, 0) == [("a_0", "x_0"), ("a_0", "y_0")]
    counts = {"a_0": 2, "b_0": 3, "x_0": 1, "y_0": 0}
    found = Detectors(0.0, counts, counts, {"a_0": 7.0, "b_0": 4.0}, {}, 0.0, [], [], 0)
    assert max_pressure(timer, signal, found) == [3.0, 2.0]
    assert longest_queue(timer, signal, found) == [2.0, 3.0]
    assert longest_wait(timer, signal, found) == [7.0, 4.0]


def test_a_tie_keeps_the_phase():
    env = toy_crossing.crossing()
    env.reset(seed=0)
    choose = rule_choice(env, "longest queue first")
    env.timer.phase = 1
    assert choose(np.zeros(1), detectors(stopped=(2, 2))) == 1
    assert choose(np.zeros(1), detectors(stopped=(3, 2))) == 0
    env.timer.phase = 0
    assert choose(np.zeros(1), detectors(stopped=(2, 2))) == 0
    assert choose(np.zeros(1), detectors(stopped=(2, 3))) == 1


def test_all_controllers_have_the_same_day_and_an_hour_of_samples():
    env = toy_crossing.crossing()
    hours = play_baselines(env, seed=4)
    assert set(env.engine.begun) == {env.episode_seed}
    assert len(env.engine.begun) == 8 + len(PROGRAMS)  # a program's day is begun twice
    for name, hour in hours.items():
        assert [sample.time for sample in hour.samples] == list(range(5, toy_crossing.SECONDS + 1, 5)), name
        assert len(hour.states) == toy_crossing.SECONDS
    measures = {name: hour.measures for name, hour in hours.items()}
    print(measures)
    assert measures["longest queue first"]["waiting"] < measures["random"]["waiting"] / 2
    again = play_baselines(env, seed=4)
    assert {name: hour.measures for name, hour in again.items()} == measures


def test_measures_are_means_over_time():
    hour = Hour()
    for time, waiting, stopped in ((5, 1.0, 2), (10, 4.0, 6)):
        sample = Sample(time, waiting, stopped, 9, time // 5)
        hour.add(detectors(samples=[sample], states=[("Gr",)] * 5, arrived=3), SIGNAL)
    assert hour.measures == {"waiting": 2.5, "stopped": 4.0, "arrived": 6.0, "pending": 2.0}


def test_an_agent_is_played_through_its_wrappers():
    env = toy_crossing.crossing()
    seen = []
    hour = play_hour(env, lambda observation, found: seen.append((observation, found)) or 0, seed=1)
    assert len(seen) == len(hour.stopped) == 60
    assert seen[0][0][0] == pytest.approx(1.0)
