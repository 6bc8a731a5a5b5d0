"""DQN: deep Q-networks.

Paper: Mnih, Kavukcuoglu, Silver et al., "Human-level control through deep reinforcement learning", Nature
518:529, 2015; before it, "Playing Atari with deep reinforcement learning", 2013, arXiv:1312.5602.

The idea: a network learns the value of each action, bootstrapping from its own estimate of the next state's
value. That diverges when it learns from consecutive steps, and when the target moves with every update. So it
learns from random minibatches of a large replay buffer, and the target is computed by a copy of the network
that is synchronized only now and then.

    Q*(s, a) = E[r + γ max_a' Q*(s', a')]                                        equation 1 (2015, methods)
    y        = r + γ max_a' Q(s', a'; θ⁻)                                        algorithm 1; r if s' ends it
    L(θ)     = E[H(y - Q(s, a; θ))],   H the square up to 1, linear beyond       "error clipped to -1..1"

Each part can be switched off, to see what it is for: replay (`buffer_size` no larger than what is collected
between updates), the target network (`target_update_interval` 0), reward clipping (`clip_rewards`). And each
of these can be switched on: `double_q` (van Hasselt et al. 2016), the variant `dqn_dueling` or `dueling`
(Wang et al. 2016, arXiv:1511.06581, equation 9: Q = V + A - mean A), returns of `n_step` steps (Hessel et al.
2018), prioritized replay with `per_alpha` > 0 (Schaul et al. 2016).

Shapes: observations `(batch, *shape)`, actions `(batch,)` int64; `forward` gives Q `(batch, actions)`.

What differs from the paper: Adam, as in the implementations that figures are compared with; `rmsprop`
is the paper's, except that torch adds ε outside the root. The target network is synchronized between updates,
every `target_update_interval` of them, each of `gradient_steps` minibatches. An episode that a time limit
truncated is bootstrapped. With prioritized replay, an update's minibatches are all sampled by the priorities
from before it.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.replay_buffer import Transitions
from torchstone.envs.replay_stream import ReplayBatch
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.rl.exploration import EpsilonGreedy, linear_schedule
from torchstone.parts.rl.observations import BYTE, scale_observations
from torchstone.parts.rl.q_learning import q_of_action, td_target
from torchstone.parts.rl.target_network import make_target, polyak_update
from torchstone.systems import Variant
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer
from torchstone.tasks.rl import common, off_policy
from torchstone.tasks.rl.evaluate import evaluate, play

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


PAPER_RMSPROP = {"alpha": 0.95, "eps": 0.01, "centered": True}


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # Gymnasium environment id, or module:Id, or module:name of a class or function
    wrappers: tuple[str, ...] = ()  # environment wrappers, innermost first: [module:]Name[:argument=value]
    max_episode_steps: int | None = None  # time limit of an episode, 0 for none; else the environment's own
    variant: str = "dqn"  # network
    hidden: tuple[int, ...] = (120, 84)  # hidden layer widths, for observations that are no frames
    dueling: bool = False  # dueling network: separate heads for state value and advantages
    double_q: bool = False  # double Q-learning: select actions by the online network
    n_step: int = 5  # number of reward steps before bootstrapping
    num_envs: int = 1  # number of parallel environments
    num_steps: int = 256  # steps per environment between updates
    gradient_steps: int = 128  # minibatches per update
    batch_size: int = 128  # minibatch size
    buffer_size: int = 100_000  # replay buffer size in steps
    learning_starts: int = 1000  # steps at random before learning starts
    target_update_interval: int = 1  # updates between synchronizations of the target network; 0 for none
    clip_rewards: bool = False  # clip rewards to their sign
    per_alpha: float = 0.0  # prioritized replay exponent α; 0 for uniform sampling
    per_beta: float = 0.4  # initial exponent β of the importance weights, which rises to 1
    gamma: float = 0.99  # discount factor γ
    final_epsilon: float = 0.04  # final ε: probability of a random action
    exploration_steps: int = 8000  # steps over which ε falls from 1 to final_epsilon
    optimizer: VectorOptimizer = "adam"  # optimizer; rmsprop is with the paper's settings
    lr: float = 1e-3  # learning rate
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    max_grad_norm: float | None = 10.0  # gradient clipping: largest norm, none for no limit
    total_timesteps: int = 48_640  # environment steps after learning_starts, rounded up to whole updates
    eval_episodes: int = 20  # greedy episodes of the test; fewer in training if more than a tenth of the work
    record_video: bool = True  # record a video of a greedy episode at the end
    seed: int = 0  # random seed of weights, environments, actions and replay
    device: str = "auto"  # device: auto, cpu, cuda or mps

    @property
    def updates(self) -> int:
        """Each after num_envs x num_steps steps."""
        return common.num_updates(self.total_timesteps, self.num_envs * self.num_steps)


CARTPOLE = Recipe()
ATARI = replace(
    CARTPOLE,
    n_step=1,
    data="ALE/Pong-v5",
    wrappers=("AtariPreprocessing", "EpisodicLife"),
    variant="dqn_nature",
    clip_rewards=True,
    num_envs=8,
    num_steps=4,
    gradient_steps=8,
    batch_size=32,
    buffer_size=100_000,
    learning_starts=80_000,
    target_update_interval=31,  # 992 steps
    final_epsilon=0.01,
    exploration_steps=1_000_000,
    lr=1e-4,
    anneal_lr=False,
    max_grad_norm=None,
)
RECIPES = {
    # torchstone train dqn   49,640 steps, half a minute of one core; return 495 to 500 (5 seeds)
    "cartpole": CARTPOLE,
    # torchstone train dqn/acrobot   99,840 steps, 5 minutes; return -80 (seed 0)
    "acrobot": replace(
        CARTPOLE,
        data="Acrobot-v1",
        num_steps=4,
        gradient_steps=4,
        batch_size=128,
        lr=6.3e-4,
        buffer_size=50_000,
        target_update_interval=63,
        final_epsilon=0.1,
        exploration_steps=12_000,
        total_timesteps=99_000,
    ),
    # torchstone train dqn/traffic   30,016 decisions, 53 hours of traffic, 2 minutes of one core; a vehicle
    # waits 0.50 to 0.62 s (5 seeds), where max-pressure has 1.9 and longest queue first 0.5
    "traffic": replace(
        CARTPOLE,
        data="sumo:cologne1",
        hidden=(128, 128),
        double_q=True,
        n_step=3,
        num_steps=64,
        gradient_steps=32,
        batch_size=128,
        gamma=0.97,
        final_epsilon=0.02,
        exploration_steps=8000,
        target_update_interval=4,
        total_timesteps=30_000,
        eval_episodes=3,
    ),
    # torchstone train dqn/pong   2,010,000 steps; to be ≥ 18, unmeasured
    "pong": replace(ATARI, total_timesteps=2_000_000, exploration_steps=200_000, learning_starts=10_000),
    # torchstone train dqn/nature --data ALE/Breakout-v5   the paper's numbers, 50 million steps; unmeasured
    "nature": replace(
        ATARI,
        num_envs=1,
        gradient_steps=1,
        buffer_size=1_000_000,
        learning_starts=50_000,
        target_update_interval=10_000,
        final_epsilon=0.1,
        optimizer="rmsprop",
        lr=2.5e-4,
        total_timesteps=50_000_000,
    ),
    # for tests: seconds
    "smoke": replace(
        CARTPOLE,
        hidden=(64, 64),
        num_steps=64,
        gradient_steps=32,
        exploration_steps=2000,
        lr=2e-3,
        total_timesteps=3840,
        target_update_interval=2,
        learning_starts=500,
        eval_episodes=8,
        record_video=False,
    ),
}

MARGIN = ("return", 40.0)


class QNetwork(nn.Module):
    """The Q-values of all actions: `forward` gives Q `(batch, actions)`.

    Args:
        observation_shape: three numbers are frames of 84 × 84.
        hidden: hidden layer widths, where observations are not frames.
        encoder: the CNN for frames: `nature`, of the 2015 paper, or `small`, of the 2013 paper.
        dueling: the last hidden layer twice, for V and for A.
        continuous: must be False; it is in the metadata of every agent.
        observation_scale: what frames and bytes are divided by.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        hidden: Sequence[int] = (256, 256),
        encoder: Literal["nature", "small"] = "nature",
        dueling: bool = False,
        continuous: bool = False,
        observation_scale: float = BYTE,
    ):
        super().__init__()
        self.is_image, self.num_actions = len(observation_shape) == 3, num_actions
        self.observation_scale = observation_scale
        channels = observation_shape[0] if self.is_image else 0
        if self.is_image and encoder == "small":
            layers = [nn.Conv2d(channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2)]
            feature_dim, head_dim = 2592, 256
        elif self.is_image:
            layers = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
            feature_dim, head_dim = 3136, 512
        else:
            *rest, head_dim = hidden
            widths = [math.prod(observation_shape), *rest]
            layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
            feature_dim = widths[-1]
        self.body = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))

        def head(outputs: int) -> nn.Sequential:
            layers = nn.Linear(feature_dim, head_dim), nn.ReLU(), nn.Linear(head_dim, outputs)
            return nn.Sequential(*layers)

        self.value = head(1) if dueling else None
        self.advantage = head(num_actions)
        accept_old_keys(self, {"worth.": "value."})

    def forward(
        self, observation: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch actions"]:
        # frames channels last: forward and backward take a quarter less of a CPU
        x = scale_observations(observation, self.observation_scale)
        x = self.body(x).flatten(1) if self.is_image else self.body(x.flatten(1))
        a = self.advantage(x)
        # Q = V + A - mean A
        return a if self.value is None else self.value(x) + a - a.mean(1, keepdim=True)

    def greedy(self, observation: Tensor) -> Int64[Tensor, " batch"]:
        """argmax_a Q(s, a)."""
        return self(observation).argmax(1)


FRAMES = (4, 84, 84)
VARIANTS = {
    "dqn": Variant(partial(QNetwork, observation_shape=(4,), num_actions=2), (4,)),
    "dqn_nature": Variant(partial(QNetwork, observation_shape=FRAMES, num_actions=4), FRAMES),
    "dqn_2013": Variant(partial(QNetwork, observation_shape=FRAMES, num_actions=4, encoder="small"), FRAMES),
    "dqn_dueling": Variant(partial(QNetwork, observation_shape=FRAMES, num_actions=4, dueling=True), FRAMES),
}


@torch.no_grad()
def targets(
    model: QNetwork, target_network: QNetwork, transitions: Transitions, double_q: bool
) -> Float[Tensor, " batch"]:
    """y."""
    next_observation = transitions.next_observation
    online_next_q = model(next_observation) if double_q else None
    next_q = target_network(next_observation)
    return td_target(transitions.reward, transitions.discount, next_q, online_next_q)


def loss(
    model: QNetwork, transitions: Transitions, weight: Tensor | None, y: Float[Tensor, " batch"]
) -> tuple[dict[str, Tensor], Float[Tensor, " batch"]]:
    """L, and the TD errors y - Q of all rows; `weight` are the importance weights of prioritized replay."""
    q = q_of_action(model(transitions.observation), transitions.action)
    # H(y - Q)
    if weight is None:
        total = smooth_l1_loss(q, y)
    else:
        total = (weight * smooth_l1_loss(q, y, reduction="none")).mean()
    q = q.detach()
    return {"loss": total, "q_value": q.mean()}, y - q


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = common.model_config(recipe, "dqn", "discrete")
    model_config |= {"hidden": list(recipe.hidden)}
    if recipe.dueling:
        model_config["dueling"] = True
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    interval = recipe.target_update_interval
    target_network = make_target(model) if interval else model

    def objective(minibatch: tuple[Transitions, Tensor | None]) -> tuple[dict[str, Tensor], Tensor]:
        transitions, weight = minibatch
        y = targets(model, target_network, transitions, recipe.double_q)
        return loss(model, transitions, weight, y)

    step = FlatGradientUpdate(
        objective,
        model,
        vector_optimizer(recipe.optimizer, recipe.lr, rmsprop=PAPER_RMSPROP),
        max_grad_norm=recipe.max_grad_norm,
        lr_schedule=linear_schedule(1.0, 0.0, recipe.updates) if recipe.anneal_lr else None,
        has_aux=True,
        traced=True,
    )
    epsilon = linear_schedule(1.0, recipe.final_epsilon, recipe.exploration_steps)
    explorer = EpsilonGreedy(
        lambda observation: model.greedy(observation.to(device)),
        model_config["num_actions"],
        lambda env_steps: 1.0 if env_steps < recipe.learning_starts else epsilon(env_steps),
    )
    stream = off_policy.make_stream(recipe, explorer, model_config)

    def update(batch: ReplayBatch) -> dict:
        step.schedule_lr(batch.number)
        if interval and batch.number % interval == 0:
            polyak_update(target_network, model, 1.0)
        td_errors = []
        for minibatch in off_policy.minibatches(batch, recipe.batch_size):
            metrics, td_error = step(minibatch)
            td_errors.append(td_error)
        if stream.sampler is not None:
            stream.sampler.update_priorities(batch.index, torch.cat(td_errors))
        metrics = {**metrics, **common.rollout_metrics(batch)}
        return {**metrics, "epsilon": explorer.epsilon(batch.env_steps)}

    state: dict[str, Any] = {"optimizer": step.optimizer}
    if interval:
        state["target_network"] = target_network
    yield common.make_run(model, recipe, stream, update, state, model_config)


def count_variant(variant: str, **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make(**model_config))


FACTS = [
    Fact("CartPole network parameters, 120-84", partial(count_variant, "dqn", hidden=(120, 84)), 10_934),
    *(
        Fact(
            f"Nature network parameters, {n} actions",
            partial(count_variant, "dqn_nature", num_actions=n),
            count,
        )
        for n, count in ((2, 1_685_154), (4, 1_686_180), (6, 1_687_206), (18, 1_693_362))
    ),
    Fact("2013 network parameters, 4 actions", partial(count_variant, "dqn_2013"), 677_172),
    Fact("2013 network parameters, 6 actions", partial(count_variant, "dqn_2013", num_actions=6), 677_686),
    Fact("dueling network parameters, 4 actions", partial(count_variant, "dqn_dueling"), 3_292_837),
]


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's networks of the same shapes; the tests compare an update with it."""
    from torchstone.references.rl import q_network_cases

    yield from q_network_cases(QNetwork)
