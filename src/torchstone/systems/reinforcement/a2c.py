"""A2C and A3C: advantage actor-critic.

Paper: Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver and Kavukcuoglu, "Asynchronous methods for
deep reinforcement learning", ICML 2016, arXiv:1602.01783.

The idea: many actors in as many worlds make experience various enough to learn from as it comes, without
a memory. Every t_max steps the policy follows the n-step advantage, and the value the n-step return.

    R_t = Σ_{i<k} γ^i r_{t+i} + γ^k V(s_{t+k}; θ_v),   k up to the end of the rollout       algorithm S3
    dθ   ∝ ∇ log π(a_t|s_t; θ) (R_t - V(s_t; θ_v)) + β ∇ H(π(s_t; θ))                       section 4
    dθ_v ∝ ∂(R_t - V(s_t; θ_v))² / ∂θ_v

`a2c` is synchronous: all worlds step under the same weights, and their gradients are averaged. `a3c` has
actors with weights of their own, in turns: an actor copies the shared weights, plays t_max steps in its
one world, takes the gradient where it stood, and the shared weights, by then moved by all other actors,
follow it. That keeps of the paper what it is known for: stale weights to act and to differentiate with,
one actor's gradient at a time, RMSprop statistics shared by all. It does not keep the accident: the order
of actors is fixed, so each is `actors - 1` updates behind, and no write races another. It is therefore
the same from the same seed, and resumable; it is not parallel.

Shapes: observations `(batch, *shape)`, actions `(batch,)` or `(batch, n)`; `forward` gives logits (or means
and log deviations) and values. What differs from the paper: separate networks for policy and value where
observations are numbers, orthogonal initialisation, and a time limit is no end (see `parts.returns`);
with λ below 1, generalised advantages instead of R_t - V.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchstone import references
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate, gradient_of
from torchstone.engine.run import Run
from torchstone.envs.rollouts import Rollout, Rollouts, Turns
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.parts.rl.recurrent_actor_critic import RecurrentActorCritic
from torchstone.parts.rl.returns import gae
from torchstone.systems import Variant
from torchstone.systems.recurrent.lstm import CELL
from torchstone.tasks.rl import evaluate, on_policy

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # a Gymnasium environment's id
    wrappers: tuple[str, ...] = ()  # around it, innermost first: Name or Name:argument=value
    limit: int | None = None  # steps after which an episode is cut, if not the environment's own
    variant: str = "a2c"  # which network
    hidden: tuple[int, ...] = (64, 64)  # widths of policy and value network
    activation: str = "tanh"  # tanh or relu
    deviation: float = 0.0  # log standard deviation a continuous policy begins with
    worlds: int = 8  # played side by side; of a3c, the actors
    actors: Literal["together", "stale"] = "together"  # a2c, or a3c with weights of their own
    length: int = 5  # t_max: steps of each world between updates
    gamma: float = 0.99  # discount γ
    lam: float = 1.0  # λ of the advantages; 1 are the paper's
    entropy: float = 0.0  # β, what randomness is worth
    value: float = 0.5  # weight of the value's squared error
    lr: float = 7e-4  # learning rate of RMSprop
    anneal: bool = False  # it falls to 0 linearly
    norm: float = 0.5  # largest norm of the gradient
    steps: int = 12500  # updates, each of worlds x length steps; of a3c, of length steps
    episodes: int = 20  # greedy ones that it is judged by
    film: bool = True  # record one of them at the end
    seed: int = 0  # of weights, worlds and actions
    device: str = "auto"  # auto, cpu, cuda or mps


CARTPOLE = Recipe()
RECIPES = {
    # torchstone train a2c   500,000 steps, a minute of one core; return 500 on all of 5 seeds
    "cartpole": CARTPOLE,
    # torchstone train a2c/a3c   200,000 steps of 8 actors in turns, 3 minutes; return 500 (3 seeds)
    "a3c": replace(CARTPOLE, actors="stale", anneal=True, steps=40_000),
    # for tests: seconds
    "smoke": replace(CARTPOLE, steps=450, length=16, lam=0.95, lr=3e-3, episodes=8, film=False),
}

MARGIN = ("return", 60.0)

FRAMES = {"observations": (4, 84, 84), "actions": 4, "eyes": "small"}
VARIANTS = {
    "a2c": Variant(partial(ActorCritic, observations=(4,), actions=2), (4,)),
    "a2c_lstm": Variant(partial(RecurrentActorCritic, CELL, observations=(4,), actions=2), (16, 4)),
    # the paper's two networks for Atari (section 5.1)
    "a3c_atari": Variant(partial(ActorCritic, **FRAMES), (4, 84, 84)),
    "a3c_atari_lstm": Variant(partial(RecurrentActorCritic, CELL, **FRAMES), (16, 4, 84, 84)),
}


def loss(model: Any, rollout: Rollout, recipe: Recipe) -> dict[str, Tensor]:
    """The gradients' potential: its derivatives are those of the docstring."""
    seen = on_policy.asked(rollout)
    policy, value = model.both(*seen)
    with torch.no_grad():
        guess = on_policy.timed(rollout, value)
        following = on_policy.following(model, rollout, seen, guess)
        ended = rollout.terminated | rollout.truncated
        # R_t - V(s_t), where λ is 1
        advantage = gae(rollout.reward, guess, following, ended, recipe.gamma, recipe.lam)
        advantage = on_policy.rows(rollout, advantage)
        target = advantage + value
    gain = (policy.log_prob(on_policy.rows(rollout, rollout.action)) * advantage).mean()
    error = (target - value).square().mean()
    entropy = policy.entropy().mean()
    total = recipe.value * error - gain - recipe.entropy * entropy
    return {"loss": total, "value_loss": error, "entropy": entropy}


