"""MADDPG: an actor and a central critic for each agent.

Paper: Lowe, Wu, Tamar, Harb, Abbeel and Mordatch, "Multi-agent actor-critic for mixed cooperative-competitive
environments", 2017, arXiv:1706.02275 (NeurIPS 2017), sections 4.1 and 5, algorithm 1.

The idea: to one agent the others are part of an environment that changes as they learn, so neither its replay
buffer nor its policy gradient can be trusted. But given what all agents see and do, the environment is the
same whatever their policies. So each agent has a critic of everything, which only training needs, and an
actor of what it alone sees. Agents need not share a reward, nor know the others' policies.

    y_i    = r_i + γ Q_i'(x', a_1', …, a_N')|a_k' = μ_k'(o_k)                            equation 6
    L      = E[(Q_i(x, a_1, …, a_N) - y_i)²]
    ∇J_i   = E[∇μ_i(o_i) ∇_ai Q_i(x, a_1, …, a_i, …, a_N)|a_i = μ_i(o_i)]                equation 5
    θ'     ← τθ + (1-τ)θ'

Shapes: the agents' networks are one batched product: observations `(batch, agent, feature)`, one-hot actions
`(batch, agent, action)`; `forward` gives logits `(batch, agent, action)` and Q of each agent's critic at
softmax actions `(batch, agent)`. Whose actions the critic sees: everyone's. In the actor's gradient the
agent's own action is its policy's, by the Gumbel-softmax estimator, and all others' are from the replay
buffer, as in the paper; most ports put current policies there. With `ddpg` each critic sees its own agent
only.

Agents that differ: observations and actions are padded, and actions that an agent does not have are never
sampled. An absent agent is 0 to every critic and has no loss. One that was cut off is bootstrapped; one that
left is not.

What differs from the paper: actions are discrete, so an actor is a softmax policy that explores by its own
sampling, and μ' is its most likely action. Minibatches are of whole episodes. A small penalty on the logits,
as in the authors' code, keeps policies from becoming deterministic. Policies of others are not inferred, nor
are there ensembles of them (sections 4.2, 4.3).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Run
from torchstone.envs.team_envs import Team, make_team_envs
from torchstone.envs.team_episodes import Act, EpisodeStream, TeamBatch, TeamEpisodes
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.flat_gradient import flat_gradient
from torchstone.parts.masked import masked_mean
from torchstone.parts.rl.gumbel_softmax import gumbel_noise, gumbel_softmax
from torchstone.parts.rl.networks import ensemble_mlp
from torchstone.parts.rl.target_network import make_target, polyak_update
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.systems import Variant
from torchstone.tasks.multiagent import team as task
from torchstone.tasks.multiagent.team import evaluate, play
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "play", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "pettingzoo:mpe2.simple_spread_v3"  # pettingzoo:MODULE[:name=value,…], or matrix:climbing
    variant: str = "maddpg"  # what a critic sees: maddpg (all agents) or ddpg (its own agent)
    max_episode_steps: int = 25  # time limit of an episode: what is not over then is cut off
    hidden: tuple[int, ...] = (64, 64)  # hidden layer widths of actors and critics
    num_envs: int = 16  # episodes played before each update
    gradient_steps: int = 4  # minibatches in an update
    batch_size: int = 32  # episodes in a minibatch
    buffer_size: int = 5000  # episodes in the replay buffer
    gamma: float = 0.95  # discount factor γ
    tau: float = 0.01  # Polyak averaging rate τ of the target networks
    temperature: float = 1.0  # temperature of the Gumbel-softmax
    logit_penalty: float = 1e-3  # coefficient of the actors' squared logits
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 5e-3  # learning rate of the critics
    actor_lr: float = 2e-3  # learning rate of the actors
    max_grad_norm: float = 0.5  # gradient clipping: largest norm
    steps: int = 200  # updates
    eval_episodes: int = 100  # greedy episodes of an evaluation
    seed: int = 0  # random seed of weights, episodes, actions, replay and Gumbel noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


SPREAD = Recipe()
RECIPES = {
    # torchstone train maddpg   18 s of one core; return -63.1 ± 2.5, at random -83.6 (3 seeds)
    "spread": SPREAD,
    # torchstone train maddpg/speaker_listener   unmeasured: not learned in 500 updates
    "speaker_listener": replace(SPREAD, data="pettingzoo:mpe2.simple_speaker_listener_v4"),
    # torchstone train maddpg/independent   the same agents with critics of themselves only
    "independent": replace(SPREAD, variant="ddpg"),
    # for tests: seconds
    "smoke": replace(
        SPREAD,
        data="pettingzoo:mpe2.simple_speaker_listener_v4",
        batch_size=16,
        lr=1e-2,
        actor_lr=5e-3,
        steps=50,
        eval_episodes=10,
    ),
}

MARGIN = ("return", 15.0)


class MADDPG(nn.Module):
    """An actor and a critic for each agent.

    Args:
        observation_sizes, action_counts: of each agent.
        central: a critic sees all agents, not only its own.
    """

    action_mask: Tensor

    def __init__(
        self,
        observation_sizes: Sequence[int],
        action_counts: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 64),
        central: bool = True,
    ):
        super().__init__()
        agents, width, actions = len(action_counts), max(observation_sizes), max(action_counts)
        self.agents, self.central = agents, central
        inputs = agents * (width + 1 + actions) if central else width + actions
        self.actor = ensemble_mlp(agents, (width, *hidden, actions))
        self.critic = ensemble_mlp(agents, (inputs, *hidden, 1))
        team = Team(("",) * agents, tuple(observation_sizes), tuple(action_counts))
        self.register_buffer("action_mask", team.action_mask, persistent=False)

    def action_logits(
        self, observation: Float[Tensor, "batch agent feature"]
    ) -> Float[Tensor, "batch agent action"]:
        """-∞ for actions that an agent does not have."""
        return (
            self.actor(observation.transpose(0, 1)).transpose(0, 1).masked_fill(~self.action_mask, -math.inf)
        )

    def q_values(
        self,
        observation: Float[Tensor, "batch agent feature"],
        state: Float[Tensor, "batch state"],
        actions: Float[Tensor, "batch agent agent action"],
    ) -> Float[Tensor, "batch agent"]:
        """Q_i of each agent's critic.

        Args:
            actions: of all agents, as each critic is shown them: `[b, i, k]` is what critic i takes for agent
                k's action.
        """
        if self.central:
            shared = state[:, None].expand(-1, self.agents, -1)
            inputs = torch.cat([shared, actions.flatten(2)], 2)
        else:
            inputs = torch.cat([observation, actions.diagonal(dim1=1, dim2=2).transpose(1, 2)], 2)
        return self.critic(inputs.transpose(0, 1)).transpose(0, 1)[..., 0]

    def forward(
        self, observation: Float[Tensor, "batch agent feature"]
    ) -> tuple[Float[Tensor, "batch agent action"], Float[Tensor, "batch agent"]]:
        state = torch.cat([observation.flatten(1), torch.ones_like(observation[..., 0])], 1)
        logits = self.actor(observation.transpose(0, 1)).transpose(0, 1)
        probability = logits.masked_fill(~self.action_mask, -math.inf).softmax(2)
        return logits, self.q_values(observation, state, for_each_critic(probability))

    def greedy(self) -> Act:
        device = self.action_mask.device
        return lambda t, observation, present: self.action_logits(observation.to(device)).argmax(-1).cpu()


def for_each_critic(
    actions: Float[Tensor, "batch agent action"],
) -> Float[Tensor, "batch agent agent action"]:
    """The same actions, shown to every critic."""
    return actions[:, None].expand(-1, actions.shape[1], -1, -1)


SIZES = {"observation_sizes": (18, 18, 18), "action_counts": (5, 5, 5)}
VARIANTS = {
    "maddpg": Variant(partial(MADDPG, **SIZES), (3, 18)),
    "ddpg": Variant(partial(MADDPG, **SIZES, central=False), (3, 18)),
}


def sampling(model: MADDPG, generator: torch.Generator) -> Act:
    """The policy of training: a sample of each agent's softmax policy."""
    device = model.action_mask.device

    def act(t: int, observation: Tensor, present: Tensor) -> Tensor:
        logits = model.action_logits(observation.to(device)).cpu()
        return (logits + gumbel_noise(logits.shape, generator)).argmax(2)

    return act


