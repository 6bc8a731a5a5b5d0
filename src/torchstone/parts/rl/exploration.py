"""Exploration strategies: ε-greedy, and additive action noise.

Each has `sample_noise`, which draws the noise of several steps at once, `act` for one of those steps, and
`reset_done`, which is given the envs whose episodes ended.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.parts.numpy_graph import Traced


def linear_schedule(start: float, end: float, duration: int, delay: int = 0) -> Callable[[int], float]:
    """Step -> value: `start` up to step `delay`, then linear to `end` over `duration` steps."""

    def value(step: int) -> float:
        done = min(max(step - delay, 0) / duration, 1.0) if duration else float(step >= delay)
        return start * (1 - done) + end * done

    return value


class EpsilonGreedy:
    """A uniformly random action with probability ε, else the greedy one.

    Args:
        greedy: observations -> the greedy actions, int64.
        epsilon: number of environment steps so far, over all envs -> ε.
    """

    def __init__(self, greedy: Callable[[Tensor], Tensor], num_actions: int, epsilon: Callable[[int], float]):
        self.greedy, self.num_actions, self.epsilon = Traced(greedy), num_actions, epsilon

    def sample_noise(self, num_steps: int, num_envs: int, env_steps: int, generator: torch.Generator) -> None:
        epsilons = torch.tensor([self.epsilon(env_steps + t * num_envs) for t in range(num_steps)])
        self.is_random = torch.rand(num_steps, num_envs, generator=generator) < epsilons[:, None]
        self.random_action = torch.randint(self.num_actions, (num_steps, num_envs), generator=generator)
        # nearly always all envs do the one or the other: then there is nothing to select per env
        self.all_random = self.is_random.all(1).tolist()
        self.any_random = self.is_random.any(1).tolist()

    def act(self, t: int, observation: Tensor) -> Tensor:
        if self.all_random[t]:
            return self.random_action[t]
        greedy = self.greedy(observation).cpu()
        return torch.where(self.is_random[t], self.random_action[t], greedy) if self.any_random[t] else greedy

    def reset_done(self, done: Bool[Tensor, " envs"]) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class ActionNoise:
    """The greedy action plus noise, clamped to [-1, 1]; uniformly random before `learning_starts` steps.

    The noise is an Ornstein–Uhlenbeck process (Lillicrap et al. 2016, section 7),
    dx = -θ x dt + σ √dt N(0, 1), which starts at 0 in each episode and is correlated over time.
    With `theta` None it is independent Gaussian noise, σ N(0, 1).

    Args:
        greedy: observations -> actions in [-1, 1], `(envs, action_dim)`.
    """

    def __init__(
        self,
        greedy: Callable[[Tensor], Tensor],
        action_dim: int,
        num_envs: int,
        *,
        sigma: float,
        theta: float | None = None,
        dt: float = 1.0,
        learning_starts: int = 0,
    ):
        self.greedy, self.action_dim, self.learning_starts = Traced(greedy), action_dim, learning_starts
        self.sigma, self.theta, self.dt = sigma, theta, dt
        self.state = torch.zeros(num_envs, action_dim)

    def sample_noise(self, num_steps: int, num_envs: int, env_steps: int, generator: torch.Generator) -> None:
        shape = (num_steps, num_envs, self.action_dim)
        self.normal = torch.randn(shape, generator=generator)
        self.random_action = torch.rand(shape, generator=generator) * 2 - 1
        self.is_random = [env_steps + t * num_envs < self.learning_starts for t in range(num_steps)]

    def noise(self, t: int) -> Float[Tensor, "envs action_dim"]:
        if self.theta is None:
            return self.sigma * self.normal[t]
        drift = -self.theta * self.dt * self.state
        self.state = self.state + drift + self.sigma * math.sqrt(self.dt) * self.normal[t]
        return self.state

    def act(self, t: int, observation: Tensor) -> Float[Tensor, "envs action_dim"]:
        if self.is_random[t]:
            return self.random_action[t]
        return (self.greedy(observation).cpu() + self.noise(t)).clamp_(-1, 1)

    def reset_done(self, done: Bool[Tensor, " envs"]) -> None:
        self.state = self.state.masked_fill(done[:, None], 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"state": self.state.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.state = state["state"].clone()


class PolicySampling:
    """An action sampled from a stochastic policy; uniformly random before `learning_starts` steps.

    Args:
        policy: observations, standard normal noise `(envs, action_dim)` -> actions in [-1, 1] of that shape.
    """

    def __init__(
        self, policy: Callable[[Tensor, Tensor], Tensor], action_dim: int, *, learning_starts: int = 0
    ):
        self.policy, self.action_dim, self.learning_starts = Traced(policy), action_dim, learning_starts

    def sample_noise(self, num_steps: int, num_envs: int, env_steps: int, generator: torch.Generator) -> None:
        shape = (num_steps, num_envs, self.action_dim)
        self.normal = torch.randn(shape, generator=generator)
        self.random_action = torch.rand(shape, generator=generator) * 2 - 1
        self.is_random = [env_steps + t * num_envs < self.learning_starts for t in range(num_steps)]

    def act(self, t: int, observation: Tensor) -> Float[Tensor, "envs action_dim"]:
        return self.random_action[t] if self.is_random[t] else self.policy(observation, self.normal[t]).cpu()

    def reset_done(self, done: Bool[Tensor, " envs"]) -> None:
        pass

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass
