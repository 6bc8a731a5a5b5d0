"""MAPPO: multi-agent PPO with a central value function.

Paper: Yu, Velu, Vinitsky, Gao, Wang, Bayen and Wu, "The surprising effectiveness of PPO in cooperative
multi-agent games", 2021, arXiv:2103.01955 (NeurIPS 2022), sections 3 and 5, algorithm 1.

The idea: PPO is said to be too wasteful for teams. It is not, if the value function, which only training
needs, sees the whole state, values are normalized, and the policy is not taken too far from the one that
played. All agents share one policy of what each has seen and one value function.

    r_t(θ) = π_θ(a_t|o_t) / π_θold(a_t|o_t)
    L      = -E[min(r_t Â_t, clip(r_t, 1-ε, 1+ε) Â_t)] - c_2 S[π_θ] + c_1 E[(V_φ(s_t) - R̂_t)²]
    Â_t    = δ_t + γλ Â_{t+1},   δ_t = r_t + γ V(s_{t+1}) - V(s_t)          of each agent, by its own reward

Shapes: `(episode, time, agent, …)`; `forward` reads observations `(batch, agent, feature)` of agents that are
all present and gives logits `(batch, agent, action)` and values `(batch, agent)`. Whose actions the critic
sees: nobody's; it sees the state (all agents' observations and who is there) and the agent's number. With
`ippo` it sees the agent's own observation only: independent learners that share weights.

Agents that differ: observations are padded, and actions that an agent does not have get probability 0. Only
steps at which an agent was present count, alike in the loss, the entropy, the advantages' and the values'
normalization. An agent that was cut off is bootstrapped by the value of its last state; one that left is not;
one that comes back begins anew.

What differs from the paper: the policy has no recurrent layer and no layer normalization, an update is of
whole episodes, and one optimizer serves both networks. The paper's features of SMAC's states are not needed.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.team_envs import Team, make_team_envs
from torchstone.envs.team_episodes import Act, EpisodeStream, TeamBatch, TeamEpisodes
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.masked import masked_mean
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.returns import gae
from torchstone.parts.rl.running_mean_std import RunningMeanStd
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.systems import Variant
from torchstone.tasks.multiagent import team as task
from torchstone.tasks.multiagent.team import evaluate, play
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "pettingzoo:mpe2.simple_spread_v3"  # pettingzoo:MODULE[:name=value,…], or matrix:climbing
    variant: str = "mappo"  # what the critic sees: mappo (the state) or ippo (the agent's own observation)
    max_episode_steps: int = 25  # time limit of an episode: what is not over then is cut off
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of policy and critic
    num_envs: int = 32  # episodes in an update
    epochs: int = 8  # epochs over the episodes of an update
    batch_size: int = 8  # a minibatch has the steps of so many whole episodes
    gamma: float = 0.99  # discount factor γ
    gae_lambda: float = 0.95  # λ of generalized advantage estimation
    clip_coef: float = 0.2  # clipping coefficient ε of the probability ratio
    ent_coef: float = 0.01  # entropy bonus coefficient, c_2
    vf_coef: float = 1.0  # value loss coefficient, c_1
    policy_gain: float = 0.01  # scale of the initial logits: 0.01 for a nearly uniform policy
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-3  # learning rate
    anneal_lr: bool = True  # linear decay of the learning rate to 0
    max_grad_norm: float = 10.0  # gradient clipping: largest norm
    steps: int = 150  # updates
    eval_episodes: int = 100  # greedy episodes of an evaluation
    seed: int = 0  # random seed of weights, episodes, actions and minibatches
    device: str = "auto"  # device: auto, cpu, cuda or mps


SPREAD = Recipe()
RECIPES = {
    # torchstone train mappo   21 s of one core; return -57.4 to -63.3, at random -83.6 (10 seeds)
    "spread": SPREAD,
    # torchstone train mappo/speaker_listener   33 s; -14.8, at random -78.4 (3 seeds): a shorter horizon than
    # spread's, and a larger learning rate
    "speaker_listener": replace(
        SPREAD,
        data="pettingzoo:mpe2.simple_speaker_listener_v4",
        gamma=0.95,
        gae_lambda=0.9,
        lr=2e-3,
        steps=300,
    ),
    # torchstone train mappo/independent   critics of their own observations; -56.4 to -84.3 (10 seeds)
    "independent": replace(SPREAD, variant="ippo"),
    # for tests: seconds
    "smoke": replace(
        SPREAD,
        data="pettingzoo:mpe2.simple_speaker_listener_v4",
        num_envs=16,
        batch_size=4,
        epochs=6,
        lr=2e-3,
        anneal_lr=False,
        steps=25,
        eval_episodes=10,
    ),
}

MARGIN = ("return", 15.0)


class MAPPO(nn.Module):
    """One policy and one value function for all agents of a team.

    Args:
        observation_sizes, action_counts: of each agent.
        central: the critic sees the state, not the agent's own observation.
        policy_gain: scale of the initial logits; 0.01 for a nearly uniform policy.
    """

    action_mask: Tensor

    def __init__(
        self,
        observation_sizes: Sequence[int],
        action_counts: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 64),
        central: bool = True,
        policy_gain: float = 0.01,
    ):
        super().__init__()
        agents, width, actions = len(action_counts), max(observation_sizes), max(action_counts)
        self.agents, self.central = agents, central
        inputs = agents * (width + 1) if central else width
        self.policy_layers = _layers((width + agents, *hidden, actions), policy_gain)
        self.value_layers = _layers((inputs + agents, *hidden, 1), 1.0)
        self.value_norm = RunningMeanStd(clip=math.inf)
        team = Team(("",) * agents, tuple(observation_sizes), tuple(action_counts))
        self.register_buffer("action_mask", team.action_mask, persistent=False)

    def action_logits(
        self, observation: Float[Tensor, "*batch agent feature"]
    ) -> Float[Tensor, "*batch agent action"]:
        """-∞ for actions that an agent does not have."""
        logits = self.policy_layers(task.with_identity(observation))
        return logits.masked_fill(~self.action_mask, -math.inf)

    def normalized_value(
        self, observation: Float[Tensor, "*batch agent feature"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch agent"]:
        """V in units of the returns' deviation."""
        central = state[..., None, :].expand(*observation.shape[:-1], -1)
        inputs = central if self.central else observation
        return self.value_layers(task.with_identity(inputs))[..., 0]

    def value(self, observation: Tensor, state: Tensor) -> Tensor:
        """V in units of the reward."""
        normalized = self.normalized_value(observation, state)
        return normalized / self.value_norm.inv_std(normalized) + self.value_norm.mean.to(normalized.dtype)

    def forward(
        self, observation: Float[Tensor, "batch agent feature"]
    ) -> tuple[Float[Tensor, "batch agent action"], Float[Tensor, "batch agent"]]:
        state = torch.cat([observation.flatten(1), torch.ones_like(observation[..., 0])], 1)
        logits = self.policy_layers(task.with_identity(observation))
        return logits, self.normalized_value(observation, state)

    def greedy(self) -> Act:
        device = self.action_mask.device
        return lambda t, observation, present: self.action_logits(observation.to(device)).argmax(-1).cpu()


