"""DDPG: deep deterministic policy gradient.

Paper: Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver and Wierstra, "Continuous control with deep
reinforcement learning", ICLR 2016, arXiv:1509.02971 (2015).

The idea: where actions are continuous, the best one cannot be looked up among Q's outputs; but Q has a
gradient with respect to the action, and a second network can be trained to ascend it. Everything else is
DQN's: a replay buffer, and target networks, which here follow by Polyak averaging rather than being copied.

    y    = r + γ Q'(s', μ'(s'))                                                  algorithm 1
    L    = mean (y - Q(s, a))²                                                   equation 4
    ∇J   = mean ∇_a Q(s, a)|a=μ(s) ∇_θ μ(s)                                      equation 6
    θ'   ← τθ + (1-τ)θ'                                                          for both target networks
    a    = μ(s) + N,   dN = -θ N dt + σ √dt N(0, 1)                              section 7

Shapes: observations `(batch, n)`, actions `(batch, m)` in [-1, 1], which `greedy` rescales to the env's
bounds; `forward` gives μ(s) and Q(s, μ(s)).

What differs from the paper: the plain networks and hyperparameters are those that its figures are compared
with today (two layers of 256, the action given to the first, Adam, learning rate 1e-3 or 3e-4, τ 0.005,
Gaussian noise); `ddpg_paper` has the paper's, 400 and 300, the action joining at the second layer and outputs
that are initialized within ±0.003, without its batch normalization. `theta` gives Ornstein–Uhlenbeck noise.
Several steps are taken at a time, followed by as many gradient steps. An episode that a time limit truncated
is bootstrapped.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.replay_buffer import Transitions
from torchstone.envs.replay_stream import ReplayBatch
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.flat_gradient import flat_gradient
from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.rl.exploration import ActionNoise, linear_schedule
from torchstone.parts.rl.networks import mlp
from torchstone.parts.rl.observations import BYTE, scale_observations
from torchstone.parts.rl.target_network import make_target, polyak_update
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.rl import common, off_policy
from torchstone.tasks.rl.evaluate import evaluate, play

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "Pendulum-v1"  # Gymnasium environment id, or module:Id, or module:name of a class or function
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    variant: str = "ddpg"  # networks
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of actor and critic
    num_envs: int = 1  # number of parallel environments
    num_steps: int = 8  # steps per environment between updates
    gradient_steps: int = 8  # minibatches per update
    batch_size: int = 128  # minibatch size
    buffer_size: int = 200_000  # replay buffer size in steps
    learning_starts: int = 1000  # steps at random before learning starts
    n_step: int = 1  # number of reward steps before bootstrapping
    gamma: float = 0.98  # discount factor γ
    tau: float = 0.005  # Polyak averaging rate τ of the target networks
    sigma: float = 0.1  # σ of the exploration noise, for actions in [-1, 1]
    theta: float | None = None  # θ of Ornstein–Uhlenbeck noise; none for independent Gaussian noise
    dt: float = 1.0  # time step of Ornstein–Uhlenbeck noise
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-3  # learning rate of the critic
    actor_lr: float = 5e-4  # learning rate of the actor
    anneal_lr: bool = True  # linear decay of both learning rates to 0
    weight_decay: float = 0.0  # weight decay of the critic
    total_timesteps: int = 19_000  # environment steps after learning_starts, rounded up to whole updates
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    seed: int = 0  # random seed of weights, environments, actions and replay
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        """Each after num_envs x num_steps steps."""
        return common.num_updates(self.total_timesteps, self.num_envs * self.num_steps)


PENDULUM = Recipe()
MUJOCO = replace(
    PENDULUM,
    hidden=(256, 256),
    gamma=0.99,
    batch_size=256,
    buffer_size=1_000_000,
    learning_starts=10_000,
    lr=3e-4,
    actor_lr=3e-4,
    anneal_lr=False,
)
RECIPES = {
    # torchstone train ddpg   20,000 steps, two minutes of one core; return -126 to -132 (5 seeds)
    "pendulum": PENDULUM,
    # torchstone train ddpg/paper   the paper's networks, learning rates and noise; 20,000 steps; return
    # -147 (seed 0)
    "paper": replace(
        PENDULUM,
        variant="ddpg_paper",
        hidden=(400, 300),
        batch_size=64,
        gamma=0.99,
        tau=0.001,
        sigma=0.2,
        theta=0.15,
        lr=1e-3,
        actor_lr=1e-4,
        anneal_lr=False,
        weight_decay=1e-2,
    ),
    # torchstone train ddpg/halfcheetah   100,000 steps, 50 minutes; return 4,478 (seed 0), where
    # stable-baselines3 has 3,314; --data Hopper-v5 and the like too
    "halfcheetah": replace(MUJOCO, data="HalfCheetah-v5", total_timesteps=90_000),
    # for tests: seconds
    "smoke": replace(
        PENDULUM,
        batch_size=64,
        learning_starts=400,
        total_timesteps=1600,
        tau=0.02,
        actor_lr=1e-3,
        anneal_lr=False,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 250.0)


def layers_of(widths: Sequence[int], small_init: bool) -> nn.Sequential:
    """Linear layers with ReLU between; with `small_init` the last one is initialized within ±0.003."""
    layers = mlp(widths)
    if small_init:
        for p in layers[-1].parameters():
            nn.init.uniform_(p, -3e-3, 3e-3)
    return layers


class Critic(nn.Module):
    """Q(s, a): the action is concatenated to the observation, or with `late_action` to the first layer's
    output."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: Sequence[int], late_action: bool):
        super().__init__()
        first, *rest = hidden
        self.observation_layer = nn.Linear(observation_dim, first) if late_action else None
        inner = (first, *rest) if late_action else (observation_dim, *hidden)
        self.layers = layers_of((inner[0] + action_dim, *inner[1:], 1), late_action)
        accept_old_keys(self, {"see.": "observation_layer.", "judge.": "layers."})

    def forward(
        self, observation: Float[Tensor, "batch n"], action: Float[Tensor, "batch m"]
    ) -> Float[Tensor, " batch"]:
        x = observation if self.observation_layer is None else self.observation_layer(observation).relu()
        return self.layers(torch.cat([x, action], 1))[:, 0]


