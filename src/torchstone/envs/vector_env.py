"""Worlds to act in: any Gymnasium environment, many at once, with a state that a checkpoint can hold.

What every user of an environment gets wrong once is settled here: an episode that is over for good
(`terminated`) and one that a clock cut short (`truncated`) stay apart, and the observation that the last
action led to is kept when the next episode begins.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from torchstone.envs.atari import NAMES, Ataris
from torchstone.envs.backends import CartPoles, Loop, Outcome
from torchstone.envs.env_state import restore, snapshot
from torchstone.envs.make import make
from torchstone.envs.requirements import Kind, needs, spaces
from torchstone.envs.wrappers import some
from torchstone.errors import BadInput

__all__ = ["Kind", "Step", "Worlds", "copies", "needs", "spaces"]


class Step(NamedTuple):
    """One step of all worlds, on the CPU. `observation` is what the action led to, before any reset."""

    observation: Float32[Tensor, "count *shape"] | UInt8[Tensor, "count *shape"]
    reward: Float32[Tensor, " count"]
    terminated: Bool[Tensor, " count"]  # over for good: nothing is worth anything after it
    truncated: Bool[Tensor, " count"]  # cut by a time limit: bootstrap from `observation`
    returns: list[float]  # undiscounted, before wrappers, of the episodes that ended in this step


class Worlds:
    """`count` copies of the environment `spec`, stepped together; each begins anew when its episode ends.

    Observations are float32, and pixels stay uint8; what is no array of numbers is flattened, categories
    to one-hot. Where an environment has a native vector form (CartPole, Atari), that is used.

    Args:
        spec: a Gymnasium id, `module:Id` for one that a module registers.
        seed: of all that the worlds draw; no two seeds share an episode.
        wrappers: names in `gymnasium.wrappers`, innermost first, `Name:argument=value` to set something;
            for Atari also `AtariPreprocessing`, `SignReward`, `EpisodicLife` (see `streams.atari`).
        limit: steps after which an episode is cut; the environment's own by default, 0 for none.
        render: make `frame` possible.

    Raises:
        BadInput: no such environment, one that cannot be opened, or one that fails, answers with NaN or
            changes its spaces while running; then with the step and the action.
    """

    def __init__(
        self,
        spec: str,
        count: int = 1,
        *,
        seed: int = 0,
        wrappers: Sequence[str] = (),
        limit: int | None = None,
        render: bool = False,
    ):
        if count < 1:
            raise BadInput(f"at least 1 world is needed, not {count}")
        self.spec, self.count, self.wrappers, self.limit = spec, count, tuple(wrappers), limit
        self.kind = _kind(spec, count, self.wrappers, limit, render)
        self.observations, self.actions = self.kind.observations, self.kind.actions
        self.discrete = hasattr(self.actions, "n")
        self.first = int(getattr(self.actions, "start", 0))  # some count their actions from 1
        self.reset(seed)

    @property
    def mask(self) -> Bool[Tensor, "count actions"] | None:
        """Which actions are valid now, if the worlds say so: by `action_mask` in `info` or observation."""
        return None if self.kind.mask is None else torch.from_numpy(self.kind.mask)

    @property
    def exact(self) -> bool:
        """Whether a state put back goes on bit for bit; otherwise resuming begins new episodes."""
        if isinstance(self.kind, Loop):
            return copies(self.spec, self.wrappers)
        return isinstance(self.kind, CartPoles)

    def reset(self, seed: int) -> Tensor:
        """Begin all worlds anew; the same seed gives the same episodes."""
        self.seed, self.steps = seed, 0
        self.observation = torch.from_numpy(self.kind.reset(seed))
        return self.observation

    def step(self, actions: Tensor) -> Step:
        """Act in every world: `(count,)` int64, or `(count, n)` float32, clipped to the bounds."""
        chosen = actions.numpy()
        if not self.discrete:
            chosen = np.clip(chosen, self.actions.low, self.actions.high)
        elif self.first:
            chosen = chosen + self.first
        outcome = self.kind.step(chosen)
        self.steps += 1
        # a sum is finite only if all of it is, unless it overflows: then look closely
        total = np.add.reduce(outcome.reward)
        if outcome.after.dtype != np.uint8:
            total = total + np.add.reduce(outcome.after, axis=None)
        if not math.isfinite(total):
            self._look(outcome, chosen)
        after = torch.from_numpy(outcome.after)
        self.observation = after if outcome.now is outcome.after else torch.from_numpy(outcome.now)
        return Step(
            after,
            torch.from_numpy(outcome.reward),
            torch.from_numpy(outcome.terminated),
            torch.from_numpy(outcome.truncated),
            outcome.returns,
        )

    def _look(self, outcome: Outcome, chosen: np.ndarray) -> None:
        for name in ("reward", "after"):
            bad = ~np.isfinite(getattr(outcome, name)).reshape(self.count, -1).all(1)
            if bad.any():
                index = int(bad.argmax())
                what = "a reward" if name == "reward" else "an observation"
                raise BadInput(
                    f"{self.spec}: world {index} gave {what} that is NaN or infinite at step "
                    f"{self.steps}, on action {chosen[index]}"
                )

    def state_dict(self) -> dict[str, Any]:
        state = {"seed": self.seed, "steps": self.steps}
        if self.exact:
            state |= {"kind": self.kind.state_dict(), "observation": self.observation.clone()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "kind" in state:
            self.reset(state["seed"])
            self.observation = state["observation"].clone()
            self.kind.load_state_dict(state["kind"], self.observation.numpy())
        else:  # new episodes, other than those that training began with
            numbers = np.random.SeedSequence([state["seed"], state["steps"]]).generate_state(1)
            self.reset(int(numbers[0]) if state["steps"] else state["seed"])
        self.seed, self.steps = state["seed"], state["steps"]

    def frame(self) -> np.ndarray:
        """World 0 as a picture, uint8 `(height, width, 3)`; for worlds made with `render=True`."""
        return self.kind.frame()

    @property
    def rate(self) -> float:
        """Frames a second that `frame` should be shown at."""
        return float(self.kind.worlds[0].metadata.get("render_fps") or 30)

    def close(self) -> None:
        self.kind.close()


def _kind(spec: str, count: int, wrappers: tuple[str, ...], limit: int | None, render: bool) -> Any:
    native = {"CartPole-v0", "CartPole-v1"}
    if spec in native and count >= 4 and not wrappers and not render and limit != 0:
        return CartPoles(spec, count, limit)
    if count > 1 and not render and "AtariPreprocessing" in wrappers and set(wrappers) <= set(NAMES):
        make(spec, wrappers, limit)[0].close()  # says what is wrong, if something is
        return Ataris(spec, count, wrappers, limit)
    return Loop(spec, count, wrappers, limit, render)


@functools.cache
def copies(spec: str, wrappers: tuple[str, ...] = (), steps: int = 48) -> bool:
    """Whether `world_state` holds all of an environment's state: tried, not assumed. One is played for a
    while, its state is put into another, and the two must agree to the bit from there on."""
    one, other = (make(spec, wrappers, None)[0] for _ in range(2))
    draw = one.action_space
    draw.seed(0)
    try:
        about = one.reset(seed=1)[1]
        other.reset(seed=2)
        for _ in range(7):
            *_, over, cut, about = one.step(some(draw, about))
            about = one.reset()[1] if over or cut else about
        restore(other, snapshot(one))
        for _ in range(steps):
            action = some(draw, about)
            a, b = one.step(action), other.step(action)
            if not (np.array_equal(a[0], b[0]) and a[1:4] == b[1:4]):
                return False
            about = a[4]
            if a[2] or a[3]:
                a, b = one.reset(), other.reset()
                about = a[1]
                if not np.array_equal(a[0], b[0]):
                    return False
        return np.array_equal(one.reset()[0], other.reset()[0])
    except Exception:  # noqa: BLE001  an unknown world, its attributes set from outside
        return False
    finally:
        one.close(), other.close()
