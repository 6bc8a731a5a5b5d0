"""Pictures of attention between two sentences: which word of the source each word written looks at."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.plots.canvas import canvas, plain, save

END_OF_SENTENCE = "(end)"
Tokens = tuple[str, Sequence[tuple[int, int]]]  # a text, and where in it each token stands


class AttentionMap(NamedTuple):
    """Shares of attention, each row summing to 1, and the words they are between."""

    shares: Float[Tensor, "heads written read"]
    written: list[str]
    read: list[str]


def merge_word_pieces(
    shares: Float[Tensor, "heads targets sources"], source: Tokens, target: Tokens
) -> AttentionMap:
    """From tokens to words: a word is looked at with all of its tokens, and looks with their mean.

    The last token of either side is the end of the sentence.
    """
    (read, columns), (written, rows) = _words(source), _words(target)
    onto = torch.zeros(shares.shape[2], len(read)).scatter_(1, columns[:, None], 1.0)
    by = torch.zeros(len(written), shares.shape[1]).scatter_(0, rows[None], 1.0)
    return AttentionMap((by / by.sum(1, keepdim=True)) @ shares @ onto, written, read)


def _words(tokens: Tokens) -> tuple[list[str], Tensor]:
    """The words of a text, and for each token the number of the one it ends in."""
    text, places = tokens
    words = text.split()
    numbers = [max(0, len(text[:last].split()) - 1) for _, last in places]
    used = sorted(set(numbers))
    place = {number: i for i, number in enumerate(used)}
    index = torch.tensor([*(place[n] for n in numbers), len(used)])
    return [*(words[n] for n in used), END_OF_SENTENCE], index


def plot_mean_attention(maps: Sequence[AttentionMap], file: Path, most: int = 4) -> None:
    """The mean of the heads, for sentences of middling length."""
    fitting = [m for m in maps if len(m.read) <= 16 and len(m.written) <= 16]
    chosen = sorted(fitting or maps, key=lambda m: -len(m.written))[:most]
    columns = min(2, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = canvas(5.2 * columns, 4.6 * rows)
    for number, each in enumerate(chosen, 1):
        axes = figure.add_subplot(rows, columns, number)
        _picture(axes, each.shares.mean(0), each)
    save(figure, file)


def plot_with_gold_links(
    maps: Sequence[tuple[AttentionMap, Collection[tuple[int, int]]]], file: Path, most: int = 3
) -> None:
    """The mean of the heads, and beside it links (word read, word written) told by hand, for the
    longest sentences."""
    chosen = sorted(maps, key=lambda pair: -len(pair[0].written))[:most]
    figure = canvas(9.6, 4.2 * len(chosen))
    for row, (each, links) in enumerate(chosen):
        told = torch.zeros(len(each.written), len(each.read))
        for i, j in links:
            told[j, i] = 1
        for column, shares in enumerate((each.shares.mean(0), told)):
            axes = figure.add_subplot(len(chosen), 2, 2 * row + column + 1)
            _picture(axes, shares, each, left=not column)
            if not row:
                axes.set_title(("attention", "told by hand")[column], fontsize=10, loc="left")
    save(figure, file)


def plot_heads(each: AttentionMap, file: Path) -> None:
    """Every head of one sentence."""
    heads = len(each.shares)
    columns = min(4, heads)
    rows = math.ceil(heads / columns)
    side = 1.2 + 0.16 * max(len(each.read), len(each.written))
    figure = canvas(side * columns + 1, side * rows + 0.6)
    for head in range(heads):
        axes = figure.add_subplot(rows, columns, head + 1)
        _picture(
            axes, each.shares[head], each, small=True, left=head % columns == 0,
            below=head >= heads - columns,
        )  # fmt: skip
        axes.set_title(f"head {head + 1}", fontsize=8, loc="left")
    save(figure, file)


def _picture(
    axes,
    shares: Float[Tensor, "written read"],
    each: AttentionMap,
    *,
    small: bool = False,
    left: bool = True,
    below: bool = True,
) -> None:
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 6 if small else 8
    axes.set_xticks(range(len(each.read)))
    axes.set_xticklabels([plain(word, 16) for word in each.read] if below else [], rotation=90, fontsize=size)
    axes.set_yticks(range(len(each.written)))
    axes.set_yticklabels([plain(word, 16) for word in each.written] if left else [], fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.8")
    if not small:
        axes.set_xlabel("read", fontsize=8, loc="right")
        axes.set_ylabel("written", fontsize=8, loc="top")
