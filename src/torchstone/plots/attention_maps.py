"""Figures of attention between two sentences: which source word each target word attends to."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.plots.canvas import canvas, plain, save

END_OF_SENTENCE = "(end)"
Tokens = tuple[str, Sequence[tuple[int, int]]]  # a text, and the span of each token in it


class AttentionMap(NamedTuple):
    """Attention weights, each row summing to 1, and the words that they connect."""

    weights: Float[Tensor, "heads target source"]
    target_words: list[str]
    source_words: list[str]


def merge_word_pieces(
    weights: Float[Tensor, "heads targets sources"], source: Tokens, target: Tokens
) -> AttentionMap:
    """From tokens to words: the attention to a word is the sum over its tokens, the attention of a word
    the mean over its tokens.

    The last token of either side is the end of the sentence.
    """
    (source_words, columns), (target_words, rows) = _words(source), _words(target)
    onto = torch.zeros(weights.shape[2], len(source_words)).scatter_(1, columns[:, None], 1.0)
    by = torch.zeros(len(target_words), weights.shape[1]).scatter_(0, rows[None], 1.0)
    return AttentionMap((by / by.sum(1, keepdim=True)) @ weights @ onto, target_words, source_words)


def _words(tokens: Tokens) -> tuple[list[str], Tensor]:
    """The words of a text, and for each token the index of the word that it ends in."""
    text, spans = tokens
    words = text.split()
    numbers = [max(0, len(text[:end].split()) - 1) for _, end in spans]
    used = sorted(set(numbers))
    position = {number: i for i, number in enumerate(used)}
    index = torch.tensor([*(position[n] for n in numbers), len(used)])
    return [*(words[n] for n in used), END_OF_SENTENCE], index


def plot_mean_attention(maps: Sequence[AttentionMap], file: Path, max_plots: int = 4) -> None:
    """The mean over heads, for the longest sentences of at most 16 words."""
    short = [m for m in maps if len(m.source_words) <= 16 and len(m.target_words) <= 16]
    chosen = sorted(short or maps, key=lambda m: -len(m.target_words))[:max_plots]
    columns = min(2, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = canvas(5.2 * columns, 4.6 * rows)
    for number, each in enumerate(chosen, 1):
        axes = figure.add_subplot(rows, columns, number)
        _heatmap(axes, each.weights.mean(0), each)
    save(figure, file)


def plot_with_gold_links(
    maps: Sequence[tuple[AttentionMap, Collection[tuple[int, int]]]], file: Path, max_plots: int = 3
) -> None:
    """The mean over heads next to hand-annotated links (source word, target word), for the longest
    sentences."""
    chosen = sorted(maps, key=lambda pair: -len(pair[0].target_words))[:max_plots]
    figure = canvas(9.6, 4.2 * len(chosen))
    for row, (each, links) in enumerate(chosen):
        gold = torch.zeros(len(each.target_words), len(each.source_words))
        for i, j in links:
            gold[j, i] = 1
        for column, weights in enumerate((each.weights.mean(0), gold)):
            axes = figure.add_subplot(len(chosen), 2, 2 * row + column + 1)
            _heatmap(axes, weights, each, left=not column)
            if not row:
                axes.set_title(("attention", "annotated by hand")[column], fontsize=10, loc="left")
    save(figure, file)


def plot_heads(each: AttentionMap, file: Path) -> None:
    """Every head of one sentence."""
    heads = len(each.weights)
    columns = min(4, heads)
    rows = math.ceil(heads / columns)
    side = 1.2 + 0.16 * max(len(each.source_words), len(each.target_words))
    figure = canvas(side * columns + 1, side * rows + 0.6)
    for head in range(heads):
        axes = figure.add_subplot(rows, columns, head + 1)
        left, below = head % columns == 0, head >= heads - columns
        _heatmap(axes, each.weights[head], each, small=True, left=left, below=below)
        axes.set_title(f"head {head + 1}", fontsize=8, loc="left")
    save(figure, file)


def _heatmap(
    axes,
    weights: Float[Tensor, "target source"],
    each: AttentionMap,
    *,
    small: bool = False,
    left: bool = True,
    below: bool = True,
) -> None:
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 6 if small else 8
    columns = [plain(word, 16) for word in each.source_words] if below else []
    rows = [plain(word, 16) for word in each.target_words] if left else []
    axes.set_xticks(range(len(each.source_words)))
    axes.set_xticklabels(columns, rotation=90, fontsize=size)
    axes.set_yticks(range(len(each.target_words)))
    axes.set_yticklabels(rows, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.8")
    if not small:
        axes.set_xlabel("source", fontsize=8, loc="right")
        axes.set_ylabel("target", fontsize=8, loc="top")