class Transitions(NamedTuple):
    """Steps of whole episodes, one row each."""

    observation: Float[Tensor, "row agent feature"]
    state: Float[Tensor, "row state"]
    action: Float[Tensor, "row agent action"]  # one-hot; 0 of an absent agent
    reward: Float[Tensor, "row agent"]
    next_observation: Float[Tensor, "row agent feature"]
    next_state: Float[Tensor, "row state"]
    continues: Bool[Tensor, "row agent"]  # whether the next state has a value for the agent
    present: Bool[Tensor, "row agent"]


def transitions_of(episodes: TeamEpisodes, num_actions: int) -> Transitions:
    """The steps at which anyone was present."""
    action = one_hot(episodes.action, num_actions).to(episodes.observation.dtype)
    state = episodes.state
    columns = (
        episodes.observation[:, :-1],
        state[:, :-1],
        action * episodes.present[..., None],
        episodes.reward,
        episodes.observation[:, 1:],
        state[:, 1:],
        episodes.continues,
        episodes.present,
    )
    rows = episodes.present.any(2)
    return Transitions(*(column[rows] for column in columns))


@torch.no_grad()
def targets(target_network: MADDPG, batch: Transitions, gamma: float) -> Float[Tensor, "row agent"]:
    """y_i of each agent."""
    logits = target_network.action_logits(batch.next_observation)
    # a_k' = μ_k'(o_k'); 0 of who is not there any more
    best = one_hot(logits.argmax(2), logits.shape[2]).to(logits.dtype) * batch.continues[..., None]
    next_q = target_network.q_values(batch.next_observation, batch.next_state, for_each_critic(best))
    return batch.reward + gamma * next_q.masked_fill(~batch.continues, 0.0)


