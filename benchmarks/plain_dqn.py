"""DQN as people write it in one file: Gymnasium's vector environment, arrays for a replay buffer, one loop.

Written for `benchmarks/off_policy.py` to be compared with, from the algorithm, in the manner of scripts that
are meant to be read from top to bottom: both observations of each step in the buffer, gradients spread
evenly over the steps. Settings are those of one of our recipes, except that n_step is 1.
"""

import itertools
import random
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.nn.functional import smooth_l1_loss


class Network(nn.Module):
    def __init__(self, shape: tuple[int, ...], actions: int, hidden: tuple[int, ...]):
        super().__init__()
        self.pixels = len(shape) == 3
        if self.pixels:
            self.layers = nn.Sequential(
                nn.Conv2d(4, 32, 8, 4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(3136, 512),
                nn.ReLU(),
                nn.Linear(512, actions),
            )
        else:
            pairs = itertools.pairwise((shape[0], *hidden))
            inner = [m for a, b in pairs for m in (nn.Linear(a, b), nn.ReLU())]
            self.layers = nn.Sequential(*inner, nn.Linear(hidden[-1], actions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x / 255.0 if self.pixels else x)


class ReplayBuffer:
    def __init__(self, size: int, space: Any):
        self.size, self.position, self.full = size, 0, False
        self.observation = np.zeros((size, *space.shape), space.dtype)
        self.next_observation = np.zeros((size, *space.shape), space.dtype)
        self.action, self.reward = np.zeros(size, np.int64), np.zeros(size, np.float32)
        self.terminated = np.zeros(size, np.float32)

    def add(self, *rows: Any) -> None:
        for observation, next_observation, action, reward, terminated in zip(*rows, strict=True):
            self.observation[self.position], self.next_observation[self.position] = (
                observation,
                next_observation,
            )
            self.action[self.position], self.reward[self.position] = action, reward
            self.terminated[self.position] = terminated
            self.position = (self.position + 1) % self.size
            self.full = self.full or self.position == 0

    def sample(self, count: int) -> list[torch.Tensor]:
        index = np.random.randint(0, self.size if self.full else self.position, count)
        columns = (self.observation, self.next_observation, self.action, self.reward, self.terminated)
        return [torch.as_tensor(column[index]) for column in columns]


def learner(make_env: Callable[[], gymnasium.Env], recipe: Any, seed: int = 0) -> Callable[[int], None]:
    """A function that trains an agent for `n` times `num_steps` steps of each env, after the random steps."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.vector.SyncVectorEnv([make_env] * recipe.num_envs, autoreset_mode=mode)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    shape, actions = envs.single_observation_space.shape, envs.single_action_space.n
    network, target = (Network(shape, actions, recipe.hidden) for _ in range(2))
    target.load_state_dict(network.state_dict())
    adam = torch.optim.Adam(network.parameters(), lr=recipe.lr)
    buffer = ReplayBuffer(recipe.buffer_size, envs.single_observation_space)
    current = envs.reset(seed=seed)[0]
    updates = 0

    def step(epsilon: float) -> None:
        nonlocal current
        if random.random() < epsilon:
            action = envs.action_space.sample()
        else:
            with torch.no_grad():
                action = network(torch.Tensor(current)).argmax(1).numpy()
        observation, reward, terminated, truncated, info = envs.step(action)
        next_observation = observation.copy()
        for index in np.flatnonzero(terminated | truncated):
            next_observation[index] = info["final_obs"][index]
        buffer.add(current, next_observation, action, reward, terminated)
        current = observation

    def learn(rounds: int) -> None:
        nonlocal updates
        for _ in range(rounds):
            if updates % recipe.target_update_interval == 0:
                target.load_state_dict(network.state_dict())
            updates += 1
            for t in range(recipe.num_steps):
                step(recipe.final_epsilon)
                due = recipe.gradient_steps * (t + 1) // recipe.num_steps
                for _ in range(due - recipe.gradient_steps * t // recipe.num_steps):
                    observation, next_observation, action, reward, terminated = buffer.sample(
                        recipe.batch_size
                    )
                    with torch.no_grad():
                        best = target(next_observation).amax(1)
                        expected = reward + recipe.gamma * best * (1 - terminated)
                    q = network(observation).gather(1, action[:, None])[:, 0]
                    loss = smooth_l1_loss(q, expected)
                    adam.zero_grad()
                    loss.backward()
                    if recipe.max_grad_norm is not None:
                        nn.utils.clip_grad_norm_(network.parameters(), recipe.max_grad_norm)
                    adam.step()

    for _ in range(recipe.learning_starts // recipe.num_envs):
        step(1.0)
    return learn
