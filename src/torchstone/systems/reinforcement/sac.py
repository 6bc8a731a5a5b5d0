"""SAC: soft actor-critic.

Paper: Tuomas Haarnoja, Aurick Zhou, Pieter Abbeel and Sergey Levine, "Soft actor-critic: off-policy
maximum entropy deep reinforcement learning with a stochastic actor", ICML 2018, arXiv:1801.01290; with the
learned temperature and two critics, Haarnoja, Zhou, Hartikainen et al., "Soft actor-critic algorithms and
applications", 2018, arXiv:1812.05905.

The idea: an agent that is paid for randomness as well as for reward explores wherever it does not matter
what it does, and keeps all good ways of doing a thing. The policy is a squashed Gaussian that follows
exp(Q/α), trained by the gradient through its own samples; two critics hold each other down, as in TD3; and
the temperature α, the price of entropy, is learned too, so that the entropy stays at a target.

    y      = r + γ (min_i Q'_i(s', a') - α log π(a'|s')),   a' ~ π       equations 2, 3, 5 of 1812.05905
    J_Q    = Σ_i ½ mean (Q_i(s, a) - y)²                                          equation 5
    J_π    = mean (α log π(ã|s) - min_i Q_i(s, ã)),   ã = tanh(μ(s) + σ(s) ε)      equations 7, 9
    J_α    = mean -log α (log π(ã|s) + H̄),   H̄ = -dim(a)                          equation 17
    θ'     ← τθ + (1-τ)θ'                                                         for the critics

Shapes: observations `(batch, n)`, actions `(batch, m)` in [-1, 1], which `greedy` rescales to the env's
bounds; `forward` gives mean and log standard deviation before tanh, each `(batch, m)`, and both Q_i(s,
tanh μ(s)) `(2, batch)`.

What differs from the paper: J_α has log α where the paper writes α, as in the authors' code and in all
others; its root is the same. The three losses of a minibatch are computed with the temperature from before
it, and the policy's with the critics after their step. Several steps are taken at a time, followed by as
many gradient steps. An episode that a time limit truncated is bootstrapped.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
from torchstone.parts.rl.distributions import SquashedGaussian
from torchstone.parts.rl.exploration import PolicySampling, linear_schedule
from torchstone.parts.rl.networks import ensemble_mlp, mlp
from torchstone.parts.rl.observations import BYTE, scale_observations
from torchstone.parts.rl.running_mean_std import RunningMeanStd
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
    variant: str = "sac"  # networks
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of actor and critics
    num_envs: int = 1  # number of parallel environments
    num_steps: int = 8  # steps per environment between updates
    gradient_steps: int = 8  # minibatches per update
    batch_size: int = 128  # minibatch size
    buffer_size: int = 200_000  # replay buffer size in steps
    learning_starts: int = 1000  # steps at random before learning starts
    normalize: bool = False  # normalize observations by running statistics of what is replayed
    n_step: int = 1  # number of reward steps before bootstrapping
    her_k: int = 0  # hindsight replay of goal environments: k relabelled transitions for one that is not
    gamma: float = 0.98  # discount factor γ
    tau: float = 0.005  # Polyak averaging rate τ of the target critics
    learn_alpha: bool = True  # learn the temperature α, from init_alpha on; else it stays there
    init_alpha: float = 1.0  # initial temperature α
    target_entropy: float | None = None  # H̄ in nats; none for minus the number of action dimensions
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-3  # learning rate of actor, critics and temperature
    anneal_lr: bool = True  # linear decay of the learning rates to 0
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
# the arm of two joints as a goal environment; much experience for each gradient step, since it is cheap
REACHER = replace(
    PENDULUM,
    data="Reacher-v5",
    wrappers=("GoalReacher:reward=dense",),
    hidden=(128, 128),
    num_envs=16,
    num_steps=4,
    batch_size=256,
    learning_starts=2000,
    normalize=True,
    gamma=0.95,
    tau=0.01,
    init_alpha=0.05,
    total_timesteps=64_000,
    eval_episodes=100,
)
RECIPES = {
    "pendulum": PENDULUM,
    # --data Hopper-v5 and the like too
    "halfcheetah": replace(
        PENDULUM,
        data="HalfCheetah-v5",
        hidden=(256, 256),
        gamma=0.99,
        batch_size=256,
        buffer_size=1_000_000,
        learning_starts=10_000,
        lr=3e-4,
        anneal_lr=False,
        total_timesteps=90_000,
    ),
    # torchstone train sac/reacher   68 s; its own reward, minus distance and squared action: 22 to 34 % end
    # within 2 cm (3 seeds)
    "reacher": REACHER,
    # torchstone train sac/reacher_her   70 s; reward: whether the fingertip is within 2 cm; goals
    # relabelled in hindsight; 95 to 99 % end there (3 seeds)
    "reacher_her": replace(REACHER, wrappers=("GoalReacher",), her_k=4),
    # an arm of seven joints, moved by its gripper; pip install 'torchstone[robotics]'
    "fetch_reach": replace(
        REACHER, data="gymnasium_robotics:FetchReach-v4", wrappers=(), her_k=4, total_timesteps=16_000
    ),
    # torchstone train sac/pusher   an arm pushes a cylinder to its place; benchmarks/pusher.py has
    # stable-baselines3 with the same settings beside it
    "pusher": replace(
        PENDULUM,
        data="Pusher-v5",
        gradient_steps=4,
        batch_size=256,
        init_alpha=0.1,
        anneal_lr=False,
        total_timesteps=15_000,
        eval_episodes=100,
    ),
    # a data centre's set-points, tested in the weather of other places; pip install 'torchstone[cooling]'
    "cooling": replace(
        PENDULUM,
        data="energyplus:2zone_datacenter",
        num_envs=4,
        num_steps=4,
        gradient_steps=12,
        learning_starts=2000,
        gamma=0.5,  # what a set-point does is nearly all in the same step
        init_alpha=0.1,
        target_entropy=-4.0,
        total_timesteps=16_000,
        eval_episodes=8,
        record_video=False,
    ),
    # for tests: seconds
    "smoke": replace(
        PENDULUM,
        batch_size=64,
        learning_starts=400,
        total_timesteps=1200,
        tau=0.02,
        lr=2e-3,
        anneal_lr=False,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 250.0)

# of the policy, as in the authors' code
MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0


class SAC(nn.Module):
    """Actor π and critics Q_1, Q_2: `forward` gives the mean and log deviation of π(·|s) before
    tanh, and both Q_i(s, tanh μ(s)).

    Args:
        num_actions: dimension of an action.
        low, high: bounds of each dimension; -1 and 1 by default.
        continuous: must be True; it is in the metadata of every agent.
        observation_scale: what bytes are divided by.
        normalize: normalize observations by `normalizer`'s statistics, clipped to ±5.
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
        continuous: bool = True,
        observation_scale: float = BYTE,
        normalize: bool = False,
    ):
        super().__init__()
        self.observation_scale = observation_scale
        observation_dim = math.prod(observation_shape)
        self.normalizer = RunningMeanStd((observation_dim,), clip=5.0) if normalize else None
        self.trunk = nn.Sequential(*mlp((observation_dim, *hidden)), nn.ReLU())
        self.mean_head = nn.Linear(hidden[-1], num_actions)
        self.log_std_head = nn.Linear(hidden[-1], num_actions)
        self.critics = ensemble_mlp(2, (observation_dim + num_actions, *hidden, 1))
        self.register_buffer("low", torch.tensor(low or [-1.0] * num_actions))
        self.register_buffer("high", torch.tensor(high or [1.0] * num_actions))

    def flat(self, observation: Tensor) -> Float[Tensor, "batch n"]:
        """Observations as vectors of floats, which networks take."""
        x = scale_observations(observation, self.observation_scale).flatten(1)
        return x if self.normalizer is None else self.normalizer(x)

    def policy(self, observation: Tensor) -> SquashedGaussian:
        """π(·|s)."""
        x = self.trunk(self.flat(observation))
        return SquashedGaussian(self.mean_head(x), self.log_std_head(x).clamp(MIN_LOG_STD, MAX_LOG_STD))

    def q_values(self, observation: Tensor, action: Float[Tensor, "batch m"]) -> Float[Tensor, "2 batch"]:
        """Q_1(s, a) and Q_2(s, a)."""
        return self.critics(torch.cat([self.flat(observation), action], 1)[None])[..., 0]

    def rescale_action(self, action: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
        """From [-1, 1] to the env's bounds."""
        low, high = self.low.to(action.device), self.high.to(action.device)
        return low + (action + 1) / 2 * (high - low)

    def greedy(self, observation: Tensor) -> Float[Tensor, "batch m"]:
        """tanh μ(s), within the env's bounds."""
        return self.rescale_action(self.policy(observation).mode())

    def actor_parameters(self) -> list[nn.Parameter]:
        return [*self.trunk.parameters(), *self.mean_head.parameters(), *self.log_std_head.parameters()]

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor, Float[Tensor, "2 batch"]]:
        policy = self.policy(observation)
        return policy.mean, policy.log_std, self.q_values(observation, policy.mode())


