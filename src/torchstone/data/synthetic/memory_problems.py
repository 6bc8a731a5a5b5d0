"""Problems that can only be solved by remembering: drawn without end, from a seed and a position."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed

HELD_OUT = {"val": 1997, "test": 1998}  # seeds, the same for every run
SYMBOLS, COPIED, BLANK, GO = 8, 10, 0, 9  # what copying is drawn from; symbols are 1 to 8
ADDING_BASELINE = 1 / 6  # mean squared error of who always answers the mean, 1


def adding(
    length: int, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "count length 2"], Float[Tensor, "count 1"]]:
    """Numbers of [0, 1), two of them marked by a 1 beside them, one in each half: what is their sum?

    Hochreiter & Schmidhuber 1997, section 5.4, with the marks of Le et al. 2015 (arXiv:1504.00941).
    """
    numbers = torch.rand(count, length, generator=generator)
    half = length // 2
    places = torch.stack(
        [
            torch.randint(half, (count,), generator=generator),
            torch.randint(half, length, (count,), generator=generator),
        ],
        1,
    )
    marks = torch.zeros(count, length).scatter_(1, places, 1.0)
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdim=True)


def copying(
    length: int, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "count time 10"], Int64[Tensor, "count time"]]:
    """Ten symbols, `length` blanks with a sign to go at their end, ten blanks: repeat the symbols.

    Arjovsky et al. 2015 (arXiv:1511.06464), section 4.1; `time` is length + 20. Whoever cannot
    remember guesses among 8 in ten moments: a loss of `forgetful(length)` is the best for that one.
    """
    symbols = torch.randint(1, SYMBOLS + 1, (count, COPIED), generator=generator)
    x = copy_sequence(symbols, length)
    y = torch.full(x.shape[:2], BLANK)
    y[:, -COPIED:] = symbols
    return x, y


def copy_sequence(symbols: Int64[Tensor, "count symbols"], length: int) -> Float[Tensor, "count time 10"]:
    """Symbols, blanks with the sign to go, and the time to repeat them in; one-hot."""
    blanks = torch.full((len(symbols), length + COPIED), BLANK)
    blanks[:, length - 1] = GO
    return F.one_hot(torch.cat([symbols, blanks], 1), SYMBOLS + 2).float()


def memoryless_loss(length: int) -> float:
    """The loss of copying, in nats a moment, without any memory: 10 ln 8 / (length + 20)."""
    return COPIED * math.log(SYMBOLS) / (length + 2 * COPIED)


PROBLEMS = {"adding": adding, "copy": copying}


class MemoryProblems:
    """Endless (x, y) of `kind`, fixed by `seed` and position alone: neither resuming nor more
    processes change any of them. `batch` is that of all `world` processes together.

    Raises:
        BadInput: a length that is too short; a batch that cannot be shared.
    """

    def __init__(
        self, kind: str, length: int, batch: int, *, seed: int, device: torch.device | None = None,
        rank: int = 0, world_size: int = 1,
    ):  # fmt: skip
        if length < 2:
            raise BadInput(f"a problem of {length} moments has nothing to remember: give 2 or more")
        first, share = share_of_batch(batch, rank, world_size)
        self.kind, self.length, self.batch, self.seed = kind, length, batch, seed
        self.device = device
        self.share = slice(first, first + share)
        self.position = 0

    def __iter__(self) -> "Puzzles":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        # on the CPU whatever the device, so that every device sees the same problems
        generator = torch.Generator().manual_seed(
            derive_seed(self.seed, SeedStream.MEMORY_PROBLEMS, self.position)
        )
        x, y = PROBLEMS[self.kind](self.length, self.batch, generator)
        self.position += self.batch
        return x[self.share].to(self.device), y[self.share].to(self.device)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
