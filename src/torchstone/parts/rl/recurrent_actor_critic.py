"""A policy and a guess of what a state is worth that remember: a recurrent layer between eyes and heads.

As in A3C's LSTM agent (Mnih et al. 2016, section 5.1): one network sees, one recurrent layer reads what it
saw since the episode began, and policy and value are linear in that.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from torchstone.parts.recurrent.layers import Cell, Recurrent, State
from torchstone.parts.rl.actor_critic import (
    ACTIVATIONS,
    SEEN,
    Mask,
    dense,
    orthogonal,
    said,
    shown,
    sight,
)
from torchstone.parts.rl.distributions import Categorical, Gaussian
from torchstone.parts.rl.running_mean_std import Running


class RecurrentActorCritic(nn.Module):
    """Policy and value of sequences, a world a row; `forward` reads them from their beginnings.

    Args:
        cell: the recurrence, as wide as what it is given.
        hidden: widths of the layers before it; frames have `eyes` instead (`actor_critic.sight`).
        others: as `ActorCritic`'s.
    """

    masks = True  # asked with what is valid, where worlds say so

    def __init__(
        self,
        cell: Cell,
        observations: Sequence[int],
        actions: int,
        *,
        continuous: bool = False,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        scaled: bool = False,
        deviation: float = 0.0,
        eyes: str = "nature",
    ):
        super().__init__()
        self.pixels, self.actions = len(observations) == 3, actions
        if self.pixels:
            self.body, width = sight(observations[0], eyes), SEEN[eyes]
        else:
            layers = dense((math.prod(observations), *hidden), math.sqrt(2), activation)
            self.body = nn.Sequential(nn.Flatten(), layers, ACTIVATIONS[activation]())
            width = hidden[-1]
        self.memory = Recurrent(cell, width, width)
        for name, parameter in self.memory.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.orthogonal_(parameter)
        self.actor = orthogonal(nn.Linear(width, actions), 0.01)
        self.critic = orthogonal(nn.Linear(width, 1), 1.0)
        self.scale = Running(tuple(observations)) if scaled else None
        self.log_std = nn.Parameter(torch.full((actions,), deviation)) if continuous else None
        self.kind = Gaussian if continuous else Categorical

    def see(
        self, x: Float[Tensor, "*rows_shape"] | UInt8[Tensor, "*rows_shape"], rows: int = 1
    ) -> Float[Tensor, "*rows width"]:
        """What the memory is given; the first `rows` dimensions are of rows, not of one observation."""
        flat = x.flatten(0, rows - 1)
        if self.pixels:
            flat = shown(flat)
        flat = self.body(flat if self.scale is None else self.scale(flat))
        return flat.unflatten(0, x.shape[:rows])

    def empty(self, worlds: int) -> State:
        """A memory of nothing: tensors (layers, worlds, units)."""
        return self.memory.empty(next(self.parameters()).new_zeros(worlds))

    def policy(
        self, observation: Float[Tensor, "worlds *shape"] | UInt8[Tensor, "worlds *shape"],
        mask: Mask, memory: State,
    ) -> tuple[Categorical | Gaussian, State]:  # fmt: skip
        """The distribution over actions at one moment, and what is remembered after it."""
        read, memory = self.memory(self.see(observation)[:, None], None, memory)
        return said(self.actor(read[:, 0]), self.log_std, mask), memory

    def greedy(self, observation: Tensor, mask: Mask, memory: State) -> tuple[Tensor, State]:
        """The likeliest actions, and what is remembered after them."""
        policy, memory = self.policy(observation, mask, memory)
        return policy.mode(), memory

    def both(
        self,
        observation: Float[Tensor, "worlds time *shape"] | UInt8[Tensor, "worlds time *shape"],
        mask: Bool[Tensor, "worlds time actions"] | None,
        starts: Bool[Tensor, "worlds time"],
        *memory: Float[Tensor, "worlds layers units"],
    ) -> tuple[Categorical | Gaussian, Float[Tensor, "worlds time"]]:
        """Policy and value at every moment.

        Args:
            starts: moments that begin an episode: nothing from before is remembered there.
            memory: what was remembered before the first moment.
        """
        read, _, _ = self._read(self.see(observation, 2), starts, memory)
        return said(self.actor(read), self.log_std, mask), self.critic(read)[..., 0]

    def ahead(
        self,
        seen: Sequence[Any],
        last: Float[Tensor, "worlds *shape"] | UInt8[Tensor, "worlds *shape"],
        cuts: Float[Tensor, "cuts *shape"] | UInt8[Tensor, "cuts *shape"],
        cut: Bool[Tensor, "time worlds"],
    ) -> Float[Tensor, " worlds_and_cuts"]:
        """What the states are worth that follow the last moment, if no episode ended there, and those that
        episodes were `cut` at, each with the memory of its episode; `seen` is what `both` takes."""
        observation, _, starts, *memory = seen
        _, ends, segment = self._read(self.see(observation, 2), starts, memory)
        time, world = cut.nonzero().unbind(1)
        of = torch.cat([segment[:, -1], segment[world, time]])
        after = self.see(torch.cat([last, cuts]))[:, None]
        read, _ = self.memory(after, None, tuple(end[:, of] for end in ends))
        return self.critic(read)[:, 0, 0]

    def _read(
        self,
        x: Float[Tensor, "worlds time width"],
        starts: Bool[Tensor, "worlds time"],
        memory: Sequence[Tensor],
    ) -> tuple[Float[Tensor, "worlds time width"], State, Int64[Tensor, "worlds time"]]:
        """What is remembered at every moment; at the end of each segment, a stretch of one world in one
        episode; and which segment a moment is in.

        Segments lie side by side, shorter ones padded, so that one call of the kernel reads all of them.
        """
        worlds, time, width = x.shape
        begins = starts.clone()
        begins[:, 0] = True
        firsts = begins.flatten().nonzero()[:, 0]
        total = firsts.new_tensor([worlds * time])
        lengths = torch.cat([firsts, total]).diff()
        segment = begins.flatten().cumsum(0) - 1
        device = torch.arange(worlds * time, device=x.device) - firsts[segment]
        side = x.new_zeros(len(firsts), int(lengths.max()), width)
        side = side.index_put((segment, device), x.flatten(0, 1))
        fresh = starts.flatten()[firsts][:, None]
        state = tuple(each[firsts // time].transpose(0, 1).masked_fill(fresh, 0.0) for each in memory)
        read, ends = self.memory(side, lengths, state)
        return read[segment, device].view_as(x), ends, segment.view(worlds, time)

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        worlds, time = observation.shape[:2]
        starts = torch.zeros(worlds, time, dtype=torch.bool, device=observation.device)
        memory = (each.transpose(0, 1) for each in self.empty(worlds))
        policy, value = self.both(observation, None, starts, *memory)
        return (*policy, value)
