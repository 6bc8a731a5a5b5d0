"""NFSP: neural fictitious self-play.

Paper: Heinrich and Silver, "Deep reinforcement learning from self-play in imperfect-information games", 2016,
arXiv:1603.01121, algorithm 1.

The idea: in fictitious play each player plays a best response to the others' average strategies so far, and
in two-player zero-sum games the averages go to an equilibrium. Here each player has two networks. Q learns
the best response from a circular memory of its transitions, as DQN does. Π learns the player's own average
strategy, by classification of the actions that it took as a best response, which a reservoir samples
uniformly over all of training: a sample of the last ones would be of the last best response alone. At the
beginning of an episode each player draws which of the two it follows in it.

    σ       = ε-greedy(Q) with probability η, Π with probability 1 - η          per player and episode
    L(θ_Q)  = E[(r + max_a' Q(s', a'; θ_Q') - Q(s, a; θ_Q))²]                    (s, a, r, s') from M_RL
    L(θ_Π)  = E[-log Π(a|s; θ_Π)]                                                (s, a) from M_SL

M_RL gets every transition of the player, M_SL its (s, a) where it follows ε-greedy(Q). ε falls with the
inverse square root of the number of updates.

Shapes: what a player knows is `(batch, features)`; `forward` gives the logits of each player's Π and its Q,
both `(batch, players, actions)`. Plays run side by side as nodes of the game's tree; networks are evaluated
once for each information state, and a play looks its own up.

What differs from the paper: two minibatches are learned from after `num_games * num_steps` moves of all
plays, 128 as in the paper; where plays end is not waited for. The paper's games are Leduc poker and limit
Texas hold'em; `kuhn` has its numbers with a larger learning rate and more games. The measure is the
exploitability of Π, exact, from the tree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.run import Examples, Run
from torchstone.envs.reservoir import Memory, add_newest, add_uniformly
from torchstone.envs.tree_games import TreeGames, sample_branches
from torchstone.errors import BadInput
from torchstone.parts.facts import ParityCase
from torchstone.parts.rl.game_tree import GameTree
from torchstone.parts.rl.networks import mlp
from torchstone.parts.rl.q_learning import q_of_action, td_target
from torchstone.parts.rl.target_network import make_target, polyak_update
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
    variant: str = "nfsp"  # network
    hidden: tuple[int, ...] = (64,)  # hidden layer widths of Q and Π
    anticipatory: float = 0.1  # anticipatory parameter η: probability of an episode by the best response
    epsilon: float = 0.06  # initial ε: probability of a random action in a best response
    num_games: int = 256  # plays side by side
    num_steps: int = 1  # moves per play between updates
    gradient_steps: int = 2  # minibatches of each network per update
    batch_size: int = 256  # minibatch size
    optimizer: VectorOptimizer = "sgd"  # optimizer
    rl_lr: float = 0.1  # learning rate of Q
    sl_lr: float = 0.005  # learning rate of Π
    circular_size: int = 200_000  # size of the circular memory M_RL of a player
    reservoir_size: int = 2_000_000  # size of the reservoir M_SL of a player
    target_update_interval: int = 150  # updates between synchronizations of the target network
    steps: int = 6000  # updates, each after num_games x num_steps moves
    seed: int = 0  # random seed of weights, cards, moves and memories
    device: str = "auto"  # device: auto, cpu, cuda or mps


KUHN = Recipe()
RECIPES = {
    # torchstone train nfsp   630,000 plays, 43 s of one core; exploitability 0.065 to 0.093 (3 seeds)
    "kuhn": KUHN,
    # torchstone train nfsp/leduc   unmeasured: falling slowly after 200,000 plays
    "leduc": replace(KUHN, data="openspiel:leduc_poker"),
    # for tests: seconds
    "smoke": replace(KUHN, steps=120, sl_lr=0.05),
}

MARGIN = ("exploitability", -0.15)


class NFSP(nn.Module):
    """Each player's Π and Q: `forward` gives the logits of the ones and the values of the others.

    Args:
        num_features: numbers in what a player knows.
        hidden: hidden layer widths.
    """

    def __init__(self, num_features: int, num_actions: int, hidden: Sequence[int] = (64,), players: int = 2):
        super().__init__()
        widths = [num_features, *hidden, num_actions]
        self.q = nn.ModuleList(mlp(widths) for _ in range(players))
        self.policy = nn.ModuleList(mlp(widths) for _ in range(players))

    def forward(
        self, features: Float[Tensor, "batch feature"]
    ) -> tuple[Float[Tensor, "batch player action"], Float[Tensor, "batch player action"]]:
        logits, q = ([network(features) for network in each] for each in (self.policy, self.q))
        return torch.stack(logits, 1), torch.stack(q, 1)

    @torch.no_grad()
    def strategy(self, tree: GameTree) -> Float[Tensor, "info action"]:
        """Π in every information state, in double precision."""
        return masked_softmax(table_of(self.policy, tree), tree.legal)

    @torch.no_grad()
    def best_response(self, tree: GameTree, epsilon: float) -> Float[Tensor, "info action"]:
        """ε-greedy(Q) in every information state, in double precision."""
        q = table_of(self.q, tree).masked_fill(~tree.legal, -torch.inf)
        greedy = nn.functional.one_hot(q.argmax(1), tree.num_actions)
        return epsilon * tree.uniform + (1 - epsilon) * greedy


VARIANTS = {"nfsp": Variant(partial(NFSP, num_features=11, num_actions=2), (11,))}


class Experience(NamedTuple):
    """Minibatches of one player: transitions from M_RL, and state and action from M_SL. States are rows among
    the player's information states; `(minibatch, row)`."""

    state: Int64[Tensor, "minibatch row"]  # s
    action: Int64[Tensor, "minibatch row"]  # a
    reward: Float[Tensor, "minibatch row"]  # r
    next_state: Int64[Tensor, "minibatch row"]  # s'; 0 where the play ended
    discount: Float[Tensor, "minibatch row"]  # 0 where the play ended, else 1
    own_state: Int64[Tensor, "minibatch row"]  # s of M_SL
    own_action: Int64[Tensor, "minibatch row"]  # a of M_SL


