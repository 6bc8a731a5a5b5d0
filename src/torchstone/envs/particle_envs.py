"""mpe2's cooperative scenarios for many episodes at once: the same equations on arrays.

`mpe2` moves one world of particles at a time, in Python. Here `simple_spread_v3` and
`simple_speaker_listener_v4` (Lowe et al. 2017, arXiv:1706.02275) are computed for all episodes together, from
the same seeds to the same initial states, hundreds of times as fast. A test holds every observation and
reward against the package's own.

Positions, velocities: `(episodes, agents, 2)`. One step of 0.1: positions move by the old velocity, the
velocity loses a quarter, and force / mass (1) is added; agents that overlap push each other apart.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

DT, DAMPING, SENSITIVITY = 0.1, 0.25, 5.0
CONTACT_FORCE, CONTACT_MARGIN = 1e2, 1e-3
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=np.float64)
EPISODE_STEPS = 25


def generators(seeds: Sequence[int]) -> list[np.random.Generator]:
    """Those that Gymnasium makes of seeds."""
    return [np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))) for seed in seeds]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between points, the last axis x and y; the others are broadcast."""
    return np.sqrt(np.square(a - b).sum(-1))


class Spread:
    """`simple_spread_v3` with its defaults: three agents cover three landmarks without touching.

    An agent's reward is half of -Σ over landmarks of the distance to the nearest agent, which all share, and
    half of minus the agents that it touches.
    """

    agents = ("agent_0", "agent_1", "agent_2")
    observation_sizes, action_counts = (18, 18, 18), (5, 5, 5)
    SIZE, LOCAL_RATIO = 0.15, 0.5

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "episode agent feature"]:
        points = np.array([[g.uniform(-1, 1, 2) for _ in range(6)] for g in generators(seeds)])
        self.position, self.landmark = points[:, :3].copy(), points[:, 3:]
        self.velocity = np.zeros_like(self.position)
        return self._observe()

    def step(self, action: Int64[np.ndarray, "episode agent"]) -> tuple[np.ndarray, np.ndarray]:
        force = MOVES[action] * SENSITIVITY + self._contact_forces()
        self.position = self.position + self.velocity * DT
        self.velocity = self.velocity * (1 - DAMPING) + force * DT
        far = distances(self.landmark[:, :, None], self.position[:, None])
        shared = -far.min(2).sum(1)
        between = distances(self.position[:, :, None], self.position[:, None])
        touching = (between < 2 * self.SIZE).sum(2) - 1.0  # itself is at distance 0
        reward = shared[:, None] * (1 - self.LOCAL_RATIO) - touching * self.LOCAL_RATIO
        return self._observe(), reward

    def _contact_forces(self) -> np.ndarray:
        delta = self.position[:, :, None] - self.position[:, None]
        far = np.sqrt(np.square(delta).sum(-1))
        depth = np.logaddexp(0, -(far - 2 * self.SIZE) / CONTACT_MARGIN) * CONTACT_MARGIN
        own = np.eye(3, dtype=bool)
        strength = np.where(own, 0.0, CONTACT_FORCE * depth / np.where(own, 1.0, far))
        return (delta * strength[..., None]).sum(2)

    def _observe(self) -> np.ndarray:
        episodes = len(self.position)
        landmarks = self.landmark[:, None] - self.position[:, :, None]
        others = [[b for b in range(3) if b != a] for a in range(3)]
        relative = self.position[:, others] - self.position[:, :, None]
        parts = (self.velocity, self.position, landmarks.reshape(episodes, 3, 6))
        silence = np.zeros((episodes, 3, 4))
        return np.concatenate([*parts, relative.reshape(episodes, 3, 4), silence], 2)


class SpeakerListener:
    """`simple_speaker_listener_v4`: the speaker sees the color of the goal and says one of three words, the
    listener hears it and moves. Both have the reward -distance² of the listener to the goal."""

    agents = ("speaker_0", "listener_0")
    observation_sizes, action_counts = (3, 11), (3, 5)

    def reset(self, seeds: Sequence[int]) -> Float[np.ndarray, "episode agent feature"]:
        goals, points = [], []
        for generator in generators(seeds):
            goals.append(int(generator.integers(3)))
            points.append([generator.uniform(-1, 1, 2) for _ in range(5)])
        self.goal, where = np.array(goals), np.array(points)
        self.position, self.landmark = where[:, 1].copy(), where[:, 2:]
        self.velocity, self.word = np.zeros_like(self.position), np.zeros((len(where), 3))
        return self._observe()

    def step(self, action: Int64[np.ndarray, "episode agent"]) -> tuple[np.ndarray, np.ndarray]:
        self.position = self.position + self.velocity * DT
        self.velocity = self.velocity * (1 - DAMPING) + MOVES[action[:, 1]] * SENSITIVITY * DT
        self.word = np.eye(3)[action[:, 0]]
        goal = self.landmark[np.arange(len(self.goal)), self.goal]
        reward = -np.square(self.position - goal).sum(1)
        return self._observe(), np.stack([reward, reward], 1)

    def _observe(self) -> np.ndarray:
        observation = np.zeros((len(self.goal), 2, 11))
        observation[:, 0, :3] = 0.15 + 0.5 * np.eye(3)[self.goal]
        observation[:, 1, :2] = self.velocity
        relative = self.landmark - self.position[:, None]
        observation[:, 1, 2:8] = relative.reshape(len(self.goal), 6)
        observation[:, 1, 8:] = self.word
        return observation


SCENARIOS = {"mpe2.simple_spread_v3": Spread, "mpe2.simple_speaker_listener_v4": SpeakerListener}
