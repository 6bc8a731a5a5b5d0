"""The switch riddle: prisoners who share one light bulb (Foerster et al. 2016, arXiv:1605.06676, section
6.1).

Each day one of n prisoners, at random, is in the interrogation room. There it sees the bulb, and switches
it on or off as it leaves. It may tell the guards that everyone has been there: all are freed (1) if that is
so, and all are lost (-1) if not. After 4n - 6 days nothing comes (0).
"""

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput

PREFIX = "switch_riddle:"
ENUMERATED = 5000  # courses of days that are all tried in an evaluation


class Riddle(NamedTuple):
    """How many prisoners and days."""

    prisoners: int

    @property
    def days(self) -> int:
        return 4 * self.prisoners - 6


def read_riddle(spec: str) -> Riddle:
    """The riddle `switch_riddle:N` of N prisoners.

    Raises:
        BadInput: no number of prisoners, or fewer than 3.
    """
    text = spec.removeprefix(PREFIX)
    if not spec.startswith(PREFIX) or not text.isdigit() or int(text) < 3:
        raise BadInput(f"no riddle {spec!r}: {PREFIX}3, or of 4 prisoners or more")
    return Riddle(int(text))


def everyone_was_there(room: Int64[Tensor, "game day"], prisoners: int) -> Bool[Tensor, "game day"]:
    """Whether all have been in the room by the end of each day."""
    visited = torch.nn.functional.one_hot(room, prisoners).cumsum(1) > 0
    return visited.all(2)


def all_courses(riddle: Riddle) -> Int64[Tensor, "game day"]:
    """Every course of the days, each as likely as another.

    Raises:
        BadInput: there are too many to try.
    """
    if riddle.prisoners**riddle.days > ENUMERATED:
        raise BadInput(f"{riddle.prisoners} prisoners have too many courses of {riddle.days} days to try all")
    return torch.tensor(list(itertools.product(range(riddle.prisoners), repeat=riddle.days)))


def random_courses(riddle: Riddle, games: int, generator: torch.Generator) -> Int64[Tensor, "game day"]:
    return torch.randint(riddle.prisoners, (games, riddle.days), generator=generator)


def oracle_returns(room: Int64[Tensor, "game day"], prisoners: int) -> Float[Tensor, " game"]:
    """Of someone who knows everything, and tells as soon as it is so."""
    return everyone_was_there(room, prisoners)[:, -1].double()
