"""Atari preprocessing (Mnih et al. 2015, methods): frame skip of 4, maximum over the last two frames,
grayscale, 84 × 84, a stack of 4 frames, no-op starts.

There are two implementations of the same. `VectorAtari` is ALE's own, many emulators on many threads in
C++; its state cannot be read. `atari_preprocessing` wraps one emulator, whose state can.
"""

import functools
from collections import deque
from typing import Any

import numpy as np

from torchstone.envs.backends import BackendStep
from torchstone.envs.make import gym

SIZE, NUM_STACK, FRAME_SKIP, NOOP_MAX = 84, 4, 4, 30


@functools.cache
def area_weights(size: int, target: int = SIZE) -> np.ndarray:
    """`(target, size)` weights of area interpolation: what share of each pixel falls into each target one."""
    edges = np.arange(target + 1) * (size / target)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (overlap.clip(0) * (target / size)).astype(np.float32)


def atari_preprocessing(env: Any, *, noop_max: int = NOOP_MAX, fire_reset: bool = True) -> Any:
    """`env`, an ALE environment without frame skip, with `(4, 84, 84)` uint8 observations.

    Args:
        noop_max: largest number of no-op actions at reset, drawn from the env's generator.
        fire_reset: press FIRE at reset, in games that wait for it.
    """
    gymnasium = gym()

    class AtariPreprocessing(gymnasium.Wrapper):
        OLD_ATTRIBUTES = {"seen": "frames", "moves": "action_set", "button": "fire_action"}  # noqa: RUF012
        FRAME_SKIP = FRAME_SKIP

        def __init__(self, env: Any):
            super().__init__(env)
            self.observation_space = gymnasium.spaces.Box(0, 255, (NUM_STACK, SIZE, SIZE), np.uint8)
            self.action_set = env.unwrapped.ale.getMinimalActionSet()
            if env.action_space.n == 18:
                self.action_set = env.unwrapped.ale.getLegalActionSet()
            names = env.unwrapped.get_action_meanings()
            self.fire_action = names.index("FIRE") if fire_reset and "FIRE" in names else None
            self.frames = deque(maxlen=NUM_STACK)

        def reset(self, **kwargs):
            unwrapped = self.env.unwrapped
            _, info = self.env.reset(**kwargs)
            for _ in range(int(unwrapped.np_random.integers(noop_max + 1)) if noop_max else 0):
                unwrapped.ale.act(self.action_set[0])
            if self.fire_action is not None:
                unwrapped.ale.act(self.action_set[self.fire_action])
            blank = np.zeros((SIZE, SIZE), np.uint8)
            first = self._resize(unwrapped.ale.getScreenGrayscale())
            self.frames.extend([blank] * (NUM_STACK - 1) + [first])
            return np.stack(self.frames), info

        def _resize(self, screen: np.ndarray) -> np.ndarray:
            height, width = screen.shape
            resized = area_weights(height) @ screen.astype(np.float32) @ area_weights(width).T
            return np.rint(resized).astype(np.uint8)

        def step(self, action):
            ale, move, reward = self.env.unwrapped.ale, self.action_set[int(action)], 0.0
            screens = []
            for frame in range(FRAME_SKIP):
                reward += ale.act(move)
                if frame >= FRAME_SKIP - 2:
                    screens.append(ale.getScreenGrayscale())
                if ale.game_over():
                    screens = screens or [ale.getScreenGrayscale()]
                    break
            self.frames.append(self._resize(functools.reduce(np.maximum, screens)))
            terminated = ale.game_over(with_truncation=False)
            return np.stack(self.frames), reward, terminated, ale.game_truncated(), {}

    return AtariPreprocessing(env)


def sign_reward(env: Any) -> Any:
    """Rewards clipped to their sign, so that one learning rate suits all games."""
    return gym().wrappers.TransformReward(env, lambda reward: float(np.sign(reward)))


def episodic_life(env: Any) -> Any:
    """A lost life ends the episode for the learner, but not the game, as `life_lost` says."""

    class EpisodicLife(gym().Wrapper):
        OLD_ATTRIBUTES = {"going": "life_lost"}  # noqa: RUF012
        lives, life_lost = 0, False

        def reset(self, **kwargs):
            if self.life_lost and kwargs.get("seed") is None:
                observation, _, terminated, truncated, info = self.env.step(0)
                if not (terminated or truncated):
                    self.lives = self.env.unwrapped.ale.lives()
                    return observation, info
            self.life_lost = False
            observation, info = self.env.reset(**kwargs)
            self.lives = self.env.unwrapped.ale.lives()
            return observation, info

        def step(self, action):
            observation, reward, terminated, truncated, info = self.env.step(action)
            lives = self.env.unwrapped.ale.lives()
            self.life_lost = lives < self.lives and not (terminated or truncated)
            self.lives = lives
            return observation, reward, terminated or self.life_lost, truncated, info

    return EpisodicLife(env)


WRAPPERS = {
    "AtariPreprocessing": atari_preprocessing,
    "SignReward": sign_reward,
    "EpisodicLife": episodic_life,
}


class VectorAtari:
    """ALE's vector env of one game, with `AtariPreprocessing` and perhaps the two others of `WRAPPERS`."""

    action_mask = None

    def __init__(self, spec: str, num_envs: int, wrappers: tuple[str, ...], max_episode_steps: int | None):
        gymnasium = gym()
        from ale_py.vector_env import AtariVectorEnv

        kwargs = gymnasium.spec(spec).kwargs
        max_frames = kwargs.get("max_num_frames_per_episode", 108_000)
        if max_episode_steps is not None:
            max_frames = max_episode_steps * FRAME_SKIP
        self.env = AtariVectorEnv(
            kwargs["game"],
            num_envs,
            repeat_action_probability=kwargs.get("repeat_action_probability", 0.0),
            full_action_space=kwargs.get("full_action_space", False),
            max_num_frames_per_episode=max_frames,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
            reward_clipping=False,  # returns are the game's own; `SignReward` is applied here
        )
        self.episode_limit = -(-max_frames // FRAME_SKIP)
        self.sign_reward, self.episodic_life = "SignReward" in wrappers, "EpisodicLife" in wrappers
        self.observation_space = self.env.single_observation_space
        self.action_space = self.env.single_action_space
        self.episode_returns, self.lives = np.zeros(num_envs), np.zeros(num_envs, np.int32)

    def reset(self, seed: int) -> np.ndarray:
        self.episode_returns[:] = 0
        seeds = np.random.SeedSequence(seed).generate_state(len(self.episode_returns)) >> 1
        observation, info = self.env.reset(seed=seeds.astype(np.int32))
        self.lives = info["lives"].copy()
        return observation.copy()

    def step(self, actions: np.ndarray) -> BackendStep:
        observation, reward, terminated, truncated, info = self.env.step(actions)
        # ALE reuses its arrays
        observation, reward = observation.copy(), reward.astype(np.float32)
        terminated, truncated = terminated.copy(), truncated.copy()
        self.episode_returns += reward
        done = terminated | truncated
        next_observation, returns = observation, []
        if done.any():
            next_observation = observation.copy()
            next_observation[done] = info["final_obs"][done]
            returns = self.episode_returns[done].tolist()
            self.episode_returns[done] = 0
        if self.episodic_life:
            terminated |= (info["lives"] < self.lives) & ~done
            self.lives = info["lives"].copy()
        reward = np.sign(reward) if self.sign_reward else reward
        return BackendStep(next_observation, reward, terminated, truncated, observation, returns)

    def close(self) -> None:
        """ALE closes its emulators itself."""
