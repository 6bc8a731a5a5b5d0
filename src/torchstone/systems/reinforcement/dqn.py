"""DQN: deep Q-networks.

Paper: Mnih, Kavukcuoglu, Silver et al., "Human-level control through deep reinforcement learning", Nature
518:529, 2015; before it, "Playing Atari with deep reinforcement learning", 2013, arXiv:1312.5602.

The idea: a network learns what each action is worth, from its own guess of what the next state is worth.
That diverges when what it learns from are steps in a row, and when the guess moves with every step. So it
learns from rows drawn at random out of a memory of many, and the guess is that of a copy that is renewed
only now and then.

    Q*(s, a) = E[r + γ max_a' Q*(s', a')]                                        equation 1 (2015, methods)
    y        = r + γ max_a' Q(s', a'; θ⁻)                                        algorithm 1; r if s' ends it
    L(θ)     = E[H(y - Q(s, a; θ))],   H the square up to 1, linear beyond       "error clipped to -1..1"

Each part can be switched off, to see what it is for: replay (`memory` no larger than what is played between
updates), the target network (`target` 0), the clipping of rewards (`clip`). And each of these on: `double`
(van Hasselt et al. 2016), the variant `dqn_duelling` or `duelling` (Wang et al. 2016, arXiv:1511.06581,
equation 9: Q = V + A - mean A), `n` steps of reward before the guess (Hessel et al. 2018), draws by
priority at `alpha` > 0 (Schaul et al. 2016).

Shapes: observations `(batch, *shape)`, actions `(batch,)` int64; `forward` gives Q `(batch, actions)`.

What differs from the paper: Adam, as in the implementations that figures are compared with; `rmsprop`
is the paper's but that torch adds ε outside the root. The copy is renewed between updates, every `target`
of them, each of `gradients` steps down. An episode that a clock cut short goes on in the target. With
priorities, those of an update's minibatches are all of the moment before it.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from torchstone import references
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.replay_buffer import Rows
from torchstone.envs.replay_stream import Drawn
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.rl.exploration import EpsilonGreedy, falling
from torchstone.parts.rl.q_learning import taken, target
from torchstone.parts.rl.target_network import follow, follower
from torchstone.systems import Variant
from torchstone.tasks.rl import evaluate, off_policy, on_policy

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "CartPole-v1"  # a Gymnasium environment's id
    wrappers: tuple[str, ...] = ()  # around it, innermost first: Name or Name:argument=value
    limit: int | None = None  # steps after which an episode is cut, if not the environment's own
    variant: str = "dqn"  # which network
    hidden: tuple[int, ...] = (120, 84)  # widths of its layers, where it sees no frames
    duelling: bool = False  # worth of the state and of the actions apart
    double: bool = False  # the learning network chooses the action that the copy judges
    n: int = 5  # steps of reward before the guess
    worlds: int = 1  # played side by side
    length: int = 256  # steps of each world between updates
    gradients: int = 128  # minibatches an update
    batch_size: int = 128  # rows in a minibatch
    memory: int = 100_000  # steps that are remembered
    first: int = 1000  # steps at random before any learning
    target: int = 1  # updates between renewals of the copy; 0 for no copy
    clip: bool = False  # learn from the rewards' signs
    alpha: float = 0.0  # how much priorities count; 0 draws evenly
    beta: float = 0.4  # how much of that the weights make up for at first, at last all
    gamma: float = 0.99  # discount γ
    epsilon: float = 0.04  # chance of a random action at the end
    explore: int = 8000  # steps until ε has fallen there from 1
    optimizer: str = "adam"  # adam or rmsprop
    lr: float = 1e-3  # its learning rate
    anneal: bool = True  # which falls to 0 linearly
    norm: float | None = 10.0  # largest norm of the gradient, none for any
    steps: int = 190  # updates, each after worlds x length steps
    episodes: int = 20  # greedy ones that it is judged by
    film: bool = True  # record one of them at the end
    seed: int = 0  # of weights, worlds, actions and draws
    device: str = "auto"  # auto, cpu, cuda or mps


CARTPOLE = Recipe()
ATARI = replace(
    CARTPOLE,
    n=1,
    data="ALE/Pong-v5",
    wrappers=("AtariPreprocessing", "EpisodicLife"),
    variant="dqn_nature",
    clip=True,
    worlds=8,
    length=4,
    gradients=8,
    batch_size=32,
    memory=100_000,
    first=80_000,
    target=31,  # 992 steps
    epsilon=0.01,
    explore=1_000_000,
    lr=1e-4,
    anneal=False,
    norm=None,
)
RECIPES = {
    # torchstone train dqn   49,640 steps, half a minute of one core; return 495 to 500 (5 seeds)
    "cartpole": CARTPOLE,
    # torchstone train dqn/acrobot   99,840 steps, 5 minutes; return -80 (seed 0)
    "acrobot": replace(
        CARTPOLE, data="Acrobot-v1", length=4, gradients=4, batch_size=128, lr=6.3e-4,
        memory=50_000, target=63, epsilon=0.1, explore=12_000, steps=24_750,
    ),
    # torchstone train dqn/pong   2,080,000 steps; to be ≥ 18, unmeasured
    "pong": replace(ATARI, steps=62_500, explore=200_000, first=10_000),
    # torchstone train dqn/nature --data ALE/Breakout-v5   the paper's numbers, 50 million steps; unmeasured
    "nature": replace(
        ATARI, worlds=1, gradients=1, memory=1_000_000, first=50_000, target=10_000, epsilon=0.1,
        optimizer="rmsprop", lr=2.5e-4, steps=12_500_000,
    ),
    # for tests: seconds
    "smoke": replace(
        CARTPOLE, hidden=(64, 64), length=64, gradients=32, explore=2000, lr=2e-3, steps=60,
        target=2, first=500, episodes=8, film=False,
    ),
}  # fmt: skip

MARGIN = ("return", 40.0)


class QNetwork(nn.Module):
    """What each action is worth: `forward` gives Q `(batch, actions)`.

    Args:
        observations: their shape; three numbers are frames of 84 × 84.
        hidden: widths of the layers where there are no frames.
        first: the 2013 paper's network of frames, not the 2015 one's.
        duelling: the last hidden layer twice, for V and for A.
        continuous: must be False; the metadata of every agent says so.
    """

    def __init__(
        self,
        observations: Sequence[int],
        actions: int,
        *,
        hidden: Sequence[int] = (256, 256),
        first: bool = False,
        duelling: bool = False,
        continuous: bool = False,
    ):
        super().__init__()
        self.pixels, self.actions = len(observations) == 3, actions
        channels = observations[0] if self.pixels else 0
        if self.pixels and first:
            body = [nn.Conv2d(channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2)]
            wide, inner = 2592, 256
        elif self.pixels:
            body = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
            wide, inner = 3136, 512
        else:
            *rest, inner = hidden
            widths = [math.prod(observations), *rest]
            body = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
            wide = widths[-1]
        self.body = nn.Sequential(*(m for layer in body for m in (layer, nn.ReLU())))

        def head(outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(wide, inner), nn.ReLU(), nn.Linear(inner, outputs))

        self.worth = head(1) if duelling else None
        self.advantage = head(actions)

    def forward(
        self, observation: Float[Tensor, "batch *shape"] | UInt8[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch actions"]:
        if self.pixels:
            # frames innermost: forward and back take a quarter less of a CPU
            x = observation.contiguous(memory_format=torch.channels_last) / 255.0
            x = self.body(x).flatten(1)
        else:
            x = self.body(observation.flatten(1))
        a = self.advantage(x)
        # Q = V + A - mean A
        return a if self.worth is None else self.worth(x) + a - a.mean(1, keepdim=True)

    def greedy(self, observation: Tensor) -> Int64[Tensor, " batch"]:
        """The actions worth most."""
        return self(observation).argmax(1)


SCREEN = (4, 84, 84)
VARIANTS = {
    "dqn": Variant(partial(QNetwork, observations=(4,), actions=2), (4,)),
    "dqn_nature": Variant(partial(QNetwork, observations=SCREEN, actions=4), SCREEN),
    "dqn_2013": Variant(partial(QNetwork, observations=SCREEN, actions=4, first=True), SCREEN),
    "dqn_duelling": Variant(partial(QNetwork, observations=SCREEN, actions=4, duelling=True), SCREEN),
}


def loss(
    model: QNetwork, rows: Rows, weight: Tensor | None, y: Float[Tensor, " batch"]
) -> tuple[dict[str, Tensor], Float[Tensor, " batch"]]:
    """L, and y - Q row by row."""
    q = taken(model(rows.observation), rows.action)
    # H(y - Q)
    if weight is None:
        total = smooth_l1_loss(q, y)
    else:
        total = (weight * smooth_l1_loss(q, y, reduction="none")).mean()
    q = q.detach()
    return {"loss": total, "q": q.mean()}, y - q


@torch.no_grad()
def targets(model: QNetwork, frozen: QNetwork, rows: Rows, double: bool) -> Float[Tensor, " batch"]:
    """y."""
    choice = model(rows.following) if double else None
    return target(rows.reward, rows.discount, frozen(rows.following), choice)


def optimizer(recipe: Recipe) -> Any:
    if recipe.optimizer == "adam":
        return partial(torch.optim.Adam, lr=recipe.lr, fused=True)
    if recipe.optimizer == "rmsprop":
        return partial(torch.optim.RMSprop, lr=recipe.lr, alpha=0.95, eps=0.01, centered=True)
    raise BadInput(f"unknown optimiser {recipe.optimizer!r}: adam or rmsprop")


def build(recipe: Recipe) -> Iterator[Run]:
    torch.manual_seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = on_policy.model_config(recipe, "dqn", "discrete")
    model_config |= {"hidden": list(recipe.hidden)}
    if recipe.duelling:
        model_config["duelling"] = True
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    frozen = follower(model) if recipe.target else model
    errors: list[Tensor] = []

    def objective(minibatch: tuple) -> dict[str, Tensor]:
        rows, weight = minibatch
        y = targets(model, frozen, rows, recipe.double)
        metrics, error = loss(model, rows, weight, y)
        errors.append(error)
        return metrics

    step = FlatGradientUpdate(objective, model, optimizer(recipe), max_grad_norm=recipe.norm)
    rate = falling(1.0, recipe.epsilon, recipe.explore)
    explorer = EpsilonGreedy(
        lambda seen: model.greedy(seen.to(device)),
        model_config["actions"],
        lambda frames: 1.0 if frames < recipe.first else rate(frames),
    )
    stream = off_policy.experience(recipe, explorer, model_config)

    def update(drawn: Drawn) -> dict:
        if recipe.anneal:
            step.optimizer.param_groups[0]["lr"] = recipe.lr * (1 - drawn.number / recipe.steps)
        if recipe.target and drawn.number % recipe.target == 0:
            follow(frozen, model, 1.0)
        errors.clear()
        for minibatch in off_policy.minibatches(drawn, recipe.batch_size):
            metrics = step(minibatch)
        if stream.priorities is not None:
            stream.priorities.judge(drawn.index, torch.cat(errors))
        return {**metrics, **on_policy.progress(drawn), "epsilon": explorer.rate(drawn.frames)}

    state: dict[str, Any] = {"optimizer": step.optimizer}
    if recipe.target:
        state["frozen"] = frozen
    yield off_policy.off_policy(model, recipe, stream, update, state, model_config)


def count(variant: str, **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make(**model_config))


FACTS = [
    Fact("CartPole network parameters, 120-84", partial(count, "dqn", hidden=(120, 84)), 10_934),
    *(
        Fact(f"Nature network parameters, {n} actions", partial(count, "dqn_nature", actions=n), p)
        for n, p in ((2, 1_685_154), (4, 1_686_180), (6, 1_687_206), (18, 1_693_362))
    ),
    Fact("2013 network parameters, 4 actions", partial(count, "dqn_2013"), 677_172),
    Fact("2013 network parameters, 6 actions", partial(count, "dqn_2013", actions=6), 677_686),
    Fact("duelling network parameters, 4 actions", partial(count, "dqn_duelling"), 3_292_837),
]

evaluate, play = evaluate.evaluate, evaluate.play


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's networks of the same shapes; the tests hold a whole update against it."""
    yield from references.critics(QNetwork)
