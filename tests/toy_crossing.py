"""A crossing of two one-way streets behind the interface of `sumo_process`: queues that fill by chance and empty at
green, in microseconds and without SUMO."""

import numpy as np

from torchstone.envs.sumo_process import Detectors, Phase, Sample, Scenario, Signal
from torchstone.envs.traffic import traffic

SECONDS = 300
RATES = {"north_0": 0.12, "east_0": 0.3}  # vehicles a second
PHASES = (("Gr", 20), ("yr", 3), ("rG", 20), ("ry", 3))
SIGNAL = Signal(
    "crossing",
    tuple(Phase(state, seconds, 5, 50) for state, seconds in PHASES),
    (("north_0", "south_0"), ("east_0", "west_0")),
    ("north_0", "east_0"),
)
SHAPES = {
    "north_0": ((0.0, 60.0), (0.0, 5.0)),
    "east_0": ((60.0, 0.0), (5.0, 0.0)),
    "south_0": ((0.0, -5.0), (0.0, -60.0)),
    "west_0": ((-5.0, 0.0), (-60.0, 0.0)),
}
SCENARIO = Scenario(0.0, float(SECONDS), (SIGNAL,), dict.fromkeys(SHAPES, 55.0), SHAPES)


class ToyEngine:
    """One vehicle leaves a green lane each second; `calls` are the states that were set, with their time."""

    def __init__(self):
        self.calls, self.begun = [], []

    def describe(self):
        return SCENARIO

    def begin(self, seed, program="", yellow=None):
        self.begun.append(seed)
        self.generator, self.time, self.state = np.random.default_rng(seed), 0, "Gr"
        self.queues = {lane: [] for lane in SIGNAL.lanes}  # seconds that each vehicle has been standing
        self.program = program
        return self._detectors([], [], 0.0, 0)

    def advance(self, states):
        history, samples, cost, arrived = [], [], 0.0, 0
        for changes in states:
            if changes:
                self.state = changes[SIGNAL.name]
                self.calls.append((self.time, self.state))
            self.time += 1
            for letter, (lane, queue) in zip(self.state, self.queues.items(), strict=True):
                queue[:] = [seconds + 1 for seconds in queue]
                if letter == "G" and queue:
                    queue.pop(0)
                    arrived += 1
                if self.generator.random() < RATES[lane]:
                    queue.append(0)
            history.append((self.state,))
            everyone = [seconds for queue in self.queues.values() for seconds in queue]
            cost += sum(everyone) / max(len(everyone), 1)
            if self.time % 5 == 0:
                waiting = sum(everyone) / max(len(everyone), 1)
                samples.append(
                    Sample(float(self.time), waiting, sum(s > 0 for s in everyone), len(everyone), 0)
                )
        return self._detectors(history, samples, cost, arrived)

    def vehicles(self):
        places = []
        for lane, queue in self.queues.items():
            (x, y), heading = SHAPES[lane][1], 180.0 if lane == "north_0" else 270.0
            places += [(x + 6 * i * (x > 0), y + 6 * i * (y > 0), heading, 0.0) for i in range(len(queue))]
        return places

    def close(self):
        pass

    def _detectors(self, history, samples, cost, arrived):
        counts = {lane: len(queue) for lane, queue in self.queues.items()}
        everywhere = {**counts, "south_0": 0, "west_0": 0}
        waiting = {lane: float(sum(queue)) for lane, queue in self.queues.items()}
        return Detectors(
            float(self.time), everywhere, everywhere, waiting, counts, cost, history, samples, arrived
        )


def crossing(render_mode=None):
    return traffic("toy_crossing", render_mode, ToyEngine)
