"""`Actor`: the acting side of a policy, with action masks and recurrent state."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from torchstone.envs.vector_env import VectorEnv

RecurrentState = tuple[Tensor, ...]  # each (layers, envs, units)


class Actor:
    """Calls a policy on the observations of `envs`, on the policy's device.

    A policy's methods `policy` and `greedy` take `(observation)`; if it `uses_masks` and the envs give
    them, `(observation, action_mask)`; if it is recurrent, that is if it has `initial_state(num_envs)`,
    `(observation, action_mask, state)`, and then they return the next state as well.
    """

    def __init__(self, policy: Any, envs: VectorEnv, device: torch.device | str = "cpu"):
        self.policy, self.envs, self.device = policy, envs, device
        self.is_recurrent = hasattr(policy, "initial_state")
        self.uses_masks = getattr(policy, "uses_masks", False)
        self.state: RecurrentState | None = None
        self.reset()

    def reset(self) -> None:
        """Reset the recurrent state of all envs."""
        if self.is_recurrent:
            self.state = self.policy.initial_state(self.envs.num_envs)

    def observe(self) -> tuple[Tensor, Bool[Tensor, "envs actions"] | None]:
        """The current observations, and the action mask if the envs give one and the policy uses it."""
        mask = self.envs.action_mask if self.uses_masks else None
        observation = self.envs.observation.to(self.device)
        return observation, mask if mask is None else mask.to(self.device)

    def act(self, method: Callable[..., Any], observation: Tensor, action_mask: Tensor | None) -> Any:
        """What `policy.policy` or `policy.greedy` returns; the recurrent state advances."""
        if self.state is None:
            return method(observation) if action_mask is None else method(observation, action_mask)
        output, self.state = method(observation, action_mask, self.state)
        return output

    def greedy_action(self) -> Tensor:
        """The most likely actions, on the CPU."""
        return self.act(self.policy.greedy, *self.observe()).cpu()

    def reset_done(self, done: Bool[Tensor, " envs"]) -> None:
        """Reset the recurrent state of the envs whose episodes are `done`."""
        if self.state is not None and done.any():
            done = done.to(self.device)[:, None]
            self.state = tuple(each.masked_fill(done, 0.0) for each in self.state)
