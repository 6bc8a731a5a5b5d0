"""Tree search in a game whose rules are known."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.parts.rl import mcts

# states, and which of them are terminal -> logits (-∞ where illegal) and values, for the player to move
Outputs = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def search_game(
    game: Any,
    state: Tensor,
    outputs: Outputs,
    num_simulations: int,
    *,
    rule: mcts.Puct,
    root_noise: Callable[[Float[Tensor, "batch action"]], Float[Tensor, "batch action"]] | None = None,
    tree: mcts.Tree | None = None,
) -> mcts.Tree:
    """One tree for each state, none of which may be terminal.

    A value is in the view of the player to move. So what follows an action counts with the opposite sign
    where the other player moves next, and with its own where the same player moves again.

    Args:
        root_noise: priors' logits of the roots -> those with noise.
        tree: trees to go on with.
    """
    logits, value = outputs(state, torch.zeros(len(state), dtype=torch.bool))
    if root_noise is not None:
        logits = root_noise(logits)

    def step(action: Tensor, state: Tensor) -> tuple[mcts.RecurrentOutput, Tensor]:
        player, after = game.player(state), game.step(state, action)
        done, returns = game.outcome(after)
        reward = returns.gather(1, player[:, None])[:, 0]  # 0 until the game is over
        discount = torch.where(done, 0.0, torch.where(game.player(after) == player, 1.0, -1.0))
        logits, value = outputs(after, done)
        return mcts.RecurrentOutput(reward, discount, logits, value), after

    return mcts.search(mcts.RootOutput(logits, value, state), step, num_simulations, rule=rule, tree=tree)
