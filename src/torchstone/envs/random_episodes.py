"""Episodes of random actions, each a function of the seed and its number: none needs to be stored."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.seeding import SeedStream, derive_generator, derive_seed


class Episode(NamedTuple):
    """An episode of `time` steps: each frame, and the action that was taken then."""

    frames: UInt8[Tensor, "time channels height width"]
    actions: Float[Tensor, "time dims"]  # each dimension from -1 to 1
    is_terminated: bool  # else a time limit cut it


class RandomEpisodes:
    """Episode `number` of the seed: uniform actions, each repeated for 1 to `max_repeat` steps.

    Several are played side by side in threads, since a simulator may be a process of its own that is waited
    for. Environments are made when they are first needed.

    Args:
        dims: numbers in an action.
        discretize: actions from -1 to 1 -> what the environment can tell from them.
        env_action: those -> what the environment takes.
        num_envs: environments, and threads.
    """

    def __init__(
        self,
        spec: str,
        wrappers: Sequence[str],
        max_episode_steps: int | None,
        *,
        seed: int,
        dims: int,
        discretize: Callable[[Tensor], Tensor],
        env_action: Callable[[Tensor], Tensor],
        max_repeat: int = 10,
        num_envs: int = 8,
    ):
        self.spec, self.wrappers, self.max_episode_steps = spec, wrappers, max_episode_steps
        self.seed, self.dims, self.max_repeat = seed, dims, max_repeat
        self.discretize, self.env_action, self.num_envs = discretize, env_action, num_envs

    def play(self, numbers: Sequence[int]) -> Iterator[Episode]:
        """Those episodes, in that order."""
        idle: SimpleQueue[VectorEnv] = SimpleQueue()
        size = min(self.num_envs, len(numbers))
        envs = [self._make_env() for _ in range(size)]
        for env in envs:
            idle.put(env)

        def episode(number: int) -> Episode:
            env = idle.get()
            try:
                return self._episode(env, number)
            finally:
                idle.put(env)

        try:
            with ThreadPoolExecutor(size) as pool:
                # not all at once, since they are large
                for first in range(0, len(numbers), 4 * size):
                    yield from pool.map(episode, numbers[first : first + 4 * size])
        finally:
            for env in envs:
                env.close()

    def _make_env(self) -> VectorEnv:
        env = VectorEnv(
            self.spec, 1, seed=self.seed, wrappers=self.wrappers, max_episode_steps=self.max_episode_steps
        )
        env.bound_episodes()
        return env

    def _episode(self, env: VectorEnv, number: int) -> Episode:
        observation = env.reset(derive_seed(self.seed, SeedStream.EPISODES, number))
        generator = derive_generator(self.seed, SeedStream.EXPLORATION, number)
        frames, actions, repeat = [], [], 0
        while True:  # the env's episodes have a limit
            if not repeat:
                repeat = int(torch.randint(1, self.max_repeat + 1, (), generator=generator))
                action = self.discretize(2 * torch.rand(1, self.dims, generator=generator) - 1)
                chosen = self.env_action(action)
            repeat -= 1
            frames.append(observation[0])
            actions.append(action[0])
            step = env.step(chosen)
            observation = env.observation
            if step.terminated or step.truncated:
                return Episode(torch.stack(frames), torch.stack(actions), bool(step.terminated))
