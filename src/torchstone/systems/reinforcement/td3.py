"""TD3: twin delayed deep deterministic policy gradient.

Paper: Scott Fujimoto, Herke van Hoof and David Meger, "Addressing function approximation error in actor-
critic methods", ICML 2018, arXiv:1802.09477.

The idea: in DDPG the actor climbs wherever the critic errs upward, and the target repeats the error, so
values grow too large. Three changes hold them down. Two critics are learned, and the target takes the
smaller of the two ("clipped double Q-learning"). The actor and the target networks change only once in d
updates of the critics ("delayed"). And the target's action is blurred, so that the critics cannot grow
sharp peaks for the actor to sit on ("target policy smoothing").

    ã    = clip(μ'(s') + ε, -1, 1),   ε = clip(N(0, σ̃), -c, c)                  equation 14
    y    = r + γ min_{i=1,2} Q'_i(s', ã)                                         equation 10, algorithm 1
    L    = Σ_i mean (y - Q_i(s, a))²                                             algorithm 1
    ∇J   = mean ∇_a Q_1(s, a)|a=μ(s) ∇_θ μ(s)                                    every d updates
    θ'   ← τθ + (1-τ)θ'                                                          every d updates, all networks

Shapes: observations `(batch, n)`, actions `(batch, m)` in [-1, 1], which `greedy` rescales to the env's
bounds; `forward` gives μ(s) `(batch, m)` and both Q_i(s, μ(s)) `(2, batch)`.

What differs from the paper: networks of 256 and 256 (64 and 64 for Pendulum) where the paper has 400 and
300. Several steps are taken at a time, followed by as many gradient steps. An episode that a time limit
truncated is bootstrapped.
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
from torchstone.parts.rl.exploration import ActionNoise, linear_schedule
from torchstone.parts.rl.networks import ensemble_mlp, member_output, mlp
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
    variant: str = "td3"  # networks
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of actor and critics
    num_envs: int = 1  # number of parallel environments
    num_steps: int = 8  # steps per environment between updates
    gradient_steps: int = 8  # minibatches per update
    batch_size: int = 128  # minibatch size
    buffer_size: int = 200_000  # replay buffer size in steps
    learning_starts: int = 1000  # steps at random before learning starts
    n_step: int = 1  # number of reward steps before bootstrapping
    her_k: int = 0  # hindsight replay of goal environments: k relabelled transitions for one that is not
    gamma: float = 0.98  # discount factor γ
    tau: float = 0.005  # Polyak averaging rate τ of the target networks
    policy_delay: int = 2  # d: updates of the critics for one of actor and target networks
    sigma: float = 0.1  # σ of the exploration noise, for actions in [-1, 1]
    target_sigma: float = 0.2  # σ̃ of the target policy smoothing
    target_noise_clip: float = 0.5  # c: largest noise of the target policy smoothing
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-3  # learning rate of the critics
    actor_lr: float = 1e-3  # learning rate of the actor
    anneal_lr: bool = True  # linear decay of both learning rates to 0
    total_timesteps: int = 19_000  # environment steps after learning_starts, rounded up to whole updates
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    seed: int = 0  # random seed of weights, environments, actions, smoothing and replay
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        """Each after num_envs x num_steps steps."""
        return common.num_updates(self.total_timesteps, self.num_envs * self.num_steps)


PENDULUM = Recipe()
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
        lr=1e-3,
        actor_lr=1e-3,
        anneal_lr=False,
        total_timesteps=90_000,
    ),
    # for tests: seconds
    "smoke": replace(
        PENDULUM,
        batch_size=64,
        learning_starts=400,
        total_timesteps=1200,
        tau=0.04,
        lr=2e-3,
        actor_lr=2e-3,
        anneal_lr=False,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 250.0)


class TD3(nn.Module):
    """Actor μ and critics Q_1, Q_2: `forward` gives μ(s) and both Q_i(s, μ(s)).

    Args:
        num_actions: dimension of an action.
        low, high: bounds of each dimension; -1 and 1 by default.
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
        continuous: bool = True,
        observation_scale: float = BYTE,
    ):
        super().__init__()
        self.observation_scale = observation_scale
        observation_dim = math.prod(observation_shape)
        self.actor = nn.Sequential(mlp((observation_dim, *hidden, num_actions)), nn.Tanh())
        self.critics = ensemble_mlp(2, (observation_dim + num_actions, *hidden, 1))
        self.register_buffer("low", torch.tensor(low or [-1.0] * num_actions))
        self.register_buffer("high", torch.tensor(high or [1.0] * num_actions))

    def flat(self, observation: Tensor) -> Float[Tensor, "batch n"]:
        """Observations as vectors of floats."""
        return scale_observations(observation, self.observation_scale).flatten(1)

    def policy(self, observation: Tensor) -> Float[Tensor, "batch m"]:
        """μ(s)."""
        return self.actor(self.flat(observation))

    def q_values(self, observation: Tensor, action: Float[Tensor, "batch m"]) -> Float[Tensor, "2 batch"]:
        """Q_1(s, a) and Q_2(s, a)."""
        return self.critics(torch.cat([self.flat(observation), action], 1)[None])[..., 0]

    def rescale_action(self, action: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
        """From [-1, 1] to the env's bounds."""
        low, high = self.low.to(action.device), self.high.to(action.device)
        return low + (action + 1) / 2 * (high - low)

    def greedy(self, observation: Tensor) -> Float[Tensor, "batch m"]:
        """μ(s), within the env's bounds."""
        return self.rescale_action(self.policy(observation))

    def forward(self, observation: Tensor) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "2 batch"]]:
        action = self.policy(observation)
        return action, self.q_values(observation, action)


