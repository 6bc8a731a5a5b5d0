"""Controllers of a traffic light that learn nothing, and hours under them: what an agent is compared with.

Max-pressure (Varaiya 2013) gives green to the phase whose links have most vehicles before them less those
behind them. Longest queue first counts those that stand before them, longest wait first sums their waiting.
SUMO's own programs are the file's fixed cycle, and actuated control, which prolongs a green while vehicles
follow closely; their yellow is the file's, or as long as the agent's, for that is no skill.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchstone.envs.sumo_process import ACTUATED, SAMPLE_SECONDS, Detectors, Sample, Signal
from torchstone.envs.traffic import GREENS, YELLOW_TIME, SignalTimer

Choice = Callable[[np.ndarray, Detectors], int]  # observation, detectors -> phase


@dataclass
class Hour:
    """An episode under one controller."""

    samples: list[Sample] = field(default_factory=list)
    states: list[str] = field(default_factory=list)  # second by second
    stopped: list[tuple[float, dict[str, int]]] = field(default_factory=list)  # time, by incoming lane
    arrived: int = 0

    def add(self, detectors: Detectors, signal: Signal) -> None:
        self.samples += detectors.samples
        self.states += [states[0] for states in detectors.states]
        self.stopped.append((detectors.time, {lane: detectors.stopped[lane] for lane in signal.lanes}))
        self.arrived += detectors.arrived

    @property
    def measures(self) -> dict[str, float]:
        """Means over time of the waiting of a vehicle in s, and of the vehicles that stand; vehicles that
        arrived, and that still find no room at the end."""
        count = len(self.samples)
        return {
            "waiting": sum(sample.waiting for sample in self.samples) / count,
            "stopped": sum(sample.stopped for sample in self.samples) / count,
            "arrived": float(self.arrived),
            "pending": float(self.samples[-1].pending),
        }


def served_links(timer: SignalTimer, signal: Signal, phase: int) -> list[tuple[str, str]]:
    """The links that are green in a phase: lane before, lane behind."""
    letters = zip(timer.greens[phase], signal.links, strict=True)
    return [link for letter, link in letters if letter in GREENS and link[0]]


def max_pressure(timer: SignalTimer, signal: Signal, detectors: Detectors) -> list[float]:
    """Of each phase: Σ over its links of the vehicles before less those behind."""
    vehicles, phases = detectors.vehicles, range(len(timer.greens))
    links = [served_links(timer, signal, phase) for phase in phases]
    return [float(sum(vehicles[before] - vehicles[behind] for before, behind in each)) for each in links]


def longest_queue(timer: SignalTimer, signal: Signal, detectors: Detectors) -> list[float]:
    """Of each phase: vehicles that stand in its lanes."""
    lanes = _served_lanes(timer, signal)
    return [float(sum(detectors.stopped[lane] for lane in each)) for each in lanes]


def longest_wait(timer: SignalTimer, signal: Signal, detectors: Detectors) -> list[float]:
    """Of each phase: Σ of the waiting times in its lanes, s."""
    return [sum(detectors.waiting[lane] for lane in each) for each in _served_lanes(timer, signal)]


def _served_lanes(timer: SignalTimer, signal: Signal) -> list[list[str]]:
    phases = range(len(timer.greens))
    return [list(dict.fromkeys(link[0] for link in served_links(timer, signal, phase))) for phase in phases]


RULES = {
    "max-pressure": max_pressure,
    "longest queue first": longest_queue,
    "longest wait first": longest_wait,
}
# program and yellow, s
PROGRAMS: dict[str, tuple[str, float | None]] = {
    "fixed program": ("", None),
    f"fixed program, {YELLOW_TIME} s yellow": ("", float(YELLOW_TIME)),
    "actuated": (ACTUATED, None),
    f"actuated, {YELLOW_TIME} s yellow": (ACTUATED, float(YELLOW_TIME)),
}


def rule_choice(env: Any, name: str) -> Choice:
    """The phase of the highest score; the one that is green where it is among them."""
    timer, signal, rule = env.timer, env.signal, RULES[name]

    def choose(_: np.ndarray, detectors: Detectors) -> int:
        scores = rule(timer, signal, detectors)
        return timer.phase if scores[timer.phase] == max(scores) else int(np.argmax(scores))

    return choose


def play_hour(env: Any, choose: Choice, seed: int) -> Hour:
    """An episode under a controller that acts as an agent does."""
    hour, is_over, inner = Hour(), False, env.unwrapped
    observation, _ = env.reset(seed=seed)
    while not is_over:
        observation, _, _, is_over, _ = env.step(choose(observation, inner.detectors))
        hour.add(inner.detectors, inner.signal)
    return hour


def play_program(env: Any, name: str, seed: int) -> Hour:
    """The same episode of an unwrapped environment under a program of SUMO's."""
    hour, (program, yellow) = Hour(), PROGRAMS[name]
    env.reset(seed=seed)
    time = env.engine.begin(env.episode_seed, program, yellow).time
    while time < env.scenario.end:
        seconds = min(SAMPLE_SECONDS, int(env.scenario.end - time))
        detectors = env.engine.advance([{}] * seconds)
        hour.add(detectors, env.signal)
        time = detectors.time
    return hour


def play_baselines(env: Any, seed: int) -> dict[str, Hour]:
    """An hour of all controllers on one day, in an unwrapped environment."""
    generator = np.random.default_rng(seed)
    hours = {"random": play_hour(env, lambda *_: int(generator.integers(len(env.timer.greens))), seed)}
    hours |= {name: play_program(env, name, seed) for name in PROGRAMS}
    return hours | {name: play_hour(env, rule_choice(env, name), seed) for name in RULES}
