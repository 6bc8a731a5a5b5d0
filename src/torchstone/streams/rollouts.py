"""Experience as a stream: what a policy meets in its worlds, under the weights that it has at that moment.

The stream holds the policy that the update changes: the one back edge of reinforcement learning.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.streams.batches import mix
from torchstone.streams.worlds import Worlds

ACTIONS, EPISODES, TURNS = 16, 17, 19  # purposes of `mix`


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


class Rollouts:
    """Endless `Rollout`s of `length` steps, each going on where the one before stood.

    Actions are drawn from a generator seeded by the seed and how many rollouts there were.

    Args:
        policy: has `policy(observation)`, a distribution of `parts.policies`; `kind`, its type; `actions`.
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

    def __iter__(self) -> "Rollouts":
        return self

    @torch.no_grad()
    def __next__(self) -> Rollout:
        worlds, policy, device = self.worlds, self.policy, self.device
        generator = torch.Generator().manual_seed(mix(self.seed, ACTIONS, self.position))
        shape = (self.length, worlds.count, policy.actions)
        noise = policy.kind.noise(shape, generator).to(device).unbind()
        seen, chosen, steps, cuts, returns = [], [], [], [], []
        for t in range(self.length):
            observation = worlds.observation.to(device)
            action = policy.policy(observation).draw(noise[t])
            step = worlds.step(action.cpu())
            seen.append(observation)
            chosen.append(action)
            steps.append(step[1:4])
            if step.returns or step.observation is not worlds.observation:  # some episode ended
                returns += step.returns
                cuts.append(step.observation[step.truncated & ~step.terminated])
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
        )

    @property
    def exact(self) -> bool:
        """Whether a state put back goes on bit for bit."""
        return self.worlds.exact

    def state_dict(self) -> dict[str, Any]:
        return {"worlds": self.worlds.state_dict(), "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.worlds.load_state_dict(state["worlds"])
        self.position = state["position"]


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
            Rollouts(policy, own, length, seed=mix(seed, TURNS, index), device=device)
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


class Episodes:
    """Endless `Rollout`s of one whole episode in each world, all begun anew; after its end a world's rows
    are blank: reward 0, `terminated`, and `live` tells them.

    Where worlds begin is drawn from the seed and how many rollouts there were, so the whole state is that.
    """

    def __init__(
        self,
        policy: Any,
        worlds: Worlds,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.policy, self.worlds, self.seed, self.device = policy, worlds, seed, device
        self.position, self.frames = 0, 0

    def __iter__(self) -> "Episodes":
        return self

    @torch.no_grad()
    def __next__(self) -> tuple[Rollout, Bool[Tensor, "time worlds"]]:
        worlds, policy, device = self.worlds, self.policy, self.device
        worlds.reset(mix(self.seed, EPISODES, self.position))
        generator = torch.Generator().manual_seed(mix(self.seed, ACTIONS, self.position))
        going = torch.ones(worlds.count, dtype=torch.bool)
        rows, lives, returns = [], [], [0.0] * worlds.count
        ends = worlds.observation.clone()  # what each world's last action led to
        while going.any():
            observation = worlds.observation.to(device)
            noise = policy.kind.noise((worlds.count, policy.actions), generator)
            action = policy.policy(observation).draw(noise.to(device))
            step = worlds.step(action.cpu())
            ended = step.terminated | step.truncated
            for index, total in zip(ended.nonzero()[:, 0].tolist(), step.returns, strict=True):
                if going[index]:
                    returns[index], ends[index] = total, step.observation[index]
            over = torch.where(going, step.terminated, True)
            rows.append((observation, action, step.reward * going, over, step.truncated & going))
            lives.append(going)
            going = going & ~ended
        self.position += 1
        live = torch.stack(lives)
        self.frames += int(live.sum())
        seen, chosen, *rest = (torch.stack(column) for column in zip(*rows, strict=True))
        reward, terminated, truncated = (column.to(device) for column in rest)
        cut = (truncated & ~terminated).nonzero()[:, 1].cpu()
        rollout = Rollout(
            *(seen, chosen, reward, terminated, truncated, ends.to(device), ends[cut].to(device)),
            *(returns, self.position - 1, self.frames),
        )
        return rollout, live.to(device)

    exact = True  # every rollout begins its worlds anew

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "frames": self.frames}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self.frames = state["position"], state["frames"]