class Batch(NamedTuple):
    """What an update learns from."""

    players: list[Experience]
    number: int  # updates before this one
    episodes: int  # plays that have ended so far


class FictitiousPlay:
    """Algorithm 1's experience: both players' moves, their memories, and minibatches of these.

    Moves follow from the seed, the number of batches so far, and the networks.
    """

    def __init__(self, model: NFSP, tree: GameTree, recipe: Recipe):
        self.model, self.tree, self.recipe = model, tree, recipe
        self.position, self.episodes = 0, 0
        whole_number, number = torch.zeros(0, dtype=torch.int32), torch.zeros(0)
        transition = dict.fromkeys(("state", "action", "next_state"), whole_number)
        transition |= {"reward": number, "discount": number}
        own = {"state": whole_number, "action": whole_number}
        players, seed = range(tree.num_players), recipe.seed
        self.transitions = [Memory(recipe.circular_size, transition) for _ in players]
        self.own_actions = [Memory(recipe.reservoir_size, own) for _ in players]
        generator = derive_generator(seed, SeedStream.EPISODES, 0)
        self.games = TreeGames(tree, recipe.num_games, generator)
        shape = recipe.num_games, tree.num_players
        # what each player follows in each play, and its last decision, whose outcome is not known yet
        self.is_best_response = torch.rand(shape, generator=generator) < recipe.anticipatory
        self.last_state = torch.full(shape, -1)
        self.last_action = torch.zeros(shape, dtype=torch.long)

    def __iter__(self) -> "FictitiousPlay":
        return self

    def epsilon(self) -> float:
        """ε, which falls with the inverse square root of the number of updates."""
        return self.recipe.epsilon / (1 + self.position) ** 0.5

    @torch.no_grad()
    def __next__(self) -> Batch:
        recipe = self.recipe
        average, greedy = self.model.strategy(self.tree), self.model.best_response(self.tree, self.epsilon())
        generator = derive_generator(recipe.seed, SeedStream.ROLLOUT_ACTIONS, self.position)
        self._play(average, greedy, recipe.num_steps, generator)
        while min(map(len, [*self.own_actions, *self.transitions])) == 0:
            self._play(average, greedy, 1, generator)
        generator = derive_generator(recipe.seed, SeedStream.REPLAY_DRAWS, self.position)
        players = [self._sample(player, generator) for player in range(self.tree.num_players)]
        self.position += 1
        return Batch(players, self.position - 1, self.episodes)

    def _play(self, average: Tensor, greedy: Tensor, num_steps: int, generator: torch.Generator) -> None:
        """So many moves of each play, into the memories."""
        tree, games = self.tree, self.games
        index, moves = torch.arange(len(games.node)), []
        finished: list[list[Any]] = [[] for _ in range(tree.num_players)]
        for _ in range(num_steps):
            player, info = games.player, games.info_state
            state = tree.rows[info]
            is_best = self.is_best_response[index, player]
            probability = torch.where(is_best[:, None], greedy[info], average[info])
            action = sample_branches(probability, generator)
            last_state, last_action = self.last_state[index, player], self.last_action[index, player]
            moves.append((player, state, action, is_best, last_state, last_action))
            self.last_state[index, player], self.last_action[index, player] = state, action
            is_over, returns = games.step(action, generator)
            ended = is_over.nonzero()[:, 0]
            for each in range(tree.num_players):
                decided = ended[self.last_state[ended, each] >= 0]
                rows = self.last_state[decided, each], self.last_action[decided, each]
                finished[each].append((*rows, returns[decided, each]))
            self.last_state[ended] = -1
            fresh = torch.rand(len(ended), tree.num_players, generator=generator)
            self.is_best_response[ended] = fresh < self.recipe.anticipatory
            self.episodes += len(ended)
        player, state, action, is_best, last_state, last_action = map(torch.cat, zip(*moves, strict=True))
        for each, (transitions, own) in enumerate(zip(self.transitions, self.own_actions, strict=True)):
            # from one decision of the player to its next
            at = ((player == each) & (last_state >= 0)).nonzero()[:, 0]
            columns = last_state[at], last_action[at], state[at], torch.zeros(len(at)), torch.ones(len(at))
            add_newest(transitions, dict(zip(transitions.columns, columns, strict=True)))
            # from its last decision to the end
            rows, actions, reward = map(torch.cat, zip(*finished[each], strict=True))
            zeros = torch.zeros(len(rows))
            columns = rows, actions, zeros, reward, zeros
            add_newest(transitions, dict(zip(transitions.columns, columns, strict=True)))
            at = ((player == each) & is_best).nonzero()[:, 0]
            items = {"state": state[at], "action": action[at]}
            add_uniformly(own, items, self.recipe.seed * 2 + each)

    def _sample(self, player: int, generator: torch.Generator) -> Experience:
        shape = self.recipe.gradient_steps, self.recipe.batch_size
        count = shape[0] * shape[1]
        rl = self.transitions[player].sample(count, generator)
        sl = self.own_actions[player].sample(count, generator)
        return Experience(
            *(rl[name].view(shape).long() for name in ("state", "action")),
            rl["reward"].view(shape),
            rl["next_state"].view(shape).long(),
            rl["discount"].view(shape),
            *(sl[name].view(shape).long() for name in ("state", "action")),
        )

    def _parts(self) -> dict[str, Any]:
        players = range(self.tree.num_players)
        memories = {f"transitions_{player}": self.transitions[player] for player in players}
        return memories | {f"own_actions_{p}": self.own_actions[p] for p in players} | {"games": self.games}

    def state_dict(self) -> dict[str, Any]:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"position": self.position, "episodes": self.episodes}
        for name in ("is_best_response", "last_state", "last_action"):
            state[name] = getattr(self, name).clone()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.episodes = state["position"], state["episodes"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in ("is_best_response", "last_state", "last_action"):
            setattr(self, name, state[name].clone())


def q_loss(
    model: NFSP, target_network: nn.ModuleList, infos: list[InfoStates], batches: list[Experience]
) -> dict[str, Tensor]:
    """L(θ_Q), of both players, whose networks are apart."""
    total = torch.zeros(())
    for network, target, (features, legal), each in zip(model.q, target_network, infos, batches, strict=True):
        with torch.no_grad():
            next_q = at_rows(target, features, each.next_state)
            # the best of the legal actions
            next_q = next_q.masked_fill(~legal[each.next_state], torch.finfo(next_q.dtype).min)
            y = td_target(each.reward, each.discount, next_q)
        q = q_of_action(at_rows(network, features, each.state), each.action)
        total = total.to(q.device) + (y - q).square().mean()
    return {"loss": total}


def policy_loss(model: NFSP, infos: list[InfoStates], batches: list[Experience]) -> dict[str, Tensor]:
    """L(θ_Π), of both players."""
    total = torch.zeros(())
    for network, (features, legal), each in zip(model.policy, infos, batches, strict=True):
        logits = at_rows(network, features, each.own_state)
        log_prob = logits.masked_fill(~legal[each.own_state], -torch.inf).log_softmax(1)
        total = total.to(logits.device) + nll_loss(log_prob, each.own_action)
    return {"loss": total}


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.anticipatory == 0:
        raise BadInput("anticipatory must be above 0: without a best response there is nothing to average")
    rng.seed(recipe.seed)
    device = select_device(recipe.device)
    tree = read_game(recipe.data)
    sizes = {"num_features": tree.features.shape[1], "num_actions": tree.num_actions}
    model_config = {**sizes, "hidden": list(recipe.hidden)}
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    target_network = make_target(model.q)
    infos = [info_states(tree, player, device) for player in range(tree.num_players)]
    learn_q = FlatGradientUpdate(
        lambda batches: q_loss(model, target_network, infos, batches),
        model.q,
        vector_optimizer(recipe.optimizer, recipe.rl_lr),
    )
    learn_policy = FlatGradientUpdate(
        lambda batches: policy_loss(model, infos, batches),
        model.policy,
        vector_optimizer(recipe.optimizer, recipe.sl_lr),
    )
    stream = FictitiousPlay(model, tree, recipe)

    def update(batch: Batch) -> dict:
        if batch.number % recipe.target_update_interval == 0:
            polyak_update(target_network, model.q, 1.0)
        for number in range(recipe.gradient_steps):
            minibatch = [
                Experience(*(each[number].to(device) for each in player)) for player in batch.players
            ]
            q_metrics, policy_metrics = learn_q(minibatch), learn_policy(minibatch)
        metrics = {"loss": policy_metrics["loss"], "q_loss": q_metrics["loss"]}
        return {**metrics, "epsilon": stream.epsilon(), "episodes": float(batch.episodes)}

    state = {"q_optimizer": learn_q.optimizer, "policy_optimizer": learn_policy.optimizer}
    state["target_network"] = target_network
    moves = recipe.num_games * recipe.num_steps
    examples = Examples(moves, None, unit="moves", evaluation=float(tree.num_infos))
    yield make_run(model, recipe, tree, stream, update, state, model_config, examples)


FACTS = game_facts()


def reference() -> Iterator[ParityCase]:
    """stable-baselines3's multilayer perceptrons, one for each network."""
    from torchstone.references.multiagent import nfsp_cases

    yield from nfsp_cases(NFSP)
