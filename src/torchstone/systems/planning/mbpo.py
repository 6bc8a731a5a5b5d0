"""MBPO: model-based policy optimization, an agent that practises in short dreams.

Paper: Michael Janner, Justin Fu, Marvin Zhang and Sergey Levine, "When to trust your model: model-based
policy optimization", NeurIPS 2019, arXiv:1906.08253; its ensemble is that of Chua et al. 2018,
arXiv:1805.12114.

The idea: a model of the environment that is learned from few steps is good for a few steps, and no further:
errors grow with the length of what is imagined. So nothing long is imagined. From states that were really
visited the policy branches off for k steps within the model, and SAC learns from those, many times for each
real step. k grows as the model gets better. An ensemble keeps the policy from living off one model's
mistakes: each imagined step is another elite's.

    p_θ(r, s' - s | s, a) = N(μ_θ, σ_θ²)             seven networks, each on a bootstrap of its own
    L(θ)  = Σ_members mean ((y - μ)² / σ² + log σ²) + 0.01 Σ (max log σ² - min log σ²) + ½ λ |W|²
    elites: the five members with the smallest error on transitions that none was trained on
    s_0 ~ D_env;   a_i ~ π(s_i);   r_i, s_{i+1} ~ p_elite(s_i, a_i), i < k                  into D_model
    k     = ⌊k_min + clip((t - t_a) / (t_b - t_a), 0, 1) (k_max - k_min)⌋                     t real steps
    SAC's update on minibatches of which 5 % are of D_env, the others of D_model

Shapes: observations `(batch, n)`, actions `(batch, m)` in [-1, 1], which `greedy` rescales to the env's
bounds; `forward` gives mean and log standard deviation of π before tanh, each `(batch, m)`, both Q_i(s, tanh
μ(s)) `(2, batch)`, and of each member mean and log σ² of (r, s' - s) there, `(members, batch, 1 + n)` each.

What differs from the paper: outputs are standardized as inputs are, so that bounds of log σ² mean the same in
every environment, and the errors of reward and state count alike; one weight decay for all layers. The elites
share out the rows of a rollout in equal parts. Rollouts are kept for a number of trainings of the model
rather than of environment steps. A training that makes no member better leaves the model as it was. An
episode that a time limit truncated is bootstrapped.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import FORWARDS, Run
from torchstone.envs.model_buffer import ModelBuffer
from torchstone.envs.replay_buffer import Transitions
from torchstone.envs.replay_stream import ReplayBatch
from torchstone.envs.termination import Termination, find_termination
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.rl.exploration import PolicySampling, linear_schedule
from torchstone.parts.rl.observations import BYTE
from torchstone.parts.rl.probabilistic_ensemble import (
    BestMembers,
    ProbabilisticEnsemble,
    bootstrap_indices,
    gaussian_nll,
    shuffle_rows,
    split_holdout,
)
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.systems import Variant
from torchstone.systems.reinforcement.sac import SAC, Learner
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.rl import common, off_policy
from torchstone.tasks.rl.evaluate import evaluate, play

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]

# what of the paper is written out here
STORY = ("model_loss", "train_model", "rollout_length", "rollout", "mix")


@dataclass(frozen=True)
class Recipe:
    data: str = "Pendulum-v1"  # Gymnasium environment id, or module:Id, or module:name of a class or function
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    termination: str = "auto"  # when an episode terminates: auto, never or module:function
    variant: str = "mbpo"  # networks
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of actor and critics
    model_hidden: tuple[int, ...] = (64, 64, 64)  # hidden layer widths of the model
    ensemble_size: int = 7  # networks of the model
    num_elites: int = 5  # networks that rollouts use, those with the smallest holdout error
    model_interval: int = 50  # environment steps between trainings of the model
    model_batch_size: int = 64  # minibatch size of the model
    model_epochs: int = 100  # most epochs of a training of the model
    model_patience: int = 10  # epochs without improvement after which a training of the model ends
    model_lr: float = 1e-3  # learning rate of the model
    model_weight_decay: float = 5e-5  # weight decay λ of the model
    holdout_ratio: float = 0.2  # share of the transitions that the model is validated with
    rollouts_per_step: int = 400  # rollouts for each environment step
    min_rollout_length: int = 1  # steps k of a rollout until rollout_growth_start
    max_rollout_length: int = 4  # steps k of a rollout from rollout_growth_end on
    rollout_growth_start: int = 200  # environment steps after which rollouts begin to grow
    rollout_growth_end: int = 600  # environment steps after which rollouts have grown
    model_retain: int = 4  # trainings of the model for which rollouts are kept
    real_ratio: float = 0.05  # share of real transitions in a minibatch; 1 for SAC without a model
    num_envs: int = 1  # number of parallel environments
    num_steps: int = 10  # steps per environment between updates
    gradient_steps: int = 100  # minibatches per update
    batch_size: int = 256  # minibatch size
    buffer_size: int = 200_000  # replay buffer size in steps
    learning_starts: int = 200  # steps at random before learning starts
    gamma: float = 0.98  # discount factor γ
    tau: float = 0.02  # Polyak averaging rate τ of the target critics
    learn_alpha: bool = True  # learn the temperature α, from init_alpha on; else it stays there
    init_alpha: float = 1.0  # initial temperature α
    target_entropy: float | None = None  # H̄ in nats; none for minus the number of action dimensions
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-3  # learning rate of actor, critics and temperature
    anneal_lr: bool = False  # linear decay of these learning rates to 0
    total_timesteps: int = 800  # environment steps after learning_starts, rounded up to whole updates
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    seed: int = 0  # random seed of weights, environments, actions, replay, bootstraps and rollouts
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        """Each after num_envs x num_steps steps."""
        return common.num_updates(self.total_timesteps, self.num_envs * self.num_steps)


PENDULUM = Recipe()
RECIPES = {
    # torchstone train mbpo   1,000 steps, about a minute of a core; return -141 ± 21
    "pendulum": PENDULUM,
    # networks and numbers of the authors'; --data Walker2d-v5 and the like too
    "hopper": replace(
        PENDULUM,
        data="Hopper-v5",
        hidden=(256, 256),
        model_hidden=(200, 200, 200, 200),
        model_interval=250,
        model_batch_size=256,
        max_rollout_length=15,
        rollout_growth_start=20_000,
        rollout_growth_end=100_000,
        num_steps=1,
        gradient_steps=20,
        buffer_size=1_000_000,
        learning_starts=5000,
        gamma=0.99,
        tau=0.005,
        lr=3e-4,
        total_timesteps=120_000,
    ),
    # for tests: seconds
    "smoke": replace(
        PENDULUM,
        data="InvertedPendulum-v5",
        hidden=(32, 32),
        model_hidden=(32, 32),
        model_interval=100,
        model_batch_size=32,
        model_epochs=30,
        model_lr=3e-3,
        rollouts_per_step=50,
        max_rollout_length=3,
        rollout_growth_start=0,
        rollout_growth_end=250,
        gradient_steps=20,
        batch_size=64,
        learning_starts=100,
        tau=0.04,
        lr=3e-3,
        total_timesteps=200,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 12.0)  # the smoke recipe ends long before the pole stands


class MBPO(nn.Module):
    """The agent of SAC, and an ensemble that predicts reward and change of the observation.

    Args:
        num_actions: dimension of an action.
        low, high: bounds of each dimension; -1 and 1 by default.
        continuous: must be True; it is in the metadata of every agent.
        observation_scale: what bytes are divided by.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        hidden: Sequence[int] = (256, 256),
        model_hidden: Sequence[int] = (200, 200, 200, 200),
        ensemble_size: int = 7,
        num_elites: int = 5,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        continuous: bool = True,
        observation_scale: float = BYTE,
    ):
        super().__init__()
        self.agent = SAC(
            observation_shape,
            num_actions,
            hidden=hidden,
            low=low,
            high=high,
            observation_scale=observation_scale,
        )
        n = math.prod(observation_shape)
        self.dynamics = ProbabilisticEnsemble(
            n + num_actions, 1 + n, hidden=model_hidden, members=ensemble_size, num_elites=num_elites
        )

    def greedy(self, observation: Tensor) -> Float[Tensor, "batch m"]:
        """tanh μ(s), within the env's bounds."""
        return self.agent.greedy(observation)

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        mean, log_std, q = self.agent(observation)
        x = torch.cat([self.agent.flat(observation), mean.tanh()], 1)
        return mean, log_std, q, *self.dynamics(x[None])


