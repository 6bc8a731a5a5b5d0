"""DDPG: deep deterministic policy gradient.

Paper: Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver and Wierstra, "Continuous control with deep
reinforcement learning", ICLR 2016, arXiv:1509.02971 (2015).

The idea: where actions are numbers, the best one cannot be looked up among Q's outputs; but Q has a slope in
the action, and a second network can be taught to climb it. Everything else is DQN's: a memory to draw from,
and copies to make the targets with, which here follow slowly rather than being renewed at once.

    y    = r + γ Q'(s', μ'(s'))                                                  algorithm 1
    L    = mean (y - Q(s, a))²                                                   equation 4
    ∇J   = mean ∇_a Q(s, a)|a=μ(s) ∇_θ μ(s)                                      equation 6
    θ'   ← τθ + (1-τ)θ'                                                          for both copies
    a    = μ(s) + N,   dN = -θ N dt + σ √dt N(0, 1)                              section 7

Shapes: observations `(batch, n)`, actions `(batch, m)` in -1..1, which `greedy` spreads over the world's
bounds; `forward` gives μ(s) and Q(s, μ(s)).

What differs from the paper: the plain networks and numbers are those that its figures are compared with
today (two layers of 256, the action given to the first, Adam, rate 1e-3 or 3e-4, τ 0.005, Gaussian noise);
`ddpg_paper` has the paper's, 400 and 300, the action joining at the second layer and outputs that begin
within ±0.003, without its batch normalisation. `theta` gives Ornstein and Uhlenbeck's noise. Steps are taken
some at a time, as many gradients after them. An episode that a clock cut short goes on in the target.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from torchstone import references
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate, gradient_of
from torchstone.engine.run import Run
from torchstone.envs.replay_buffer import Rows
from torchstone.envs.replay_stream import Drawn
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.rl.exploration import Noisy
from torchstone.parts.rl.target_network import follow, follower
from torchstone.systems import Variant
from torchstone.tasks.rl import evaluate, off_policy, on_policy

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "Pendulum-v1"  # a Gymnasium environment's id
    wrappers: tuple[str, ...] = ()  # around it, innermost first: Name or Name:argument=value
    limit: int | None = None  # steps after which an episode is cut, if not the environment's own
    variant: str = "ddpg"  # which networks
    hidden: tuple[int, ...] = (64, 64)  # widths of the layers of both
    worlds: int = 1  # played side by side
    length: int = 8  # steps of each world between updates
    gradients: int = 8  # minibatches an update
    batch_size: int = 128  # rows in a minibatch
    memory: int = 200_000  # steps that are remembered
    first: int = 1000  # steps at random before any learning
    n: int = 1  # steps of reward before the guess
    gamma: float = 0.98  # discount γ
    tau: float = 0.005  # τ: how fast the copies follow
    sigma: float = 0.1  # σ of the noise, actions being in -1..1
    theta: float | None = None  # θ of Ornstein and Uhlenbeck's noise; none for fresh Gaussian noise
    dt: float = 1.0  # its step of time
    lr: float = 1e-3  # learning rate of the critic
    actor_lr: float = 5e-4  # of the actor
    anneal: bool = True  # both fall to 0 linearly
    weight_decay: float = 0.0  # of the critic
    steps: int = 2375  # updates, each after worlds x length steps
    episodes: int = 20  # greedy ones that it is judged by
    film: bool = True  # record one of them at the end
    seed: int = 0  # of weights, worlds, actions and draws
    device: str = "auto"  # auto, cpu, cuda or mps


PENDULUM = Recipe()
MUJOCO = replace(
    PENDULUM, hidden=(256, 256), gamma=0.99, batch_size=256, memory=1_000_000, first=10_000, lr=3e-4,
    actor_lr=3e-4, anneal=False,
)  # fmt: skip
RECIPES = {
    # torchstone train ddpg   20,000 steps, two minutes of one core; return -126 to -132 (5 seeds)
    "pendulum": PENDULUM,
    # torchstone train ddpg/paper   the paper's networks, rates and noise; 20,000 steps; -147 (seed 0)
    "paper": replace(
        PENDULUM, variant="ddpg_paper", hidden=(400, 300), batch_size=64, gamma=0.99, tau=0.001,
        sigma=0.2, theta=0.15, lr=1e-3, actor_lr=1e-4, anneal=False,
        weight_decay=1e-2,
    ),
    # torchstone train ddpg/halfcheetah   100,000 steps, 50 minutes; return 4,478 (seed 0), where
    # stable-baselines3 has 3,314; --data Hopper-v5 and the like too
    "halfcheetah": replace(MUJOCO, data="HalfCheetah-v5", steps=11_250),
    # for tests: seconds
    "smoke": replace(
        PENDULUM, batch_size=64, first=400, steps=200, tau=0.02, actor_lr=1e-3, anneal=False,
        episodes=8, film=False,
    ),
}  # fmt: skip

MARGIN = ("return", 250.0)


def dense(widths: Sequence[int], small: bool) -> nn.Sequential:
    """Linear layers with ReLU between; the last one begins within ±0.003 if `small`."""
    pairs = list(itertools.pairwise(widths))
    layers = [m for a, b in pairs[:-1] for m in (nn.Linear(a, b), nn.ReLU())]
    last = nn.Linear(*pairs[-1])
    if small:
        nn.init.uniform_(last.weight, -3e-3, 3e-3), nn.init.uniform_(last.bias, -3e-3, 3e-3)
    return nn.Sequential(*layers, last)


class Critic(nn.Module):
    """Q(s, a): the action joins the observation, or, if `late`, what the first layer made of it."""

    def __init__(self, observations: int, actions: int, hidden: Sequence[int], late: bool):
        super().__init__()
        first, *rest = hidden
        self.late = late
        self.see = nn.Linear(observations, first) if late else None
        inner = (first, *rest) if late else (observations, *hidden)
        self.judge = dense((inner[0] + actions, *inner[1:], 1), late)

    def forward(
        self, observation: Float[Tensor, "batch n"], action: Float[Tensor, "batch m"]
    ) -> Float[Tensor, " batch"]:
        x = observation if self.see is None else self.see(observation).relu()
        return self.judge(torch.cat([x, action], 1))[:, 0]


class DDPG(nn.Module):
    """Actor μ and critic Q: `forward` gives μ(s) and Q(s, μ(s)).

    Args:
        observations: their shape.
        actions: how many numbers to choose.
        low, high: bounds of each; -1 and 1 by default.
        paper: the paper's networks: the action joins late, outputs begin small.
        continuous: must be True; the metadata of every agent says so.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        observations: Sequence[int],
        actions: int,
        *,
        hidden: Sequence[int] = (256, 256),
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        paper: bool = False,
        continuous: bool = True,
    ):
        super().__init__()
        wide = math.prod(observations)
        self.actor = nn.Sequential(dense((wide, *hidden, actions), paper), nn.Tanh())
        self.critic = Critic(wide, actions, hidden, paper)
        self.register_buffer("low", torch.tensor(low or [-1.0] * actions))
        self.register_buffer("high", torch.tensor(high or [1.0] * actions))

    def scaled(self, action: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
        """From -1..1 to the world's bounds."""
        low, high = self.low.to(action.device), self.high.to(action.device)
        return low + (action + 1) / 2 * (high - low)

    def greedy(self, observation: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
        """μ(s), as the world takes it."""
        return self.scaled(self.actor(observation.flatten(1)))

    def forward(self, observation: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
        observation = observation.flatten(1)
        action = self.actor(observation)
        return action, self.critic(observation, action)


VARIANTS = {
    "ddpg": Variant(partial(DDPG, observations=(11,), actions=3), (11,)),
    "ddpg_paper": Variant(partial(DDPG, observations=(11,), actions=3, hidden=(400, 300), paper=True), (11,)),
}


@torch.no_grad()
def targets(copy: DDPG, rows: Rows) -> Float[Tensor, " batch"]:
    """y."""
    # Q'(s', μ'(s'))
    _, following = copy(rows.following)
    return rows.reward + rows.discount * following


def build(recipe: Recipe) -> Iterator[Run]:
    torch.manual_seed(recipe.seed)
    device = select_device(recipe.device)
    model_config = on_policy.model_config(recipe, "ddpg", "continuous")
    if len(model_config["observations"]) == 3:
        raise BadInput(f"{recipe.data} shows frames, and ddpg sees rows of numbers: try ppo")
    _, actions = on_policy.needs(recipe.data, "continuous", "ddpg", recipe.wrappers)
    model_config |= {"low": actions.low.tolist(), "high": actions.high.tolist()}
    if not all(map(math.isfinite, model_config["low"] + model_config["high"])):
        raise BadInput(f"{recipe.data} has actions without bounds, which ddpg cannot choose")
    model_config |= {"hidden": list(recipe.hidden)}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    copy = follower(model)

    def error(minibatch: tuple[Rows, Tensor]) -> dict[str, Tensor]:
        rows, y = minibatch
        # L
        q = model.critic(rows.observation.flatten(1), rows.action)
        return {"loss": mse_loss(q, y), "q": q.mean()}

    critic = FlatGradientUpdate(
        error,
        model.critic,
        partial(torch.optim.Adam, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True),
    )
    actor = FlatGradientUpdate(
        lambda rows: {"loss": -model(rows.observation)[1].mean()},
        model.actor,
        partial(torch.optim.Adam, lr=recipe.actor_lr, fused=True),
    )
    climbers = list(model.actor.parameters())
    explorer = Noisy(
        lambda seen: model.actor(seen.flatten(1).to(device)),
        model_config["actions"],
        recipe.worlds,
        sigma=recipe.sigma,
        theta=recipe.theta,
        dt=recipe.dt,
        first=recipe.first,
    )
    stream = off_policy.experience(recipe, explorer, model_config, scale=model.scaled)

    def update(drawn: Drawn) -> dict:
        if recipe.anneal:
            left = 1 - drawn.number / recipe.steps
            critic.optimizer.param_groups[0]["lr"] = recipe.lr * left
            actor.optimizer.param_groups[0]["lr"] = recipe.actor_lr * left
        for rows, _ in off_policy.minibatches(drawn, recipe.batch_size):
            metrics = critic((rows, targets(copy, rows)))
            # ∇J: only into the actor, though it comes through the critic
            climbed = actor.loss(rows)
            actor.follow(climbed, gradient_of(climbed["loss"], climbers))
            follow(copy, model, recipe.tau)
        return {**metrics, "actor_loss": climbed["loss"].detach(), **on_policy.progress(drawn)}

    state = {"critic_optimiser": critic.optimizer, "actor_optimiser": actor.optimizer}
    state["copy"] = copy
    yield off_policy.off_policy(model, recipe, stream, update, state, model_config)


def count(part: str, variant: str = "ddpg", **model_config) -> int:
    with torch.device("meta"):
        return count_parameters(getattr(VARIANTS[variant].make(**model_config), part))


FACTS = [
    Fact("Hopper actor parameters, 256-256", partial(count, "actor"), 69_635),
    Fact("Hopper critic parameters, 256-256", partial(count, "critic"), 69_889),
    Fact("Hopper actor parameters, paper", partial(count, "actor", "ddpg_paper"), 126_003),
]

evaluate, play = evaluate.evaluate, evaluate.play


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's networks of the same shape; the tests hold a whole update against it."""
    yield from references.deterministic(DDPG)