class Temperature(nn.Module):
    """α, by its logarithm."""

    def __init__(self, init_alpha: float):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(init_alpha)))

    def forward(self) -> Float[Tensor, ""]:
        return self.log_alpha.exp()


VARIANTS = {"sac": Variant(partial(SAC, observation_shape=(11,), num_actions=3), (11,))}


def sample_action(
    policy: SquashedGaussian, noise: Float[Tensor, "batch m"]
) -> tuple[Float[Tensor, "batch m"], Float[Tensor, " batch"]]:
    """ã = tanh(μ + σ ε) and log π(ã)."""
    pre_tanh = policy.pre_tanh_sample(noise)
    return pre_tanh.tanh(), policy.log_prob(pre_tanh)


@torch.no_grad()
def targets(
    model: SAC,
    target_critics: nn.Module,
    transitions: Transitions,
    alpha: Float[Tensor, ""],
    noise: Float[Tensor, "batch m"],
) -> Float[Tensor, " batch"]:
    """y.

    Args:
        alpha: α.
        noise: ε of a', standard normal.
    """
    action, log_prob = sample_action(model.policy(transitions.next_observation), noise)
    inputs = torch.cat([model.flat(transitions.next_observation), action], 1)
    # min_i Q'_i(s', a') - α log π(a'|s')
    next_value = target_critics(inputs[None])[..., 0].amin(0) - alpha * log_prob
    return transitions.reward + transitions.discount * next_value


