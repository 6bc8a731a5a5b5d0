"""In-context classification: episodes whose labels only their own examples tell, without end.

An episode maps a few symbols to random labels, and no other episode has the same mapping: what a model has
learned by heart is of no use (after Garg et al. 2022, arXiv:2208.01066; Chan et al. 2022, arXiv:2205.05055).
Its text is symbol and label in turn, `f3a0f3c1a`: each label can be predicted once its symbol has come
before, by the circuit that Olsson et al. 2022 (arXiv:2209.11895) call an induction head.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data.sampler import itself, load_position, position_state, share_of_batch
from torchstone.data.text import tokenizers
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

SYMBOLS, LABELS = "abcdefgh", "01234567"
PER_EPISODE = 4  # symbols of an episode, unless `in_context:COUNT` says how many
NAME = "in_context"
HELD_OUT = {"val": 1997, "test": 1998}  # seeds, the same for every run
IGNORED = -100  # torch's index of a target that is left out of the loss


class Episodes(NamedTuple):
    """Symbols in their order of appearance, and the label of each, both indices."""

    symbols: Int64[Tensor, "count examples"]
    labels: Int64[Tensor, "count examples"]

    def texts(self) -> list[str]:
        """Each episode as text, symbol and label in turn."""
        pairs = zip(self.symbols.tolist(), self.labels.tolist(), strict=True)
        return ["".join(SYMBOLS[s] + LABELS[y] for s, y in zip(*pair, strict=True)) for pair in pairs]


def is_in_context(spec: str) -> bool:
    """Whether `spec` names these episodes."""
    return spec.partition(":")[0] == NAME


def symbols_per_episode(spec: str) -> int:
    """The number of symbols that `in_context:COUNT` asks for.

    Raises:
        BadInput: it is none from 1 to 8.
    """
    _, colon, number = spec.partition(":")
    count = int(number) if number.isdecimal() else 0 if colon else PER_EPISODE
    if not 1 <= count <= len(SYMBOLS):
        raise BadInput(f"episodes have 1 to {len(SYMBOLS)} symbols: give {NAME} or {NAME}:COUNT, not {spec}")
    return count


def draw_episodes(
    count: int, examples: int, *, symbols: int = PER_EPISODE, generator: torch.Generator
) -> Episodes:
    """Episodes of so many examples: `symbols` different symbols, the label of each drawn uniformly and
    independently, and one of them drawn uniformly for each example."""
    chosen = torch.rand(count, len(SYMBOLS), generator=generator).argsort(1)[:, :symbols]
    mapping = torch.randint(len(LABELS), (count, symbols), generator=generator)
    which = torch.randint(symbols, (count, examples), generator=generator)
    return Episodes(chosen.gather(1, which), mapping.gather(1, which))


def optimal_accuracy(shots: int, symbols: int = PER_EPISODE) -> float:
    """The best expected accuracy after so many examples: the symbol asked for is among them, or its label
    can only be guessed. With s symbols and L labels it is 1 − (1 − 1/s)ⁿ (1 − 1/L)."""
    return 1 - (1 - 1 / symbols) ** shots * (1 - 1 / len(LABELS))


def make_tokenizer() -> Tokenizer:
    """Each symbol and each label is a token."""
    return tokenizers.train("characters", [SYMBOLS + LABELS], vocab_size=len(SYMBOLS + LABELS))


class InContextEpisodes:
    """Endless (x, y), each int64 (share, 2 · examples − 1): y is x one token later where that is a label,
    and `IGNORED` where it is a symbol, which nothing can tell.

    Episodes follow from `seed` and position alone, whatever the number of processes. `batch_size` is that of
    all processes together.

    Raises:
        BadInput: a context without room for two examples; a batch that cannot be shared.
    """

    def __init__(
        self,
        context: int,
        batch_size: int,
        *,
        symbols: int = PER_EPISODE,
        seed: int,
        device: torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        if context < 3:
            raise BadInput(f"a context of {context} tokens has no room for an example: use 3 or more")
        first, share = share_of_batch(batch_size, rank, world_size)
        self.examples = (context + 1) // 2
        self.batch_size, self.symbols, self.seed, self.device = batch_size, symbols, seed, device
        self.share = slice(first, first + share)
        ids = tokenizers.encode(make_tokenizer(), SYMBOLS + LABELS)
        self.symbol_ids, self.label_ids = ids[: len(SYMBOLS)], ids[len(SYMBOLS) :]
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Int64[Tensor, "share time"], Int64[Tensor, "share time"]]:
        # on the CPU whatever the device, so that the episodes do not depend on it
        generator = derive_generator(self.seed, SeedStream.IN_CONTEXT_EPISODES, self.position)
        episodes = draw_episodes(self.batch_size, self.examples, symbols=self.symbols, generator=generator)
        self.position += self.batch_size
        symbols, labels = (each[self.share] for each in episodes)
        tokens = torch.stack([self.symbol_ids[symbols], self.label_ids[labels]], 2).flatten(1)
        targets = torch.stack([self.label_ids[labels], torch.full_like(labels, IGNORED)], 2).flatten(1)
        return tokens[:, :-1].to(self.device), targets[:, :-1].to(self.device)
