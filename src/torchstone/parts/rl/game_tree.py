"""A game with chance and hidden cards as flat tensors: values, best responses, and how far a strategy is from
equilibrium.

Nodes are numbered level by level from the root, 0. An information state is what a player knows when it is to
move: all nodes that it cannot tell apart. A strategy is a table `(info, action)` of probabilities, 0 where an
action is illegal. With perfect recall a player's own decisions before an information state are the same in
all of its nodes, so that its own part of the probability to get there belongs to a *sequence*: the last of
those decisions (Koller, Megiddo and von Stengel 1994). Sequence `info * actions + action` is that decision;
the empty sequences of the players follow after all of these.

    x(I, a) = x(parent(I)) σ(I, a)                            realization weight, 1 of the empty sequence
    q(I, a) = Σ_z π_c(z) Π_{j≠i} x_j(z) u_i(z) + Σ_J v(J)     over ends z that follow (I, a) without another
    v(I)    = Σ_a σ(I, a) q(I, a)                             decision of i's, and the next decisions J
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

CHANCE, TERMINAL = -1, -2  # in place of a player's number


@dataclass(frozen=True, eq=False)
class GameTree:
    """A whole game of two players or more with perfect recall."""

    player: Int64[Tensor, " node"]  # who moves: a player, CHANCE or TERMINAL
    info_state: Int64[Tensor, " node"]  # of a player's node; -1 of others
    child: Int64[
        Tensor, "node branch"
    ]  # next node by action, or by outcome of chance; -1 where there is none
    chance: Float[Tensor, "node branch"]  # probability of each outcome; 0 at nodes that are not chance's
    returns: Float[Tensor, "node player"]  # at the end; 0 before
    level_ends: tuple[int, ...]  # node after the last one of each level
    info_player: Int64[Tensor, " info"]  # whose information state it is
    legal: Bool[Tensor, "info action"]  # legal actions
    features: Float[Tensor, "info feature"]  # what a network sees of it
    parent_sequence: Int64[Tensor, " info"]  # the player's own decision before
    info_level: Int64[Tensor, " info"]  # number of its own decisions before
    terminal_sequence: Int64[Tensor, "terminal player"]  # each player's last decision
    terminal_chance: Float[Tensor, " terminal"]  # product of the probabilities of chance
    terminal_returns: Float[Tensor, "terminal player"]  # returns
    info_names: tuple[str, ...] = ()  # the game's own text of each information state
    action_names: tuple[tuple[str, ...], ...] = ()  # of each information state's actions; "" where illegal

    @property
    def num_players(self) -> int:
        return self.returns.shape[1]

    @property
    def num_actions(self) -> int:
        return self.legal.shape[1]

    @property
    def num_infos(self) -> int:
        return len(self.info_player)

    @property
    def num_sequences(self) -> int:
        return self.legal.numel() + self.num_players

    @functools.cached_property
    def levels(self) -> tuple[tuple[Tensor, ...], ...]:
        """For each player, its information states by the number of its own decisions before."""
        found = []
        for player in range(self.num_players):
            own = (self.info_player == player).nonzero()[:, 0]
            level = self.info_level[own]
            depth = int(level.max()) + 1 if len(own) else 0
            found.append(tuple(own[level == number] for number in range(depth)))
        return tuple(found)

    @functools.cached_property
    def rows(self) -> Int64[Tensor, " info"]:
        """The number of each information state among those of its player."""
        numbers = torch.zeros_like(self.info_player)
        for player in range(self.num_players):
            own = self.info_player == player
            numbers[own] = torch.arange(int(own.sum()))
        return numbers

    @functools.cached_property
    def edges(self) -> "Edges":
        """What led to each node."""
        return Edges.of(self)

    @functools.cached_property
    def uniform(self) -> Float[Tensor, "info action"]:
        """The strategy that takes each legal action with the same probability."""
        legal = self.legal.double()
        return legal / legal.sum(1, keepdim=True)


class Edges(NamedTuple):
    """The move that led to each node; of the root, which has none, `parent` and `player` are 0 and CHANCE."""

    parent: Int64[Tensor, " node"]  # node before
    player: Int64[Tensor, " node"]  # whose move it was: a player or CHANCE
    sequence: Int64[Tensor, " node"]  # of a player's move: `info * actions + action`; 0 of chance's
    chance: Float[Tensor, " node"]  # of chance's move: its probability; 1 of players'

    @classmethod
    def of(cls, tree: GameTree) -> "Edges":
        node, branch = (tree.child >= 0).nonzero(as_tuple=True)
        after = tree.child[node, branch]
        parent, sequence = torch.zeros_like(tree.player), torch.zeros_like(tree.player)
        player, chance = torch.full_like(tree.player, CHANCE), tree.chance.new_ones(len(tree.player))
        parent[after], player[after] = node, tree.player[node]
        is_chance = tree.player[node] == CHANCE
        sequence[after] = torch.where(is_chance, 0, tree.info_state[node] * tree.num_actions + branch)
        chance[after] = torch.where(is_chance, tree.chance[node, branch], 1.0)
        return cls(parent, player, sequence, chance)


def realization_weights(
    tree: GameTree, strategy: Float[Tensor, "info action"], players: range | None = None
) -> Float[Tensor, " sequence"]:
    """x: the product of each player's own probabilities up to each sequence.

    Args:
        players: whose weights are wanted; those of others are 1.
    """
    weight = strategy.new_ones(tree.num_sequences)
    table = weight[: tree.legal.numel()].view_as(tree.legal)
    for player in players or range(tree.num_players):
        for infos in tree.levels[player]:
            table[infos] = weight[tree.parent_sequence[infos], None] * strategy[infos]
    return weight


def terminal_values(
    tree: GameTree, weight: Float[Tensor, " sequence"], player: int
) -> Float[Tensor, " sequence"]:
    """The first sum of q: what the ends after each of `player`'s sequences are worth, weighted by chance and
    by all other players."""
    value = tree.terminal_chance * tree.terminal_returns[:, player]
    for other in range(tree.num_players):
        if other != player:
            value = value * weight[tree.terminal_sequence[:, other]]
    return weight.new_zeros(tree.num_sequences).index_add_(0, tree.terminal_sequence[:, player], value)


def counterfactual_values(
    tree: GameTree, strategy: Float[Tensor, "info action"], weight: Float[Tensor, " sequence"], player: int
) -> tuple[Float[Tensor, " sequence"], Float[Tensor, " info"]]:
    """q of all of `player`'s sequences and v of its information states, where all follow `strategy`; its
    value of the game is the q of its empty sequence."""
    q = terminal_values(tree, weight, player)
    table = q[: tree.legal.numel()].view_as(tree.legal)
    value = strategy.new_zeros(tree.num_infos)
    for infos in reversed(tree.levels[player]):
        value[infos] = v = (strategy[infos] * table[infos]).sum(1)
        q.index_add_(0, tree.parent_sequence[infos], v)
    return q, value


class BestResponse(NamedTuple):
    """The best that one player can do against the strategies of the others."""

    value: Float[Tensor, ""]  # its expected return
    action: Int64[Tensor, " info"]  # best action in each of its information states; 0 in those of others


def best_response(tree: GameTree, strategy: Float[Tensor, "info action"], player: int) -> BestResponse:
    """The best response of `player` to the others' part of `strategy`: v(I) = max_a q(I, a)."""
    q = terminal_values(tree, realization_weights(tree, strategy), player)
    table = q[: tree.legal.numel()].view_as(tree.legal)
    action = torch.zeros_like(tree.info_player)
    for infos in reversed(tree.levels[player]):
        v, action[infos] = table[infos].masked_fill(~tree.legal[infos], -torch.inf).max(1)
        q.index_add_(0, tree.parent_sequence[infos], v)
    return BestResponse(q[tree.legal.numel() + player], action)


def expected_returns(tree: GameTree, strategy: Float[Tensor, "info action"]) -> Float[Tensor, " player"]:
    """Each player's expected return where all follow `strategy`."""
    weight = realization_weights(tree, strategy)
    reach = tree.terminal_chance * weight[tree.terminal_sequence].prod(1)
    return reach @ tree.terminal_returns


def nash_conv(tree: GameTree, strategy: Float[Tensor, "info action"]) -> float:
    """Σ_i (best response of i - value of i): what the players would gain if each alone went over to its best
    response; 0 at an equilibrium, and nowhere else (Lanctot et al. 2017)."""
    best = sum(float(best_response(tree, strategy, i).value) for i in range(tree.num_players))
    return best - float(expected_returns(tree, strategy).sum())


def exploitability(tree: GameTree, strategy: Float[Tensor, "info action"]) -> float:
    """NashConv over the number of players. In a zero-sum game of two: how much less than the game's value the
    strategy wins, mean over both sides, against whoever knows it best."""
    return nash_conv(tree, strategy) / tree.num_players
