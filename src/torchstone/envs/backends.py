"""Many worlds stepped as one: a plain loop over any Gymnasium environment, or the environment's own
vector form. What they share is in `torchstone.envs.vector_env`."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from torchstone.envs.env_state import restore, snapshot
from torchstone.envs.make import gym, make
from torchstone.envs.wrappers import allowed
from torchstone.errors import BadInput


class Outcome(NamedTuple):
    """A step of all worlds, in arrays; `now` is `after`, but for worlds that began anew."""

    after: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    now: np.ndarray
    returns: list[float]


class Loop:
    """`count` environments of any kind, one after the other."""

    def __init__(self, spec: str, count: int, wrappers: Sequence[str], limit: int | None, render: bool):
        options = {"render_mode": "rgb_array"} if render else {}
        made = [make(spec, wrappers, limit, **options) for _ in range(count)]
        self.spec, self.worlds, self.limit = spec, [env for env, _ in made], made[0][1]
        first = self.worlds[0]
        self.observations, self.actions = first.observation_space, first.action_space
        pixels = self.observations.dtype == np.uint8
        self.dtype = np.dtype(np.uint8 if pixels else np.float32)
        self.shape = self.observations.shape
        self.elapsed, self.totals = [0] * count, [0.0] * count
        self.ledgers = [self._find(env) for env in self.worlds] if wrappers else None
        self.now, self.clock = np.empty((count, *self.shape), self.dtype), 0
        self.mask: np.ndarray | None = None  # (count, actions), where worlds say what is valid

    @staticmethod
    def _find(env: Any) -> Any:
        while type(env).__name__ != "Ledger":
            env = env.env
        return env

    def reset(self, seed: int) -> np.ndarray:
        self.clock, self.now, self.mask = 0, np.empty_like(self.now), None
        seeds = np.random.SeedSequence(seed).generate_state(len(self.worlds))
        for index, own in enumerate(seeds):
            self._begin(index, self.now, int(own))
        return self.now

    def _begin(self, index: int, into: np.ndarray, seed: int | None = None) -> None:
        world = self.worlds[index]
        try:
            observation, about = world.reset(seed=seed)
            changed = world.observation_space is not self.observations and (
                world.observation_space != self.observations
            )
        except Exception as error:
            raise self._failed(index, "at reset", error) from error
        if changed or np.shape(observation) != self.shape:
            raise BadInput(
                f"{self.spec}: world {index} changed its observation space at a reset after step "
                f"{self.clock}: it was {self.observations}"
            )
        into[index] = observation
        if "action_mask" in about:
            self._allow(index, about)
        self.elapsed[index], self.totals[index] = 0, 0.0

    def step(self, actions: np.ndarray) -> Outcome:
        self.clock += 1
        count = len(self.worlds)
        if self.mask is not None:  # what a world does not speak of is allowed
            self.mask = np.ones_like(self.mask)
        after, reward = np.empty_like(self.now), np.empty(count, np.float32)
        terminated, truncated = np.zeros(count, bool), np.zeros(count, bool)
        ended, returns = [], []
        chosen = actions.tolist() if actions.ndim == 1 else actions
        elapsed, totals, limit, shape = self.elapsed, self.totals, self.limit, self.shape
        for index, world in enumerate(self.worlds):
            try:
                observation, gained, over, cut, about = world.step(chosen[index])
            except Exception as error:
                raise self._failed(index, f"on action {chosen[index]}", error) from error
            if np.shape(observation) != shape:
                raise BadInput(
                    f"{self.spec}: world {index} changed its observation space at step {self.clock}, "
                    f"on action {chosen[index]}: shape {np.shape(observation)}, was {shape}"
                )
            after[index] = observation
            reward[index] = gained
            totals[index] += gained
            elapsed[index] += 1
            cut = cut or elapsed[index] == limit
            if over or cut:
                terminated[index], truncated[index] = over, cut
                ended.append(index)
            elif "action_mask" in about:
                self._allow(index, about)
        if not ended:
            self.now = after
            return Outcome(after, reward, terminated, truncated, after, returns)
        now = after.copy()
        for index in ended:
            if not getattr(self.worlds[index], "going", False):  # a life lost is no game lost
                returns.append(float(self.ledgers[index].total if self.ledgers else totals[index]))
            self._begin(index, now)
        self.now = now
        return Outcome(after, reward, terminated, truncated, now, returns)

    def _allow(self, index: int, about: dict) -> None:
        count = int(getattr(self.actions, "n", 0))
        if not count:
            return
        where = f"{self.spec}: world {index} gave at step {self.clock}"
        if self.mask is None:
            self.mask = np.ones((len(self.worlds), count), bool)
        self.mask[index] = allowed(about, count, where)

    def _failed(self, index: int, when: str, error: Exception) -> BadInput:
        said = " ".join(str(error).split()) or "no message"
        kind = type(error).__name__
        return BadInput(f"{self.spec}: world {index} failed at step {self.clock} {when}: {kind}: {said}")

    def state_dict(self) -> dict[str, Any]:
        return {
            "worlds": [snapshot(world) for world in self.worlds],
            "elapsed": list(self.elapsed),
            "totals": [float(total) for total in self.totals],
            "mask": None if self.mask is None else torch.from_numpy(self.mask.copy()),
        }

    def load_state_dict(self, state: dict[str, Any], now: np.ndarray) -> None:
        self.mask = None if state["mask"] is None else state["mask"].numpy().copy()
        for world, saved in zip(self.worlds, state["worlds"], strict=True):
            restore(world, saved)
        self.elapsed, self.totals, self.now = list(state["elapsed"]), list(state["totals"]), now

    def frame(self) -> np.ndarray:
        return np.asarray(self.worlds[0].render())

    def close(self) -> None:
        for world in self.worlds:
            world.close()


class CartPoles:
    """Gymnasium's own vector form of CartPole: the same equations on arrays."""

    mask = None

    def __init__(self, spec: str, count: int, limit: int | None):
        form = gym().make_vec(spec, count, vectorization_mode="vector_entry_point").unwrapped
        self.spec, self.form = spec, form
        form.max_episode_steps = limit or form.max_episode_steps or math.inf
        self.limit = form.max_episode_steps
        self.observations = form.single_observation_space
        self.actions = form.single_action_space
        self.totals = np.zeros(count)

    def reset(self, seed: int) -> np.ndarray:
        self.totals[:] = 0
        return self.form.reset(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))[0]

    def step(self, actions: np.ndarray) -> Outcome:
        form = self.form
        after, reward, terminated, truncated, _ = form.step(actions)
        self.totals += reward
        done = form.prev_done
        if not done.any():
            return Outcome(after, reward, terminated, truncated, after, [])
        # the form would begin anew a step late, its action wasted: done here instead, as it does it
        returns, ended = self.totals[done].tolist(), int(done.sum())
        form.state[:, done] = form.np_random.uniform(form.low, form.high, (4, ended))
        form.steps[done], self.totals[done] = 0, 0.0
        form.prev_done = np.zeros_like(done)
        now = form.state.T.astype(np.float32)
        return Outcome(after, reward, terminated, truncated, now, returns)

    def state_dict(self) -> dict[str, Any]:
        return {"form": snapshot(self.form), "totals": self.totals.tolist()}

    def load_state_dict(self, state: dict[str, Any], now: np.ndarray) -> None:
        restore(self.form, state["form"])
        self.totals = np.array(state["totals"])

    def close(self) -> None:
        self.form.close()
