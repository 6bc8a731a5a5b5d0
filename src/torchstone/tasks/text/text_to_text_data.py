"""What text-to-text networks learn from: texts with gaps, pairs of texts, and a toy grammar."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from tokenizers import Tokenizer

from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import BucketBatches, PackedSequences
from torchstone.data.text.corpus import read_text
from torchstone.data.text.parallel import read_pairs
from torchstone.data.text.span_corruption import SpanCorruptionBatches, span_counts
from torchstone.engine import parallel
from torchstone.errors import BadInput

PAD, END = 0, 1
ORDINARY = ("<pad>", "</s>", "<unk>")  # T5's first three
ENOUGH = 500_000  # characters to learn a tokenizer from; more take minutes
HELD_OUT = 256  # texts with gaps in an evaluation
STEPS = range(1, 6)  # of the grammar

TokenLists = list[list[int]]
TokenPairs = tuple[TokenLists, TokenLists]


@dataclass(frozen=True)
class TextToTextData:
    """What a recipe learns from: a stream of (source, target), and held-out rows of both."""

    tokenizer: Tokenizer
    stream: Any
    seen: TokenPairs  # as many rows of the training part, for how often each token is in it
    val: TokenPairs
    test: TokenPairs
    description: str
    special: dict[str, int]  # ids that the model has to know
    settings: dict[str, Any]  # what the held-out rows were made by


def load_data(recipe: Any) -> TextToTextData:
    """Tokenizer, stream and held-out rows of a recipe's data.

    The recipe states task, data, tokenizer, vocabulary, length, density, span, batch and seed.

    Raises:
        BadInput: no such data, too little of it, or nothing short enough.
    """
    share = {"seed": recipe.seed, "rank": parallel.rank(), "world_size": parallel.world_size()}
    names = ("task", "length", "density", "span")
    settings = {name: getattr(recipe, name) for name in names}
    parts, note = read_splits(recipe.data, settings)
    kind, size = recipe.tokenizer, recipe.vocabulary
    special: tuple[str, ...] = ORDINARY
    if recipe.task == "texts":
        texts = [text for pair in parts[0] for text in pair]
        tokenizer = tokenizers.train(kind, texts, vocab_size=size, special_tokens=special)
        train = encode_pairs(parts[0], tokenizer, recipe.length)
        if not train[0]:
            raise BadInput(f"every pair of {recipe.data} has more than {recipe.length} tokens")
        left = len(parts[0]) - len(train[0])
        note += f", {left} of more than {recipe.length} tokens not trained on" if left else ""
        most = recipe.batch_size * recipe.length
        stream: Any = BucketBatches(
            PackedSequences(train[0]), PackedSequences(train[1]), most, pad=PAD, **share
        )
    else:
        gaps = span_counts(recipe.length, recipe.density, recipe.span)[1]
        special = (*ORDINARY, *(f"<extra_id_{i}>" for i in range(gaps + 1)))
        lines = parts[0] if isinstance(parts[0], list) else parts[0].splitlines(True)
        every = max(1, sum(map(len, lines)) // ENOUGH)
        tokenizer = tokenizers.train(kind, lines[::every], vocab_size=size, special_tokens=special)
        stream = corruption_batches(parts[0], recipe.batch_size, tokenizer, settings, **share)
    val, test, seen = (
        held_out_pairs(part, tokenizer, settings, seed=i)
        for i, part in enumerate((parts[1], parts[-1], parts[0]))
    )
    known = {"start": PAD, "pad": PAD, "end": END}
    return TextToTextData(tokenizer, stream, seen, val, test, note, known, settings)


def read_splits(spec: str, settings: Mapping[str, Any], *, split: bool = True) -> tuple[list[Any], str]:
    """Train, validation and test part (where there is one) of what `spec` names: pairs, a text, or
    lines of the grammar; and a line about them. Pairs without splits stay one where not to be `split`."""
    if settings["task"] == "texts":
        pairs = read_pairs(spec, split=split)
        return [pairs.train, pairs.val, pairs.test], pairs.description
    if settings["task"] != "denoise":
        raise BadInput(f"task is denoise or texts, not {settings['task']!r}")
    if spec == "grammar":
        return grammar_sentences(settings["length"])
    text = read_text(spec)
    return [part for part in (text.train, text.val, text.test) if part], text.description


def held_out_pairs(part: Any, tokenizer: Tokenizer, settings: Mapping[str, Any], seed: int) -> TokenPairs:
    """Rows to be judged on: all pairs, or the same gaps in the same texts each time."""
    if settings["task"] == "texts":
        return encode_pairs(part, tokenizer)
    source, target = next(corruption_batches(part, HELD_OUT, tokenizer, settings, seed=seed))
    return source.tolist(), target.tolist()


def corruption_batches(
    part: str | list[str],
    batch: int,
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    **share: int,
) -> SpanCorruptionBatches:
    """Windows of a text, or lines of one length each, with gaps."""
    length = settings["length"]
    names = (f"<extra_id_{i}>" for i in range(tokenizer.get_vocab_size()))
    ids = [tokenizer.token_to_id(name) for name in names]
    ids = torch.tensor(ids[: ids.index(None)])
    return SpanCorruptionBatches(
        windows(part, length, tokenizer),
        batch,
        sentinels=ids,
        end=END,
        density=settings["density"],
        span=settings["span"],
        **share,
    )


def windows(part: str | list[str], length: int, tokenizer: Tokenizer) -> Int64[torch.Tensor, "count length"]:
    """All windows of `length` tokens, a view of the text; of lines, one each.

    Raises:
        BadInput: the text is shorter.
    """
    lines = part if isinstance(part, list) else part.splitlines(True)
    encoded = [each.ids for each in tokenizer.encode_batch_fast(lines, add_special_tokens=False)]
    if isinstance(part, list):
        return torch.tensor(encoded)
    ids = torch.tensor([one for row in encoded for one in row])
    if len(ids) < length:
        raise BadInput(f"a part of the text has {len(ids)} tokens, too few for texts of {length}")
    return ids.unfold(0, length, 1)


def grammar_sentences(length: int) -> tuple[list[Any], str]:
    """Sentences of a toy grammar, of so many letters: every k-th of the alphabet, round and round,
    for each k up to 5 and each first letter. What is left out follows from the rest. Of ten sentences one
    is validated on, and one tested."""
    letters = string.ascii_lowercase
    lines = [
        "".join(letters[(first + k * place) % 26] for place in range(length))
        for k in STEPS
        for first in range(26)
    ]
    keep = (range(8), (8,), (9,))
    parts = [[line for i, line in enumerate(lines) if i % 10 in some] for some in keep]
    return parts, f"grammar: {len(lines)} sentences of {length} letters, two tenths held out"


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, most: int | None = None
) -> TokenPairs:
    """Token ids of sources and targets with their ends; pairs of more than `most` are left out."""
    columns = [
        [[*each.ids, END] for each in tokenizer.encode_batch_fast([p[i] for p in pairs])] for i in range(2)
    ]
    rows = list(zip(*columns, strict=True))
    kept = [pair for pair in rows if most is None or max(map(len, pair)) <= most]
    return [a for a, _ in kept], [b for _, b in kept]
