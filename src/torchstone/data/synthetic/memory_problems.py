"""Memory problems, the adding problem and the copying task: endless batches, fixed by seed and position."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.sampler import itself, load_position, position_state, share_of_batch
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

HELD_OUT = {"val": 1997, "test": 1998}  # seeds, the same for every run
SYMBOLS, COPIED, BLANK, GO = 8, 10, 0, 9  # copying: kinds of symbols (1 to 8), symbols to copy, blank, signal
ADDING_BASELINE = 1 / 6  # mean squared error of always answering the mean, 1


def adding(
    length: int, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "count length 2"], Float[Tensor, "count 1"]]:
    """The adding problem: numbers in [0, 1), one in each half marked by a 1; what is the sum of the two?

    Hochreiter & Schmidhuber 1997, section 5.4, with the marks of Le et al. 2015 (arXiv:1504.00941).
    """
    numbers = torch.rand(count, length, generator=generator)
    half = length // 2
    positions = torch.stack(
        [
            torch.randint(half, (count,), generator=generator),
            torch.randint(half, length, (count,), generator=generator),
        ],
        1,
    )
    marks = torch.zeros(count, length).scatter_(1, positions, 1.0)
    return torch.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdim=True)


def copying(
    length: int, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "count time 10"], Int64[Tensor, "count time"]]:
    """The copying task: ten symbols, `length` blanks the last of which is the signal, ten blanks; repeat
    the symbols.

    Arjovsky et al. 2015 (arXiv:1511.06464), section 4.1; `time` is length + 20. Without memory the best
    is to guess among 8 symbols at ten time steps: a loss of `memoryless_loss(length)`.
    """
    symbols = torch.randint(1, SYMBOLS + 1, (count, COPIED), generator=generator)
    x = copy_sequence(symbols, length)
    y = torch.full(x.shape[:2], BLANK)
    y[:, -COPIED:] = symbols
    return x, y


def copy_sequence(symbols: Int64[Tensor, "count symbols"], length: int) -> Float[Tensor, "count time 10"]:
    """The input of the copying task: symbols, blanks with the signal, and time to repeat them; one-hot."""
    blanks = torch.full((len(symbols), length + COPIED), BLANK)
    blanks[:, length - 1] = GO
    return F.one_hot(torch.cat([symbols, blanks], 1), SYMBOLS + 2).float()


def memoryless_loss(length: int) -> float:
    """The best loss in copying without memory, in nats per time step: 10 ln 8 / (length + 20)."""
    return COPIED * math.log(SYMBOLS) / (length + 2 * COPIED)


PROBLEMS = {"adding": adding, "copy": copying}


class MemoryProblems:
    """Endless (x, y) of `kind`, fixed by `seed` and position alone, whatever the number of processes.
    `batch_size` is that of all processes together.

    Raises:
        BadInput: a length that is too short; a batch that cannot be shared.
    """

    def __init__(
        self,
        kind: str,
        length: int,
        batch_size: int,
        *,
        seed: int,
        device: torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        if length < 2:
            raise BadInput(f"a problem of {length} time steps has nothing to remember: use 2 or more")
        first, share = share_of_batch(batch_size, rank, world_size)
        self.kind, self.length, self.batch_size, self.seed = kind, length, batch_size, seed
        self.device = device
        self.share = slice(first, first + share)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Tensor, Tensor]:
        # on the CPU whatever the device, so that the problems do not depend on it
        generator = derive_generator(self.seed, SeedStream.MEMORY_PROBLEMS, self.position)
        x, y = PROBLEMS[self.kind](self.length, self.batch_size, generator)
        self.position += self.batch_size
        return x[self.share].to(self.device), y[self.share].to(self.device)
