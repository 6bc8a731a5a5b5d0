"""SUMO, the traffic simulator, in a process of its own: libsumo has one engine per process, and an agent's
training and evaluation have several.

A scenario is a `.sumocfg` file: a road network, trips and the seconds of the day from `begin` to `end`. An
episode is a function of its seed and the signal states that were set; a seed decides how drivers drive
(desired speed, hesitation, lane), and the trips are the file's. That holds of a process's first episodes
only: SUMO keeps something of those before, and from the third on the same seed has been another day. So each
episode has a process.

This file is run as the process as well, so that it imports nothing of this package, and no torch.
"""

import contextlib
import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

NEAR = 50.0  # metres before the stop line in which approaching vehicles are counted
SAMPLE_SECONDS = 5  # between samples of the measures, as sumo-rl takes them
STOPPED = 0.1  # m/s: below it SUMO calls a vehicle halting
ACTUATED, YELLOW = "actuated", "y"


class Phase(NamedTuple):
    """A phase of a signal's own program."""

    state: str  # a letter for each link: G or g green, y yellow, r red
    duration: float  # s
    min_duration: float  # s, of the green of actuated control
    max_duration: float  # s


class Signal(NamedTuple):
    """A signalized intersection."""

    name: str
    phases: tuple[Phase, ...]  # of its own program
    links: tuple[tuple[str, str], ...]  # for each letter of a state: lane before, lane behind
    lanes: tuple[str, ...]  # incoming, each once


class Scenario(NamedTuple):
    begin: float  # s of the day
    end: float
    signals: tuple[Signal, ...]
    lengths: dict[str, float]  # of incoming and outgoing lanes, m
    shapes: dict[str, tuple[tuple[float, float], ...]]  # of all lanes, m


class Sample(NamedTuple):
    """The measures of one moment, over all vehicles in the network."""

    time: float
    waiting: float  # mean seconds that a vehicle has been standing; 0 for one that moves
    stopped: int
    running: int
    pending: int  # vehicles that should have entered and find no room


class Detectors(NamedTuple):
    """What loops and cameras at the intersections report, by lane, and what happened since the last call."""

    time: float
    vehicles: dict[str, int]  # incoming and outgoing lanes
    stopped: dict[str, int]
    waiting: dict[str, float]  # incoming lanes: sum of the vehicles' waiting times, s
    near: dict[str, int]  # incoming lanes: vehicles within `NEAR` of the stop line
    cost: float  # Σ over seconds of the mean waiting of all vehicles
    states: list[tuple[str, ...]]  # second by second, a state of each signal
    samples: list[Sample]
    arrived: int


