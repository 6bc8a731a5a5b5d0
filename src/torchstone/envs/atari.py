"""Atari's screens as agents are shown them (Mnih et al. 2015, methods): each action held for 4 frames, the
brighter of the last two pixel by pixel, grey, 84 × 84, the last 4 together; some idle moves to begin with.

There are two forms of the same. `Ataris` is ALE's own, many machines on many threads in C++; its state
cannot be read. `screened` is one machine, whose state can.
"""

import functools
from collections import deque
from typing import Any

import numpy as np

from torchstone.envs.backends import Outcome
from torchstone.envs.make import gym

NAMES = ("AtariPreprocessing", "SignReward", "EpisodicLife")
SIDE, STACK, SKIP, IDLE = 84, 4, 4, 30


@functools.cache
def shrink(size: int, side: int = SIDE) -> np.ndarray:
    """What share of each of `size` pixels falls into each of `side`: averages over areas."""
    edges = np.arange(side + 1) * (size / side)
    pixel = np.arange(size)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (covered.clip(0) * (side / size)).astype(np.float32)


def screened(env: Any, *, idle: int = IDLE, fire: bool = True) -> Any:
    """`env`, one of ALE's that is stepped frame by frame, as `(4, 84, 84)` uint8.

    Args:
        idle: at most so many idle moves at the beginning, a number drawn from the world's generator.
        fire: press the button at the beginning, in games that wait for it.
    """
    gymnasium = gym()

    class AtariPreprocessing(gymnasium.Wrapper):
        def __init__(self, env: Any):
            super().__init__(env)
            self.observation_space = gymnasium.spaces.Box(0, 255, (STACK, SIDE, SIDE), np.uint8)
            self.moves = env.unwrapped.ale.getMinimalActionSet()
            if env.action_space.n == 18:
                self.moves = env.unwrapped.ale.getLegalActionSet()
            names = env.unwrapped.get_action_meanings()
            self.button = names.index("FIRE") if fire and "FIRE" in names else None
            self.seen = deque(maxlen=STACK)

        def reset(self, **options):
            unwrapped = self.env.unwrapped
            _, about = self.env.reset(**options)
            for _ in range(int(unwrapped.np_random.integers(idle + 1)) if idle else 0):
                unwrapped.ale.act(self.moves[0])
            if self.button is not None:
                unwrapped.ale.act(self.moves[self.button])
            blank = np.zeros((SIDE, SIDE), np.uint8)
            self.seen.extend([blank] * (STACK - 1) + [self._small(unwrapped.ale.getScreenGrayscale())])
            return np.stack(self.seen), about

        def _small(self, screen: np.ndarray) -> np.ndarray:
            high, wide = screen.shape
            small = shrink(high) @ screen.astype(np.float32) @ shrink(wide).T
            return np.rint(small).astype(np.uint8)

        def step(self, action):
            machine, move, reward = self.env.unwrapped.ale, self.moves[int(action)], 0.0
            screens = []
            for frame in range(SKIP):
                reward += machine.act(move)
                if frame >= SKIP - 2:
                    screens.append(machine.getScreenGrayscale())
                if machine.game_over():
                    screens = screens or [machine.getScreenGrayscale()]
                    break
            self.seen.append(self._small(functools.reduce(np.maximum, screens)))
            over = machine.game_over(with_truncation=False)
            return np.stack(self.seen), reward, over, machine.game_truncated(), {}

    return AtariPreprocessing(env)


def signed(env: Any) -> Any:
    """Rewards as their sign, so that one learning rate suits all games."""
    return gym().wrappers.TransformReward(env, lambda reward: float(np.sign(reward)))


def mortal(env: Any) -> Any:
    """A lost life ends the episode for the learner, though the game goes on: `going` tells."""

    class EpisodicLife(gym().Wrapper):
        lives, going = 0, False

        def reset(self, **options):
            if self.going and options.get("seed") is None:
                seen, _, over, cut, about = self.env.step(0)
                if not (over or cut):
                    self.lives = self.env.unwrapped.ale.lives()
                    return seen, about
            self.going = False
            seen, about = self.env.reset(**options)
            self.lives = self.env.unwrapped.ale.lives()
            return seen, about

        def step(self, action):
            seen, reward, over, cut, about = self.env.step(action)
            left = self.env.unwrapped.ale.lives()
            self.going = left < self.lives and not (over or cut)
            self.lives = left
            return seen, reward, over or self.going, cut, about

    return EpisodicLife(env)


WRAP = {"AtariPreprocessing": screened, "SignReward": signed, "EpisodicLife": mortal}


class Ataris:
    """ALE's vector form of one game, with `AtariPreprocessing` and perhaps the two others of `NAMES`."""

    mask = None

    def __init__(self, spec: str, count: int, wrappers: tuple[str, ...], limit: int | None):
        gymnasium = gym()
        from ale_py.vector_env import AtariVectorEnv

        about = gymnasium.spec(spec).kwargs
        frames = about.get("max_num_frames_per_episode", 108_000)
        self.form = AtariVectorEnv(
            about["game"],
            count,
            repeat_action_probability=about.get("repeat_action_probability", 0.0),
            full_action_space=about.get("full_action_space", False),
            max_num_frames_per_episode=frames if limit is None else limit * SKIP,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
            reward_clipping=False,  # returns are the game's own; `SignReward` is done here
        )
        self.sign, self.mortal = "SignReward" in wrappers, "EpisodicLife" in wrappers
        self.observations = self.form.single_observation_space
        self.actions = self.form.single_action_space
        self.totals, self.lives = np.zeros(count), np.zeros(count, np.int32)

    def reset(self, seed: int) -> np.ndarray:
        self.totals[:] = 0
        seeds = np.random.SeedSequence(seed).generate_state(len(self.totals)) >> 1
        seen, about = self.form.reset(seed=seeds.astype(np.int32))
        self.lives = about["lives"].copy()
        return seen.copy()

    def step(self, actions: np.ndarray) -> Outcome:
        now, reward, terminated, truncated, about = self.form.step(actions)
        now, reward = now.copy(), reward.astype(np.float32)  # ALE writes into its own again
        terminated, truncated = terminated.copy(), truncated.copy()
        self.totals += reward
        over = terminated | truncated
        after, returns = now, []
        if over.any():
            after = now.copy()
            after[over] = about["final_obs"][over]
            returns = self.totals[over].tolist()
            self.totals[over] = 0
        if self.mortal:
            terminated |= (about["lives"] < self.lives) & ~over
            self.lives = about["lives"].copy()
        return Outcome(after, np.sign(reward) if self.sign else reward, terminated, truncated, now, returns)

    def close(self) -> None:
        """ALE closes its machines itself."""