def _layers(widths: Sequence[int], last_gain: float) -> nn.Sequential:
    """Linear layers with tanh between, orthogonal, the last one scaled by `last_gain`."""
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(itertools.pairwise(widths)):
        is_last = number == len(widths) - 2
        layer = nn.Linear(a, b)
        nn.init.orthogonal_(layer.weight, last_gain if is_last else math.sqrt(2))
        nn.init.zeros_(layer.bias)
        layers += [layer] if is_last else [layer, nn.ReLU()]
    return nn.Sequential(*layers)


SIZES = {"observation_sizes": (18, 18, 18), "action_counts": (5, 5, 5)}
VARIANTS = {
    "mappo": Variant(partial(MAPPO, **SIZES), (3, 18)),
    "ippo": Variant(partial(MAPPO, **SIZES, central=False), (3, 18)),
}


def sampling(model: MAPPO, generator: torch.Generator) -> Act:
    """The policy that plays: one uniform number for each agent's action."""
    device = model.action_mask.device

    def act(t: int, observation: Tensor, present: Tensor) -> Tensor:
        share = model.action_logits(observation.to(device)).softmax(-1).cumsum(-1).cpu()
        uniform = torch.rand((*present.shape, 1), generator=generator) * share[..., -1:]
        return (share <= uniform).sum(-1)

    return act


class Steps(NamedTuple):
    """Steps of all agents, one row each: those at which an agent was present, and no others."""

    observation: Float[Tensor, "row agent feature"]
    state: Float[Tensor, "row state"]
    action: Int64[Tensor, "row agent"]
    log_prob: Float[Tensor, "row agent"]
    advantage: Float[Tensor, "row agent"]
    returns: Float[Tensor, "row agent"]  # R̂, in units of the reward
    present: Bool[Tensor, "row agent"]


@torch.no_grad()
def advantages(
    model: MAPPO, episodes: TeamEpisodes, recipe: Recipe
) -> tuple[Float[Tensor, "episode time agent"], Float[Tensor, "episode time agent"]]:
    """Â of each agent, and R̂ = Â + V; 0 where it was not present."""
    present = episodes.present
    value = model.value(episodes.observation, episodes.state)
    # 0 where the agent left; its last state where it was cut off; it is present next, or cut off, elsewhere
    next_value = value[:, 1:].masked_fill(~episodes.continues, 0.0)
    following = torch.cat([present[:, 1:], torch.zeros_like(present[:, :1])], 1)
    # an agent that is absent now, or next, has no part in what comes after it came back
    done = ~(present & following) | episodes.terminated | episodes.truncated
    time_first = [x.transpose(0, 1).flatten(1) for x in (episodes.reward, value[:, :-1], next_value, done)]
    advantage = gae(*time_first, recipe.gamma, recipe.gae_lambda)
    advantage = advantage.unflatten(1, (len(present), -1)).transpose(0, 1)
    advantage = advantage.masked_fill(~present, 0.0)
    return advantage, (advantage + value[:, :-1]).masked_fill(~present, 0.0)


