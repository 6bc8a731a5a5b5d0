"""Attention held against word alignments that people made.

A word that is written is linked to the word it looks at most, or to none if that is the end of the
sentence. With A such links and G those of the gold alignment, all of them sure,

    precision |A ∩ G| / |A|,  recall |A ∩ G| / |G|,  error rate 1 − 2|A ∩ G| / (|A| + |G|)

(Och & Ney 2003, Computational Linguistics 29(1), section 3.1.) Beside it stands the rate of looking
along the diagonal: word j of n at word j·m/n of m.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from torchstone.data.text import bible, tokenizers
from torchstone.data.text.bible import Links
from torchstone.data.text.bucket_batches import Ragged
from torchstone.data.text.parallel import Pairs, PairSet, read_pairs
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.plots import attention_maps
from torchstone.tasks.text import translate
from torchstone.tasks.text.translation_inference import END, PAD, START, alike

Gold = dict[tuple[str, str], Links]


def add_gold_alignments(run: Run, recipe: Any, data: PairSet, tokenizer: Tokenizer) -> Run:
    """The run, judged by its alignments too and drawn beside the gold ones.

    Args:
        recipe: its `source` and `target` are the bible's languages, its `judged` says how many verses
            of the validation split are aligned at each evaluation.
    """
    gold = bible.gold(bible.read(recipe.source, recipe.target)[0])
    state: dict[str, Any] = run.state
    kept = state["ema"].module if "ema" in state else state["model"]
    judge, test, report = run.evaluate, run.test, run.report
    assert test
    assert report

    def drawn(folder: Path) -> None:
        report(folder)
        some = [pair for pair in data.test if max(len(text.split()) for text in pair) <= 14][:40]
        each = list(zip(alignment_maps(kept, tokenizer, some), some, strict=True))
        attention_maps.draw_beside([(looks, gold[pair]) for looks, pair in each], folder / "gold.png")

    return replace(
        run,
        evaluate=lambda: {**judge(), **alignment_rates(kept, tokenizer, data.val[: recipe.judged], gold)},
        test=lambda: {**test(), **alignment_rates(kept, tokenizer, data.test, gold)},
        report=drawn,
    )


def evaluate(model: Any, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """As of every translation; of the bible, how well attention agrees with the gold alignments too."""
    results = translate.evaluate(model, metadata, spec, held_out=held_out)
    if spec != "bible" or not model.attends:
        return results
    data, tokenizer = (
        read_pairs(spec, *metadata["languages"]),
        tokenizers.from_metadata(metadata["tokenizer"]),
    )
    pairs = data.test if held_out else data.train + data.val + data.test
    gold = bible.gold(bible.read(*metadata["languages"])[0])
    return results | alignment_rates(model, tokenizer, pairs, gold)


def alignment_rates(model: nn.Module, tokenizer: Tokenizer, pairs: Pairs, gold: Gold) -> dict[str, float]:
    """`alignment_error`, `alignment_precision`, `alignment_recall`, and `diagonal_error` beside them.

    Raises:
        BadInput: the tokenizer leaves words out, so that links cannot be told.
    """
    counts = torch.zeros(2, 3)  # of attention and of the diagonal: |A ∩ G|, |A|, |G|
    for pair, looks in zip(pairs, alignment_maps(model, tokenizer, pairs), strict=True):
        links = gold[pair]
        for row, said in enumerate((attention_links(looks), diagonal_links(looks))):
            counts[row] += torch.tensor([len(said & links), len(said), len(links)])
    (both, said, wanted), (crossed, drawn, _) = counts.tolist()
    return {
        "alignment_error": 1 - 2 * both / max(said + wanted, 1.0),
        "alignment_precision": both / max(said, 1.0),
        "alignment_recall": both / max(wanted, 1.0),
        "diagonal_error": 1 - 2 * crossed / max(drawn + wanted, 1.0),
    }


def attention_links(looks: attention_maps.Map) -> Links:
    """Each word written, but for the end, linked to the word it looks at most, but for the end."""
    shares = looks.shares.mean(0)[:-1]
    chosen = enumerate(shares.argmax(1).tolist())
    return frozenset((i, j) for j, i in chosen if i < len(looks.read) - 1)


def diagonal_links(looks: attention_maps.Map) -> Links:
    m, n = len(looks.read) - 1, len(looks.written) - 1
    return frozenset((min(m - 1, (2 * j + 1) * m // (2 * n)), j) for j in range(n))


@torch.no_grad()
def alignment_maps(model: Any, tokenizer: Tokenizer, pairs: Pairs) -> list[attention_maps.Map]:
    """Where the model looks while the target of each pair is given to it word by word."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    sides = [tokenizer.encode_batch([pair[i] for pair in pairs], add_special_tokens=False) for i in range(2)]
    sources = Ragged([[*each.ids, END] for each in sides[0]], device)
    targets = Ragged([[START, *each.ids] for each in sides[1]], device)
    found: dict[int, attention_maps.Map] = {}
    for rows in alike(targets.lengths + sources.lengths):
        shares = model.looks(sources.padded(rows, PAD), targets.padded(rows, PAD)).float().cpu()
        for share, row in zip(shares, rows.tolist(), strict=True):
            source, target = ((text, side[row].offsets) for text, side in zip(pairs[row], sides, strict=True))
            inside = share[:, : len(target[1]) + 1, : len(source[1]) + 1]
            found[row] = each = attention_maps.over_words(inside, source, target)
            if (len(each.read), len(each.written)) != tuple(len(t.split()) + 1 for t in pairs[row]):
                raise BadInput("the tokenizer leaves out whole words, which links need: use bpe or unigram")
    model.train(was_training)
    return [found[i] for i in range(len(pairs))]
