"""REINFORCE: the score-function gradient of an episode's return.

Paper: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", Machine Learning 8:229, 1992.

The idea: raise the probability of each action in proportion to the return that followed it. The gradient of
the expected return needs no model of the environment, only the gradient of the policy's log probability.
Subtracting a baseline that does not depend on the action leaves its mean unchanged and reduces its variance.

    ∇J(θ) = E[Σ_t ∇ log π_θ(a_t|s_t) (G_t - b(s_t))],   G_t = Σ_{k≥t} γ^{k-t} r_k             section 6
    Δθ    = α ∇J(θ)

An update is a batch of whole episodes, each of which gives one estimate g_i of ∇J. Their variance, the trace
of the covariance of g_i, is measured in every update from those very gradients and logged as
`gradient_variance`, and as `noise_scale`, which is variance over |mean|²: how much larger the randomness of
one episode's gradient is than what it estimates.

Shapes: observations `(batch, *shape)`, actions `(batch,)` or `(batch, n)`; `forward` gives logits (or means
and log deviations) and values, the learned baseline. What differs from the paper: Adam; b is a second
network fitted to the returns (`baseline` learned), the mean return of the batch (mean), or absent (none);
estimates are divided by the mean length of the episodes, which changes only the length of the step; where a
time limit truncated an episode, the learned baseline gives the rest of the return (the others take it as 0).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.episodes import EpisodeRollouts
from torchstone.envs.rollouts import Rollout
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.flat_gradient import flat_gradient
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.returns import discounted_returns, next_values
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.rl import common
from torchstone.tasks.rl.evaluate import evaluate, play

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


# what of the paper is written out here
STORY = ("returns_and_advantages", "loss")


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # Gymnasium environment id, or module:Id, or module:name of a class or function
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    variant: str = "reinforce"  # network
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of policy and baseline
    activation: str = "tanh"  # activation function: tanh or relu
    init_log_std: float = 0.0  # initial log standard deviation of a continuous policy
    num_envs: int = 8  # number of parallel environments: episodes per update
    baseline: Literal["learned", "mean", "none"] = "learned"  # baseline b that is subtracted from returns
    gamma: float = 0.99  # discount factor γ
    vf_coef: float = (
        0.5  # loss coefficient of the baseline, whose error is in units of the returns' deviation
    )
    ent_coef: float = 0.0  # entropy bonus coefficient
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 5e-3  # learning rate α
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    total_episodes: int = 2000  # training episodes, rounded up to whole updates of num_envs
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    seed: int = 0  # random seed of weights, environments and actions
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        return common.num_updates(self.total_episodes, self.num_envs)


CARTPOLE = Recipe()
RECIPES = {
    # torchstone train reinforce   2,000 episodes, 100 seconds; return 500 on all of 5 seeds
    "cartpole": CARTPOLE,
    # torchstone train reinforce/plain   the same without a baseline; return 434 to 500 (5 seeds)
    "plain": replace(CARTPOLE, baseline="none"),
    # for tests: seconds
    "smoke": replace(
        CARTPOLE, total_episodes=240, lr=1e-2, anneal_lr=False, eval_episodes=8, record_video=False
    ),
}

MARGIN = ("return", 60.0)

VARIANTS = {"reinforce": Variant(partial(ActorCritic, observation_shape=(4,), num_actions=2), (4,))}


def deviation(returns: Float[Tensor, " steps"]) -> Tensor | float:
    """The unit of returns: their standard deviation, and 1 where they do not differ."""
    if len(returns) < 2:
        return 1.0
    std = returns.std()
    return torch.where(std > 1e-6 * returns.abs().max(), std + 1e-8, 1.0)


@torch.no_grad()
def returns_and_advantages(
    model: ActorCritic, rollout: Rollout, is_live: Bool[Tensor, "time envs"], recipe: Recipe
) -> tuple[Float[Tensor, "time envs"], Float[Tensor, "time envs"]]:
    """G_t, and G_t - b(s_t) in units of the batch's standard deviation."""
    is_learned = recipe.baseline == "learned"
    value = torch.zeros_like(rollout.reward)
    bootstrap_states = torch.cat([rollout.last_observation, rollout.final_observations])
    bootstrap = rollout.reward.new_zeros(len(bootstrap_states))
    if is_learned:
        value = model.value(rollout.observation.flatten(0, 1)).view_as(value)
        bootstrap = model.value(bootstrap_states)
    envs = len(rollout.last_observation)
    terminated, truncated = rollout.terminated, rollout.truncated
    next_value = next_values(value, bootstrap[:envs], bootstrap[envs:], terminated, truncated)
    # G_t
    returns = discounted_returns(rollout.reward, next_value, terminated | truncated, recipe.gamma)
    # G_t - b(s_t)
    advantage = returns - value
    if recipe.baseline == "mean":
        advantage = advantage - returns[is_live].mean()
    return returns, advantage / deviation(returns[is_live])


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = common.model_config(recipe, "reinforce")
    model_config |= {"hidden": list(recipe.hidden), "activation": recipe.activation}
    model_config |= {"init_log_std": recipe.init_log_std}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    step = FlatGradientUpdate(
        lambda _: {},  # the gradient is a mean of those of episodes
        model,
        vector_optimizer(recipe.optimizer, recipe.lr),
        lr_schedule=linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None,
    )
    stream = EpisodeRollouts(model, common.make_envs(recipe), seed=recipe.seed, device=device)
    is_policy = torch.cat(  # which entries of the gradient are the policy's
        [
            torch.full((p.numel(),), not name.startswith("critic."), device=device)
            for name, p in model.named_parameters()
        ]
    )

    def update(batch: tuple[Rollout, Tensor]) -> dict:
        rollout, is_live = batch
        step.schedule_lr(rollout.number)
        returns, advantage = returns_and_advantages(model, rollout, is_live, recipe)
        envs = len(rollout.last_observation)
        scale = envs / is_live.sum()
        std = deviation(returns[is_live])
        gradients, losses, value_losses, entropies = [], [], [], []
        for env in range(envs):
            live = is_live[:, env]
            mask = None if rollout.action_mask is None else rollout.action_mask[live, env]
            policy, value = model.policy_and_value(rollout.observation[live, env], mask)
            log_prob = policy.log_prob(rollout.action[live, env])
            # Σ_t log π(a_t|s_t) (G_t - b(s_t))
            policy_objective = (log_prob * advantage[live, env]).sum()
            value_loss = ((value - returns[live, env]) / std).square().sum()
            entropy = policy.entropy().sum()
            loss = scale * (recipe.vf_coef * value_loss - policy_objective - recipe.ent_coef * entropy)
            gradients.append(flat_gradient(loss, model.parameters()))
            losses.append(loss.detach())
            value_losses.append(scale * value_loss.detach())
            entropies.append(scale * entropy.detach())
        # g_i, and their mean: ∇J(θ)
        estimates = torch.stack(gradients)
        gradient = estimates.mean(0)
        metrics = {
            "loss": torch.stack(losses).mean(),
            "value_loss": torch.stack(value_losses).mean(),
            "entropy": torch.stack(entropies).mean(),
        }
        if envs > 1:  # of one episode there is no variance
            variance = (estimates - gradient)[:, is_policy].square().sum() / (envs - 1)
            metrics["gradient_variance"] = variance
            squared_norm = gradient[is_policy].square().sum()
            if squared_norm > 0:  # 0 where no episode was rewarded
                metrics["noise_scale"] = variance / squared_norm
        return step.apply_gradient(metrics, gradient) | common.rollout_metrics(rollout)

    state = {"optimizer": step.optimizer}
    yield common.make_run(model, recipe, stream, update, state, model_config)


FACTS = [
    Fact("CartPole policy parameters", lambda: count_parameters(VARIANTS["reinforce"].make().actor), 4610)
]


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests compare an update with it."""
    from torchstone.references.rl import actor_critic_cases

    yield from actor_critic_cases(ActorCritic)