class DDPG(nn.Module):
    """Actor μ and critic Q: `forward` gives μ(s) and Q(s, μ(s)).

    Args:
        num_actions: dimension of an action.
        low, high: bounds of each dimension; -1 and 1 by default.
        paper: the paper's networks: the action joins late, outputs are initialized small.
        continuous: must be True; it is in the metadata of every agent.
        observation_scale: what bytes are divided by.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        hidden: Sequence[int] = (256, 256),
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        paper: bool = False,
        continuous: bool = True,
        observation_scale: float = BYTE,
    ):
        super().__init__()
        self.observation_scale = observation_scale
        observation_dim = math.prod(observation_shape)
        self.actor = nn.Sequential(layers_of((observation_dim, *hidden, num_actions), paper), nn.Tanh())
        self.critic = Critic(observation_dim, num_actions, hidden, paper)
        self.register_buffer("low", torch.tensor(low or [-1.0] * num_actions))
        self.register_buffer("high", torch.tensor(high or [1.0] * num_actions))

    def rescale_action(self, action: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
        """From [-1, 1] to the env's bounds."""
        low, high = self.low.to(action.device), self.high.to(action.device)
        return low + (action + 1) / 2 * (high - low)

    def flat(self, observation: Tensor) -> Float[Tensor, "batch n"]:
        """Observations as vectors of floats."""
        return scale_observations(observation, self.observation_scale).flatten(1)

    def greedy(self, observation: Tensor) -> Float[Tensor, "batch m"]:
        """μ(s), within the env's bounds."""
        return self.rescale_action(self.actor(self.flat(observation)))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        observation = self.flat(observation)
        action = self.actor(observation)
        return action, self.critic(observation, action)


