"""A goal environment without a simulator: a point in the plane is pushed towards a goal."""

import gymnasium
import numpy as np

SHORTEST, LONGEST = 3, 7  # steps of an episode


def box(size: int):
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)


class PointGoal(gymnasium.Env):
    """Episodes end by themselves after 3 to 7 steps, unless a time limit cuts them before."""

    def __init__(self):
        self.observation_space = gymnasium.spaces.Dict(
            {"observation": box(2), "achieved_goal": box(2), "desired_goal": box(2)}
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, 2)
        self.goal = self.np_random.uniform(-1, 1, 2)
        self.speed, self.steps = np.zeros(2), 0
        self.length = int(self.np_random.integers(SHORTEST, LONGEST + 1))
        return self.observe(), {}

    def step(self, action):
        self.speed = 0.5 * self.speed + 0.4 * np.asarray(action)
        self.position, self.steps = self.position + self.speed, self.steps + 1
        reward = float(self.compute_reward(self.position, self.goal, {}))
        return self.observe(), reward, self.steps == self.length, False, {"is_success": reward == 0}

    def observe(self):
        return {
            "observation": self.speed.copy(),
            "achieved_goal": self.position.copy(),
            "desired_goal": self.goal.copy(),
        }

    def compute_reward(self, achieved, desired, info):
        return (np.linalg.norm(np.asarray(achieved) - desired, axis=-1) <= 0.3).astype(np.float64) - 1.0


class OneReward(PointGoal):
    """Gives one reward, whatever the number of goals."""

    def compute_reward(self, achieved, desired, info):
        return float(np.linalg.norm(np.asarray(achieved)[..., :1]) > 0)


class NoReward(PointGoal):
    """Cannot say what another goal would have earned."""

    compute_reward = property(lambda self: (_ for _ in ()).throw(AttributeError("compute_reward")))

    def step(self, action):
        self.steps += 1
        return self.observe(), 0.0, self.steps == self.length, False, {}
