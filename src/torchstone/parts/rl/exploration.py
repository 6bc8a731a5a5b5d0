"""How an agent strays from what it thinks best. Each has `begin`, which draws the noise of several steps at
once, `act` for one of them, and `end`, which is told where episodes ended."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def falling(first: float, last: float, over: int, after: int = 0) -> Callable[[int], float]:
    """A schedule: `first` up to step `after`, then in a line down to `last`, `over` steps later."""

    def rate(step: int) -> float:
        done = min(max(step - after, 0) / over, 1.0) if over else float(step >= after)
        return first * (1 - done) + last * done

    return rate


class EpsilonGreedy:
    """Any action with probability ε, each as likely as the others; else the one thought best.

    Args:
        greedy: observations -> the best actions, int64.
        rate: steps of all worlds so far -> ε.
    """

    def __init__(self, greedy: Callable[[Tensor], Tensor], actions: int, rate: Callable[[int], float]):
        self.greedy, self.actions, self.rate = greedy, actions, rate

    def begin(self, length: int, worlds: int, frames: int, generator: torch.Generator) -> None:
        rates = torch.tensor([self.rate(frames + t * worlds) for t in range(length)])
        self.strays = torch.rand(length, worlds, generator=generator) < rates[:, None]
        self.random = torch.randint(self.actions, (length, worlds), generator=generator)
        # nearly always all worlds do the one or the other: then nothing is to be chosen from
        self.all = self.strays.all(1).tolist()
        self.some = self.strays.any(1).tolist()

    def act(self, t: int, observation: Tensor) -> Tensor:
        if self.all[t]:
            return self.random[t]
        best = self.greedy(observation).cpu()
        return torch.where(self.strays[t], self.random[t], best) if self.some[t] else best

    def end(self, ended: Bool[Tensor, " worlds"]) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class Noisy:
    """What is thought best plus noise, kept inside -1..1; before `first` steps, anything, evenly.

    The noise is Ornstein and Uhlenbeck's (Lillicrap et al. 2016, section 7),
    dx = -θ x dt + σ √dt N(0, 1), which begins at 0 in each episode and strays for a while in one direction;
    with `theta` None it is fresh at every step, σ N(0, 1).

    Args:
        greedy: observations -> actions in -1..1, `(worlds, actions)`.
    """

    def __init__(
        self,
        greedy: Callable[[Tensor], Tensor],
        actions: int,
        worlds: int,
        *,
        sigma: float,
        theta: float | None = None,
        dt: float = 1.0,
        first: int = 0,
    ):
        self.greedy, self.actions, self.first = greedy, actions, first
        self.sigma, self.theta, self.dt = sigma, theta, dt
        self.state = torch.zeros(worlds, actions)

    def begin(self, length: int, worlds: int, frames: int, generator: torch.Generator) -> None:
        shape = (length, worlds, self.actions)
        self.normal = torch.randn(shape, generator=generator)
        self.random = torch.rand(shape, generator=generator) * 2 - 1
        self.blind = [frames + t * worlds < self.first for t in range(length)]

    def noise(self, t: int) -> Float[Tensor, "worlds actions"]:
        if self.theta is None:
            return self.sigma * self.normal[t]
        drift = -self.theta * self.dt * self.state
        self.state = self.state + drift + self.sigma * math.sqrt(self.dt) * self.normal[t]
        return self.state

    def act(self, t: int, observation: Tensor) -> Float[Tensor, "worlds actions"]:
        if self.blind[t]:
            return self.random[t]
        return (self.greedy(observation).cpu() + self.noise(t)).clamp_(-1, 1)

    def end(self, ended: Bool[Tensor, " worlds"]) -> None:
        self.state = self.state.masked_fill(ended[:, None], 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"state": self.state.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.state = state["state"].clone()