def critic_loss(model: SAC, transitions: Transitions, y: Float[Tensor, " batch"]) -> dict[str, Tensor]:
    """J_Q."""
    q = model.q_values(transitions.observation, transitions.action)
    return {"loss": mse_loss(q, y.expand_as(q)), "q_value": q.mean()}


def actor_loss(
    model: SAC, transitions: Transitions, alpha: Float[Tensor, ""], noise: Float[Tensor, "batch m"]
) -> tuple[dict[str, Tensor], Float[Tensor, " batch"]]:
    """J_π, and log π(ã|s).

    Args:
        alpha: α.
        noise: ε of ã, standard normal.
    """
    action, log_prob = sample_action(model.policy(transitions.observation), noise)
    q = model.q_values(transitions.observation, action).amin(0)
    return {"loss": (alpha * log_prob - q).mean(), "entropy": -log_prob.mean()}, log_prob


def alpha_loss(
    log_alpha: Float[Tensor, ""], log_prob: Float[Tensor, " batch"], target_entropy: float
) -> dict[str, Tensor]:
    """J_α."""
    return {"loss": -log_alpha * (log_prob.detach() + target_entropy).mean()}


class Learner:
    """What is learned from one minibatch after another: critics, then actor, then temperature, and the target
    critics follow. `state` is what a checkpoint holds of it, besides the model.

    Args:
        lr_schedule: number of an update -> factor of the learning rates.
        target_entropy: H̄ in nats; None for minus the number of action dimensions.
    """

    def __init__(
        self,
        model: SAC,
        *,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        lr_schedule: Callable[[int], float] | None,
        init_alpha: float,
        learn_alpha: bool,
        target_entropy: float | None,
        tau: float,
    ):
        self.model, self.learn_alpha, self.tau = model, learn_alpha, tau
        self.temperature = temperature = Temperature(init_alpha).to(model.low.device)
        self.target_critics = make_target(model.critics)
        entropy = -float(len(model.low)) if target_entropy is None else target_entropy
        options: dict[str, Any] = {"make_optimizer": make_optimizer, "lr_schedule": lr_schedule}
        actor = nn.ModuleList([model.trunk, model.mean_head, model.log_std_head])
        self.critic_step = FlatGradientUpdate(lambda b: critic_loss(model, *b), model.critics, **options)
        self.actor_step = FlatGradientUpdate(lambda b: actor_loss(model, *b), actor, **options)
        self.alpha_step = FlatGradientUpdate(
            lambda log_prob: alpha_loss(temperature.log_alpha, log_prob, entropy), temperature, **options
        )
        self.actor_parameters = model.actor_parameters()
        self.state: dict[str, Any] = {
            "critic_optimizer": self.critic_step.optimizer,
            "actor_optimizer": self.actor_step.optimizer,
            "alpha_optimizer": self.alpha_step.optimizer,
            "target_critics": self.target_critics,
            "temperature": temperature,
        }

    def schedule_lr(self, number: int) -> None:
        """Set the learning rates for update `number`."""
        for step in (self.critic_step, self.actor_step, self.alpha_step):
            step.schedule_lr(number)

    def __call__(self, transitions: Transitions) -> dict[str, Tensor]:
        """Learn from one minibatch; its losses, entropy and temperature."""
        noise, next_noise = torch.randn(2, *transitions.action.shape, device=transitions.action.device)
        alpha = self.temperature().detach()
        y = targets(self.model, self.target_critics, transitions, alpha, next_noise)
        metrics = self.critic_step((transitions, y))
        # J_π goes through the critics, but only into the actor
        actor_metrics, log_prob = self.actor_step.loss((transitions, alpha, noise))
        gradient = flat_gradient(actor_metrics["loss"], self.actor_parameters)
        actor_metrics = self.actor_step.apply_gradient(actor_metrics, gradient)
        if self.learn_alpha:
            self.alpha_step(log_prob)
        polyak_update(self.target_critics, self.model.critics, self.tau)
        metrics |= {"actor_loss": actor_metrics["loss"], "entropy": actor_metrics["entropy"]}
        return metrics | {"alpha": self.temperature().detach()}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = off_policy.continuous_config(recipe, "sac")
    model_config |= {"hidden": list(recipe.hidden)}
    if recipe.normalize:
        model_config |= {"normalize": True}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    learner = Learner(
        model,
        make_optimizer=vector_optimizer(recipe.optimizer, recipe.lr),
        lr_schedule=linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None,
        init_alpha=recipe.init_alpha,
        learn_alpha=recipe.learn_alpha,
        target_entropy=recipe.target_entropy,
        tau=recipe.tau,
    )
    explorer = PolicySampling(
        lambda observation, noise: model.policy(observation.to(device)).sample(noise.to(device)),
        model_config["num_actions"],
        learning_starts=recipe.learning_starts,
    )
    stream = off_policy.make_stream(recipe, explorer, model_config, action_scale=model.rescale_action)

    def update(batch: ReplayBatch) -> dict:
        learner.schedule_lr(batch.number)
        if model.normalizer is not None:
            replayed = batch.transitions.observation
            model.normalizer.update(scale_observations(replayed, model.observation_scale).flatten(1))
        for transitions, _ in off_policy.minibatches(batch, recipe.batch_size):
            metrics = learner(transitions)
        return {**metrics, **common.rollout_metrics(batch)}

    yield common.make_run(model, recipe, stream, update, learner.state, model_config)


def count_variant(part: str, **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(getattr(VARIANTS["sac"].make(**model_config), part))


def count_actor(**model_config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in VARIANTS["sac"].make(**model_config).actor_parameters())


FACTS = [
    # (11 + 1) 256 + 257 · 256 + 2 · 257 · 3
    Fact("Hopper actor parameters, 256-256", count_actor, 70_406),
    # two critics of 69,889
    Fact("Hopper critic parameters, 256-256", partial(count_variant, "critics"), 139_778),
]


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's networks of the same shape; the tests compare an update with them."""
    from torchstone.references.rl import sac_cases

    yield from sac_cases(SAC)
