"""A policy at play: asked about its worlds as they stand, with what they allow and what it remembers."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from torchstone.envs.vector_env import Worlds

Memory = tuple[Tensor, ...]  # each (layers, worlds, units)


class Player:
    """What stands between a policy and `worlds`.

    A policy is asked by `ask(observation)`, if it has `masks` and the worlds give them by
    `ask(observation, mask)`; if it has `empty(worlds)`, a memory of nothing, by
    `ask(observation, mask, memory)`, and then answers with what it remembers beside what it says.
    """

    def __init__(self, policy: Any, worlds: Worlds, device: torch.device | str = "cpu"):
        self.policy, self.worlds, self.device = policy, worlds, device
        self.remembers = hasattr(policy, "empty")
        self.masked = getattr(policy, "masks", False)
        self.memory: Memory | None = None
        self.forget()

    def forget(self) -> None:
        """All worlds begin anew."""
        if self.remembers:
            self.memory = self.policy.empty(self.worlds.count)

    def look(self) -> tuple[Tensor, Bool[Tensor, "worlds actions"] | None]:
        """Observations to act on now, and which actions are valid, if worlds say so and the policy heeds it."""
        mask = self.worlds.mask if self.masked else None
        observation = self.worlds.observation.to(self.device)
        return observation, mask if mask is None else mask.to(self.device)

    def ask(self, ask: Callable[..., Any], observation: Tensor, mask: Tensor | None) -> Any:
        """What `policy.policy` or `policy.greedy` answers; what it remembers moves on."""
        if self.memory is None:
            return ask(observation) if mask is None else ask(observation, mask)
        said, self.memory = ask(observation, mask, self.memory)
        return said

    def greedy(self) -> Tensor:
        """The likeliest actions, on the CPU."""
        return self.ask(self.policy.greedy, *self.look()).cpu()

    def ended(self, over: Bool[Tensor, " worlds"]) -> None:
        """Forget the episodes of the worlds where they are `over`."""
        if self.memory is not None and over.any():
            over = over.to(self.device)[:, None]
            self.memory = tuple(each.masked_fill(over, 0.0) for each in self.memory)
