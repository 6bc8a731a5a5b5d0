"""A2C and A3C: advantage actor-critic.

Paper: Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver and Kavukcuoglu, "Asynchronous methods for
deep reinforcement learning", ICML 2016, arXiv:1602.01783.

The idea: many actors in as many envs make experience diverse enough to learn from as it comes, without a
replay buffer. Every t_max steps the policy follows the n-step advantage, and the value the n-step return.

    R_t = Σ_{i<k} γ^i r_{t+i} + γ^k V(s_{t+k}; θ_v),   k up to the end of the rollout       algorithm S3
    dθ   ∝ ∇ log π(a_t|s_t; θ) (R_t - V(s_t; θ_v)) + β ∇ H(π(s_t; θ))                       section 4
    dθ_v ∝ ∂(R_t - V(s_t; θ_v))² / ∂θ_v

`a2c` is synchronous: all envs step under the same weights, and their gradients are averaged. `a3c` has
actors with weights of their own, in turn: an actor copies the shared weights, takes t_max steps in its one
env and computes the gradient at its own weights; the shared weights, by then updated by all other actors,
are stepped along it. That keeps what the paper is known for: stale weights to act and to differentiate with,
one actor's gradient at a time, RMSprop statistics shared by all. It does not keep the races: the order of
actors is fixed, so each is `actors - 1` updates behind, and no write overwrites another. So it is
deterministic for a seed, and resumable; it is not parallel.

Shapes: observations `(batch, *shape)`, actions `(batch,)` or `(batch, n)`; `forward` gives logits (or means
and log deviations) and values. What differs from the paper: separate networks for policy and value where
observations are vectors, orthogonal initialization, and bootstrapping at time limits (see
`parts.rl.returns`); with λ below 1, generalized advantage estimation instead of R_t - V.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.rollouts import AsyncActorRollouts, Rollout, Rollouts
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.flat_gradient import flat_gradient
from torchstone.parts.rl.actor_critic import ActorCritic
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.recurrent_actor_critic import RecurrentActorCritic
from torchstone.parts.rl.returns import gae
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.rl import common, on_policy
from torchstone.tasks.rl.evaluate import evaluate, play

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


# what of the paper is written out here
STORY = ("loss",)


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # Gymnasium environment id, or module:Id, or module:name of a class or function
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    variant: str = "a2c"  # network
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of policy and value network
    activation: str = "tanh"  # activation function: tanh or relu
    init_log_std: float = 0.0  # initial log standard deviation of a continuous policy
    num_envs: int = 8  # number of parallel environments; of a3c, of actors
    actors: Literal["sync", "async"] = "sync"  # sync: a2c; async: a3c, actors with weights of their own
    num_steps: int = 5  # steps per environment in a rollout, t_max
    gamma: float = 0.99  # discount factor γ
    gae_lambda: float = 1.0  # λ of generalized advantage estimation; 1 as in the paper
    ent_coef: float = 0.0  # entropy bonus coefficient, β
    vf_coef: float = 0.5  # value loss coefficient
    optimizer: VectorOptimizer = "rmsprop"  # optimizer
    lr: float = 7e-4  # learning rate
    anneal_lr: bool = False  # linear decay of the learning rate to 0
    max_grad_norm: float = 0.5  # gradient clipping: largest norm
    total_timesteps: int = 500_000  # environment steps of all actors, rounded up to whole updates
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    seed: int = 0  # random seed of weights, environments and actions
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        """Each of num_envs x num_steps steps; asynchronous, of num_steps steps of one actor."""
        envs = self.num_envs if self.actors == "sync" else 1
        return common.num_updates(self.total_timesteps, envs * self.num_steps)


CARTPOLE = Recipe()
RECIPES = {
    # torchstone train a2c   500,000 steps, a minute of one core; return 500 on all of 5 seeds
    "cartpole": CARTPOLE,
    # torchstone train a2c/a3c   200,000 steps of 8 actors in turn, 3 minutes; return 500 (3 seeds)
    "a3c": replace(CARTPOLE, actors="async", anneal_lr=True, total_timesteps=200_000),
    # for tests: seconds
    "smoke": replace(
        CARTPOLE,
        total_timesteps=57_600,
        num_steps=16,
        gae_lambda=0.95,
        lr=3e-3,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 60.0)

FRAMES = {"observation_shape": (4, 84, 84), "num_actions": 4, "encoder": "small"}
VARIANTS = {
    "a2c": Variant(partial(ActorCritic, observation_shape=(4,), num_actions=2), (4,)),
    "a2c_lstm": Variant(partial(RecurrentActorCritic, observation_shape=(4,), num_actions=2), (16, 4)),
    # the paper's two networks for Atari (section 5.1)
    "a3c_atari": Variant(partial(ActorCritic, **FRAMES), (4, 84, 84)),
    "a3c_atari_lstm": Variant(partial(RecurrentActorCritic, **FRAMES), (16, 4, 84, 84)),
}


def loss(model: Any, rollout: Rollout, recipe: Recipe) -> dict[str, Tensor]:
    """The loss whose gradients are those of the docstring."""
    inputs = on_policy.policy_inputs(rollout)
    policy, value = model.policy_and_value(*inputs)
    with torch.no_grad():
        values = on_policy.unflatten_time(rollout, value)
        next_values = on_policy.next_values(model, rollout, inputs, values)
        done = rollout.terminated | rollout.truncated
        # R_t - V(s_t), where λ is 1
        advantage = gae(rollout.reward, values, next_values, done, recipe.gamma, recipe.gae_lambda)
        advantage = on_policy.flatten_time(rollout, advantage)
        returns = advantage + value
    action = on_policy.flatten_time(rollout, rollout.action)
    policy_objective = (policy.log_prob(action) * advantage).mean()
    value_loss = (returns - value).square().mean()
    entropy = policy.entropy().mean()
    total = recipe.vf_coef * value_loss - policy_objective - recipe.ent_coef * entropy
    return {"loss": total, "value_loss": value_loss, "entropy": entropy}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = common.model_config(recipe, "a2c")
    model_config |= {"hidden": list(recipe.hidden), "activation": recipe.activation}
    model_config |= {"init_log_std": recipe.init_log_std}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    step = FlatGradientUpdate(
        lambda rollout: loss(model, rollout, recipe),
        model,
        vector_optimizer(recipe.optimizer, recipe.lr, rmsprop={"alpha": 0.99, "eps": 1e-5}),
        max_grad_norm=recipe.max_grad_norm,
        lr_schedule=linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None,
    )
    state: dict[str, Any] = {"optimizer": step.optimizer}
    options = {"num_steps": recipe.num_steps, "seed": recipe.seed, "device": device}

    if recipe.actors == "sync":
        stream = Rollouts(model, common.make_envs(recipe), **options)

        def update(rollout: Rollout) -> dict:
            step.schedule_lr(rollout.number)
            return step(rollout) | common.rollout_metrics(rollout)

    else:
        copies = nn.ModuleList(copy.deepcopy(model) for _ in range(recipe.num_envs))
        state["copies"] = copies.requires_grad_(True)
        stream = AsyncActorRollouts(copies, on_policy.make_separate_envs(recipe), **options)

        def update(batch: tuple[int, Rollout]) -> dict:
            index, rollout = batch
            step.schedule_lr(rollout.number)
            actor = copies[index]
            metrics = loss(actor, rollout, recipe)
            gradient = flat_gradient(metrics["loss"], actor.parameters())
            metrics = step.apply_gradient(metrics, gradient)
            actor.load_state_dict(model.state_dict())
            return metrics | common.rollout_metrics(rollout)

    yield common.make_run(model, recipe, stream, update, state, model_config)


def count_variant(variant: str, **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make(**model_config))


FACTS = [
    Fact("CartPole network parameters", partial(count_variant, "a2c"), 9155),
    # two biases per gate, as torch's LSTM has; with one there are 1,024 fewer
    Fact("A3C-LSTM parameters, 4 actions", partial(count_variant, "a3c_atari_lstm"), 1_203_765),
    Fact(
        "A3C-LSTM parameters, 6 actions", partial(count_variant, "a3c_atari_lstm", num_actions=6), 1_204_279
    ),
]


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests compare an update with it."""
    from torchstone.references.rl import actor_critic_cases

    yield from actor_critic_cases(ActorCritic)