HOPPER: dict[str, Any] = {"observation_shape": (11,), "num_actions": 3}
VARIANTS = {"mbpo": Variant(partial(MBPO, **HOPPER), (11,))}


def model_loss(
    dynamics: ProbabilisticEnsemble,
    x: Float[Tensor, "members batch inputs"],
    y: Float[Tensor, "members batch outputs"],
    weight_decay: float,
) -> dict[str, Tensor]:
    """L(θ).

    Args:
        x: states and actions, of each member's own rows.
        y: rewards and changes of the state.
    """
    nll = gaussian_nll(*dynamics.predict_standardized(x), dynamics.standardize_output(y)).mean((1, 2)).sum()
    bounds = (dynamics.max_log_variance - dynamics.min_log_variance).sum()
    squares = sum(layer.weight.square().sum() for layer in dynamics.linear_layers())
    return {"loss": nll + 0.01 * bounds + 0.5 * weight_decay * squares, "nll": nll / dynamics.members}


def train_model(
    dynamics: ProbabilisticEnsemble,
    step: Callable[[Any], dict[str, Tensor]],
    x: Float[Tensor, "rows inputs"],
    y: Float[Tensor, "rows outputs"],
    recipe: Recipe,
    generator: torch.Generator,
) -> dict[str, Tensor | float]:
    """Train until no member predicts held-out transitions better; then choose the elites.

    Args:
        step: an optimizer step on `model_loss`.
    """
    train, holdout = (
        rows.to(x.device) for rows in split_holdout(len(x), recipe.holdout_ratio, 5000, generator)
    )
    dynamics.fit_scales(x[train], y[train])
    index = train[bootstrap_indices(len(train), dynamics.members, generator).to(x.device)]
    best, metrics, epochs = BestMembers(dynamics), {}, 0
    # a model that was good already may not get better
    best.record(dynamics.squared_errors(x[holdout], y[holdout]))
    while epochs < recipe.model_epochs and best.epochs_since <= recipe.model_patience:
        index = shuffle_rows(index, generator)
        for rows in index.split(recipe.model_batch_size, 1):
            metrics = step((x[rows], y[rows]))
        best.record(dynamics.squared_errors(x[holdout], y[holdout]))
        epochs += 1
    errors = best.restore()
    dynamics.set_elites(errors)
    scaled = (each / dynamics.output_std.square() for each in dynamics.uncertainty(x[holdout]))
    aleatoric, epistemic = (each.mean().sqrt() for each in scaled)
    return {
        "model_loss": metrics["nll"],
        "holdout_error": errors[dynamics.elites.cpu()].mean(),
        "model_epochs": float(epochs),
        "aleatoric": aleatoric,
        "epistemic": epistemic,
    }