VARIANTS = {
    "ddpg": Variant(partial(DDPG, observation_shape=(11,), num_actions=3), (11,)),
    "ddpg_paper": Variant(
        partial(DDPG, observation_shape=(11,), num_actions=3, hidden=(400, 300), paper=True), (11,)
    ),
}


@torch.no_grad()
def targets(target_network: DDPG, transitions: Transitions) -> Float[Tensor, " batch"]:
    """y."""
    # Q'(s', μ'(s'))
    _, next_q = target_network(transitions.next_observation)
    return transitions.reward + transitions.discount * next_q


def critic_loss(model: DDPG, transitions: Transitions, y: Float[Tensor, " batch"]) -> dict[str, Tensor]:
    """L."""
    q = model.critic(model.flat(transitions.observation), transitions.action)
    return {"loss": mse_loss(q, y), "q_value": q.mean()}


def actor_loss(model: DDPG, transitions: Transitions) -> dict[str, Tensor]:
    """-J, whose gradient is -∇J."""
    _, q = model(transitions.observation)
    return {"loss": -q.mean()}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = off_policy.continuous_config(recipe, "ddpg")
    model_config |= {"hidden": list(recipe.hidden)}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    target_network = make_target(model)
    lr_schedule = linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None
    critic_step = FlatGradientUpdate(
        lambda minibatch: critic_loss(model, *minibatch),
        model.critic,
        vector_optimizer(recipe.optimizer, recipe.lr, recipe.weight_decay),
        lr_schedule=lr_schedule,
    )
    actor_step = FlatGradientUpdate(
        lambda transitions: actor_loss(model, transitions),
        model.actor,
        vector_optimizer(recipe.optimizer, recipe.actor_lr),
        lr_schedule=lr_schedule,
    )
    actor_parameters = list(model.actor.parameters())
    explorer = ActionNoise(
        lambda observation: model.actor(model.flat(observation.to(device))),
        model_config["num_actions"],
        recipe.num_envs,
        sigma=recipe.sigma,
        theta=recipe.theta,
        dt=recipe.dt,
        learning_starts=recipe.learning_starts,
    )
    stream = off_policy.make_stream(recipe, explorer, model_config, action_scale=model.rescale_action)

    def update(batch: ReplayBatch) -> dict:
        critic_step.schedule_lr(batch.number)
        actor_step.schedule_lr(batch.number)
        for transitions, _ in off_policy.minibatches(batch, recipe.batch_size):
            metrics = critic_step((transitions, targets(target_network, transitions)))
            # ∇J goes through the critic, but only into the actor
            actor_metrics = actor_step.loss(transitions)
            gradient = flat_gradient(actor_metrics["loss"], actor_parameters)
            actor_step.apply_gradient(actor_metrics, gradient)
            polyak_update(target_network, model, recipe.tau)
        metrics["actor_loss"] = actor_metrics["loss"].detach()
        return {**metrics, **common.rollout_metrics(batch)}

    state = {"critic_optimizer": critic_step.optimizer, "actor_optimizer": actor_step.optimizer}
    state["target_network"] = target_network
    yield common.make_run(model, recipe, stream, update, state, model_config)


def count_variant(part: str, variant: str = "ddpg", **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(getattr(VARIANTS[variant].make(**model_config), part))


FACTS = [
    Fact("Hopper actor parameters, 256-256", partial(count_variant, "actor"), 69_635),
    Fact("Hopper critic parameters, 256-256", partial(count_variant, "critic"), 69_889),
    Fact("Hopper actor parameters, paper", partial(count_variant, "actor", "ddpg_paper"), 126_003),
]


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests compare an update with it."""
    from torchstone.references.rl import ddpg_cases

    yield from ddpg_cases(DDPG)
