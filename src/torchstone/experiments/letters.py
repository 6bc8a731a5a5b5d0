"""Shakespeare's letters as sequences for experiments: the next letter, the ends of words, hidden letters."""

import string
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from torchstone.data.text.corpus import read_text
from torchstone.experiments.sequences import HELD_OUT_SEED, IGNORED, Draw

LETTERS = string.ascii_lowercase
SPACE, KINDS = 0, 1 + len(LETTERS)  # 0 stands for anything between words
HIDDEN = KINDS  # the token in place of a letter that is to be predicted
WINDOW = 48
LONGEST = 400_000  # characters of each split


class Sequence(NamedTuple):
    """Inputs and the target of each."""

    inputs: Int64[Tensor, " letters"]
    targets: Int64[Tensor, " letters"]


@cache
def letters(split: str) -> Int64[Tensor, " letters"]:
    """The letters of the plays for `train`ing or for the `test`."""
    return letters_of(getattr(read_text("shakespeare"), split)[:LONGEST])


def letters_of(text: str) -> Int64[Tensor, " letters"]:
    words = "".join(c if c in LETTERS else " " for c in text.lower()).split()
    return torch.tensor([1 + LETTERS.index(c) if c != " " else SPACE for c in " ".join(words)])


def next_letter(split: str) -> Sequence:
    each = letters(split)
    return Sequence(each[:-1], each[1:])


def word_ends(split: str) -> Sequence:
    """The letters without spaces, and 1 where a word ends."""
    return without_spaces(letters(split))


def without_spaces(each: Int64[Tensor, " letters"]) -> Sequence:
    is_letter = each[:-1] > SPACE
    return Sequence(each[:-1][is_letter], (each[1:] == SPACE)[is_letter].long())


def windows(
    count: int, generator: torch.Generator, sequence: Sequence, only_last: bool = False
) -> tuple[Tensor, Tensor]:
    """Windows anywhere in a sequence; with `only_last` only the last target counts."""
    start = torch.randint(len(sequence.inputs) - WINDOW, (count,), generator=generator)
    rows = start[:, None] + torch.arange(WINDOW)
    y = sequence.targets[rows]
    if only_last:
        y = torch.where(torch.arange(WINDOW) < WINDOW - 1, IGNORED, y)
    return sequence.inputs[rows], y


def hidden_letters(count: int, generator: torch.Generator, split: str) -> tuple[Tensor, Tensor]:
    """Windows of which 15 % are hidden, and these as targets."""
    x, _ = windows(count, generator, next_letter(split))
    is_hidden = torch.rand(x.shape, generator=generator) < 0.15
    return x.masked_fill(is_hidden, HIDDEN), x.masked_fill(~is_hidden, IGNORED)


def draw_windows(sequence: Sequence) -> Draw:
    return partial(windows, sequence=sequence)


def held_out_windows(sequence: Sequence, count: int = 1000, **options: Any) -> tuple[Tensor, Tensor]:
    """The same for every seed."""
    return windows(count, torch.Generator().manual_seed(HELD_OUT_SEED), sequence, **options)
