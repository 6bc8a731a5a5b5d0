"""Deep CFR: counterfactual regret minimization with networks in place of tables.

Paper: Brown, Lerer, Gross and Sandholm, "Deep counterfactual regret minimization", 2018, arXiv:1811.00164
(ICML 2019), algorithms 1 and 2.

The idea: CFR keeps the regret of each action in each information state, and plays in proportion to positive
regret. Where there are too many states for a table, a network V learns the regrets from samples. An iteration
traverses the game many times for one player: it tries all actions of that player, and samples one of chance
and of the other player. What each action of the player was worth beyond the strategy's value goes into the
player's advantage memory, and V is trained from scratch on all of it. The other player's strategies go into
the strategy memory, on which Π learns the average strategy, which is what goes to an equilibrium.

    σ_t(I, a)   = V⁺(I, a|θ_{t-1}) / Σ_a V⁺, the action of largest V where none is positive
    v(h)        = Σ_a σ_t(I, a) v(ha) at the traverser's nodes; v of the sampled move at others
    r̃_t(I, a)   = v(ha) - v(h)
    L(θ_p)      = E[t Σ_a (r̃_t(I, a) - V(I, a|θ_p))²]         (I, t, r̃_t) from M_{V,p}
    L(θ_Π)      = E[t Σ_a (σ_t(I, a) - Π(I, a|θ_Π))²]         (I, t, σ_t) from M_Π

Both losses weight iteration t by t, as linear CFR does: early strategies were bad. The memories are
reservoirs.

Shapes: what a player knows is `(batch, features)`; `forward` gives the logits of Π `(batch, actions)` and
each player's V `(batch, players, actions)`. All traversals of an iteration go down the game's tree
together, a level at a time: a row is a node of one of them. The networks are evaluated once for each
information state.

What differs from the paper: Π is trained, from scratch, after every `policy_interval` iterations, not only
after the last: nothing else depends on it, and its curve can be seen. The paper's networks have branches
for cards and bets; these games are small, and one branch sees open_spiel's tensor. The learning rate falls
to 0 in each training, from ten times the paper's: 200 minibatches are enough then. The measure is the
exploitability of Π, exact, from the tree.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import EVALUATION_SHARE, Examples, Run
from torchstone.envs.reservoir import Memory, add_uniformly
from torchstone.envs.tree_games import sample_branches
from torchstone.parts.facts import ParityCase
from torchstone.parts.rl.exploration import linear_schedule
from torchstone.parts.rl.game_tree import CHANCE, TERMINAL, GameTree
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.systems import Variant
from torchstone.tasks.multiagent.inference import evaluate, game_facts, play, rival, table
from torchstone.tasks.multiagent.train import (
    InfoStates,
    at_rows,
    info_states,
    make_run,
    masked_softmax,
    read_game,
    table_of,
)
from torchstone.tasks.optimization import VectorOptimizer, vector_optimizer

__all__ = [
    "FACTS",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "play",
    "reference",
    "rival",
    "table",
]


@dataclass(frozen=True)
class Recipe:
    data: str = "openspiel:kuhn_poker"  # game of open_spiel: two players, returns that sum to zero
    variant: str = "deep_cfr"  # network
    hidden: tuple[int, ...] = (64, 64, 64)  # hidden layer widths of V and Π
    traversals: int = 500  # traversals K of an iteration, for each player
    advantage_steps: int = 200  # minibatches that V is trained on in an iteration
    policy_steps: int = 1000  # minibatches that Π is trained on
    policy_interval: int = 10  # iterations between trainings of Π
    batch_size: int = 1024  # minibatch size
    reinitialize: bool = True  # train V from scratch in each iteration
    optimizer: VectorOptimizer = "adam"  # optimizer
    lr: float = 1e-2  # learning rate
    anneal_lr: bool = True  # linear decay of the learning rate to 0 in each training
    max_grad_norm: float = 1.0  # gradient clipping: largest norm
    memory_size: int = 1_000_000  # size of each reservoir
    steps: int = 40  # iterations T of CFR
    seed: int = 0  # random seed of weights, cards, moves and memories
    device: str = "auto"  # device: auto, cpu, cuda or mps


KUHN = Recipe()
RECIPES = {
    # torchstone train deep_cfr   half a minute of one core; NashConv 0.021 to 0.031 (3 seeds), uniform 0.917
    "kuhn": KUHN,
    # torchstone train deep_cfr/leduc   a minute of one core; NashConv 0.42 to 0.43 (3 seeds), uniform 4.75
    "leduc": replace(KUHN, data="openspiel:leduc_poker", traversals=4000, batch_size=2048, steps=30),
    # for tests: seconds
    "smoke": replace(
        KUHN,
        hidden=(32, 32),
        traversals=200,
        advantage_steps=60,
        policy_steps=150,
        policy_interval=4,
        steps=12,
    ),
}

MARGIN = ("exploitability", -0.2)


class Network(nn.Module):
    """V or Π: layers of ReLU with skip connections, and the last of them normalized to mean 0 and variance 1
    (the paper's section 5.1)."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths[:-1]))
        self.norm = nn.LayerNorm(widths[-2], elementwise_affine=False)
        self.head = nn.Linear(widths[-2], widths[-1])

    def forward(self, x: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch action"]:
        for layer in self.layers:
            y = layer(x)
            x = torch.relu(y + x if y.shape == x.shape else y)
        return self.head(self.norm(x))


class DeepCFR(nn.Module):
    """Each player's V and the common Π: `forward` gives the logits of Π, and V of each player.

    V begins as 0 everywhere, so that the first strategy is uniform.

    Args:
        num_features: numbers in what a player knows.
        hidden: hidden layer widths.
    """

    def __init__(
        self, num_features: int, num_actions: int, hidden: Sequence[int] = (64, 64, 64), players: int = 2
    ):
        super().__init__()
        widths = [num_features, *hidden, num_actions]
        networks = [Network(widths) for _ in range(players)]
        for network in networks:
            nn.init.zeros_(network.head.weight)
            nn.init.zeros_(network.head.bias)
        self.advantage, self.policy = nn.ModuleList(networks), Network(widths)

    def forward(
        self, features: Float[Tensor, "batch feature"]
    ) -> tuple[Float[Tensor, "batch action"], Float[Tensor, "batch player action"]]:
        return self.policy(features), torch.stack([network(features) for network in self.advantage], 1)

    @torch.no_grad()
    def strategy(self, tree: GameTree) -> Float[Tensor, "info action"]:
        """Π in every information state, in double precision."""
        return masked_softmax(table_of([self.policy] * len(self.advantage), tree), tree.legal)

    @torch.no_grad()
    def current_strategy(self, tree: GameTree) -> Float[Tensor, "info action"]:
        """σ_t in every information state, in double precision."""
        return advantage_matching(table_of(self.advantage, tree), tree.legal)


VARIANTS = {"deep_cfr": Variant(partial(DeepCFR, num_features=11, num_actions=2), (11,))}


def advantage_matching(
    advantage: Float[Tensor, "info action"], legal: Tensor
) -> Float[Tensor, "info action"]:
    """σ_t. Of several largest advantages, none of them positive, each is as likely."""
    positive = torch.where(legal, advantage.clamp(min=0), 0.0)
    total = positive.sum(1, keepdim=True)
    largest = advantage.masked_fill(~legal, -torch.inf)
    is_largest = (largest == largest.amax(1, keepdim=True)).to(advantage.dtype)
    fallback = is_largest / is_largest.sum(1, keepdim=True)
    return torch.where(total > 0, positive / torch.where(total > 0, total, 1.0), fallback)


class Samples(NamedTuple):
    """What traversals put into a memory: rows of information states, and a number for each action."""

    info: Int64[Tensor, " sample"]
    target: Float[Tensor, "sample action"]


class Level(NamedTuple):
    """The nodes that all traversals have at one level of the tree."""

    node: Int64[Tensor, " row"]
    parent: Int64[Tensor, " row"]  # row of the level before
    action: Int64[Tensor, " row"]  # move that led here
    weight: Float[Tensor, " row"]  # of its value in that of its parent


def traverse(
    tree: GameTree,
    strategy: Float[Tensor, "info action"],
    traverser: int,
    traversals: int,
    generator: torch.Generator,
) -> tuple[Samples, Samples]:
    """Algorithm 2 for so many traversals at once: r̃ in the traverser's information states, and σ_t in the
    other player's that were visited."""
    level = Level(*torch.zeros(3, traversals, dtype=torch.long), torch.ones(traversals, dtype=torch.double))
    levels, strategies = [], []
    while len(level.node):
        levels.append(level)
        level, visited = descend(tree, strategy, traverser, level.node, generator)
        strategies.append(visited)
    advantages, value = [], torch.zeros(0, dtype=torch.double)
    for number in reversed(range(len(levels))):
        node, below = levels[number].node, levels[number + 1] if number + 1 < len(levels) else level
        # v(h): returns at the end; else of the sampled move, or the mean over the traverser's own
        at = tree.returns[node, traverser].index_add(0, below.parent, below.weight * value)
        own = (tree.player[node] == traverser).nonzero()[:, 0]
        of_action = torch.zeros(len(node), tree.num_actions, dtype=torch.double)
        is_own = tree.player[node[below.parent]] == traverser
        of_action[below.parent[is_own], below.action[is_own]] = value[is_own]
        info = tree.info_state[node[own]]
        # r̃_t
        regret = torch.where(tree.legal[info], of_action[own] - at[own, None], 0.0)
        advantages.append(Samples(info, regret))
        value = at
    visited = torch.cat(strategies)
    return Samples(*map(torch.cat, zip(*advantages, strict=True))), Samples(visited, strategy[visited])


def descend(
    tree: GameTree,
    strategy: Float[Tensor, "info action"],
    traverser: int,
    node: Int64[Tensor, " row"],
    generator: torch.Generator,
) -> tuple[Level, Int64[Tensor, " sample"]]:
    """The next level below these nodes, and the information states of the other player among them."""
    player = tree.player[node]
    # all actions of the traverser
    own = (player == traverser).nonzero()[:, 0]
    info = tree.info_state[node[own]]
    row, action = tree.legal[info].nonzero(as_tuple=True)
    explored = Level(tree.child[node[own][row], action], own[row], action, strategy[info[row], action])
    # one of chance's and of the other player's
    other = ((player != traverser) & (player != TERMINAL)).nonzero()[:, 0]
    is_chance = player[other] == CHANCE
    probability = tree.chance[node[other]]
    info = tree.info_state[node[other]][~is_chance]
    probability[~is_chance, : tree.num_actions] = strategy[info]
    branch = sample_branches(probability, generator)
    ones = torch.ones(len(other), dtype=torch.double)
    sampled = Level(tree.child[node[other], branch], other, branch, ones)
    return Level(*map(torch.cat, zip(explored, sampled, strict=True))), info


class Iteration(NamedTuple):
    """What an update begins with."""

    number: int  # t, from 1
    advantages: Samples  # r̃_t of the first player, which are in its memory already
    strategies: Samples  # σ_t of the second one


class Traversals:
    """Iterations of CFR, each of which begins with the traversals for the first player, and the memories that
    they fill. They follow from the seed, t, and the networks."""

    def __init__(self, model: DeepCFR, tree: GameTree, recipe: Recipe):
        self.model, self.tree, self.recipe, self.position = model, tree, recipe, 0
        columns = {"info": torch.zeros(0, dtype=torch.int32), "iteration": torch.zeros(0)}
        columns |= {"target": torch.zeros(0, tree.num_actions)}
        self.advantages = [Memory(recipe.memory_size, columns) for _ in range(tree.num_players)]
        self.strategies = Memory(recipe.memory_size, columns)

    def __iter__(self) -> "Traversals":
        return self

    def __next__(self) -> Iteration:
        self.position += 1
        return Iteration(self.position, *self.traverse(0))

    def traverse(self, player: int) -> tuple[Samples, Samples]:
        """The traversals of this iteration for one player, into the memories."""
        seed = self.recipe.seed, SeedStream.ROLLOUT_ACTIONS, 2 * self.position + player
        strategy, generator = self.model.current_strategy(self.tree), derive_generator(*seed)
        both = traverse(self.tree, strategy, player, self.recipe.traversals, generator)
        memories = (self.advantages[player], player), (self.strategies, 2)
        for (memory, number), samples in zip(memories, both, strict=True):
            iteration = torch.full((len(samples.info),), float(self.position))
            items = {"info": samples.info, "iteration": iteration, "target": samples.target}
            add_uniformly(memory, items, self.recipe.seed * 3 + number)
        return both

    def _parts(self) -> dict[str, Memory]:
        return {f"advantages_{p}": memory for p, memory in enumerate(self.advantages)} | {
            "strategies": self.strategies
        }

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()} | {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


class Minibatch(NamedTuple):
    """Rows of information states, how much each counts, and what is to be learned there."""

    row: Int64[Tensor, " batch"]
    weight: Float[Tensor, " batch"]
    target: Float[Tensor, "batch action"]


def advantage_loss(network: nn.Module, infos: InfoStates, batch: Minibatch) -> dict[str, Tensor]:
    """L(θ_p)."""
    error = (batch.target - at_rows(network, infos.features, batch.row)) * infos.legal[batch.row]
    return {"loss": (batch.weight * error.square().sum(1)).mean()}


def policy_loss(network: nn.Module, infos: InfoStates, batch: Minibatch) -> dict[str, Tensor]:
    """L(θ_Π)."""
    policy = masked_softmax(at_rows(network, infos.features, batch.row), infos.legal[batch.row])
    return {"loss": (batch.weight * (batch.target - policy).square().sum(1)).mean()}


def reset(step: FlatGradientUpdate, network: nn.Module) -> None:
    """New random weights, and an optimizer that knows nothing of the old ones."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    step.optimizer.state.clear()


def train_on(
    step: FlatGradientUpdate,
    memory: Memory,
    rows: Int64[Tensor, " info"],
    recipe: Recipe,
    steps: int,
    iteration: int,
    generator: torch.Generator,
) -> Tensor:
    """So many minibatches of a memory; the mean loss of the last tenth.

    Args:
        rows: of each information state, among those that the network sees.
    """
    losses = []
    decay = linear_schedule(1.0, 0.0 if recipe.anneal_lr else 1.0, steps)
    for number in range(steps):
        step.optimizer.param_groups[0]["lr"] = recipe.lr * decay(number)
        sample = memory.sample(recipe.batch_size, generator)
        # t, over its mean
        weight = sample["iteration"] * (2 / (iteration + 1))
        batch = Minibatch(rows[sample["info"].long()], weight, sample["target"])
        loss = step(batch)["loss"]
        if number >= steps - max(1, steps // 10):
            losses.append(loss)
    return torch.stack(losses).mean()


def build(recipe: Recipe) -> Iterator[Run]:
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    tree = read_game(recipe.data)
    sizes = {"num_features": tree.features.shape[1], "num_actions": tree.num_actions}
    model_config = {**sizes, "hidden": list(recipe.hidden)}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)

    def learner(loss: Any, network: nn.Module, player: int | None) -> FlatGradientUpdate:
        infos = info_states(tree, player, device)
        return FlatGradientUpdate(
            lambda batch: loss(network, infos, Minibatch(*(each.to(device) for each in batch))),
            network,
            vector_optimizer(recipe.optimizer, recipe.lr),
            max_grad_norm=recipe.max_grad_norm,
        )

    learn_advantage = [learner(advantage_loss, each, player) for player, each in enumerate(model.advantage)]
    learn_policy = learner(policy_loss, model.policy, None)
    every = torch.arange(tree.num_infos)
    stream = Traversals(model, tree, recipe)

    def update(batch: Iteration) -> dict:
        t, losses = batch.number, []
        for player, step in enumerate(learn_advantage):
            if player:
                stream.traverse(player)  # against the first one's new strategy
            if recipe.reinitialize:
                reset(step, model.advantage[player])
            generator = derive_generator(recipe.seed, SeedStream.REPLAY_DRAWS, 3 * t + player)
            its_memory = stream.advantages[player]
            losses.append(train_on(step, its_memory, tree.rows, recipe, recipe.advantage_steps, t, generator))
        metrics = {"loss": torch.stack(losses).mean(), "samples": float(len(stream.strategies))}
        if t % recipe.policy_interval == 0 or t == recipe.steps:
            reset(learn_policy, model.policy)
            generator = derive_generator(recipe.seed, SeedStream.REPLAY_DRAWS, 3 * t + 2)
            metrics["policy_loss"] = train_on(
                learn_policy, stream.strategies, every, recipe, recipe.policy_steps, t, generator
            )
        return metrics

    state: dict[str, Any] = {"policy_optimizer": learn_policy.optimizer}
    state |= {f"advantage_optimizer_{p}": step.optimizer for p, step in enumerate(learn_advantage)}
    # only a new Π is worth an evaluation
    work = EVALUATION_SHARE * recipe.policy_interval
    examples = Examples(2 * recipe.traversals, None, unit="traversals", evaluation=work, update=1.0)
    yield make_run(model, recipe, tree, stream, update, state, model_config, examples)


FACTS = game_facts()


def reference() -> Iterator[ParityCase]:
    """The equations in plain operations."""
    from torchstone.references.multiagent import deep_cfr_cases

    yield from deep_cfr_cases(DeepCFR)
