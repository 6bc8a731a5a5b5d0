"""Traffic lights: an agent chooses which phase of an intersection is green, in SUMO.

`sumo:cologne1` is a scenario of the RESCO benchmark (Ault and Sharon 2021), which sumo-rl's wheel holds;
`sumo:FILE.sumocfg` is a scenario of one's own. An action is the phase that is green next. If it is green
already, it stays so for 5 s; else the lights that lose their green are yellow for 2 s, and the new phase is
green for 5 s at least. The next decision comes after that, 5 or 7 s later: no action is dropped. An episode
is cut at the scenario's end, for traffic does not end there.

An observation is the green phase, one-hot, the time it has been green in minutes, and for each incoming lane
the vehicles, those that stand and those within 50 m of the stop line, each over 10, and the sum of their
waiting times over 100 s. The reward is minus the mean waiting of all vehicles in the network, summed over the
seconds and over 5: an hour's return is -720 times its mean waiting in seconds.

Episodes follow from seeds: a seed given to `reset` decides on the seeds of all later episodes as well, and no
two of them are the same day. SUMO's state is not read; a checkpoint holds an episode's seed and the actions
since, and they are played again.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from torchstone.envs.make import gym
from torchstone.envs.sumo_process import YELLOW, Detectors, Scenario, Signal, SumoProcess, is_installed
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.optional_imports import package_folder

PREFIX = "sumo:"
INSTALL = "pip install 'torchstone[traffic]'"
DECISION, YELLOW_TIME, MIN_GREEN = 5, 2, 5  # s
VEHICLES, WAITING, GREEN = 10.0, 100.0, 60.0  # what numbers of an observation are divided by
GREENS = ("G", "g")


class Engine(Protocol):
    """The simulator, as the environment calls it: `SumoProcess`, or one for tests."""

    def describe(self) -> Scenario: ...
    def begin(self, seed: int) -> Detectors: ...
    def advance(self, states: Any) -> Detectors: ...
    def vehicles(self) -> list[tuple[float, float, float, float]]: ...
    def close(self) -> None: ...


def green_phases(signal: Signal) -> list[str]:
    """The states of a program that an agent chooses from: those with green and without yellow."""
    states = dict.fromkeys(phase.state for phase in signal.phases)
    return [state for state in states if YELLOW not in state and any(each in GREENS for each in state)]


def yellow_state(before: str, after: str) -> str:
    """The state between two phases: links that lose their green are yellow, the others stay as they are."""
    is_lost = (a in GREENS and b not in GREENS for a, b in zip(before, after, strict=True))
    return "".join(YELLOW if lost else a for a, lost in zip(before, is_lost, strict=True))


class SignalTimer:
    """The switch rule of one signal: which states a decision leads to, second by second."""

    def __init__(self, signal: Signal):
        self.name, self.greens = signal.name, green_phases(signal)
        self.phase, self.green_time = 0, 0

    def begin(self) -> dict[str, str]:
        """The first phase is green."""
        self.phase, self.green_time = 0, 0
        return {self.name: self.greens[0]}

    def choose(self, phase: int) -> list[dict[str, str]]:
        """The changes of each second until the next decision."""
        if phase == self.phase:
            self.green_time += DECISION
            return [{} for _ in range(DECISION)]
        seconds: list[dict[str, str]] = [{} for _ in range(YELLOW_TIME + MIN_GREEN)]
        seconds[0] = {self.name: yellow_state(self.greens[self.phase], self.greens[phase])}
        seconds[YELLOW_TIME] = {self.name: self.greens[phase]}
        self.phase, self.green_time = phase, MIN_GREEN
        return seconds


def observe(timer: SignalTimer, signal: Signal, detectors: Detectors) -> np.ndarray:
    """An observation of one signal, float32: phases + 1 + 4 × lanes."""
    phase = np.zeros(len(timer.greens))
    phase[timer.phase] = 1
    columns = [
        [detectors.vehicles[lane] / VEHICLES for lane in signal.lanes],
        [detectors.stopped[lane] / VEHICLES for lane in signal.lanes],
        [detectors.near[lane] / VEHICLES for lane in signal.lanes],
        [detectors.waiting[lane] / WAITING for lane in signal.lanes],
    ]
    return np.concatenate([phase, [timer.green_time / GREEN], *columns], dtype=np.float32)


def traffic(spec: str, render_mode: str | None = None, engine: Callable[[], Engine] | None = None) -> Any:
    """The environment of a scenario with one signal.

    Args:
        engine: makes the simulator, where it is not SUMO.

    Raises:
        BadInput: SUMO is not installed, there is no such scenario, it cannot be run, or it has no signal, or
            several.
    """
    gymnasium, is_sumo = gym(), engine is None
    config = find_scenario(spec) if is_sumo else Path()
    make: Callable[[], Engine] = engine or (lambda: SumoProcess(config))

    class Traffic(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

        def __init__(self):
            self.render_mode = render_mode
            self.engine: Any = make()
            try:
                self.scenario: Any = self.engine.describe()
            except RuntimeError as error:
                self.close()
                raise BadInput(f"{spec} cannot be run: {error}") from error
            count = len(self.scenario.signals)
            if count != 1:
                self.close()
                raise BadInput(
                    f"{spec} has {count} signals, and an agent controls one: such as sumo:cologne1"
                )
            self.signal: Any = self.scenario.signals[0]
            self.timer: Any = SignalTimer(self.signal)
            size = len(self.timer.greens) + 1 + 4 * len(self.signal.lanes)
            self.observation_space = gymnasium.spaces.Box(0, np.inf, (size,), np.float32)
            self.action_space = gymnasium.spaces.Discrete(len(self.timer.greens))
            seconds = int(self.scenario.end - self.scenario.begin)
            self._max_episode_steps = -(-seconds // DECISION)  # as Gymnasium's wrapper states it
            self.episode_seed, self.actions = 0, []
            self.cost, self.last_waiting = 0.0, 0.0  # s: summed over this episode's, mean over the last one's
            self.detectors: Any = None
            self.identity = identity(config, seconds) if is_sumo else {"seconds": {"episode": seconds}}

        def reset(self, *, seed: int | None = None, options: Any = None):
            super().reset(seed=seed)
            self.episode_seed, self.actions = int(self.np_random.integers(2**31)), []
            if self.detectors is not None:
                elapsed = self.detectors.time - self.scenario.begin
                self.last_waiting = self.cost / max(elapsed, 1.0)
            self.cost = 0.0
            return self._begin(), {}

        def _begin(self) -> np.ndarray:
            self.detectors = self.engine.begin(self.episode_seed)
            self.changes: Any = self.timer.begin()
            return observe(self.timer, self.signal, self.detectors)

        def step(self, action):
            self.actions.append(int(action))
            self._act(int(action))
            reward = -self.detectors.cost / DECISION
            self.cost += self.detectors.cost
            is_over = self.detectors.time >= self.scenario.end
            return observe(self.timer, self.signal, self.detectors), reward, False, is_over, {}

        def _act(self, action: int) -> None:
            seconds = self.timer.choose(action)
            seconds[0] = {**self.changes, **seconds[0]}
            self.changes = {}
            left = int(self.scenario.end - self.detectors.time)
            self.detectors = self.engine.advance(seconds[:left])

        def replay(self) -> None:
            """Play the actions since the episode's seed again."""
            self._begin()
            for action in self.actions:
                self._act(action)

        def last_episode(self) -> dict[str, float]:
            """Seconds that a vehicle has been standing, mean over the episode before this one."""
            return {"waiting": self.last_waiting}

        def render(self):
            from torchstone.envs.traffic_frame import draw_intersection

            state = self.detectors.states[-1][0] if self.detectors.states else self.timer.greens[0]
            return draw_intersection(self.scenario, self.signal, state, self.engine.vehicles())

        def close(self):
            if self.engine is not None:
                self.engine.close()
                self.engine = None

    return Traffic()


