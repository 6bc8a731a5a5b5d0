"""A PettingZoo parallel environment, `pettingzoo:toy_teams`, of three agents with other spaces that come and go.

a is there from the first step and terminates after the third; b is cut off after the fourth; c arrives for the
second and terminates after the sixth, the last. At step t (from 0) agent number i is given 10 i + t.
"""

import numpy as np
from gymnasium.spaces import Box, Discrete

SIZES = {"a": 2, "b": 3, "c": 1}
COUNTS = {"a": 2, "b": 4, "c": 3}
# by agent: the first step that it acts in, and the last, and how it ends
STAYS = {"a": (0, 2, "terminated"), "b": (0, 3, "truncated"), "c": (1, 5, "terminated")}


class ToyTeam:
    possible_agents = ("a", "b", "c")

    def __init__(self, render_mode=None, stranger=False):
        self.stranger = stranger

    def observation_space(self, agent):
        return Box(-np.inf, np.inf, (SIZES[agent],), np.float32)

    def action_space(self, agent):
        return Discrete(COUNTS[agent])

    def _present(self):
        return [agent for agent, (first, last, _) in STAYS.items() if first <= self.t <= last]

    def _observe(self, agents):
        noise = {a: self.rng.normal(size=SIZES[a]).astype(np.float32) for a in STAYS}
        return {agent: noise[agent] for agent in agents}

    def reset(self, seed=None, options=None):
        self.rng, self.t, self.taken = np.random.default_rng(seed), 0, []
        self.agents = self._present()
        return self._observe(self.agents), {}

    def step(self, actions):
        assert sorted(actions) == self.agents, f"actions of {sorted(actions)}, and {self.agents} are there"
        assert all(0 <= action < COUNTS[agent] for agent, action in actions.items()), actions
        self.taken.append(dict(actions))
        here = self.agents
        reward = {agent: 10.0 * list(STAYS).index(agent) + self.t for agent in here}
        ends = {agent: STAYS[agent][2] for agent in here if STAYS[agent][1] == self.t}
        terminated = {agent: ends.get(agent) == "terminated" for agent in here}
        truncated = {agent: ends.get(agent) == "truncated" for agent in here}
        self.t += 1
        self.agents = self._present()
        observation = self._observe(dict.fromkeys([*here, *self.agents]))
        if self.stranger:
            self.agents.append("d")
        return observation, reward, terminated, truncated, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def parallel_env(**options):
    return ToyTeam(**options)