class SumoEngine:
    """libsumo itself: the calls of `SumoProcess`, inside the process."""

    def __init__(self, config: str):
        self.sumo: Any = importlib.import_module("libsumo")
        self.config = config
        self.folder = tempfile.TemporaryDirectory()
        self.is_running = False
        self.scenario: Any = None

    def describe(self) -> Scenario:
        self._start(0, ())
        return self._scenario()

    def begin(self, seed: int, program: str = "", yellow: float | None = None) -> Detectors:
        """A new episode, at its first second.

        Args:
            program: `actuated` for SUMO's gap-based control with the file's phases; else the file's program.
            yellow: seconds of that program's yellow phases; the file's by default.
        """
        scenario, options = self.scenario or self.describe(), ()
        if program == ACTUATED or yellow is not None:
            options = ("--additional-files", self._write_programs(scenario, program, yellow))
        self._start(seed, options)
        return self._detectors([], [], 0.0, 0)

    def advance(self, states: Sequence[Mapping[str, str]]) -> Detectors:
        """A second for each entry, before which the states of the signals in it are set."""
        sumo, scenario = self.sumo, self.scenario
        names = [signal.name for signal in scenario.signals]
        history, samples, cost, arrived = [], [], 0.0, 0
        for changes in states:
            for name, state in changes.items():
                sumo.trafficlight.setRedYellowGreenState(name, state)
            sumo.simulationStep()
            arrived += sumo.simulation.getArrivedNumber()
            history.append(tuple(sumo.trafficlight.getRedYellowGreenState(name) for name in names))
            vehicles = sumo.vehicle.getIDList()
            waiting = sum(map(sumo.vehicle.getWaitingTime, vehicles)) / max(len(vehicles), 1)
            cost += waiting
            if sumo.simulation.getTime() % SAMPLE_SECONDS == 0:
                samples.append(self._sample(vehicles, waiting))
        return self._detectors(history, samples, cost, arrived)

    def vehicles(self) -> list[tuple[float, float, float, float]]:
        """Position in m, heading in degrees clockwise from north, and speed in m/s of each vehicle."""
        get = self.sumo.vehicle
        return [(*get.getPosition(v), get.getAngle(v), get.getSpeed(v)) for v in get.getIDList()]

    def close(self) -> None:
        if self.is_running:
            self.sumo.close()
            self.is_running = False
        self.folder.cleanup()

    def _start(self, seed: int, options: Sequence[str]) -> None:
        if self.is_running:
            self.sumo.close()
        quiet = ("--no-step-log", "true", "--no-warnings", "true", "--duration-log.disable", "true")
        # a vehicle that stands for long is not lifted out of the queue: that would hide bad control
        rules = ("--time-to-teleport", "-1", "--waiting-time-memory", "1000")
        self.sumo.start(["sumo", "-c", self.config, "--seed", str(seed), *quiet, *rules, *options])
        self.is_running = True

    def _scenario(self) -> Scenario:
        sumo = self.sumo
        signals = []
        for name in sumo.trafficlight.getIDList():
            phases = sumo.trafficlight.getAllProgramLogics(name)[0].phases
            # a link of no lanes keeps its letter
            links = [link[0][:2] if link else ("", "") for link in sumo.trafficlight.getControlledLinks(name)]
            own = tuple(Phase(p.state, p.duration, p.minDur, p.maxDur) for p in phases)
            lanes = tuple(dict.fromkeys(lane for lane, _ in links if lane))
            signals.append(Signal(name, own, tuple(links), lanes))
        used = dict.fromkeys(lane for signal in signals for link in signal.links for lane in link if lane)
        shapes = {lane: tuple(sumo.lane.getShape(lane)) for lane in sumo.lane.getIDList()}
        lengths = {lane: sumo.lane.getLength(lane) for lane in used}
        begin, end = sumo.simulation.getTime(), sumo.simulation.getEndTime()
        self.scenario = Scenario(begin, end, tuple(signals), lengths, shapes)
        return self.scenario

    def _write_programs(self, scenario: Scenario, program: str, yellow: float | None) -> str:
        """The file's phases as another program."""
        kind = ACTUATED if program == ACTUATED else "static"
        lines = ["<additional>"]
        for signal in scenario.signals:
            lines.append(f'<tlLogic id={quoteattr(signal.name)} type="{kind}" programID="own" offset="0">')
            for state, duration, low, high in signal.phases:
                if YELLOW in state:
                    seconds = duration if yellow is None else yellow
                    lines.append(f'<phase duration="{seconds:g}" state="{state}"/>')
                else:
                    bounds = f'minDur="{low:g}" maxDur="{high:g}"' if kind == ACTUATED else ""
                    lines.append(f'<phase duration="{duration:g}" state="{state}" {bounds}/>')
            lines.append("</tlLogic>")
        path = Path(self.folder.name) / "programs.add.xml"
        path.write_text("\n".join([*lines, "</additional>"]))
        return str(path)

    def _sample(self, vehicles: Sequence[str], waiting: float) -> Sample:
        stopped = sum(speed < STOPPED for speed in map(self.sumo.vehicle.getSpeed, vehicles))
        pending = len(self.sumo.simulation.getPendingVehicles())
        return Sample(self.sumo.simulation.getTime(), waiting, stopped, len(vehicles), pending)

    def _detectors(self, states: list, samples: list, cost: float, arrived: int) -> Detectors:
        lane, lengths = self.sumo.lane, self.scenario.lengths
        position = self.sumo.vehicle.getLanePosition
        incoming = [name for signal in self.scenario.signals for name in signal.lanes]
        near = {
            name: sum(position(v) >= lengths[name] - NEAR for v in lane.getLastStepVehicleIDs(name))
            for name in incoming
        }
        return Detectors(
            self.sumo.simulation.getTime(),
            {name: lane.getLastStepVehicleNumber(name) for name in lengths},
            {name: lane.getLastStepHaltingNumber(name) for name in lengths},
            {name: lane.getWaitingTime(name) for name in incoming},
            near,
            cost,
            states,
            samples,
            arrived,
        )


class SumoProcess:
    """The calls of `SumoEngine`, answered by a process that each episode begins anew.

    Raises:
        RuntimeError: what SUMO says of a scenario that it cannot run, or that the process has ended.
    """

    def __init__(self, config: str | Path):
        self.config = str(config)
        self._start()

    def _start(self) -> None:
        self.is_fresh = True
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "LIBSUMO_AS_TRACI": "quiet"}  # no word on pyarrow
        self.process: Any = subprocess.Popen(
            [sys.executable, "-P", __file__, self.config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            pickle.dump((name, arguments), self.process.stdin)
            self.process.stdin.flush()
            is_right, answer = pickle.load(self.process.stdout)
        except (EOFError, OSError) as error:
            raise RuntimeError("the process of SUMO has ended") from error
        if not is_right:
            raise RuntimeError(f"SUMO says: {answer}")
        return answer

    def describe(self) -> Scenario:
        return self._call("describe")

    def begin(self, seed: int, program: str = "", yellow: float | None = None) -> Detectors:
        if not self.is_fresh:
            self.close()
            self._start()
        self.is_fresh = False
        return self._call("begin", seed, program, yellow)

    def advance(self, states: Sequence[Mapping[str, str]]) -> Detectors:
        return self._call("advance", states)

    def vehicles(self) -> list[tuple[float, float, float, float]]:
        return self._call("vehicles")

    def close(self) -> None:
        """End the process: it ends when nothing more can come."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __del__(self):
        with contextlib.suppress(Exception):
            self.close()


def is_installed() -> bool:
    return importlib.util.find_spec("libsumo") is not None


def serve() -> None:
    """Answer calls from standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what SUMO prints
    engine: Any = None
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        try:
            engine = engine or SumoEngine(sys.argv[1])
            answer = True, getattr(engine, name)(*arguments)
        except Exception as error:  # noqa: BLE001  it is raised on the other side
            answer = False, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()
    if engine is not None:
        engine.close()


if __name__ == "__main__":
    # pickled by the name that the other side imports
    sys.modules["torchstone.envs.sumo_process"] = sys.modules["__main__"]
    for kind in (Phase, Signal, Scenario, Sample, Detectors):
        kind.__module__ = "torchstone.envs.sumo_process"
    serve()
