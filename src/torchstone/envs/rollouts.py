"""Rollouts: fixed numbers of steps of all envs, collected under the policy's current weights.

The stream holds the policy that the update changes: the one back edge of reinforcement learning.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.envs.actor import Actor, RecurrentState
from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.numpy_graph import Traced
from torchstone.parts.old_keys import with_new_names
from torchstone.parts.seeding import SeedStream, derive_seed


class Rollout(NamedTuple):
    """`time` steps of `envs` envs, on the policy's device.

    `last_observation` is to be acted on next. `final_observations` are the states in which a time limit cut
    episodes, row by row where `truncated` and not `terminated`.
    """

    observation: Tensor  # (time, envs, *shape)
    action: Tensor  # (time, envs), or if continuous (time, envs, action_dim)
    reward: Float[Tensor, "time envs"]
    terminated: Bool[Tensor, "time envs"]
    truncated: Bool[Tensor, "time envs"]
    last_observation: Tensor  # (envs, *shape)
    final_observations: Tensor  # (truncations, *shape)
    returns: list[float]  # of the episodes that ended in this rollout
    number: int  # rollouts before this one
    env_steps: int  # steps of all envs so far, these included
    action_mask: Bool[Tensor, "time envs actions"] | None = None  # valid actions, if the envs give a mask
    recurrent_state: RecurrentState | None = None  # of a recurrent policy, before the first step


class Rollouts:
    """Endless `Rollout`s of `num_steps` steps, each continuing where the one before ended.

    Actions are sampled with a generator that is seeded by the seed and the number of rollouts so far.

    Args:
        policy: has `policy`, which an `Actor` calls for an action distribution of `parts.rl.distributions`;
            `distribution`, its type; and `num_actions`.
        device: where the policy is; the envs are on the CPU.
    """

    def __init__(
        self, policy: Any, envs: VectorEnv, num_steps: int, *, seed: int, device: torch.device | str = "cpu"
    ):
        self.policy, self.envs, self.num_steps = policy, envs, num_steps
        self.seed, self.device, self.position = seed, device, 0
        self.actor = Actor(policy, envs, device)
        self.sample = Traced(lambda observation, noise: policy.policy(observation).sample(noise))

    def __iter__(self) -> "Rollouts":
        return self

    @torch.no_grad()
    def __next__(self) -> Rollout:
        envs, policy, device, actor = self.envs, self.policy, self.device, self.actor
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.ROLLOUT_ACTIONS, self.position)
        )
        recurrent_state, is_cpu = actor.state, torch.device(device).type == "cpu"
        shape = (self.num_steps, envs.num_envs, policy.num_actions)
        noise = policy.distribution.noise(shape, generator).to(device).unbind()
        observations, masks, actions, steps, final_observations, returns = [], [], [], [], [], []
        for t in range(self.num_steps):
            observation, mask = actor.observe()
            if mask is None and recurrent_state is None and is_cpu:
                action = self.sample(observation, noise[t])
            else:
                action = actor.act(policy.policy, observation, mask).sample(noise[t])
            step = envs.step(action.cpu())
            observations.append(observation)
            masks.append(mask)
            actions.append(action)
            steps.append(step[1:4])
            if step.returns or step.next_observation is not envs.observation:  # some episode ended
                returns += step.returns
                final_observations.append(step.next_observation[step.truncated & ~step.terminated])
            if recurrent_state is not None:
                actor.reset_done(step.terminated | step.truncated)
        self.position += 1
        reward, terminated, truncated = map(torch.stack, zip(*steps, strict=True))
        no_observations = observations[0][:0]
        return Rollout(
            torch.stack(observations),
            torch.stack(actions),
            reward.to(device),
            terminated.to(device),
            truncated.to(device),
            envs.observation.to(device),
            torch.cat(final_observations).to(device) if final_observations else no_observations,
            returns,
            self.position - 1,
            self.position * self.num_steps * envs.num_envs,
            stack_masks(masks),
            recurrent_state,
        )

    @property
    def is_exact(self) -> bool:
        """Whether a restored state continues bit for bit."""
        return self.envs.is_exact

    def state_dict(self) -> dict[str, Any]:
        state = {"envs": self.envs.state_dict(), "position": self.position}
        if self.actor.state is not None:
            state["recurrent_state"] = [each.clone() for each in self.actor.state]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = with_new_names(state, {"worlds": "envs", "memory": "recurrent_state"})
        self.envs.load_state_dict(state["envs"])
        self.position = state["position"]
        self.actor.reset()
        if "recurrent_state" in state and self.envs.is_exact:
            self.actor.state = tuple(each.to(self.device) for each in state["recurrent_state"])


def stack_masks(masks: Sequence[Tensor | None]) -> Tensor | None:
    """The action masks of all steps, if there are any; a step without one allows all actions."""
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return None
    return torch.stack([torch.ones_like(known) if mask is None else mask for mask in masks])


class AsyncActorRollouts:
    """`(actor, rollout)` of several actors in turn, each with a policy and envs of its own.

    The state is that of the actors and whose turn it is; their policies belong into the run's state.
    """

    def __init__(
        self,
        policies: Iterable[Any],
        envs: Sequence[VectorEnv],
        num_steps: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.actors = [
            Rollouts(
                policy,
                actor_envs,
                num_steps,
                seed=derive_seed(seed, SeedStream.ASYNC_ACTORS, index),
                device=device,
            )
            for index, (policy, actor_envs) in enumerate(zip(policies, envs, strict=True))
        ]
        self.position = 0

    def __iter__(self) -> "AsyncActorRollouts":
        return self

    def __next__(self) -> tuple[int, Rollout]:
        index = self.position % len(self.actors)
        rollout = next(self.actors[index])
        env_steps = sum(a.position * a.num_steps * a.envs.num_envs for a in self.actors)
        rollout = rollout._replace(number=self.position, env_steps=env_steps)
        self.position += 1
        return index, rollout

    @property
    def is_exact(self) -> bool:
        """Whether a restored state continues bit for bit."""
        return all(actor.is_exact for actor in self.actors)

    def state_dict(self) -> dict[str, Any]:
        return {"actors": [a.state_dict() for a in self.actors], "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for actor, actor_state in zip(self.actors, state["actors"], strict=True):
            actor.load_state_dict(actor_state)
        self.position = state["position"]
