"""TRPO: trust region policy optimization.

Paper: John Schulman, Sergey Levine, Philipp Moritz, Michael I. Jordan and Pieter Abbeel, "Trust region
policy optimization", ICML 2015, arXiv:1502.05477; its advantages by Schulman et al., "High-dimensional
continuous control using generalized advantage estimation", 2016, arXiv:1506.02438.

The idea: a step of the policy gradient that is too long ruins the policy, and then the data that the next
step learns from. How long is too long is not a matter of parameters but of behavior. So each step is the
one that improves the objective most among those that change the action probabilities by at most δ,
measured by the KL divergence: a natural gradient whose length follows from δ, shortened until both hold
not only to second order.

    maximize_θ  L(θ) = mean (π_θ(a|s) / π_old(a|s)) Â       subject to  D̄(θ) = mean KL(π_old ‖ π_θ) ≤ δ
                                                                                   equation 14
    F x = g,    g = ∇L(θ_old),   F = ∇² D̄(θ_old) + damping I     by conjugate gradients        appendix C
    β   = √(2δ / xᵀ F x)                                         the longest step to second order
    θ   = θ_old + β κ^j x,   j the first of 0, 1, … with L(θ) > L(θ_old) and D̄(θ) < δ; else θ_old
    V   by regression on the returns Â + V_old, for several epochs

Shapes: observations `(batch, *shape)`, actions `(batch,)` or `(batch, n)`; `forward` gives logits (or
means and log deviations) and values. What differs from the paper: generalized advantage estimation with a
learned value, as all implementations have it, in place of whole returns; advantages are normalized; the
value network has its own parameters, trained by Adam. Where observations are frames, policy and value
share a CNN, which the policy alone trains.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.rollouts import Rollout, Rollouts
from torchstone.errors import NotFinite
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.natural_gradient import conjugate_gradient, hessian_vector_product
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.rl import common, on_policy
from torchstone.tasks.rl.evaluate import evaluate, play
from torchstone.tasks.rl.on_policy import RolloutBatch

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]

# what of the paper is written out here
STORY = ("objective_and_divergence", "update_policy", "value_loss", "minibatches")


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # Gymnasium environment id, or module:Id, or module:name of a class or function
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    variant: str = "trpo"  # network
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of policy and value network
    activation: str = "tanh"  # activation function: tanh or relu
    init_log_std: float = 0.0  # initial log standard deviation of a continuous policy
    num_envs: int = 2  # number of parallel environments
    num_steps: int = 512  # steps per environment in a rollout
    gamma: float = 0.99  # discount factor γ
    gae_lambda: float = 0.98  # λ of generalized advantage estimation
    target_kl: float = 0.01  # δ: largest mean KL divergence of an update, in nats
    cg_steps: int = 15  # steps of the conjugate gradients
    cg_damping: float = 1e-3  # what is added to the diagonal of the Fisher information
    line_search_steps: int = 10  # lengths that the line search tries
    line_search_shrink: float = 0.8  # κ: each length over the one before
    value_epochs: int = 20  # epochs of the value network per rollout
    batch_size: int = 512  # minibatch size of the value network in steps
    optimizer: VectorOptimizer = "adam"  # optimizer of the value network
    lr: float = 1e-3  # learning rate of the value network
    anneal_lr: bool = False  # linear decay of that learning rate to 0
    total_timesteps: int = 99_328  # environment steps, rounded up to whole updates of num_envs x num_steps
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    seed: int = 0  # random seed of weights, environments and actions
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        return common.num_updates(self.total_timesteps, self.num_envs * self.num_steps)


CARTPOLE = Recipe()
RECIPES = {
    "cartpole": CARTPOLE,
    "pendulum": replace(
        CARTPOLE,
        data="Pendulum-v1",
        num_steps=1024,
        gamma=0.9,
        gae_lambda=0.95,
        cg_damping=0.1,
        value_epochs=15,
        batch_size=128,
        total_timesteps=98_304,
    ),
    # for tests: seconds
    "smoke": replace(
        CARTPOLE,
        num_envs=4,
        num_steps=128,
        gamma=0.98,
        gae_lambda=0.9,
        value_epochs=10,
        batch_size=256,
        lr=3e-3,
        total_timesteps=10_240,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 60.0)

FRAMES = (4, 84, 84)
VARIANTS = {
    "trpo": Variant(partial(ActorCritic, observation_shape=(4,), num_actions=2), (4,)),
    "trpo_continuous": Variant(
        partial(ActorCritic, observation_shape=(11,), num_actions=3, continuous=True), (11,)
    ),
    "trpo_atari": Variant(
        partial(ActorCritic, observation_shape=FRAMES, num_actions=4, encoder="small"), FRAMES
    ),
}


def policy_parameters(model: ActorCritic) -> list[nn.Parameter]:
    """θ: all but those of the value."""
    return [p for name, p in model.named_parameters() if not name.startswith("critic.")]


def objective_and_divergence(
    model: ActorCritic, batch: RolloutBatch, old_policy: Any
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """L and D̄."""
    policy = model.policy(batch.inputs.observation, batch.inputs.action_mask)
    ratio = (policy.log_prob(batch.action) - batch.log_prob).exp()
    return (ratio * batch.advantage).mean(), old_policy.kl_divergence(policy).mean()


def update_policy(model: ActorCritic, batch: RolloutBatch, recipe: Recipe) -> dict[str, Tensor]:
    """Take the step from θ_old, in place.

    Returns:
        `loss`, which is -L after it; `kl`, D̄ after it; `step_fraction`, κ^j, or 0 if no length was good.

    Raises:
        NotFinite: the objective or its gradient is not finite; θ is as it was.
    """
    parameters = policy_parameters(model)
    with torch.no_grad():
        policy = model.policy(batch.inputs.observation, batch.inputs.action_mask)
        # copies: log σ is a parameter, which would move with the step, and has a gradient
        old_policy = type(policy)(*(part.detach().clone() for part in policy))
    objective, divergence = objective_and_divergence(model, batch, old_policy)
    # g and F
    for p in parameters:
        p.grad = None
    objective.backward(retain_graph=True)
    gradient = parameters_to_vector([p.grad for p in parameters if p.grad is not None])
    fisher = hessian_vector_product(divergence, parameters, recipe.cg_damping)
    direction = conjugate_gradient(fisher, gradient, recipe.cg_steps)
    # xᵀ F x
    curvature = direction.dot(fisher(direction))
    if not torch.isfinite(objective) or not torch.isfinite(curvature):
        raise NotFinite(f"the objective is {objective.item()} and the curvature {curvature.item()}")
    with torch.no_grad():
        old = parameters_to_vector(parameters)
        step = (2 * recipe.target_kl / curvature.clamp(min=1e-12)).sqrt() * direction
        fraction = 1.0
        for _ in range(recipe.line_search_steps):
            vector_to_parameters(old + fraction * step, parameters)
            new_objective, divergence = objective_and_divergence(model, batch, old_policy)
            if new_objective > objective and divergence < recipe.target_kl:
                break
            fraction *= recipe.line_search_shrink
        else:
            vector_to_parameters(old, parameters)
            new_objective, divergence, fraction = objective.detach(), torch.zeros_like(divergence), 0.0
    return {"loss": -new_objective, "kl": divergence, "step_fraction": torch.tensor(fraction)}


def value_loss(model: ActorCritic, batch: RolloutBatch) -> dict[str, Tensor]:
    """Mean squared error of V; of a CNN that policy and value share, nothing is trained by it."""
    with torch.no_grad():
        features = model.features(batch.inputs.observation)
    return {"loss": mse_loss(model.critic(features)[..., 0], batch.returns)}


def minibatches(batch: RolloutBatch, recipe: Recipe, number: int) -> Iterator[RolloutBatch]:
    """All steps once per epoch, in an order drawn by the seed and the `number` of the update."""
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, SeedStream.TRPO_MINIBATCHES, number))
    for _ in range(recipe.value_epochs):
        if len(batch.returns) <= recipe.batch_size:  # order does not matter
            yield batch
            continue
        order = torch.randperm(len(batch.returns), generator=generator).to(batch.returns.device)
        for index in order.split(recipe.batch_size):
            yield batch.select(index)


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = common.model_config(recipe, "trpo")
    model_config |= {"hidden": list(recipe.hidden), "activation": recipe.activation}
    model_config |= {"init_log_std": recipe.init_log_std}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    value_step = FlatGradientUpdate(
        lambda batch: value_loss(model, batch),
        model.critic,
        vector_optimizer(recipe.optimizer, recipe.lr, adam={"eps": 1e-5}),
        lr_schedule=linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None,
    )
    envs = common.make_envs(recipe)
    stream = Rollouts(model, envs, recipe.num_steps, seed=recipe.seed, device=device)

    def update(rollout: Rollout) -> dict:
        value_step.schedule_lr(rollout.number)
        batch = on_policy.make_batch(model, rollout, recipe.gamma, recipe.gae_lambda)
        residual = batch.returns - batch.value
        metrics = update_policy(model, batch.normalize_advantage(), recipe)
        for minibatch in minibatches(batch, recipe, rollout.number):
            metrics["value_loss"] = value_step(minibatch)["loss"]
        if len(residual) > 1:
            metrics["explained_variance"] = 1 - residual.var() / batch.returns.var().clamp(min=1e-8)
        with torch.no_grad():
            policy = model.policy(batch.inputs.observation, batch.inputs.action_mask)
        return {**metrics, "entropy": policy.entropy().mean(), **common.rollout_metrics(rollout)}

    yield common.make_run(model, recipe, stream, update, {"optimizer": value_step.optimizer}, model_config)


def count_variant(variant: str, **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make(**model_config))


FACTS = [Fact("CartPole network parameters", partial(count_variant, "trpo"), 9155)]


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests compare an update with sb3-contrib's."""
    from torchstone.references.rl import actor_critic_cases

    yield from actor_critic_cases(ActorCritic)