def rollout_length(recipe: Recipe, env_steps: int) -> int:
    """k."""
    growth = linear_schedule(
        recipe.min_rollout_length,
        recipe.max_rollout_length,
        recipe.rollout_growth_end - recipe.rollout_growth_start,
        recipe.rollout_growth_start,
    )
    return int(growth(env_steps))


@torch.no_grad()
def rollout(
    model: MBPO,
    observation: Float[Tensor, "batch n"],
    length: int,
    termination: Termination,
    gamma: float,
    generator: torch.Generator,
) -> Transitions:
    """`length` steps within the model from each observation, fewer where they terminate."""
    agent, steps = model.agent, []
    for _ in range(length):
        noise = torch.randn(len(observation), len(agent.low), generator=generator).to(observation.device)
        action = agent.policy(observation).sample(noise)
        y, _ = model.dynamics.sample(torch.cat([observation, action], 1), generator)
        next_observation = observation + y[:, 1:]
        is_over = termination(observation, agent.rescale_action(action), next_observation)
        discount = torch.full_like(y[:, 0], gamma).masked_fill_(is_over, 0.0)
        steps.append(Transitions(observation, action, y[:, 0], next_observation, discount))
        observation = next_observation[~is_over]
        if not len(observation):
            break
    return Transitions(*(torch.cat(column) for column in zip(*steps, strict=True)))


def mix(real: Transitions, imagined: Transitions, minibatches: int) -> Iterator[Transitions]:
    """Minibatches, each with its equal part of both."""
    columns = [
        torch.cat([a.unflatten(0, (minibatches, -1)), b.unflatten(0, (minibatches, -1))], 1)
        for a, b in zip(real, imagined, strict=True)
    ]
    for number in range(minibatches):
        yield Transitions(*(column[number] for column in columns))