def critic_loss(model: MADDPG, batch: Transitions, y: Float[Tensor, "row agent"]) -> dict[str, Tensor]:
    """L, the mean over agents that were present."""
    q = model.q_values(batch.observation, batch.state, for_each_critic(batch.action))
    return {"loss": masked_mean((y - q).square(), batch.present), "q_value": masked_mean(q, batch.present)}


def actor_loss(
    model: MADDPG, batch: Transitions, noise: Float[Tensor, "row agent action"], recipe: Recipe
) -> dict[str, Tensor]:
    """-J_i of all agents, whose gradients are apart: no actor is in another's."""
    logits = model.action_logits(batch.observation)
    own = gumbel_softmax(logits, noise, recipe.temperature)
    # critic i sees agent i's action by its policy, and all others' from the replay buffer
    is_own = torch.eye(model.agents, dtype=torch.bool, device=own.device)[None, :, :, None]
    actions = torch.where(is_own, own[:, None], batch.action[:, None])
    q = model.q_values(batch.observation, batch.state, actions)
    size = logits.masked_fill(~model.action_mask, 0.0).square().sum(2) / model.action_mask.sum(1)
    return {"loss": masked_mean(recipe.logit_penalty * size - q, batch.present)}


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    team = task.read_team(recipe.data)
    model_config = task.team_config(team) | {"hidden": list(recipe.hidden)}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    target_network = make_target(model)
    critic_step = FlatGradientUpdate(
        lambda pair: critic_loss(model, *pair),
        model.critic,
        vector_optimizer(recipe.optimizer, recipe.lr),
        max_grad_norm=recipe.max_grad_norm,
    )
    actor_step = FlatGradientUpdate(
        lambda pair: actor_loss(model, *pair, recipe),
        model.actor,
        vector_optimizer(recipe.optimizer, recipe.actor_lr),
        max_grad_norm=recipe.max_grad_norm,
    )
    actor_parameters = list(model.actor.parameters())

    stream = EpisodeStream(
        make_team_envs(recipe.data),
        lambda generator, env_steps: sampling(model, generator),
        num_envs=recipe.num_envs,
        max_steps=recipe.max_episode_steps,
        seed=recipe.seed,
        buffer_size=recipe.buffer_size,
        batch_size=recipe.gradient_steps * recipe.batch_size,
    )

    def update(batch: TeamBatch) -> dict:
        generator = derive_generator(recipe.seed, SeedStream.EXPLORATION, batch.number)
        for index in torch.arange(len(batch.episodes.action)).split(recipe.batch_size):
            rows = transitions_of(batch.episodes.select(index).to(device), max(team.action_counts))
            metrics = critic_step((rows, targets(target_network, rows, recipe.gamma)))
            noise = gumbel_noise(rows.action.shape, generator).to(device)
            # ∇J goes through the critics, but only into the actors
            actor_metrics = actor_step.loss((rows, noise))
            gradient = flat_gradient(actor_metrics["loss"], actor_parameters)
            actor_step.apply_gradient(actor_metrics, gradient)
            polyak_update(target_network, model, recipe.tau)
        return {**metrics, "actor_loss": actor_metrics["loss"].detach(), **task.batch_metrics(batch)}

    sees = (
        "all agents' observations and actions" if model.central else "its own agent's observation and action"
    )
    state = {"critic_optimizer": critic_step.optimizer, "actor_optimizer": actor_step.optimizer}
    state["target_network"] = target_network
    note = f"a critic sees {sees}; in its actor's gradient the others' actions are from the replay buffer"
    yield task.make_run(model, recipe, team, stream, update, state, model_config, note=note)


def count_variant(variant: str) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make())


FACTS = [
    # three actors 18-64-64-5, and three critics of 3 × (18 + 1 + 5) or of 18 + 5 inputs
    Fact("maddpg parameters in simple_spread", partial(count_variant, "maddpg"), 3 * (5_701 + 8_897)),
    Fact("ddpg parameters in simple_spread", partial(count_variant, "ddpg"), 3 * (5_701 + 5_761)),
]


def reference() -> Iterator[ParityCase]:
    """Each agent's networks as layers of its own; the tests compare losses with plain loops."""
    from torchstone.references.team_learning import maddpg_cases

    yield from maddpg_cases(MADDPG)
