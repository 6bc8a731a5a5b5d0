"""DQN as people write it in one file: a vector environment of Gymnasium's, arrays for a memory, one loop.

Written for `benchmarks/off_policy.py` to be compared with, from the algorithm, in the manner of scripts that
are meant to be read from top to bottom: both observations of each step in the memory, gradients spread
evenly over the steps. Settings are those of a recipe of ours, but that n is 1.
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
                nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
                nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
                nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions),
            )  # fmt: skip
        else:
            pairs = itertools.pairwise((shape[0], *hidden))
            inner = [m for a, b in pairs for m in (nn.Linear(a, b), nn.ReLU())]
            self.layers = nn.Sequential(*inner, nn.Linear(hidden[-1], actions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x / 255.0 if self.pixels else x)


class Memory:
    def __init__(self, size: int, space: Any):
        self.size, self.at, self.full = size, 0, False
        self.seen = np.zeros((size, *space.shape), space.dtype)
        self.following = np.zeros((size, *space.shape), space.dtype)
        self.action, self.reward = np.zeros(size, np.int64), np.zeros(size, np.float32)
        self.over = np.zeros(size, np.float32)

    def add(self, *rows: Any) -> None:
        for seen, following, action, reward, over in zip(*rows, strict=True):
            self.seen[self.at], self.following[self.at] = seen, following
            self.action[self.at], self.reward[self.at], self.over[self.at] = action, reward, over
            self.at = (self.at + 1) % self.size
            self.full = self.full or self.at == 0

    def sample(self, count: int) -> list[torch.Tensor]:
        chosen = np.random.randint(0, self.size if self.full else self.at, count)
        columns = (self.seen, self.following, self.action, self.reward, self.over)
        return [torch.as_tensor(column[chosen]) for column in columns]


def learner(made: Callable[[], gymnasium.Env], recipe: Any, seed: int = 0) -> Callable[[int], None]:
    """How to let an agent learn `n` times `length` steps of each world, those at random being lived."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.vector.SyncVectorEnv([made] * recipe.worlds, autoreset_mode=mode)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    shape, actions = envs.single_observation_space.shape, envs.single_action_space.n
    network, copy = (Network(shape, actions, recipe.hidden) for _ in range(2))
    copy.load_state_dict(network.state_dict())
    adam = torch.optim.Adam(network.parameters(), lr=recipe.lr)
    memory = Memory(recipe.memory, envs.single_observation_space)
    now = envs.reset(seed=seed)[0]
    updates = 0

    def step(epsilon: float) -> None:
        nonlocal now
        if random.random() < epsilon:
            action = envs.action_space.sample()
        else:
            with torch.no_grad():
                action = network(torch.Tensor(now)).argmax(1).numpy()
        seen, reward, over, cut, about = envs.step(action)
        following = seen.copy()
        for index in np.flatnonzero(over | cut):
            following[index] = about["final_obs"][index]
        memory.add(now, following, action, reward, over)
        now = seen

    def learn(rounds: int) -> None:
        nonlocal updates
        for _ in range(rounds):
            if updates % recipe.target == 0:
                copy.load_state_dict(network.state_dict())
            updates += 1
            for t in range(recipe.length):
                step(recipe.epsilon)
                due = recipe.gradients * (t + 1) // recipe.length
                for _ in range(due - recipe.gradients * t // recipe.length):
                    seen, following, action, reward, over = memory.sample(recipe.batch)
                    with torch.no_grad():
                        best = copy(following).amax(1)
                        wanted = reward + recipe.gamma * best * (1 - over)
                    q = network(seen).gather(1, action[:, None])[:, 0]
                    loss = smooth_l1_loss(q, wanted)
                    adam.zero_grad()
                    loss.backward()
                    if recipe.norm is not None:
                        nn.utils.clip_grad_norm_(network.parameters(), recipe.norm)
                    adam.step()

    for _ in range(recipe.first // recipe.worlds):
        step(1.0)
    return learn
