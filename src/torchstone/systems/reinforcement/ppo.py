"""PPO: proximal policy optimisation.

Paper: Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms", 2017,
arXiv:1707.06347.

The idea: experience is dear and one gradient step a rollout wastes it, yet many steps lead away from the
policy that the experience was gathered with. So the objective stops paying for a change of probability
beyond 1 ± ε, and several epochs of minibatches over the same rollout do no harm.

    r_t(θ) = π_θ(a_t|s_t) / π_θold(a_t|s_t)                                          section 3
    L^CLIP = E[min(r_t Â_t, clip(r_t, 1-ε, 1+ε) Â_t)]                                equation 7
    L      = -L^CLIP + c_1 (V_θ(s_t) - V_t^targ)² - c_2 S[π_θ] (s_t)                 equation 9
    Â_t    = δ_t + γλ Â_{t+1},   δ_t = r_t + γ V(s_{t+1}) - V(s_t)                   equations 11, 12

Shapes: observations `(batch, *shape)`, actions `(batch,)` or `(batch, n)`; `forward` gives logits (or means
and log deviations) and values. `ppo_recurrent` reads `(batch, time, *shape)`: an LSTM is between eyes and
heads, a minibatch is whole worlds, and their episodes are read again from what was remembered when the
rollout began. Actions that a world says are invalid (`action_mask`) have probability 0.

What differs from the paper, as in the implementations that its figures are compared with (Huang et al.
2022, "The 37 implementation details"): orthogonal initialisation, advantages normalised in each
minibatch, gradients clipped by norm, Adam with ε = 1e-5. What differs from those: the old policy's
probabilities and all values are computed once a rollout, in one batch; an episode that a clock cut short
is worth what its last state is thought to be worth, not 0; with `scaled`, what observations and rewards
are divided by changes between rollouts, not within them. Frames are seen by Nature's network, as in those;
`ppo_paper` has the paper's, the smaller one of Mnih et al. 2016.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone import references
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.rollouts import Rollout, Rollouts
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.parts.rl.recurrent_actor_critic import RecurrentActorCritic
from torchstone.parts.rl.returns import gae
from torchstone.parts.rl.running_mean_std import ReturnScale
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.systems import Variant
from torchstone.systems.recurrent.lstm import CELL
from torchstone.tasks.rl import evaluate, on_policy

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # a Gymnasium environment's id
    wrappers: tuple[str, ...] = ()  # around it, innermost first: Name or Name:argument=value
    limit: int | None = None  # steps after which an episode is cut, if not the environment's own
    variant: str = "ppo"  # which network
    hidden: tuple[int, ...] = (64, 64)  # widths of both networks' layers; a memory is as the last
    activation: str = "tanh"  # tanh or relu
    scaled: bool = False  # observations and rewards normalised by what was seen of them
    deviation: float = 0.0  # log standard deviation a continuous policy begins with
    worlds: int = 8  # played side by side
    length: int = 32  # steps of each world between updates
    epochs: int = 20  # passes over a rollout
    batch_size: int = 256  # steps in a minibatch; of a policy that remembers, in whole worlds
    gamma: float = 0.98  # discount γ
    lam: float = 0.8  # λ of the advantages
    clip: float = 0.2  # ε: how far a probability may change for gain
    clip_value: bool = False  # the value may not move further than ε from the old one either
    entropy: float = 0.0  # c_2, what randomness is worth
    value: float = 0.5  # c_1, weight of the value's squared error
    lr: float = 1e-3  # learning rate of Adam
    anneal: bool = True  # learning rate and ε fall to 0 linearly
    norm: float = 0.5  # largest norm of the gradient
    steps: int = 390  # updates, each of worlds x length steps
    episodes: int = 20  # greedy ones that it is judged by
    film: bool = True  # record one of them at the end
    seed: int = 0  # of weights, worlds and actions
    device: str = "auto"  # auto, cpu, cuda or mps


CARTPOLE = Recipe()
BENT = replace(CARTPOLE, lam=0.95, lr=3e-4, epochs=10, batch_size=64, gamma=0.99, scaled=True)
MUJOCO = replace(BENT, variant="ppo_continuous", worlds=1, length=2048, steps=488)
EYES = ("AtariPreprocessing", "SignReward", "EpisodicLife")
ATARI = replace(BENT, variant="ppo_atari", wrappers=EYES, scaled=False, length=128, epochs=4)
PONG = replace(ATARI, data="ALE/Pong-v5", batch_size=256, entropy=0.01, lr=2.5e-4, clip=0.1, steps=9765)
RECIPES = {
    # torchstone train ppo   99,840 steps, 16 seconds of one core; return 500 on all of 5 seeds
    "cartpole": CARTPOLE,
    # torchstone train ppo/acrobot   249,856 steps, a minute; return -79 to -86 (5 seeds)
    "acrobot": replace(BENT, data="Acrobot-v1", worlds=16, length=128, batch_size=256, steps=122),
    # torchstone train ppo/lunarlander   999,424 steps, 3 to 8 minutes; return 234 to 261 (5 seeds)
    "lunarlander": replace(
        CARTPOLE,
        data="LunarLander-v3",
        worlds=16,
        length=1024,
        batch_size=64,
        epochs=4,
        gamma=0.999,
        lam=0.98,
        entropy=0.01,
        lr=3e-4,
        anneal=False,
        steps=61,
    ),
    # torchstone train ppo/pendulum   98,304 steps, half a minute; return -136 to -170 (5 seeds); with
    # `--scaled true`, as MuJoCo's, four of five seeds fail
    "pendulum": replace(
        MUJOCO,
        data="Pendulum-v1",
        activation="relu",
        scaled=False,
        worlds=4,
        length=512,
        epochs=20,
        batch_size=256,
        gamma=0.9,
        lr=1e-3,
        steps=48,
    ),
    # torchstone train ppo/hopper   999,424 steps, 24 minutes; return 3,288 (seed 0), where
    # stable-baselines3 has 2,175; --data HalfCheetah-v5 and the like too
    "hopper": replace(MUJOCO, data="Hopper-v5"),
    # torchstone train ppo/pong   9,999,360 steps, for a GPU; unmeasured
    "pong": PONG,
    # torchstone train ppo/pong_half_hour   the beginning, for a CPU, with the paper's smaller network:
    # 716,800 steps, -15.7 and rising (seed 0)
    "pong_half_hour": replace(PONG, variant="ppo_paper", epochs=3, lr=5e-4, anneal=False, steps=700),
    # torchstone train ppo/cartpole_memory   61,440 steps without velocities, a minute; return 500 on all of
    # 5 seeds, where `--variant ppo`, which remembers nothing, has 42 and 38 after 40,960
    "cartpole_memory": replace(
        CARTPOLE,
        variant="ppo_recurrent",
        wrappers=("PartialObservation:keep=0,2",),
        length=128,
        epochs=10,
        batch_size=256,
        lam=0.95,
        gamma=0.99,
        scaled=True,
        lr=5e-4,
        steps=60,
    ),
    # for tests: seconds
    "smoke": replace(CARTPOLE, steps=80, epochs=10, anneal=False, episodes=8, film=False),
}

MARGIN = ("return", 60.0)

VARIANTS = {
    "ppo": Variant(partial(ActorCritic, observations=(4,), actions=2), (4,)),
    "ppo_continuous": Variant(partial(ActorCritic, observations=(11,), actions=3, continuous=True), (11,)),
    "ppo_atari": Variant(partial(ActorCritic, observations=(4, 84, 84), actions=4), (4, 84, 84)),
    "ppo_paper": Variant(
        partial(ActorCritic, observations=(4, 84, 84), actions=4, eyes="small"), (4, 84, 84)
    ),
    "ppo_recurrent": Variant(partial(RecurrentActorCritic, CELL, observations=(4,), actions=2), (16, 4)),
}

Network = ActorCritic | RecurrentActorCritic
# states and what else `Network.both` takes; then actions, old log π and V, Â and V^targ. A row is a step,
# or if the network remembers, a world: all its steps in order
Rows = list[Any]


def loss(model: Network, rows: Rows, recipe: Recipe, clip: float) -> dict[str, Tensor]:
    """L of a minibatch."""
    *seen, action, old, old_value, advantage, target = rows
    policy, value = model.both(*seen)
    # r_t(θ)
    ratio = (policy.log_prob(action) - old).exp()
    # L^CLIP
    gain = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
    error = (value - target).square()
    if recipe.clip_value:
        near = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.max(error, (near - target).square())
    error = error.mean()
    total = recipe.value * error - gain
    if recipe.entropy:
        total = total - recipe.entropy * policy.entropy().mean()
    return {"loss": total, "value_loss": error}


@torch.no_grad()
def moved(model: Network, rows: Rows, clip: float) -> dict[str, Tensor]:
    """How far an update went, by its last minibatch: KL(old, new) (Schulman's k3: no bias, never negative),
    and what share of probabilities is beyond the clip; entropy, and how much of the returns' variance the
    value explained."""
    *seen, action, old, value, _, target = rows
    policy, _ = model.both(*seen)
    change = policy.log_prob(action) - old
    ratio = change.exp()
    return {
        "kl": (ratio - 1 - change).mean(),
        "clipped": ((ratio - 1).abs() > clip).float().mean(),
        "entropy": policy.entropy().mean(),
        "explained": 1 - (target - value).var() / target.var().clamp(min=1e-8),
    }


def minibatches(rows: Rows, recipe: Recipe, number: int) -> Iterator[Rows]:
    """Each epoch all rows once, in an order drawn by the seed and the update's `number`; advantages
    normalised in each minibatch."""
    count, steps = len(rows[-1]), rows[-1][0].numel()
    size = max(recipe.batch_size // steps, 1)
    shuffle = torch.Generator().manual_seed(derive_seed(recipe.seed, SeedStream.PPO_MINIBATCHES, number))
    whole = _normalised(rows) if count <= size else None
    for _ in range(recipe.epochs):
        if whole is not None:  # no order matters
            yield whole
            continue
        order = torch.randperm(count, generator=shuffle).to(rows[-1].device)
        for chosen in order.split(size):
            yield _normalised([None if row is None else _some(row, chosen) for row in rows])


def _some(row: Tensor, chosen: Tensor) -> Tensor:
    if row.dim() != 4:
        return row.index_select(0, chosen)
    # frames lie with their channels last: a picture is one piece of memory
    return row.movedim(1, 3).index_select(0, chosen).movedim(3, 1)


def _normalised(rows: Rows) -> Rows:
    *others, advantage, target = rows
    return [*others, (advantage - advantage.mean()) / (advantage.std() + 1e-8), target]


@torch.no_grad()
def rows_of(model: Network, rollout: Rollout, recipe: Recipe) -> Rows:
    """A rollout as the rows that minibatches are drawn from: what `loss` takes."""
    seen = on_policy.asked(rollout)
    if seen[0].dim() == 4:  # laid out once, not in each minibatch
        seen[0] = seen[0].contiguous(memory_format=torch.channels_last)
    action = on_policy.rows(rollout, rollout.action)
    policy, value = model.both(*seen)
    guess = on_policy.timed(rollout, value)
    following = on_policy.following(model, rollout, seen, guess)
    ended = rollout.terminated | rollout.truncated
    advantage = gae(rollout.reward, guess, following, ended, recipe.gamma, recipe.lam)
    advantage = on_policy.rows(rollout, advantage)
    return [*seen, action, policy.log_prob(action), value, advantage, advantage + value]


def build(recipe: Recipe) -> Iterator[Run]:
    torch.manual_seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = on_policy.model_config(recipe, "ppo")
    model_config |= {"hidden": list(recipe.hidden), "activation": recipe.activation}
    model_config |= {"scaled": recipe.scaled, "deviation": recipe.deviation}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    state: dict[str, Any] = {}
    if recipe.scaled:
        rewards = state["rewards"] = ReturnScale(recipe.worlds, recipe.gamma).to(device)
    clip = recipe.clip
    step = FlatGradientUpdate(
        lambda rows: loss(model, rows, recipe, clip),
        model,
        partial(torch.optim.Adam, lr=recipe.lr, eps=1e-5, fused=True),
        max_grad_norm=recipe.norm,
    )
    state["optimizer"] = step.optimizer
    stream = Rollouts(model, on_policy.worlds(recipe), recipe.length, seed=recipe.seed, device=device)

    def update(rollout: Rollout) -> dict:
        nonlocal clip
        if recipe.anneal:
            left = 1 - rollout.number / recipe.steps
            clip, step.optimizer.param_groups[0]["lr"] = recipe.clip * left, recipe.lr * left
        if recipe.scaled:
            ended = rollout.terminated | rollout.truncated
            rollout = rollout._replace(reward=rewards(rollout.reward, ended))
        rows = rows_of(model, rollout, recipe)
        for minibatch in minibatches(rows, recipe, rollout.number):
            metrics = step(minibatch)
        if recipe.scaled:  # for the next rollout
            model.scale.take(rollout.observation.flatten(0, 1))
        return {**metrics, **moved(model, minibatch, clip), **on_policy.progress(rollout)}

    yield on_policy.on_policy(model, recipe, stream, update, state, model_config)


def count(variant: str, **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make(**model_config))


FACTS = [
    Fact("CartPole network parameters", partial(count, "ppo"), 9155),
    Fact("Atari network parameters, 4 actions", partial(count, "ppo_atari"), 1_686_693),
    Fact("Atari network parameters, 6 actions", partial(count, "ppo_atari", actions=6), 1_687_719),
    # that of the 2013 DQN, 677,172, and 257 for the value
    Fact("the paper's Atari network, 4 actions", partial(count, "ppo_paper"), 677_429),
]

evaluate, play = evaluate.evaluate, evaluate.play


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests hold a whole update against it."""
    yield from references.actors(ActorCritic)
