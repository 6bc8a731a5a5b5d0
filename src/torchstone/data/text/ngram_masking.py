"""Which tokens are masked together: n-grams of whole words.

Lan et al. 2019 (arXiv:1909.11942), section 4.1, after Joshi et al. 2019 (arXiv:1907.10529).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

SPACE = "▁"  # begins a word in SentencePiece's vocabularies
SUFFIX = "##"  # continues one in WordPiece's


class NGrams(NamedTuple):
    """Masking by n-grams of words, 1 ≤ n ≤ `max_length`; `is_start` says which token ids begin a word."""

    max_length: int
    is_start: Bool[Tensor, " vocab_size"]


def word_starts(tokenizer: Any, vocab_size: int) -> Bool[Tensor, " vocab_size"]:
    """Which token ids begin a word: in SentencePiece's vocabularies those with a `▁` in front, in WordPiece's
    those without `##`."""
    vocabulary = tokenizer.get_vocab()
    has_spaces = any(token.startswith(SPACE) and len(token) > 1 for token in vocabulary)
    is_start = torch.ones(vocab_size, dtype=torch.bool)
    for token, i in vocabulary.items():
        if i < vocab_size:
            is_start[i] = token.startswith(SPACE) if has_spaces else not token.startswith(SUFFIX)
    return is_start


def piece_text(token: str) -> str:
    """A token as it is printed, without the mark of a word's begin."""
    return token[1:] if token.startswith(SPACE) and len(token) > 1 else token


def choose_ngrams(
    tokens: Int64[Tensor, "rows time"],
    is_word: Bool[Tensor, "rows time"],
    counts: Int64[Tensor, " rows"],
    ngrams: NGrams,
    generator: torch.Generator,
) -> list[list[int]]:
    """Positions of each row to predict: n-grams of words, in random order, n as `draw_lengths` gives it.

    An n-gram that would exceed the row's count is shortened by words; one that overlaps with those before it,
    or still exceeds the count, is passed over. Where not one word fits, the shortest is taken.

    Args:
        is_word: False for special tokens, across which no n-gram reaches, and padding.
        counts: how many tokens of a row to predict, at most.
    """
    rows, time = tokens.shape
    lengths = draw_lengths(rows * time, ngrams.max_length, generator)
    noise = torch.rand(rows, time, generator=generator)
    begins = is_word & ngrams.is_start[tokens]
    begins[:, 1:] |= is_word[:, 1:] & ~is_word[:, :-1]
    return [
        _choose_in_row(words(*columns), int(count), order.tolist(), n.tolist())
        for columns, count, order, n in zip(
            zip(begins.tolist(), is_word.tolist(), strict=True),
            counts,
            noise,
            lengths.view(rows, time),
            strict=True,
        )
    ]


def draw_lengths(count: int, max_length: int, generator: torch.Generator) -> Int64[Tensor, " count"]:
    """Numbers n of words, p(n) = (1/n) / Σ_k (1/k) for n, k up to `max_length`."""
    chances = 1 / torch.arange(1, max_length + 1, dtype=torch.float64)
    return torch.multinomial(chances, count, replacement=True, generator=generator) + 1


def words(begins: list[bool], is_word: list[bool]) -> list[tuple[int, int]]:
    """The words of a row, each as its first position and the one behind its last."""
    found: list[list[int]] = []
    for position, (begin, inside) in enumerate(zip(begins, is_word, strict=True)):
        if begin:
            found.append([position, position + 1])
        elif inside and found:
            found[-1][1] = position + 1
    return [(first, end) for first, end in found]


def _choose_in_row(
    found: list[tuple[int, int]], count: int, order: list[float], lengths: list[int]
) -> list[int]:
    chosen: set[int] = set()
    for first in sorted(range(len(found)), key=lambda i: order[found[i][0]]):
        # words that follow each other without a special token in between
        last = first
        while last + 1 < min(len(found), first + lengths[found[first][0]]):
            if found[last + 1][0] != found[last][1]:
                break
            last += 1
        while last >= first and found[last][1] - found[first][0] > count - len(chosen):
            last -= 1
        span = range(found[first][0], found[last][1]) if last >= first else range(0)
        if chosen.isdisjoint(span):
            chosen.update(span)
    if not chosen and found and count:
        first, end = min(found, key=lambda word: (word[1] - word[0], order[word[0]]))
        chosen.update(range(first, end))
    return sorted(chosen)
