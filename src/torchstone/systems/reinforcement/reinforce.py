"""REINFORCE: the score-function gradient of what an episode brings.

Paper: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", Machine Learning 8:229, 1992.

The idea: raise the chance of what was done in proportion to what came of it. The gradient of the expected
return needs no model of the world, only that of the policy's logarithm; subtracting a baseline that does
not depend on the action leaves its mean as it is and makes its variance smaller.

    ∇J(θ) = E[Σ_t ∇ log π_θ(a_t|s_t) (G_t - b(s_t))],   G_t = Σ_{k≥t} γ^{k-t} r_k             section 6
    Δθ    = α ∇J(θ)

A step is a batch of whole episodes, each of which gives one estimate g_i of ∇J. Their variance, the trace
of the covariance of g_i, is measured at every step from those very gradients and logged: `variance`, and
`noise`, which is variance over |mean|²: how much larger the chance in one episode's gradient is than what
it estimates.

Shapes: observations `(batch, *shape)`, actions `(batch,)` or `(batch, n)`; `forward` gives logits (or means
and log deviations) and values, the learnt baseline. What differs from the paper: Adam; b is a second
network fitted to the returns (`baseline` learned), the mean return of the batch (mean), or absent (none);
estimates are divided by the mean length of the episodes, which changes the step's length only; where a
clock cut an episode short, the learnt baseline says what would have come (the others take it as nothing).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone import references
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate, gradient_of
from torchstone.engine.run import Run
from torchstone.envs.episodes import Episodes
from torchstone.envs.rollouts import Rollout
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.parts.rl.returns import discounted, successors
from torchstone.systems import Variant
from torchstone.tasks.rl import evaluate, on_policy

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # a Gymnasium environment's id
    wrappers: tuple[str, ...] = ()  # around it, innermost first: Name or Name:argument=value
    limit: int | None = None  # steps after which an episode is cut, if not the environment's own
    variant: str = "reinforce"  # which network
    hidden: tuple[int, ...] = (64, 64)  # widths of policy and baseline
    activation: str = "tanh"  # tanh or relu
    deviation: float = 0.0  # log standard deviation a continuous policy begins with
    worlds: int = 8  # episodes an update
    baseline: Literal["learned", "mean", "none"] = "learned"  # b, what returns are measured from
    gamma: float = 0.99  # discount γ
    value: float = 0.5  # weight of the baseline's squared error, in units of the returns' spread
    entropy: float = 0.0  # what randomness is worth
    lr: float = 5e-3  # learning rate α of Adam
    anneal: bool = True  # it falls to 0 linearly
    steps: int = 250  # updates, each of `worlds` episodes
    episodes: int = 20  # greedy ones that it is judged by
    film: bool = True  # record one of them at the end
    seed: int = 0  # of weights, worlds and actions
    device: str = "auto"  # auto, cpu, cuda or mps


CARTPOLE = Recipe()
RECIPES = {
    # torchstone train reinforce   2,000 episodes, 100 seconds; return 500 on all of 5 seeds
    "cartpole": CARTPOLE,
    # torchstone train reinforce/plain   the same without a baseline; return 434 to 500 (5 seeds)
    "plain": replace(CARTPOLE, baseline="none"),
    # for tests: seconds
    "smoke": replace(CARTPOLE, steps=30, lr=1e-2, anneal=False, episodes=8, film=False),
}

MARGIN = ("return", 60.0)

VARIANTS = {"reinforce": Variant(partial(ActorCritic, observations=(4,), actions=2), (4,))}


@torch.no_grad()
def weights(
    model: ActorCritic, rollout: Rollout, live: Bool[Tensor, "time worlds"], recipe: Recipe
) -> tuple[Float[Tensor, "time worlds"], Float[Tensor, "time worlds"]]:
    """G_t, and G_t - b(s_t) in units of the batch's deviation."""
    learnt = recipe.baseline == "learned"
    value = torch.zeros_like(rollout.reward)
    ahead = rollout.reward.new_zeros(len(rollout.last) + len(rollout.cuts))
    if learnt:
        value = model.value(rollout.observation.flatten(0, 1)).view_as(value)
        ahead = model.value(torch.cat([rollout.last, rollout.cuts]))
    worlds = len(rollout.last)
    terminated, truncated = rollout.terminated, rollout.truncated
    following = successors(value, ahead[:worlds], ahead[worlds:], terminated, truncated)
    returns = discounted(rollout.reward, following, terminated | truncated, recipe.gamma)
    given = returns - value
    if recipe.baseline == "mean":
        given = given - returns[live].mean()
    return returns, given / (returns[live].std() + 1e-8)


def build(recipe: Recipe) -> Iterator[Run]:
    torch.manual_seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = on_policy.model_config(recipe, "reinforce")
    model_config |= {"hidden": list(recipe.hidden), "activation": recipe.activation}
    model_config |= {"deviation": recipe.deviation}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    make = partial(torch.optim.Adam, lr=recipe.lr, fused=True)
    step = FlatGradientUpdate(lambda _: {}, model, make)
    stream = Episodes(model, on_policy.worlds(recipe), seed=recipe.seed, device=device)
    chooses = torch.cat(  # the numbers that the policy is made of
        [
            torch.full((p.numel(),), not name.startswith("critic."), device=device)
            for name, p in model.named_parameters()
        ]
    )

    def update(batch: tuple[Rollout, Tensor]) -> dict:
        rollout, live = batch
        if recipe.anneal:
            step.optimizer.param_groups[0]["lr"] = recipe.lr * (1 - rollout.number / recipe.steps)
        returns, given = weights(model, rollout, live, recipe)
        share = len(rollout.last) / live.sum()
        unit = returns[live].std() + 1e-8
        estimates, losses, errors, entropies = [], [], [], []
        for world in range(len(rollout.last)):
            there = live[:, world]
            mask = None if rollout.mask is None else rollout.mask[there, world]
            policy, value = model.both(rollout.observation[there, world], mask)
            log_prob = policy.log_prob(rollout.action[there, world])
            # Σ_t log π(a_t|s_t) (G_t - b(s_t))
            gain = (log_prob * given[there, world]).sum()
            error = ((value - returns[there, world]) / unit).square().sum()
            entropy = policy.entropy().sum()
            loss = share * (recipe.value * error - gain - recipe.entropy * entropy)
            estimates.append(gradient_of(loss, model.parameters()))
            losses.append(loss.detach())
            errors.append(share * error.detach())
            entropies.append(share * entropy.detach())
        each = torch.stack(estimates)
        mean = each.mean(0)
        variance = (each - mean)[:, chooses].square().sum() / (len(each) - 1)
        metrics = {"loss": torch.stack(losses).mean(), "value_loss": torch.stack(errors).mean()}
        metrics |= {"entropy": torch.stack(entropies).mean(), "variance": variance}
        metrics["noise"] = variance / mean[chooses].square().sum()
        return step.follow(metrics, mean) | on_policy.progress(rollout)

    state = {"optimizer": step.optimizer}
    yield on_policy.on_policy(model, recipe, stream, update, state, model_config)


FACTS = [
    Fact("CartPole policy parameters", lambda: count_parameters(VARIANTS["reinforce"].make().actor), 4610),
]

evaluate, play = evaluate.evaluate, evaluate.play


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests hold a whole update against it."""
    yield from references.actors(ActorCritic)