def check(recipe: Recipe) -> None:
    """
    Raises:
        BadInput: numbers that make no sense together.
    """
    if recipe.ensemble_size < 2:
        raise BadInput(
            f"an ensemble of {recipe.ensemble_size} cannot disagree: ensemble_size must be at least 2, and 7 "
            "in the paper"
        )
    if recipe.num_elites > recipe.ensemble_size:
        raise BadInput(
            f"{recipe.num_elites} elites of {recipe.ensemble_size} networks: num_elites must be at most "
            "ensemble_size"
        )
    if recipe.max_rollout_length < recipe.min_rollout_length:
        raise BadInput(
            f"rollouts grow, but max_rollout_length {recipe.max_rollout_length} is less than "
            f"min_rollout_length {recipe.min_rollout_length}"
        )
    if recipe.rollout_growth_end < recipe.rollout_growth_start:
        raise BadInput(
            f"rollout_growth_end {recipe.rollout_growth_end} is before rollout_growth_start "
            f"{recipe.rollout_growth_start}"
        )


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    check(recipe)
    device = select_device(recipe.device)
    model_config = off_policy.continuous_config(recipe, "mbpo")
    termination = find_termination(recipe.termination, recipe.data)
    model_config |= {"hidden": list(recipe.hidden), "model_hidden": list(recipe.model_hidden)}
    model_config |= {"ensemble_size": recipe.ensemble_size, "num_elites": recipe.num_elites}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    agent, dynamics = model.agent, model.dynamics
    learner = Learner(
        agent,
        make_optimizer=vector_optimizer(recipe.optimizer, recipe.lr),
        lr_schedule=linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None,
        init_alpha=recipe.init_alpha,
        learn_alpha=recipe.learn_alpha,
        target_entropy=recipe.target_entropy,
        tau=recipe.tau,
    )
    model_step = FlatGradientUpdate(
        lambda batch: model_loss(dynamics, *batch, recipe.model_weight_decay),
        dynamics,
        vector_optimizer(recipe.optimizer, recipe.model_lr),
    )
    explorer = PolicySampling(
        lambda observation, noise: agent.policy(observation.to(device)).sample(noise.to(device)),
        model_config["num_actions"],
        learning_starts=recipe.learning_starts,
    )
    num_real = round(recipe.real_ratio * recipe.batch_size)
    num_imagined = recipe.batch_size - num_real
    stream = off_policy.make_stream(
        recipe,
        explorer,
        model_config,
        action_scale=agent.rescale_action,
        sample_size=recipe.gradient_steps * num_real,
        keep_terminal=True,
    )
    buffer, imagined = stream.buffer, ModelBuffer(recipe.model_retain)
    # updates between two trainings of the model, and what is imagined after each
    interval = max(1, round(recipe.model_interval / (recipe.num_envs * recipe.num_steps)))
    num_rollouts = recipe.rollouts_per_step * interval * recipe.num_envs * recipe.num_steps

    def flat(transitions: Transitions) -> Transitions:
        observations = (agent.flat(x) for x in (transitions.observation, transitions.next_observation))
        observation, next_observation = observations
        return transitions._replace(observation=observation, next_observation=next_observation)

    def renew_model(number: int, env_steps: int) -> dict[str, Tensor | float]:
        """Train the model on all that happened so far, and imagine from there."""
        rows = (buffer.oldest + torch.arange(len(buffer))) % buffer.num_rows
        real = flat(buffer.sample_at(rows, recipe.gamma))
        x = torch.cat([real.observation, real.action], 1)
        y = torch.cat([real.reward[:, None], real.next_observation - real.observation], 1)
        generator = derive_generator(recipe.seed, SeedStream.MODEL_TRAINING, number)
        metrics = train_model(dynamics, model_step, x, y, recipe, generator)
        generator = derive_generator(recipe.seed, SeedStream.MODEL_ROLLOUTS, 2 * number)
        start = torch.randint(len(rows), (num_rollouts,), generator=generator).to(device)
        length = rollout_length(recipe, env_steps)
        imagined.add(rollout(model, real.observation[start], length, termination, recipe.gamma, generator))
        return metrics | {"rollout_length": float(length)}

    def update(batch: ReplayBatch) -> dict:
        learner.schedule_lr(batch.number)
        transitions, metrics = flat(batch.transitions), {}
        if num_imagined:
            if batch.number % interval == 0:
                metrics |= renew_model(batch.number, batch.env_steps)
            generator = derive_generator(recipe.seed, SeedStream.MODEL_ROLLOUTS, 2 * batch.number + 1)
            others = imagined.sample(recipe.gradient_steps * num_imagined, generator)
        else:
            others = Transitions(*(column[:0] for column in transitions))
        for minibatch in mix(transitions, others, recipe.gradient_steps):
            metrics |= learner(minibatch)
        return {**metrics, **common.rollout_metrics(batch)}

    state = learner.state | {"model_optimizer": model_step.optimizer, "imagined": imagined}
    work = FORWARDS * recipe.gradient_steps * recipe.batch_size
    yield common.make_run(model, recipe, stream, update, state, model_config, update_work=work)


FACTS = [
    # 7 · ((11 + 3) 200 + 200 + 3 (200² + 200) + 201 · 2 · 12) + 2 · 12
    Fact(
        "Hopper ensemble parameters, 7 of 4 × 200",
        partial(count_on_meta, ProbabilisticEnsemble, 14, 12, hidden=(200, 200, 200, 200)),
        898_992,
    )
]


def reference() -> Iterator[ParityCase]:
    """The ensemble as separate networks, one after the other, with its loss."""
    from torchstone.references.mbpo import ensemble_cases

    yield from ensemble_cases(ProbabilisticEnsemble, model_loss)
