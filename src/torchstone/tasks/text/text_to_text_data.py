"""Data for text-to-text networks: corrupted texts, pairs of texts, and a toy grammar."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int64
from tokenizers import Tokenizer

from torchstone.data import identity
from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import BucketBatches, PackedSequences
from torchstone.data.text.corpus import read_text
from torchstone.data.text.parallel import read_pairs
from torchstone.data.text.span_corruption import SpanCorruptionBatches, span_counts
from torchstone.engine import parallel
from torchstone.errors import BadInput

PAD, END = 0, 1
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")  # T5's first three
MAX_TOKENIZER_TEXT = 500_000  # characters to train a tokenizer on; more take minutes
EVAL_TEXTS = 256  # corrupted texts in an evaluation
STRIDES = range(1, 6)  # of the toy grammar

TokenLists = list[list[int]]
TokenPairs = tuple[TokenLists, TokenLists]  # sources and targets


@dataclass(frozen=True)
class TextSettings:
    """How texts become (source, target) pairs; saved with a run, to evaluate it on other data."""

    task: str
    max_length: int
    noise_density: float
    mean_span_length: float

    @classmethod
    def from_metadata(cls, saved: Mapping[str, Any]) -> "TextSettings":
        """Read the settings of a run; those of earlier versions have shorter names."""
        renamed = {"length": "max_length", "density": "noise_density", "span": "mean_span_length"}
        return cls(**{renamed.get(name, name): value for name, value in saved.items()})


@dataclass(frozen=True)
class TextToTextData:
    """A stream of (source, target) to train on, and held-out pairs."""

    tokenizer: Tokenizer
    stream: Any
    train_tokens: int  # of an epoch: those of the targets, or of the text
    train_sample: TokenPairs  # as many pairs of the training split, for token frequencies
    val: TokenPairs
    test: TokenPairs
    description: str
    special_ids: dict[str, int]  # ids that the model needs
    settings: TextSettings


def load_data(recipe: Any) -> TextToTextData:
    """Tokenizer, training stream and held-out pairs of a recipe's data.

    The recipe states task, data, tokenizer, vocab_size, max_length, noise_density, mean_span_length,
    batch_size and seed.

    Raises:
        BadInput: no such data, too little of it, or no pair that is short enough.
    """
    share = {"seed": recipe.seed, **parallel.share()}
    max_length = recipe.max_length
    settings = TextSettings(recipe.task, max_length, recipe.noise_density, recipe.mean_span_length)
    splits, description = read_splits(recipe.data, settings)
    kind, vocab_size = recipe.tokenizer, recipe.vocab_size
    special: tuple[str, ...] = SPECIAL_TOKENS
    if recipe.task == "texts":
        texts = [text for pair in splits[0] for text in pair]
        tokenizer = tokenizers.train(kind, texts, vocab_size=vocab_size, special_tokens=special)
        train = encode_pairs(splits[0], tokenizer, max_length)
        if not train[0]:
            raise BadInput(f"every pair of {recipe.data} has more than {max_length} tokens")
        if longer := len(splits[0]) - len(train[0]):
            description += f", {longer} of more than {max_length} tokens not trained on"
        tokens = recipe.batch_size * max_length
        stream: Any = BucketBatches(
            PackedSequences(train[0]), PackedSequences(train[1]), tokens, pad=PAD, **share
        )
        train_tokens = sum(map(len, train[1]))
    else:
        spans = span_counts(max_length, recipe.noise_density, recipe.mean_span_length)[1]
        special = (*SPECIAL_TOKENS, *(f"<extra_id_{i}>" for i in range(spans + 1)))
        lines = splits[0] if isinstance(splits[0], list) else splits[0].splitlines(True)
        every = max(1, sum(map(len, lines)) // MAX_TOKENIZER_TEXT)
        tokenizer = tokenizers.train(kind, lines[::every], vocab_size=vocab_size, special_tokens=special)
        stream = corruption_batches(splits[0], recipe.batch_size, tokenizer, settings, **share)
        count = len(stream.texts)  # windows overlap: each begins one token later
        train_tokens = count * max_length if isinstance(splits[0], list) else count + max_length - 1
    val, test, train_sample = (
        held_out_pairs(part, tokenizer, settings, seed=i)
        for i, part in enumerate((splits[1], splits[-1], splits[0]))
    )
    special_ids = {"start_id": PAD, "pad_id": PAD, "end_id": END}
    return TextToTextData(
        tokenizer, stream, train_tokens, train_sample, val, test, description, special_ids, settings
    )


def read_splits(spec: str, settings: TextSettings, *, split: bool = True) -> tuple[list[Any], str]:
    """Training, validation and test split (if it exists) of `spec`, and its description.

    A split is pairs, a text, or lines of the grammar. Without `split`, pairs that are published without
    splits stay together.
    """
    if settings.task == "texts":
        pairs = read_pairs(spec, split=split)
        return [pairs.train, pairs.val, pairs.test], pairs.description
    if settings.task != "denoise":
        raise BadInput(f"task is denoise or texts, not {settings.task!r}")
    if spec == "grammar":
        identity.record(spec)
        return grammar_sentences(settings.max_length)
    text = read_text(spec)
    return [part for part in (text.train, text.val, text.test) if part], text.description


def held_out_pairs(part: Any, tokenizer: Tokenizer, settings: TextSettings, seed: int) -> TokenPairs:
    """Pairs to evaluate on: all pairs, or the same spans of the same texts each time."""
    if settings.task == "texts":
        return encode_pairs(part, tokenizer)
    source, target = next(corruption_batches(part, EVAL_TEXTS, tokenizer, settings, seed=seed))
    return source.tolist(), target.tolist()


def corruption_batches(
    part: str | list[str], batch_size: int, tokenizer: Tokenizer, settings: TextSettings, **share: int
) -> SpanCorruptionBatches:
    """Corrupted windows of a text, or corrupted lines of one length each."""
    names = (f"<extra_id_{i}>" for i in range(tokenizer.get_vocab_size()))
    ids = [tokenizer.token_to_id(name) for name in names]
    return SpanCorruptionBatches(
        windows(part, settings.max_length, tokenizer),
        batch_size,
        sentinels=torch.tensor(ids[: ids.index(None)]),
        end=END,
        noise_density=settings.noise_density,
        mean_span_length=settings.mean_span_length,
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
    ids = torch.tensor([token for line in encoded for token in line])
    if len(ids) < length:
        raise BadInput(f"a split of the text has {len(ids)} tokens, too few for texts of {length}")
    return ids.unfold(0, length, 1)


def grammar_sentences(length: int) -> tuple[list[Any], str]:
    """Sentences of a toy grammar, `length` letters each: every k-th letter of the alphabet, cyclically, for
    each k up to 5 and each first letter. A removed span follows from the rest. One sentence in ten is for
    validation, and one for the test."""
    letters = string.ascii_lowercase
    lines = [
        "".join(letters[(first + stride * i) % 26] for i in range(length))
        for stride in STRIDES
        for first in range(26)
    ]
    digits = (range(8), (8,), (9,))
    splits = [[line for i, line in enumerate(lines) if i % 10 in own] for own in digits]
    return splits, f"grammar: {len(lines)} sentences of {length} letters, two tenths held out"


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, max_length: int | None = None
) -> TokenPairs:
    """Token ids of sources and targets with their ends, without pairs of more than `max_length` tokens."""
    encode = partial(tokenizer.encode_batch_fast, add_special_tokens=False)  # a published one adds ends too
    columns = [[[*each.ids, END] for each in encode([pair[i] for pair in pairs])] for i in range(2)]
    rows = list(zip(*columns, strict=True))
    short = [pair for pair in rows if max_length is None or max(map(len, pair)) <= max_length]
    return [a for a, _ in short], [b for _, b in short]
