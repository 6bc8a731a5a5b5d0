"""Experience by the episode: rollouts of whole ones, each begun anew, under the policy's weights of that moment."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from torchstone.envs.actor import Player
from torchstone.envs.rollouts import Rollout, stacked
from torchstone.envs.vector_env import Worlds
from torchstone.parts.seeding import SeedStream, derive_seed


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
        worlds.reset(derive_seed(self.seed, SeedStream.EPISODES, self.position))
        player = Player(policy, worlds, device)
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.ROLLOUT_ACTIONS, self.position)
        )
        going = torch.ones(worlds.count, dtype=torch.bool)
        rows, masks, lives, returns = [], [], [], [0.0] * worlds.count
        ends = worlds.observation.clone()  # what each world's last action led to
        while going.any():
            observation, mask = player.look()
            noise = policy.kind.noise((worlds.count, policy.actions), generator)
            action = player.ask(policy.policy, observation, mask).draw(noise.to(device))
            masks.append(mask)
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
            *(returns, self.position - 1, self.frames, stacked(masks)),
        )
        return rollout, live.to(device)

    exact = True  # every rollout begins its worlds anew

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "frames": self.frames}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self.frames = state["position"], state["frames"]
