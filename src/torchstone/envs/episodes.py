"""Rollouts of complete episodes, for Monte Carlo methods, collected under the policy's current weights."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from torchstone.envs.actor import Actor
from torchstone.envs.rollouts import Rollout, stack_masks
from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.old_keys import with_new_names
from torchstone.parts.seeding import SeedStream, derive_seed


class EpisodeRollouts:
    """Endless `Rollout`s of one complete episode per env, from a fresh reset of all envs; where an env has no
    time limit, episodes are truncated after `EPISODE_BOUND` steps.

    Yields `(rollout, is_live)`. Rows of an env after the end of its episode are padding: reward 0,
    `terminated`, and not `is_live`. Initial states follow from the seed and the number of rollouts so far,
    which is the whole state.
    """

    def __init__(self, policy: Any, envs: VectorEnv, *, seed: int, device: torch.device | str = "cpu"):
        self.policy, self.envs, self.seed, self.device = policy, envs, seed, device
        self.position, self.env_steps = 0, 0
        envs.bound_episodes()

    def __iter__(self) -> "EpisodeRollouts":
        return self

    @torch.no_grad()
    def __next__(self) -> tuple[Rollout, Bool[Tensor, "time envs"]]:
        envs, policy, device = self.envs, self.policy, self.device
        envs.reset(derive_seed(self.seed, SeedStream.EPISODES, self.position))
        actor = Actor(policy, envs, device)
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.ROLLOUT_ACTIONS, self.position)
        )
        running = torch.ones(envs.num_envs, dtype=torch.bool)
        rows, masks, live_rows, returns = [], [], [], [0.0] * envs.num_envs
        last_observation = envs.observation.clone()  # what each env's last action led to
        while running.any():
            observation, mask = actor.observe()
            noise = policy.distribution.noise((envs.num_envs, policy.num_actions), generator)
            action = actor.act(policy.policy, observation, mask).sample(noise.to(device))
            masks.append(mask)
            step = envs.step(action.cpu())
            done = step.terminated | step.truncated
            for index, total in zip(done.nonzero()[:, 0].tolist(), step.returns, strict=True):
                if running[index]:
                    returns[index], last_observation[index] = total, step.next_observation[index]
            terminated = torch.where(running, step.terminated, True)
            rows.append((observation, action, step.reward * running, terminated, step.truncated & running))
            live_rows.append(running)
            running = running & ~done
        self.position += 1
        is_live = torch.stack(live_rows)
        self.env_steps += int(is_live.sum())
        observation, action, *rest = (torch.stack(column) for column in zip(*rows, strict=True))
        reward, terminated, truncated = (column.to(device) for column in rest)
        truncated_envs = (truncated & ~terminated).nonzero()[:, 1].cpu()
        rollout = Rollout(
            observation,
            action,
            reward,
            terminated,
            truncated,
            last_observation=last_observation.to(device),
            final_observations=last_observation[truncated_envs].to(device),
            returns=returns,
            number=self.position - 1,
            env_steps=self.env_steps,
            action_mask=stack_masks(masks),
        )
        return rollout, is_live.to(device)

    is_exact = True  # every rollout resets its envs

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position, "env_steps": self.env_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        state = with_new_names(state, {"frames": "env_steps"})
        self.position, self.env_steps = state["position"], state["env_steps"]
