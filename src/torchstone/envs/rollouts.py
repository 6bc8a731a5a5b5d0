"""Experience as a stream: what a policy meets in its worlds, under the weights that it has at that moment.

The stream holds the policy that the update changes: the one back edge of reinforcement learning.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.envs.actor import Memory, Player
from torchstone.envs.vector_env import Worlds
from torchstone.parts.seeding import SeedStream, derive_seed


class Rollout(NamedTuple):
    """`time` steps of `worlds` worlds, on the policy's device.

    `last` is to be acted on next; `cuts` are the states that episodes were cut at by a clock, row by row
    where `truncated` and not `terminated`.
    """

    observation: Tensor  # (time, worlds, *shape)
    action: Tensor  # (time, worlds), or with numbers to choose (time, worlds, actions)
    reward: Float[Tensor, "time worlds"]
    terminated: Bool[Tensor, "time worlds"]
    truncated: Bool[Tensor, "time worlds"]
    last: Tensor  # (worlds, *shape)
    cuts: Tensor  # (cuts, *shape)
    returns: list[float]  # of the episodes that ended here
    number: int  # rollouts before this one
    frames: int  # steps of all worlds so far, these included
    mask: Bool[Tensor, "time worlds actions"] | None = None  # actions that were valid, if worlds say so
    memory: Memory | None = None  # what a recurrent policy remembered before the first step


class Rollouts:
    """Endless `Rollout`s of `length` steps, each going on where the one before stood.

    Actions are drawn from a generator seeded by the seed and how many rollouts there were.

    Args:
        policy: has `policy`, which a `Player` asks for a distribution of `parts.policies`; `kind`, the
            distribution's type; `actions`.
        device: where the policy is; the worlds are on the CPU.
    """

    def __init__(
        self,
        policy: Any,
        worlds: Worlds,
        length: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.policy, self.worlds, self.length = policy, worlds, length
        self.seed, self.device, self.position = seed, device, 0
        self.player = Player(policy, worlds, device)

    def __iter__(self) -> "Rollouts":
        return self

    @torch.no_grad()
    def __next__(self) -> Rollout:
        worlds, policy, device, player = self.worlds, self.policy, self.device, self.player
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.ROLLOUT_ACTIONS, self.position)
        )
        memory = player.memory
        shape = (self.length, worlds.count, policy.actions)
        noise = policy.kind.noise(shape, generator).to(device).unbind()
        seen, masks, chosen, steps, cuts, returns = [], [], [], [], [], []
        for t in range(self.length):
            observation, mask = player.look()
            action = player.ask(policy.policy, observation, mask).draw(noise[t])
            step = worlds.step(action.cpu())
            seen.append(observation)
            masks.append(mask)
            chosen.append(action)
            steps.append(step[1:4])
            if step.returns or step.observation is not worlds.observation:  # some episode ended
                returns += step.returns
                cuts.append(step.observation[step.truncated & ~step.terminated])
            if memory is not None:
                player.ended(step.terminated | step.truncated)
        self.position += 1
        reward, terminated, truncated = map(torch.stack, zip(*steps, strict=True))
        return Rollout(
            torch.stack(seen),
            torch.stack(chosen),
            reward.to(device),
            terminated.to(device),
            truncated.to(device),
            worlds.observation.to(device),
            torch.cat(cuts).to(device) if cuts else seen[0][:0],
            returns,
            self.position - 1,
            self.position * self.length * worlds.count,
            stacked(masks),
            memory,
        )

    @property
    def exact(self) -> bool:
        """Whether a state put back goes on bit for bit."""
        return self.worlds.exact

    def state_dict(self) -> dict[str, Any]:
        state = {"worlds": self.worlds.state_dict(), "position": self.position}
        if self.player.memory is not None:
            state["memory"] = [each.clone() for each in self.player.memory]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.worlds.load_state_dict(state["worlds"])
        self.position = state["position"]
        self.player.forget()
        if "memory" in state and self.worlds.exact:
            self.player.memory = tuple(each.to(self.device) for each in state["memory"])


def stacked(masks: Sequence[Tensor | None]) -> Tensor | None:
    """Masks of all steps, if there are any; a step of which nothing is said allows all."""
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return None
    return torch.stack([torch.ones_like(known) if mask is None else mask for mask in masks])


class Turns:
    """Rollouts of several actors in turns, each with a policy and worlds of its own: `(actor, rollout)`.

    The state is that of the actors and whose turn it is; their policies belong into the run's state.
    """

    def __init__(
        self,
        policies: Iterable[Any],
        worlds: Sequence[Worlds],
        length: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.actors = [
            Rollouts(
                policy,
                own,
                length,
                seed=derive_seed(seed, SeedStream.ASYNC_ACTORS, index),
                device=device,
            )
            for index, (policy, own) in enumerate(zip(policies, worlds, strict=True))
        ]
        self.position = 0

    def __iter__(self) -> "Turns":
        return self

    def __next__(self) -> tuple[int, Rollout]:
        index = self.position % len(self.actors)
        rollout = next(self.actors[index])
        frames = sum(a.position * a.length * a.worlds.count for a in self.actors)
        rollout = rollout._replace(number=self.position, frames=frames)
        self.position += 1
        return index, rollout

    @property
    def exact(self) -> bool:
        """Whether a state put back goes on bit for bit."""
        return all(actor.exact for actor in self.actors)

    def state_dict(self) -> dict[str, Any]:
        return {"actors": [a.state_dict() for a in self.actors], "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for actor, saved in zip(self.actors, state["actors"], strict=True):
            actor.load_state_dict(saved)
        self.position = state["position"]
