"""Vectorized environments: any Gymnasium environment, many at once, with a state for checkpoints.

Two common faults are ruled out here: an episode that is over (`terminated`) and one that a time limit cut
(`truncated`) stay separate, and the observation that the last action led to is kept when the next episode
begins.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from torchstone.envs import atari
from torchstone.envs.backends import BackendStep, SyncVectorEnv, VectorCartPole
from torchstone.envs.env_state import layers, restore, snapshot
from torchstone.envs.goals import GoalSlices, goal_slices, success_of
from torchstone.envs.icu_sepsis import ENV_ID as ICU_SEPSIS
from torchstone.envs.icu_sepsis import VectorICUSepsis
from torchstone.envs.make import close_env, is_registered, make_env, registration
from torchstone.envs.wrappers import sample_valid
from torchstone.errors import BadInput
from torchstone.parts.old_keys import with_new_names

EPISODE_BOUND = 1_000  # steps of an episode that is waited for, where the env states no time limit


class EnvStep(NamedTuple):
    """One step of all envs, on the CPU. `next_observation` is what the action led to, before any reset."""

    next_observation: Float32[Tensor, "envs *shape"] | UInt8[Tensor, "envs *shape"]
    reward: Float32[Tensor, " envs"]
    terminated: Bool[Tensor, " envs"]  # the episode is over: the next state has value 0
    truncated: Bool[Tensor, " envs"]  # cut by a time limit: bootstrap from `next_observation`
    returns: list[float]  # undiscounted, before wrappers, of the episodes that ended in this step
    successes: Sequence[bool] = ()  # whether each of these reached its goal at its end, where envs say so


class VectorEnv:
    """`num_envs` copies of the environment `spec`, stepped together; each is reset when its episode ends.

    Observations are float32, or uint8 for pixels. Spaces that are not arrays are flattened, categories to
    one-hot. Where an environment has a native vectorized form (CartPole, Atari), it is used.

    Args:
        spec: a Gymnasium id, `module:Id` for one that a module registers, or `module:name` of what makes one.
        seed: of all randomness in the envs; no two seeds share an episode.
        wrappers: names in `gymnasium.wrappers`, innermost first, `Name:argument=value` to set an argument;
            for Atari also `AtariPreprocessing`, `SignReward`, `EpisodicLife` (see `envs.atari`).
        max_episode_steps: time limit; the environment's own by default, 0 for none (see `bound_episodes`).
        render: make `render` possible.

    Raises:
        BadInput: no such environment, one that cannot be opened, or one that fails, gives NaN or changes
            its spaces while running; then with the step and the action.
    """

    def __init__(
        self,
        spec: str,
        num_envs: int = 1,
        *,
        seed: int = 0,
        wrappers: Sequence[str] = (),
        max_episode_steps: int | None = None,
        render: bool = False,
    ):
        if num_envs < 1:
            raise BadInput(f"at least 1 env is needed, not {num_envs}")
        if max_episode_steps is not None and max_episode_steps < 0:
            raise BadInput(
                f"max_episode_steps is 0 for no limit, or a number of steps, not {max_episode_steps}"
            )
        self.spec, self.num_envs, self.wrappers = spec, num_envs, tuple(wrappers)
        self.backend = _make_backend(spec, num_envs, self.wrappers, max_episode_steps, render)
        self.observation_space = self.backend.observation_space
        self.action_space = self.backend.action_space
        self.is_discrete = hasattr(self.action_space, "n")
        self.first_action = int(getattr(self.action_space, "start", 0))  # some count actions from 1
        self.reset(seed)

    @property
    def action_mask(self) -> Bool[Tensor, "envs actions"] | None:
        """Which actions are valid now, if the envs give `action_mask` in `info` or in the observation."""
        return None if self.backend.action_mask is None else torch.from_numpy(self.backend.action_mask)

    @property
    def goals(self) -> GoalSlices | None:
        """Where the goals are in an observation, if the envs have some (see `envs.goals`)."""
        envs = getattr(self.backend, "envs", None)
        return goal_slices(envs[0]) if envs else None

    @property
    def is_exact(self) -> bool:
        """Whether a restored state continues bit for bit; otherwise resuming begins new episodes."""
        if isinstance(self.backend, SyncVectorEnv):
            return is_snapshot_exact(self.spec, self.wrappers)
        return isinstance(self.backend, VectorCartPole | VectorICUSepsis)

    @property
    def replays(self) -> bool:
        """Whether a state is restored by playing an episode's actions again (see `env_state`)."""
        envs = getattr(self.backend, "envs", [])
        return any(hasattr(type(layer), "replay") for env in envs[:1] for layer in layers(env))

    @property
    def episode_limit(self) -> int | None:
        """Steps after which episodes are cut, if anything is known to do so."""
        return self.backend.episode_limit

    def bound_episodes(self) -> int | None:
        """Cut episodes after `EPISODE_BOUND` steps where nothing limits them: whoever waits for an episode's
        end must call it. The bound, or None where the env has a limit of its own, as native forms have."""
        bound = getattr(self.backend, "bound_episodes", None)
        return EPISODE_BOUND if bound is not None and bound(EPISODE_BOUND) else None

    def reset(self, seed: int) -> Tensor:
        """Reset all envs; the same seed gives the same episodes."""
        self.seed, self.num_steps = seed, 0
        self.observation = torch.from_numpy(self.backend.reset(seed))
        return self.observation

    def step(self, actions: Tensor) -> EnvStep:
        """Act in every env: `(envs,)` int64, or `(envs, action_dim)` float32, clipped to the bounds, rounded
        where the space is of whole numbers, and of its type."""
        chosen = actions.numpy()
        if not self.is_discrete:
            chosen = np.clip(chosen, self.action_space.low, self.action_space.high)
            if self.action_space.dtype.kind in "iu":
                chosen = np.rint(chosen)
            chosen = chosen.astype(self.action_space.dtype, copy=False)
        elif self.first_action:
            chosen = chosen + self.first_action
        step = self.backend.step(chosen)
        self.num_steps += 1
        # a sum is finite only if all terms are, unless it overflows: only then check each
        total = np.add.reduce(step.reward)
        if step.next_observation.dtype != np.uint8:
            total = total + np.add.reduce(step.next_observation, axis=None)
        if not math.isfinite(total):
            self._check_finite(step, chosen)
        next_observation = torch.from_numpy(step.next_observation)
        was_reset = step.observation is not step.next_observation
        self.observation = torch.from_numpy(step.observation) if was_reset else next_observation
        return EnvStep(
            next_observation,
            torch.from_numpy(step.reward),
            torch.from_numpy(step.terminated),
            torch.from_numpy(step.truncated),
            step.returns,
            step.successes,
        )

    def _check_finite(self, step: BackendStep, chosen: np.ndarray) -> None:
        for name, values in (("a reward", step.reward), ("an observation", step.next_observation)):
            is_bad = ~np.isfinite(values).reshape(self.num_envs, -1).all(1)
            if is_bad.any():
                index = int(is_bad.argmax())
                raise BadInput(
                    f"{self.spec}: env {index} gave {name} that is NaN or infinite at step "
                    f"{self.num_steps}, on action {chosen[index]}"
                )

    def state_dict(self) -> dict[str, Any]:
        state = {"seed": self.seed, "num_steps": self.num_steps}
        if self.is_exact:
            state |= {"backend": self.backend.state_dict(), "observation": self.observation.clone()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = with_new_names(state, {"steps": "num_steps", "kind": "backend"})
        if "backend" in state:
            self.reset(state["seed"])
            self.observation = state["observation"].clone()
            self.backend.load_state_dict(state["backend"], self.observation.numpy())
        else:  # new episodes, other than those that training began with
            seeds = np.random.SeedSequence([state["seed"], state["num_steps"]]).generate_state(1)
            self.reset(int(seeds[0]) if state["num_steps"] else state["seed"])
        self.seed, self.num_steps = state["seed"], state["num_steps"]

    def render(self) -> np.ndarray:
        """A frame of env 0, uint8 `(height, width, 3)`; for envs made with `render=True`."""
        return self.backend.render()

    @property
    def render_fps(self) -> float:
        """The frame rate of `render`."""
        return self.backend.render_fps

    def close(self) -> None:
        self.backend.close()


def _make_backend(
    spec: str, num_envs: int, wrappers: tuple[str, ...], max_episode_steps: int | None, render: bool
) -> Any:
    native = {"CartPole-v0", "CartPole-v1"}
    if spec in native and num_envs >= 4 and not wrappers and not render and max_episode_steps != 0:
        return VectorCartPole(spec, num_envs, max_episode_steps)
    if spec == ICU_SEPSIS and num_envs >= 4 and not wrappers and not render:
        return VectorICUSepsis(num_envs, max_episode_steps)
    is_native = "AtariPreprocessing" in wrappers and set(wrappers) <= set(atari.WRAPPERS)
    if num_envs > 1 and not render and is_native and is_registered(spec):
        close_env(make_env(spec, wrappers, max_episode_steps)[0])  # raises the error, if there is one
        return atari.VectorAtari(spec, num_envs, wrappers, max_episode_steps)
    return SyncVectorEnv(spec, num_envs, wrappers, max_episode_steps, render)


def is_snapshot_exact(spec: str, wrappers: tuple[str, ...] = (), steps: int = 48) -> bool:
    """Whether `env_state.snapshot` holds all of an environment's state: tested, not assumed. One env is
    stepped for a while, and its state is restored into another; from then on both must agree to the bit."""
    return _is_snapshot_exact(spec, wrappers, steps, registration(spec))


@functools.lru_cache(64)
def _is_snapshot_exact(spec: str, wrappers: tuple[str, ...], steps: int, _registration: Any) -> bool:
    one, other = (make_env(spec, wrappers, None)[0] for _ in range(2))
    action_space = one.action_space
    action_space.seed(0)
    try:
        info = one.reset(seed=1)[1]
        other.reset(seed=2)
        for _ in range(7):
            *_, terminated, truncated, info = one.step(sample_valid(action_space, info))
            info = one.reset()[1] if terminated or truncated else info
        restore(other, snapshot(one))
        for _ in range(steps):
            action = sample_valid(action_space, info)
            a, b = one.step(action), other.step(action)
            if not (np.array_equal(a[0], b[0]) and a[1:4] == b[1:4]):
                return False
            info = a[4]
            if a[2] or a[3]:
                a, b = one.reset(), other.reset()
                info = a[1]
                if not np.array_equal(a[0], b[0]):
                    return False
        return np.array_equal(one.reset()[0], other.reset()[0])
    except (Exception, SystemExit):  # noqa: BLE001  an unknown environment, its attributes set from outside
        return False
    finally:
        close_env(one), close_env(other)


@functools.lru_cache(64)
def gives_success(spec: str, wrappers: tuple[str, ...] = ()) -> bool:
    """Whether `info` of a goal environment says if a step reached the goal; one step is taken to know."""
    env, _ = make_env(spec, wrappers, None)
    try:
        if goal_slices(env) is None:
            return False
        env.reset(seed=0)
        return success_of(env.step(env.action_space.sample())[4]) is not None
    finally:
        close_env(env)
