"""Counterfactual regret minimization over a flat game tree: the exact solver that learned strategies are held
against.

Paper: Zinkevich, Johanson, Bowling and Piccione, "Regret minimization in games with incomplete information",
NeurIPS 2007; CFR+: Tammelin, "Solving large imperfect information games using CFR+", 2014, arXiv:1407.5042.

    v(h)       = Σ_a σ(h, a) v(ha)                         value of a node, of i's returns
    r_t(I, a)  = Σ_{h in I} π_{-i}(h) (v(ha) - v(h))       counterfactual regret; π_{-i}: chance and others
    R_T(I, a)  = Σ_t r_t(I, a);  CFR+: max(0, R_{T-1} + r_T)
    σ_{T+1}    = R⁺ / Σ_a R⁺, uniform where all R⁺ are 0   regret matching
    σ̄_T(I, a) ∝ Σ_t w_t π_i(I) σ_t(I, a)                  w_t = 1; CFR+: t

In a two-player zero-sum game the average strategy σ̄ goes to an equilibrium; σ_T itself need not. The players
take turns: the second one's regrets of an iteration are against the first one's new strategy.

Sums are taken in the order of a recursion over the histories, so that double precision has the bits of
open_spiel's solver. The iteration amplifies rounding: after 200 iterations of CFR+ on Leduc poker, sums in
another order are at another strategy, 0.02 away, as near to equilibrium.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchstone.parts.rl.game_tree import GameTree


def regret_matching(
    regret: Float[Tensor, "info action"], legal: Bool[Tensor, "info action"]
) -> Float[Tensor, "info action"]:
    """Probabilities in proportion to positive regrets; uniform over legal actions where there are none."""
    positive = torch.where(legal, regret.clamp(min=0), 0.0)
    return normalized(positive, legal)


def normalized(
    weight: Float[Tensor, "info action"], legal: Bool[Tensor, "info action"]
) -> Float[Tensor, "info action"]:
    """Probabilities in proportion to weights; uniform over legal actions where all are 0."""
    total = weight.cumsum(1)[:, -1:]  # in the order of the actions
    uniform = legal.to(weight.dtype) / legal.sum(1, keepdim=True)
    return torch.where(total > 0, weight / torch.where(total > 0, total, 1.0), uniform)


class CFR:
    """Iterations of CFR or CFR+ in double precision.

    Args:
        tree: the game.
        plus: CFR+: regrets never fall below 0, and iteration t counts t times in the average.
    """

    def __init__(self, tree: GameTree, *, plus: bool = False):
        self.tree, self.plus, self.iteration = tree, plus, 0
        self.regret, self.total = torch.zeros_like(tree.uniform), torch.zeros_like(tree.uniform)
        self.current = tree.uniform.clone()
        edges, begins = tree.edges, (1, *tree.level_ends[1:-1])
        self.levels = [slice(*ends) for ends in zip(begins, tree.level_ends[1:], strict=True)]
        self.own = [(edges.player == player).nonzero()[:, 0] for player in range(tree.num_players)]
        ones = torch.ones_like(edges.chance)
        self.chance_reach = self._reach(edges.chance)
        self.probability = edges.chance.clone()
        self.reach = [ones] * tree.num_players
        for player in range(tree.num_players):
            self._follow(player)

    def step(self, iterations: int = 1) -> None:
        """So many more iterations."""
        for _ in range(iterations):
            self.iteration += 1
            for player in range(self.tree.num_players):
                self._update(player)
                self._follow(player)

    def average(self) -> Float[Tensor, "info action"]:
        """σ̄."""
        return normalized(self.total, self.tree.legal)

    def _reach(self, probability: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
        """The product of the probabilities on the way to each node."""
        reach, parent = torch.ones_like(probability), self.tree.edges.parent
        for level in self.levels:
            reach[level] = reach[parent[level]] * probability[level]
        return reach

    def _follow(self, player: int) -> None:
        """Take over a player's current strategy: its moves' probabilities, and π of the nodes."""
        own = self.own[player]
        probability = self.current.flatten()[self.tree.edges.sequence[own]]
        self.probability[own] = probability
        self.reach[player] = self._reach(torch.ones_like(self.probability).index_copy_(0, own, probability))

    def _update(self, player: int) -> None:
        edges, own = self.tree.edges, self.own[player]
        # v(h)
        value = self.tree.returns[:, player].clone()
        for level in reversed(self.levels):
            value.index_add_(0, edges.parent[level], self.probability[level] * value[level])
        # π_{-i}(h)
        others = torch.ones_like(value)
        for other, reach in enumerate(self.reach):
            others = others if other == player else others * reach
        others = others * self.chance_reach
        before, sequence = edges.parent[own], edges.sequence[own]
        # R_T
        regret = others[before] * (value[own] - value[before])
        self.regret.view(-1).index_add_(0, sequence, regret)
        # Σ_t w_t π_i(I) σ_t(I, a)
        reach = self.reach[player][before]
        reach = self.iteration * reach if self.plus else reach
        self.total.view(-1).index_add_(0, sequence, reach * self.probability[own])
        if self.plus:
            self.regret.clamp_(min=0)
        infos = self.tree.info_player == player
        self.current[infos] = regret_matching(self.regret[infos], self.tree.legal[infos])


def solve(tree: GameTree, iterations: int) -> Float[Tensor, "info action"]:
    """The average strategy of so many iterations of CFR+: an equilibrium, nearly, of a two-player zero-sum
    game."""
    solver = CFR(tree, plus=True)
    solver.step(iterations)
    return solver.average()
