"""PPO as people write it in one file: a vector environment of Gymnasium's, tensors for a rollout, one loop.

Written for `benchmarks/on_policy.py` to be compared with, from the algorithm, in the manner of scripts that
are meant to be read from top to bottom: the network is asked at each step for action, log probability and
value, and the minibatches' loop does the rest. Settings are those of a recipe of ours.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


def started(layer: Any, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class Agent(nn.Module):
    def __init__(self, shape: tuple[int, ...], actions: int, hidden: tuple[int, ...]):
        super().__init__()
        self.pixels = len(shape) == 3
        if self.pixels:
            self.body = nn.Sequential(
                started(nn.Conv2d(4, 32, 8, 4)), nn.ReLU(),
                started(nn.Conv2d(32, 64, 4, 2)), nn.ReLU(),
                started(nn.Conv2d(64, 64, 3)), nn.ReLU(),
                nn.Flatten(), started(nn.Linear(3136, 512)), nn.ReLU(),
            )  # fmt: skip
            self.actor, self.critic = nn.Linear(512, actions), nn.Linear(512, 1)
            started(self.actor, 0.01), started(self.critic, 1.0)
        else:
            first, second = hidden
            self.body = nn.Identity()
            self.actor, self.critic = (
                nn.Sequential(
                    started(nn.Linear(shape[0], first)), nn.Tanh(),
                    started(nn.Linear(first, second)), nn.Tanh(),
                    started(nn.Linear(second, out), gain),
                )
                for out, gain in ((actions, 0.01), (1, 1.0))
            )  # fmt: skip

    def value(self, x: torch.Tensor) -> torch.Tensor:
        return self.critic(self.body(x / 255.0 if self.pixels else x))

    def both(self, x: torch.Tensor, action: torch.Tensor | None = None) -> tuple:
        seen = self.body(x / 255.0 if self.pixels else x)
        chance = Categorical(logits=self.actor(seen))
        action = chance.sample() if action is None else action
        return action, chance.log_prob(action), chance.entropy(), self.critic(seen)


def learner(made: Callable[[], gymnasium.Env], recipe: Any, seed: int = 0) -> Callable[[int], None]:
    """How to let an agent learn `n` rollouts, in worlds that `made` makes; a cut episode counts as ended."""
    torch.manual_seed(seed), np.random.seed(seed)
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.vector.SyncVectorEnv([made] * recipe.worlds, autoreset_mode=mode)
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    shape = envs.single_observation_space.shape
    agent = Agent(shape, envs.single_action_space.n, recipe.hidden)
    adam = torch.optim.Adam(agent.parameters(), lr=recipe.lr, eps=1e-5)
    length, count = recipe.length, recipe.worlds
    observation = torch.zeros((length, count, *shape))
    action, old, reward, done, value = (torch.zeros((length, count)) for _ in range(5))
    now = torch.Tensor(envs.reset(seed=seed)[0])
    over = torch.zeros(count)

    def learn(rollouts: int) -> None:
        nonlocal now, over
        for _ in range(rollouts):
            for t in range(length):
                observation[t], done[t] = now, over
                with torch.no_grad():
                    action[t], old[t], _, guess = agent.both(now)
                    value[t] = guess.flatten()
                seen, gained, ended, cut, _ = envs.step(action[t].long().numpy())
                reward[t] = torch.tensor(gained)
                now, over = torch.Tensor(seen), torch.Tensor(ended | cut)
            with torch.no_grad():
                advantage, ahead = torch.zeros_like(reward), 0.0
                after, going = agent.value(now).flatten(), 1.0 - over
                for t in reversed(range(length)):
                    delta = reward[t] + recipe.gamma * after * going - value[t]
                    advantage[t] = ahead = delta + recipe.gamma * recipe.lam * going * ahead
                    after, going = value[t], 1.0 - done[t]
                target = advantage + value
            rows = [observation.flatten(0, 1)]
            rows += [x.flatten() for x in (action, old, advantage, target)]
            order = np.arange(length * count)
            for _ in range(recipe.epochs):
                np.random.shuffle(order)
                for begin in range(0, len(order), recipe.batch):
                    chosen = order[begin : begin + recipe.batch]
                    x, did, before, gain, wanted = (row[chosen] for row in rows)
                    _, log_prob, entropy, guess = agent.both(x, did.long())
                    ratio = (log_prob - before).exp()
                    gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                    clipped = torch.clamp(ratio, 1 - recipe.clip, 1 + recipe.clip)
                    policy_loss = torch.max(-gain * ratio, -gain * clipped).mean()
                    value_loss = ((guess.flatten() - wanted) ** 2).mean()
                    loss = policy_loss - recipe.entropy * entropy.mean() + recipe.value * value_loss
                    adam.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(agent.parameters(), recipe.norm)
                    adam.step()

    return learn