def build(recipe: Recipe) -> Iterator[Run]:
    torch.manual_seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = on_policy.model_config(recipe, "a2c")
    model_config |= {"hidden": list(recipe.hidden), "activation": recipe.activation}
    model_config |= {"deviation": recipe.deviation}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    step = FlatGradientUpdate(
        lambda rollout: loss(model, rollout, recipe),
        model,
        partial(torch.optim.RMSprop, lr=recipe.lr, alpha=0.99, eps=1e-5),
        max_grad_norm=recipe.norm,
    )
    state: dict[str, Any] = {"optimizer": step.optimizer}
    options = {"length": recipe.length, "device": device}

    def annealed(number: int) -> None:
        if recipe.anneal:
            step.optimizer.param_groups[0]["lr"] = recipe.lr * (1 - number / recipe.steps)

    if recipe.actors == "together":
        stream = Rollouts(model, on_policy.worlds(recipe), seed=recipe.seed, **options)

        def update(rollout: Rollout) -> dict:
            annealed(rollout.number)
            return step(rollout) | on_policy.progress(rollout)

    else:
        copies = nn.ModuleList(copy.deepcopy(model) for _ in range(recipe.worlds))
        state["copies"] = copies.requires_grad_(True)
        stream = Turns(copies, on_policy.apart(recipe), seed=recipe.seed, **options)

        def update(turn: tuple[int, Rollout]) -> dict:
            index, rollout = turn
            annealed(rollout.number)
            own = copies[index]
            metrics = loss(own, rollout, recipe)
            numbers = step.follow(metrics, gradient_of(metrics["loss"], own.parameters()))
            own.load_state_dict(model.state_dict())
            return numbers | on_policy.progress(rollout)

    yield on_policy.on_policy(model, recipe, stream, update, state, model_config)


def count(variant: str, **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make(**model_config))


FACTS = [
    Fact("CartPole network parameters", partial(count, "a2c"), 9155),
    # two biases a gate, as torch's LSTM has; with one there are 1,024 fewer
    Fact("A3C-LSTM parameters, 4 actions", partial(count, "a3c_atari_lstm"), 1_203_765),
    Fact("A3C-LSTM parameters, 6 actions", partial(count, "a3c_atari_lstm", actions=6), 1_204_279),
]

evaluate, play = evaluate.evaluate, evaluate.play


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests hold a whole update against it."""
    yield from references.actors(ActorCritic)
