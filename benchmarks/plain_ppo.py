"""PPO as people write it in one file: a vector environment of Gymnasium's, tensors for a rollout, one loop.

Written for `benchmarks/on_policy.py` to be compared with, from the algorithm, in the manner of scripts that
are meant to be read from top to bottom: the network gives action, log probability and value at each
step, and the minibatches' loop does the rest. Settings are those of a recipe of ours.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


def init_layer(layer: Any, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class Agent(nn.Module):
    def __init__(self, shape: tuple[int, ...], actions: int, hidden: tuple[int, ...]):
        super().__init__()
        self.pixels = len(shape) == 3
        if self.pixels:
            self.body = nn.Sequential(
                init_layer(nn.Conv2d(4, 32, 8, 4)),
                nn.ReLU(),
                init_layer(nn.Conv2d(32, 64, 4, 2)),
                nn.ReLU(),
                init_layer(nn.Conv2d(64, 64, 3)),
                nn.ReLU(),
                nn.Flatten(),
                init_layer(nn.Linear(3136, 512)),
                nn.ReLU(),
            )
            self.actor, self.critic = nn.Linear(512, actions), nn.Linear(512, 1)
            init_layer(self.actor, 0.01), init_layer(self.critic, 1.0)
        else:
            first, second = hidden
            self.body = nn.Identity()
            self.actor, self.critic = (
                nn.Sequential(
                    init_layer(nn.Linear(shape[0], first)),
                    nn.Tanh(),
                    init_layer(nn.Linear(first, second)),
                    nn.Tanh(),
                    init_layer(nn.Linear(second, out), gain),
                )
                for out, gain in ((actions, 0.01), (1, 1.0))
            )

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return self.critic(self.body(x / 255.0 if self.pixels else x))

    def action_and_value(self, x: torch.Tensor, action: torch.Tensor | None = None) -> tuple:
        features = self.body(x / 255.0 if self.pixels else x)
        policy = Categorical(logits=self.actor(features))
        action = policy.sample() if action is None else action
        return action, policy.log_prob(action), policy.entropy(), self.critic(features)


def learner(make_env: Callable[[], gymnasium.Env], recipe: Any, seed: int = 0) -> Callable[[int], None]:
    """A function that trains an agent for `n` rollouts in envs from `make_env`; truncation is termination."""
    torch.manual_seed(seed), np.random.seed(seed)
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.vector.SyncVectorEnv([make_env] * recipe.num_envs, autoreset_mode=mode)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    shape = envs.single_observation_space.shape
    agent = Agent(shape, envs.single_action_space.n, recipe.hidden)
    adam = torch.optim.Adam(agent.parameters(), lr=recipe.lr, eps=1e-5)
    length, count = recipe.num_steps, recipe.num_envs
    observations = torch.zeros((length, count, *shape))
    actions, log_probs, rewards, dones, values = (torch.zeros((length, count)) for _ in range(5))
    observation = torch.Tensor(envs.reset(seed=seed)[0])
    done = torch.zeros(count)

    def learn(rollouts: int) -> None:
        nonlocal observation, done
        for _ in range(rollouts):
            for t in range(length):
                observations[t], dones[t] = observation, done
                with torch.no_grad():
                    actions[t], log_probs[t], _, value = agent.action_and_value(observation)
                    values[t] = value.flatten()
                next_observation, reward, terminated, truncated, _ = envs.step(actions[t].long().numpy())
                rewards[t] = torch.tensor(reward)
                observation, done = torch.Tensor(next_observation), torch.Tensor(terminated | truncated)
            with torch.no_grad():
                advantages, last_gae = torch.zeros_like(rewards), 0.0
                next_value, not_done = agent.value(observation).flatten(), 1.0 - done
                for t in reversed(range(length)):
                    delta = rewards[t] + recipe.gamma * next_value * not_done - values[t]
                    last_gae = delta + recipe.gamma * recipe.gae_lambda * not_done * last_gae
                    advantages[t] = last_gae
                    next_value, not_done = values[t], 1.0 - dones[t]
                returns = advantages + values
            rows = [observations.flatten(0, 1)]
            rows += [x.flatten() for x in (actions, log_probs, advantages, returns)]
            order = np.arange(length * count)
            for _ in range(recipe.epochs):
                np.random.shuffle(order)
                for start in range(0, len(order), recipe.batch_size):
                    index = order[start : start + recipe.batch_size]
                    x, action, old_log_prob, advantage, target = (row[index] for row in rows)
                    _, log_prob, entropy, value = agent.action_and_value(x, action.long())
                    ratio = (log_prob - old_log_prob).exp()
                    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                    clipped = torch.clamp(ratio, 1 - recipe.clip_coef, 1 + recipe.clip_coef)
                    policy_loss = torch.max(-advantage * ratio, -advantage * clipped).mean()
                    value_loss = ((value.flatten() - target) ** 2).mean()
                    loss = policy_loss - recipe.ent_coef * entropy.mean() + recipe.vf_coef * value_loss
                    adam.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(agent.parameters(), recipe.max_grad_norm)
                    adam.step()

    return learn
