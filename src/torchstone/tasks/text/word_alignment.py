"""Word alignment: attention compared with alignments annotated by hand.

A target word is linked to the source word with the largest attention weight, or to none if that is the
end of the sentence. With A such links and G those of the gold alignment, all of them sure,

    precision |A ∩ G| / |A|,  recall |A ∩ G| / |G|,  alignment error rate 1 − 2|A ∩ G| / (|A| + |G|)

(Och & Ney 2003, Computational Linguistics 29(1), section 3.1.) The baseline is the diagonal: word j of n
is linked to word j·m/n of m.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from torchstone.data.text import bible, tokenizers
from torchstone.data.text.bible import Links
from torchstone.data.text.bucket_batches import PackedSequences
from torchstone.data.text.parallel import Pairs, ParallelCorpus, read_pairs
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.plots import attention_maps
from torchstone.tasks.text import translate
from torchstone.tasks.text.translation_inference import BOS, EOS, PAD, group_by_length

Gold = dict[tuple[str, str], Links]
PLOTTED_WORDS, PLOTTED_PAIRS = 14, 40  # of the attention maps in `gold.png`


def add_gold_alignments(run: Run, recipe: Any, data: ParallelCorpus, tokenizer: Tokenizer) -> Run:
    """The run, which also reports alignment metrics and draws attention with the gold links.

    Args:
        recipe: its `source` and `target` are the bible's languages, its `eval_examples` is the number of
            verses of the validation split that are aligned at each evaluation.
    """
    gold = bible.gold_links(bible.read(recipe.source, recipe.target)[0])
    state: dict[str, Any] = run.state
    eval_model = state["ema"].module if "ema" in state else state["model"]
    validate, test, report = run.evaluate, run.test, run.report
    assert test
    assert report

    def report_with_gold(folder: Path) -> None:
        report(folder)
        pairs = [p for p in data.test if max(len(text.split()) for text in p) <= PLOTTED_WORDS]
        pairs = pairs[:PLOTTED_PAIRS]
        maps = zip(alignment_maps(eval_model, tokenizer, pairs), pairs, strict=True)
        attention_maps.plot_with_gold_links([(m, gold[pair]) for m, pair in maps], folder / "gold.png")

    def rates(pairs: Pairs) -> dict[str, float]:
        return alignment_rates(eval_model, tokenizer, pairs, gold)

    return replace(
        run,
        evaluate=lambda: {**validate(), **rates(data.val[: recipe.eval_examples])},
        test=lambda: {**test(), **rates(data.test)},
        report=report_with_gold,
    )


def evaluate(model: Any, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """The metrics of `translate.evaluate`; on the bible also the alignment metrics."""
    metrics = translate.evaluate(model, metadata, spec, held_out=held_out)
    if spec != "bible" or not model.attends:
        return metrics
    data = read_pairs(spec, *metadata["languages"])
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    pairs = data.test if held_out else data.train + data.val + data.test
    gold = bible.gold_links(bible.read(*metadata["languages"])[0])
    return metrics | alignment_rates(model, tokenizer, pairs, gold)


def alignment_rates(model: nn.Module, tokenizer: Tokenizer, pairs: Pairs, gold: Gold) -> dict[str, float]:
    """`alignment_error`, `alignment_precision`, `alignment_recall`, and the baseline's `diagonal_error`.

    Raises:
        BadInput: the tokenizer leaves words out, so that links are undefined.
    """
    counts = torch.zeros(2, 3)  # of attention and of the diagonal: |A ∩ G|, |A|, |G|
    for pair, attention in zip(pairs, alignment_maps(model, tokenizer, pairs), strict=True):
        links = gold[pair]
        for row, predicted in enumerate((attention_links(attention), diagonal_links(attention))):
            counts[row] += torch.tensor([len(predicted & links), len(predicted), len(links)])
    (correct, predicted, expected), (diagonal_correct, diagonal, _) = counts.tolist()
    return {
        "alignment_error": 1 - 2 * correct / max(predicted + expected, 1.0),
        "alignment_precision": correct / max(predicted, 1.0),
        "alignment_recall": correct / max(expected, 1.0),
        "diagonal_error": 1 - 2 * diagonal_correct / max(diagonal + expected, 1.0),
    }


def attention_links(attention: attention_maps.AttentionMap) -> Links:
    """Each target word but the end, linked to its most attended source word, unless that is the end."""
    weights = attention.weights.mean(0)[:-1]
    best = enumerate(weights.argmax(1).tolist())
    return frozenset((i, j) for j, i in best if i < len(attention.source_words) - 1)


def diagonal_links(attention: attention_maps.AttentionMap) -> Links:
    m, n = len(attention.source_words) - 1, len(attention.target_words) - 1
    return frozenset((min(m - 1, (2 * j + 1) * m // (2 * n)), j) for j in range(n))


@torch.no_grad()
def alignment_maps(model: Any, tokenizer: Tokenizer, pairs: Pairs) -> list[attention_maps.AttentionMap]:
    """The attention over each source while its target is given word by word (teacher forcing)."""
    device = next(model.parameters()).device
    sides = [tokenizer.encode_batch([pair[i] for pair in pairs], add_special_tokens=False) for i in range(2)]
    sources = PackedSequences([[*each.ids, EOS] for each in sides[0]], device)
    targets = PackedSequences([[BOS, *each.ids] for each in sides[1]], device)
    maps: dict[int, attention_maps.AttentionMap] = {}
    with eval_mode(model):
        for rows in group_by_length(targets.lengths + sources.lengths):
            source_ids, target_ids = sources.pad_rows(rows, PAD), targets.pad_rows(rows, PAD)
            weights = model.attention_weights(source_ids, target_ids).float().cpu()
            for each, row in zip(weights, rows.tolist(), strict=True):
                source, target = (
                    (text, side[row].offsets) for text, side in zip(pairs[row], sides, strict=True)
                )
                unpadded = each[:, : len(target[1]) + 1, : len(source[1]) + 1]
                maps[row] = attention = attention_maps.merge_word_pieces(unpadded, source, target)
                words = len(attention.source_words), len(attention.target_words)
                if words != tuple(len(text.split()) + 1 for text in pairs[row]):
                    raise BadInput(
                        "the tokenizer leaves out whole words, which links need: use bpe or unigram"
                    )
    return [maps[i] for i in range(len(pairs))]