VARIANTS = {
    "td3": Variant(partial(TD3, observation_shape=(11,), num_actions=3), (11,)),
    "td3_paper": Variant(partial(TD3, observation_shape=(11,), num_actions=3, hidden=(400, 300)), (11,)),
}


@torch.no_grad()
def targets(target_network: TD3, transitions: Transitions, recipe: Recipe) -> Float[Tensor, " batch"]:
    """y, with the noise of the smoothing from torch's global generator."""
    action = target_network.policy(transitions.next_observation)
    # ε = clip(N(0, σ̃), -c, c)
    noise = torch.randn_like(action).mul_(recipe.target_sigma)
    noise.clamp_(-recipe.target_noise_clip, recipe.target_noise_clip)
    smoothed = (action + noise).clamp_(-1, 1)
    # min_i Q'_i(s', ã)
    next_q = target_network.q_values(transitions.next_observation, smoothed).amin(0)
    return transitions.reward + transitions.discount * next_q


def critic_loss(model: TD3, transitions: Transitions, y: Float[Tensor, " batch"]) -> dict[str, Tensor]:
    """L."""
    q = model.q_values(transitions.observation, transitions.action)
    return {"loss": 2 * mse_loss(q, y.expand_as(q)), "q_value": q.mean()}


def actor_loss(model: TD3, transitions: Transitions) -> dict[str, Tensor]:
    """-J, whose gradient is -∇J."""
    action = model.policy(transitions.observation)
    x = torch.cat([model.flat(transitions.observation), action], 1)
    return {"loss": -member_output(model.critics, 0, x).mean()}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = off_policy.continuous_config(recipe, "td3")
    model_config |= {"hidden": list(recipe.hidden)}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    target_network = make_target(model)
    lr_schedule = linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None
    critic_step = FlatGradientUpdate(
        lambda minibatch: critic_loss(model, *minibatch),
        model.critics,
        vector_optimizer(recipe.optimizer, recipe.lr),
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
        lambda observation: model.policy(observation.to(device)),
        model_config["num_actions"],
        recipe.num_envs,
        sigma=recipe.sigma,
        learning_starts=recipe.learning_starts,
    )
    stream = off_policy.make_stream(recipe, explorer, model_config, action_scale=model.rescale_action)

    def update(batch: ReplayBatch) -> dict:
        critic_step.schedule_lr(batch.number)
        actor_step.schedule_lr(batch.number)
        actor_numbers: dict[str, Tensor] = {}
        first = batch.number * recipe.gradient_steps + 1  # number of the first minibatch of all
        for number, (transitions, _) in enumerate(off_policy.minibatches(batch, recipe.batch_size), first):
            metrics = critic_step((transitions, targets(target_network, transitions, recipe)))
            if number % recipe.policy_delay == 0:
                # ∇J goes through the critic, but only into the actor
                actor_metrics = actor_step.loss(transitions)
                gradient = flat_gradient(actor_metrics["loss"], actor_parameters)
                actor_numbers["actor_loss"] = actor_step.apply_gradient(actor_metrics, gradient)["loss"]
                polyak_update(target_network, model, recipe.tau)
        return {**metrics, **actor_numbers, **common.rollout_metrics(batch)}

    state = {"critic_optimizer": critic_step.optimizer, "actor_optimizer": actor_step.optimizer}
    state["target_network"] = target_network
    yield common.make_run(model, recipe, stream, update, state, model_config)


def count_variant(part: str, variant: str = "td3", **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(getattr(VARIANTS[variant].make(**model_config), part))


FACTS = [
    Fact("Hopper actor parameters, 256-256", partial(count_variant, "actor"), 69_635),
    # two critics of 69,889
    Fact("Hopper critic parameters, 256-256", partial(count_variant, "critics"), 139_778),
    Fact("Hopper actor parameters, paper", partial(count_variant, "actor", "td3_paper"), 126_003),
]


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's network of the same shape; the tests compare an update with it."""
    from torchstone.references.rl import td3_cases

    yield from td3_cases(TD3)