def make(name: str, render_mode: str | None = None) -> Any:
    """The environment `sumo:NAME`; see `traffic`."""
    return traffic(f"{PREFIX}{name}", render_mode)


def find_scenario(spec: str) -> Path:
    """The `.sumocfg` of `sumo:NAME` or `sumo:FILE.sumocfg`.

    Raises:
        BadInput: SUMO or sumo-rl's scenarios are not installed, or there is no such scenario.
    """
    if not is_installed():
        raise BadInput(f"{spec} needs SUMO, a traffic simulator: {INSTALL}")
    name = spec.removeprefix(PREFIX)
    if name.endswith(".sumocfg"):
        if not Path(name).is_file():
            raise BadInput(f"no file {name}: sumo:FILE.sumocfg is a scenario of SUMO")
        return Path(name).resolve()
    found = dict(known_scenarios())
    if not found:
        raise BadInput(f"{spec} needs the scenarios of sumo-rl: {INSTALL}")
    if name not in found:
        raise BadInput(f"no scenario {spec!r}: {did_you_mean(name, found)}; or sumo:FILE.sumocfg")
    return found[name]


def known_scenarios() -> Iterator[tuple[str, Path]]:
    """Those of RESCO in sumo-rl's wheel, which is not imported: it wants to be told where SUMO is."""
    folder = package_folder("sumo_rl")
    if folder is not None:
        for config in sorted((folder / "nets" / "RESCO").glob("*/*.sumocfg")):
            yield config.parent.name, config


def identity(config: Path, seconds: int) -> dict[str, Any]:
    """What is known of a scenario, so that another one is not taken for it."""
    files = sorted(file for file in config.parent.glob(f"{config.stem}*") if file.is_file())
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}
    times = {"episode": seconds, "decision": DECISION, "yellow": YELLOW_TIME, "min green": MIN_GREEN}
    return {"simulator": f"SUMO {importlib.metadata.version('libsumo')}", "files": digests, "seconds": times}
