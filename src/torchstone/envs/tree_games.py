"""Many plays of one game at once, each of them a node of its flat tree."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.parts.rl.game_tree import CHANCE, TERMINAL, GameTree


def sample_branches(
    probability: Float[Tensor, "row branch"], generator: torch.Generator
) -> Int64[Tensor, " row"]:
    """One branch of each row by its probability; a branch of probability 0 never."""
    total = probability.cumsum(1)
    uniform = torch.rand(len(probability), 1, generator=generator, dtype=torch.double)
    return (total <= uniform * total[:, -1:]).sum(1)


class Ended(NamedTuple):
    """Which plays a move ended, and the returns of all; 0 where the play goes on."""

    is_over: Bool[Tensor, " game"]
    returns: Float[Tensor, "game player"]


class TreeGames:
    """Plays that always wait for a player's move: chance moves by itself, and what is over begins anew.

    Args:
        num_games: plays side by side.
    """

    def __init__(self, tree: GameTree, num_games: int, generator: torch.Generator):
        self.tree = tree
        self.node = torch.zeros(num_games, dtype=torch.long)
        self._move_chance(generator)

    @property
    def info_state(self) -> Int64[Tensor, " game"]:
        """What the player that is to move knows."""
        return self.tree.info_state[self.node]

    @property
    def player(self) -> Int64[Tensor, " game"]:
        """Who is to move."""
        return self.tree.player[self.node]

    def step(self, action: Int64[Tensor, " game"], generator: torch.Generator) -> Ended:
        """One move in each play."""
        tree = self.tree
        self.node = tree.child[self.node, action]
        self._move_chance(generator)
        is_over, returns = tree.player[self.node] == TERMINAL, tree.returns[self.node]
        if is_over.any():
            self.node = self.node.masked_fill(is_over, 0)
            self._move_chance(generator)
        return Ended(is_over, returns)

    def _move_chance(self, generator: torch.Generator) -> None:
        while len(waiting := (self.tree.player[self.node] == CHANCE).nonzero()[:, 0]):
            node = self.node[waiting]
            branch = sample_branches(self.tree.chance[node], generator)
            self.node[waiting] = self.tree.child[node, branch]

    def state_dict(self) -> dict[str, Tensor]:
        return {"node": self.node.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.node = state["node"].clone()
