"""QMIX: monotone value factorization for cooperating agents. VDN and independent learners are variants.

Paper: Rashid, Samvelyan, Schroeder de Witt, Farquhar, Foerster and Whiteson, "QMIX: monotonic value function
factorisation for deep multi-agent reinforcement learning", 2018, arXiv:1803.11485 (ICML 2018), sections 4
and 5.
VDN: Sunehag et al., "Value-decomposition networks", 2017, arXiv:1706.05296.

The idea: a team has one reward, and a table of joint actions is too large. Each agent has a Q-network of what
it alone has seen, and a mixing network makes the team's Q_tot of their values, with weights that depend on
the whole state and are never negative. So each agent's best action is part of the best joint action:
training is central, and acting needs no one else.

    Q_tot(τ, u, s) = mix(Q_1(τ_1, u_1), …, Q_n(τ_n, u_n); s),   ∂Q_tot/∂Q_a ≥ 0       equation 5
    y              = r + γ Q_tot⁻(τ', u', s'),   u'_a = argmax Q_a(τ'_a, ·)            equation 6, double Q
    L              = Σ (y - Q_tot)²
    VDN            Q_tot = Σ_a Q_a
    IQL            each agent its own y_a = r_a + γ Q_a⁻(τ'_a, u'_a), nothing mixed

Shapes: episodes `(episode, time, agent, …)`. Agents share one recurrent network (a linear layer, a GRU, a
linear layer), which also reads the agent's last action and its number. `forward` reads observations `(batch,
time, agent, feature)` and gives Q of all actions `(batch, time, agent, action)` and Q_tot of each agent's
best. Whose actions the mixing network sees: none; it sees the state (all agents' observations and who is
there), and of each agent the value of the action that it chose.

Agents that differ: observations are padded, and actions that an agent does not have are never chosen, nor is
their value in any target. An agent that is not present has the value 0 in the mixture; one that was cut off
counts by the value of its last observation, and one that terminated does not. The team's reward is the sum of
its agents', and its episode is over when nobody is left.

What differs from the paper: Adam instead of RMSprop, several episodes are played between minibatches, and the
target network follows at intervals of updates. In `two_step` all sixteen courses of the game are played again
and again (`enumerate`), where the paper explores uniformly: its tables come out exactly then.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.matrix_games import PREFIX
from torchstone.envs.team_envs import Team, make_team_envs
from torchstone.envs.team_episodes import Act, EpisodeStream, TeamBatch, TeamEpisodes
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.masked import masked_mean
from torchstone.parts.modes import eval_mode
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.target_network import make_target, polyak_update
from torchstone.parts.rl.value_mixing import QMixer, gather_chosen, sum_values
from torchstone.plots.strategy_table import draw_values
from torchstone.systems import Variant
from torchstone.tasks.multiagent import team as task
from torchstone.tasks.multiagent.team import evaluate, play
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "pettingzoo:mpe2.simple_spread_v3"  # pettingzoo:MODULE[:name=value,…], or matrix:two_step
    variant: str = "qmix"  # mixing: qmix, vdn, or iql for independent learners
    max_episode_steps: int = 25  # time limit of an episode: what is not over then is cut off
    hidden: int = 64  # width of the agents' network
    embed: int = 32  # width of the mixing layer
    hypernet: int = 64  # width of the hypernetworks' hidden layer; 0 for none
    exploration: Literal["epsilon", "enumerate"] = (
        "epsilon"  # ε-greedy, or all courses of a small game in turn
    )
    epsilon: float = 1.0  # initial ε: probability of a random action
    final_epsilon: float = 0.05  # final ε
    exploration_steps: int = 50_000  # environment steps until the final ε
    num_envs: int = 16  # episodes played before each update
    buffer_size: int = 5000  # episodes in the replay buffer
    batch_size: int = 32  # episodes in a minibatch
    target_update_interval: int = 30  # updates between synchronizations of the target network
    gamma: float = 0.9  # discount factor γ
    double_q: bool = True  # double Q-learning
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-3  # learning rate
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    max_grad_norm: float = 10.0  # gradient clipping: largest norm
    steps: int = 400  # updates
    eval_episodes: int = 100  # greedy episodes of an evaluation
    seed: int = 0  # random seed of weights, episodes, actions and replay
    device: str = "auto"  # device: auto, cpu, cuda or mps


SPREAD = Recipe()
TWO_STEP = replace(
    SPREAD,
    data="matrix:two_step",
    max_episode_steps=2,
    exploration="enumerate",
    gamma=0.99,
    buffer_size=16,
    batch_size=16,
    target_update_interval=1,
    double_q=False,
    lr=5e-3,
    steps=3000,
    eval_episodes=1,
)
RECIPES = {
    # torchstone train qmix   22 s of one core; return -68.6 to -72.2, at random -83.6 (3 seeds)
    "spread": SPREAD,
    # torchstone train qmix/speaker_listener   unmeasured: not learned in 900 updates
    "speaker_listener": replace(SPREAD, data="pettingzoo:mpe2.simple_speaker_listener_v4"),
    # torchstone train qmix/independent   the same agents, each learning alone; -72.0 to -72.4 (3 seeds)
    "independent": replace(SPREAD, variant="iql"),
    # torchstone train qmix/two_step   the paper's game, 17 s of one core; return 8; --variant vdn has 7
    "two_step": TWO_STEP,
    # for tests: seconds
    "smoke": replace(TWO_STEP, hidden=16, embed=8, hypernet=8, steps=300),
}

MARGIN = ("return", 0.5)


class QMIX(nn.Module):
    """Recurrent Q-networks of a team, and the mixing network.

    Args:
        observation_sizes, action_counts: of each agent.
        mixing: qmix, vdn, or iql for none.
    """

    action_mask: Tensor

    def __init__(
        self,
        observation_sizes: Sequence[int],
        action_counts: Sequence[int],
        *,
        hidden: int = 64,
        embed: int = 32,
        hypernet: int = 64,
        mixing: str = "qmix",
    ):
        super().__init__()
        agents, width, actions = len(action_counts), max(observation_sizes), max(action_counts)
        self.agents, self.actions, self.mixing = agents, actions, mixing
        self.encoder = nn.Linear(width + actions + agents, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, actions)
        self.mixer = None
        if mixing == "qmix":
            self.mixer = QMixer(agents, agents * (width + 1), embed, hypernet)
        team = Team(("",) * agents, tuple(observation_sizes), tuple(action_counts))
        self.register_buffer("action_mask", team.action_mask, persistent=False)

    def q_values(
        self,
        observation: Float[Tensor, "batch time agent feature"],
        last_action: Int64[Tensor, "batch time agent"],
        state: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch time agent action"], Tensor]:
        """Q of all actions, and the recurrent state after them; `last_action` is -1 where there is none."""
        batch = len(observation)
        last = one_hot(last_action + 1, self.actions + 1)[..., 1:].to(observation.dtype)
        x = torch.relu(self.encoder(task.with_identity(torch.cat([observation, last], -1))))
        rows = x.transpose(1, 2).flatten(0, 1)
        hidden, state = self.gru(rows, state)
        return self.head(hidden).unflatten(0, (batch, self.agents)).transpose(1, 2), state

    def mix(
        self, q: Float[Tensor, "batch time agent"], state: Float[Tensor, "batch time state"]
    ) -> Float[Tensor, "batch time"]:
        """Q_tot; of independent learners the sum, which nothing learns from."""
        return sum_values(q, state) if self.mixer is None else self.mixer(q, state)

    def valid(self, q: Float[Tensor, "*batch agent action"]) -> Float[Tensor, "*batch agent action"]:
        """-∞ where the agent has no such action: for the choice of one, never for a value."""
        return q.masked_fill(~self.action_mask, -math.inf)

    def forward(
        self, observation: Float[Tensor, "batch time agent feature"]
    ) -> tuple[Float[Tensor, "batch time agent action"], Float[Tensor, "batch time"]]:
        none = observation.new_full(observation.shape[:3], -1, dtype=torch.long)
        q, _ = self.q_values(observation, none)
        state = torch.cat([observation.flatten(2), torch.ones_like(observation[..., 0])], 2)
        return q, self.mix(self.valid(q).amax(3), state)

    def greedy(self) -> Act:
        """Begins episodes; each call is the step after the one before."""
        state: Tensor | None = None
        last: Tensor | None = None

        def act(t: int, observation: Tensor, present: Tensor) -> Tensor:
            nonlocal state, last
            device = self.head.weight.device
            last = torch.full(present.shape, -1) if last is None else last
            q, state = self.q_values(observation[:, None].to(device), last[:, None].to(device), state)
            # what is remembered is what was done: an absent agent's action is 0, as in the buffer
            last = self.valid(q[:, 0]).argmax(2).cpu().masked_fill(~present, 0)
            return last

        return act


SIZES = {"observation_sizes": (18, 18, 18), "action_counts": (5, 5, 5)}
VARIANTS = {
    name: Variant(partial(QMIX, **SIZES, mixing=name), (25, 3, 18)) for name in ("qmix", "vdn", "iql")
}


class EpsilonGreedyTeam:
    """The policy of training: ε-greedy, one ε for all agents, or every course of the game in turn."""

    def __init__(self, model: QMIX, recipe: Recipe, counts: Sequence[int]):
        self.model, self.recipe, self.counts = model, recipe, torch.tensor(counts)
        schedule = (recipe.epsilon, recipe.final_epsilon, recipe.exploration_steps)
        self.epsilon = linear_schedule(*schedule)

    def __call__(self, generator: torch.Generator, env_steps: int) -> Act:
        if self.recipe.exploration == "enumerate":
            return self._all_courses
        greedy, epsilon = _acting(self.model), self.epsilon(env_steps)

        def act(t: int, observation: Tensor, present: Tensor) -> Tensor:
            is_random = torch.rand(present.shape, generator=generator) < epsilon
            uniform = (torch.rand(present.shape, generator=generator) * self.counts).long()
            return greedy(t, observation, present, is_random, uniform)

        return act

    def _all_courses(self, t: int, observation: Tensor, present: Tensor) -> Tensor:
        """Episode k chooses by the digits of k: of 16 episodes no two go the same way."""
        agents, actions = present.shape[1], int(self.counts.max())
        number, place = torch.arange(len(present))[:, None], torch.arange(agents) + t * agents
        return number // actions**place % actions


def _acting(model: QMIX) -> Callable[..., Tensor]:
    """As `QMIX.greedy`, but what is done, and remembered, may be random."""
    state: Tensor | None = None
    last: Tensor | None = None

    def act(t: int, observation: Tensor, present: Tensor, is_random: Tensor, uniform: Tensor) -> Tensor:
        nonlocal state, last
        device = model.head.weight.device
        last = torch.full(present.shape, -1) if last is None else last
        q, state = model.q_values(observation[:, None].to(device), last[:, None].to(device), state)
        best = model.valid(q[:, 0]).argmax(2).cpu()
        last = torch.where(is_random, uniform, best).masked_fill(~present, 0)
        return last

    return act


def targets(
    model: QMIX, target_network: QMIX, episodes: TeamEpisodes, online: Tensor, recipe: Recipe
) -> Float[Tensor, "episode time"] | Float[Tensor, "episode time agent"]:
    """y of each step: the team's, or with independent learners each agent's own.

    Args:
        online: Q of all actions by the network that learns, at every observation.
    """
    continues = episodes.continues
    with torch.no_grad():
        following, _ = target_network.q_values(episodes.observation, last_actions(episodes))
        chooser = online.detach() if recipe.double_q else following
        best = model.valid(chooser[:, 1:]).argmax(3)
        # 0, not a value, of who has left
        next_q = gather_chosen(following[:, 1:], best).masked_fill(~continues, 0.0)
        if model.mixing == "iql":
            return episodes.reward + recipe.gamma * next_q
        total = target_network.mix(next_q, episodes.state[:, 1:])
        total = total.masked_fill(~continues.any(2), 0.0)
        return episodes.reward.sum(2) + recipe.gamma * total


def last_actions(episodes: TeamEpisodes) -> Int64[Tensor, "episode time_and_last agent"]:
    """The action before each observation; -1 before the first."""
    none = torch.full_like(episodes.action[:, :1], -1)
    return torch.cat([none, episodes.action], 1)


def loss(model: QMIX, target_network: QMIX, episodes: TeamEpisodes, recipe: Recipe) -> dict[str, Tensor]:
    """L, the mean over the steps of all episodes; with independent learners over those of all agents."""
    online, _ = model.q_values(episodes.observation, last_actions(episodes))
    y = targets(model, target_network, episodes, online, recipe)
    present: Bool[Tensor, "episode time agent"] = episodes.present
    chosen = gather_chosen(online[:, :-1], episodes.action).masked_fill(~present, 0.0)
    if model.mixing == "iql":
        error, is_there = y - chosen, present
    else:
        error, is_there = y - model.mix(chosen, episodes.state[:, :-1]), present.any(2)
    return {"loss": masked_mean(error.square(), is_there), "q_value": masked_mean(y, is_there)}


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.exploration == "enumerate" and not recipe.data.startswith(PREFIX):
        raise BadInput(f"{recipe.data} has too many courses to enumerate: --exploration epsilon")
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    team = task.read_team(recipe.data)
    model_config = task.team_config(team) | {"hidden": recipe.hidden, "embed": recipe.embed}
    model_config |= {"hypernet": recipe.hypernet}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    target_network = make_target(model)
    step = FlatGradientUpdate(
        lambda episodes: loss(model, target_network, episodes, recipe),
        model,
        vector_optimizer(recipe.optimizer, recipe.lr),
        max_grad_norm=recipe.max_grad_norm,
        lr_schedule=linear_schedule(1.0, 0.0, recipe.steps) if recipe.anneal_lr else None,
    )
    policy = EpsilonGreedyTeam(model, recipe, team.action_counts)
    stream = EpisodeStream(
        make_team_envs(recipe.data),
        policy,
        num_envs=recipe.num_envs,
        max_steps=recipe.max_episode_steps,
        seed=recipe.seed,
        buffer_size=recipe.buffer_size,
        batch_size=recipe.batch_size,
    )

    def update(batch: TeamBatch) -> dict:
        if batch.number % max(recipe.target_update_interval, 1) == 0:
            polyak_update(target_network, model, 1.0)
        step.schedule_lr(batch.number)
        metrics = step(batch.episodes.to(device))
        return {**metrics, "epsilon": policy.epsilon(batch.env_steps), **task.batch_metrics(batch)}

    def pictures(folder: Path) -> None:
        if recipe.data == f"{PREFIX}two_step":
            tables = {name: table.cpu() for name, table in two_step_tables(model).items()}
            draw_values(
                tables, folder / "q_tot.png", f"Q_tot of {recipe.variant}: player 1's actions are rows"
            )

    state = {"optimizer": step.optimizer, "target_network": target_network}
    note = "the mixing network sees all agents' observations, and no actions"
    yield task.make_run(
        model, recipe, team, stream, update, state, model_config, note=note, pictures=pictures
    )


@torch.no_grad()
def two_step_tables(model: QMIX) -> dict[str, Float[Tensor, "first second"]]:
    """Q_tot of both players' actions in the three states of the two-step game, by an observer of the game:
    each state of the second step is reached by player 1's choice and player 2's first action."""
    with eval_mode(model):
        return _two_step_tables(model)


def _two_step_tables(model: QMIX) -> dict[str, Tensor]:
    envs, tables = make_team_envs(f"{PREFIX}two_step"), {}
    device = model.head.weight.device
    for name, before in (("first step", None), ("after action 0", 0), ("after action 1", 1)):
        observation, _ = envs.reset([0])
        observations, last = [observation], [torch.full((1, 2), -1)]
        if before is not None:
            action = torch.tensor([[before, 0]])
            observations.append(envs.step(action).observation)
            last.append(action)
        rows = torch.stack(observations, 1).to(device)
        q, _ = model.q_values(rows, torch.stack(last, 1).to(device))
        first, second = q[0, -1, 0], q[0, -1, 1]
        pairs = torch.stack(torch.broadcast_tensors(first[:, None], second[None]), -1)[None]
        state = torch.cat([rows[:, -1].flatten(1), torch.ones(1, 2, device=device)], 1)
        tables[name] = torch.stack(
            [model.mix(pairs[:, row], state[:, None].expand(-1, 2, -1))[0] for row in range(2)]
        )
    return tables


def count_variant(variant: str) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make())


def _weighted(mixing: str) -> float:
    """The least ∂Q_tot/∂Q_a at a hundred random states and values, of a network with random weights."""
    generator = torch.Generator().manual_seed(0)
    mixer = QMixer(3, 57)
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    q = (torch.randn(100, 3, generator=generator) * 10).requires_grad_()
    total = mixer(q, torch.randn(100, 57, generator=generator)).sum()
    return min(torch.autograd.grad(total, q)[0].min().item(), 0.0)


FACTS = [
    # encoder, GRU and head of 64; embed 32 and hypernetworks of 64
    Fact("vdn parameters in simple_spread", partial(count_variant, "vdn"), 26 * 64 + 64 + 24_960 + 325),
    Fact("qmix parameters in simple_spread", partial(count_variant, "qmix"), 46_502),
    Fact("least slope of Q_tot in a value", partial(_weighted, "qmix"), 0.0),
]


def reference() -> Iterator[ParityCase]:
    """The same team with plain recurrent cells and the mixing network's equations; torchrl's mixers are
    compared in the tests."""
    from torchstone.references.team_learning import qmix_cases

    yield from qmix_cases(QMIX)