@torch.no_grad()
def make_steps(model: MAPPO, episodes: TeamEpisodes, recipe: Recipe) -> Steps:
    """What the epochs of an update learn from; the statistics of returns are updated with it."""
    advantage, returns = advantages(model, episodes, recipe)
    present = episodes.present
    model.value_norm.update(returns[present])
    spread = advantage[present]
    normalized = (advantage - spread.mean()) / (spread.std(correction=0) + 1e-8)
    observation = episodes.observation[:, :-1]
    log_prob = log_probability(model, observation, episodes.action)
    columns = (observation, episodes.state[:, :-1], episodes.action, log_prob)
    columns += (normalized.masked_fill(~present, 0.0), returns, present)
    return Steps(*(column.flatten(0, 1) for column in columns))


def log_probability(model: MAPPO, observation: Tensor, action: Tensor) -> Tensor:
    return model.action_logits(observation).log_softmax(-1).gather(-1, action[..., None])[..., 0]


def loss(model: MAPPO, steps: Steps, recipe: Recipe) -> dict[str, Tensor]:
    """L of a minibatch: means over the steps at which agents were present."""
    log_probs = model.action_logits(steps.observation).log_softmax(-1)
    log_prob = log_probs.gather(-1, steps.action[..., None])[..., 0]
    # r_t(θ); an absent agent's may be anything
    ratio = (log_prob - steps.log_prob).masked_fill(~steps.present, 0.0).exp()
    clipped = ratio.clamp(1 - recipe.clip_coef, 1 + recipe.clip_coef)
    objective = masked_mean(torch.min(ratio * steps.advantage, clipped * steps.advantage), steps.present)
    entropy = -(log_probs.exp() * log_probs.masked_fill(~model.action_mask, 0.0)).sum(-1)
    entropy = masked_mean(entropy, steps.present)
    # (V - R̂)², both in units of the returns' deviation
    value = model.normalized_value(steps.observation, steps.state)
    value_loss = masked_mean((value - model.value_norm(steps.returns)).square(), steps.present)
    total = recipe.vf_coef * value_loss - objective - recipe.ent_coef * entropy
    change = masked_mean(
        ratio - 1 - (log_prob - steps.log_prob).masked_fill(~steps.present, 0.0), steps.present
    )
    return {"loss": total, "value_loss": value_loss, "entropy": entropy, "approx_kl": change}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    team = task.read_team(recipe.data)
    model_config = task.team_config(team) | {"hidden": list(recipe.hidden)}
    model_config |= {"policy_gain": recipe.policy_gain}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    step = FlatGradientUpdate(
        lambda steps: loss(model, steps, recipe),
        model,
        vector_optimizer(recipe.optimizer, recipe.lr, adam={"eps": 1e-5}),
        max_grad_norm=recipe.max_grad_norm,
        lr_schedule=linear_schedule(1.0, 0.0, recipe.steps) if recipe.anneal_lr else None,
    )
    stream = EpisodeStream(
        make_team_envs(recipe.data),
        lambda generator, env_steps: sampling(model, generator),
        num_envs=recipe.num_envs,
        max_steps=recipe.max_episode_steps,
        seed=recipe.seed,
    )

    def update(batch: TeamBatch) -> dict:
        step.schedule_lr(batch.number)
        episodes = batch.episodes.to(device)
        steps = make_steps(model, episodes, recipe)
        generator = derive_generator(recipe.seed, SeedStream.PPO_MINIBATCHES, batch.number)
        size = recipe.batch_size * episodes.action.shape[1]
        for _ in range(recipe.epochs):
            order = torch.randperm(len(steps.present), generator=generator).to(device)
            for index in order.split(size):
                metrics = step(Steps(*(column[index] for column in steps)))
        return {**metrics, **task.batch_metrics(batch)}

    sees = "all agents' observations" if model.central else "the agent's own observation"
    note = f"the critic sees {sees}, and no actions"
    yield task.make_run(
        model, recipe, team, stream, update, {"optimizer": step.optimizer}, model_config, note=note
    )


def count_variant(variant: str) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make())


FACTS = [
    # policy 21-64-64-5; critic of 3 × 19 + 3 or 18 + 3 inputs
    Fact("mappo parameters in simple_spread", partial(count_variant, "mappo"), 5_893 + 8_129),
    Fact("ippo parameters in simple_spread", partial(count_variant, "ippo"), 5_893 + 5_633),
]


def reference() -> Iterator[ParityCase]:
    """Both networks in plain loops over agents; the tests compare the update with plain loops too."""
    from torchstone.references.team_learning import mappo_cases

    yield from mappo_cases(MAPPO)
