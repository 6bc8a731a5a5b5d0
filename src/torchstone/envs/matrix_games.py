"""Small games whose exact solutions are known: payoff matrices of two players, and the two-step game.

A game is written `matrix:NAME`. A matrix has player 1's actions as rows and player 2's as columns.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import BadInput, did_you_mean

PREFIX = "matrix:"
# climbing and penalty: Claus and Boutilier, "The dynamics of reinforcement learning in cooperative multiagent
# systems", AAAI 1998; their players share the payoff
CLIMBING = [[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]]
PENALTY = [[10.0, 0.0, -100.0], [0.0, 2.0, 0.0], [-100.0, 0.0, 10.0]]
PAYOFFS = {
    # prisoner's dilemma: action 0 cooperates
    "ipd": [[[-1.0, -3.0], [0.0, -2.0]], [[-1.0, 0.0], [-3.0, -2.0]]],
    # the same dilemma, where player 2's action 1 cooperates and its stakes are higher
    "asymmetric_ipd": [[[-3.0, -1.0], [-2.0, 0.0]], [[0.0, -1.5], [-3.0, -4.5]]],
    "matching_pennies": [[[1.0, -1.0], [-1.0, 1.0]], [[-1.0, 1.0], [1.0, -1.0]]],
    "climbing": [CLIMBING, CLIMBING],
    "penalty": [PENALTY, PENALTY],
}
# QMIX's: player 1 of the first step chooses whether the second is played with the one or the other
TWO_STEP = [[[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]]
# actions of both players that cooperate; None where that word has no meaning
COOPERATION = {"ipd": (0, 0), "asymmetric_ipd": (0, 1)}


def payoff_of(spec: str) -> Float[Tensor, "player first second"]:
    """Both players' payoffs in the game `matrix:NAME`.

    Raises:
        BadInput: no such game.
    """
    name = spec.removeprefix(PREFIX)
    if not spec.startswith(PREFIX) or name not in PAYOFFS:
        known = [PREFIX + each for each in PAYOFFS]
        raise BadInput(f"no game of two payoff matrices {spec!r}: {did_you_mean(spec, known, known)}")
    return torch.tensor(PAYOFFS[name])


def describe(spec: str) -> dict[str, Any]:
    """What is known of a game."""
    name = spec.removeprefix(PREFIX)
    return {"payoffs": TWO_STEP if name == "two_step" else PAYOFFS[name]}
