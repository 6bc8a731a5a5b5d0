"""Tokenizers of Hugging Face `tokenizers`: trained on texts, loaded as published, saved as JSON.

A tokenizer is always a `tokenizers.Tokenizer`; a run saves its own JSON, the content of a
`tokenizer.json`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Int64
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from torchstone.data.text.pretrained_tokenizers import bert_tokenizer, byte_level_tokenizer, load
from torchstone.errors import BadInput

__all__ = ["encode", "from_metadata", "load", "save_tokenizer", "to_metadata", "train"]

KINDS = ("characters", "bpe", "wordpiece", "unigram")
BATCH = 1_000  # texts passed to the trainer at a time


def train(
    kind: str,
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: tuple[str, ...] = (),
    lowercase: bool = False,
) -> Tokenizer:
    """Train a tokenizer; the same texts always give the same one.

    - `characters`: each character is a token; the `vocab_size` most frequent ones
    - `bpe`: byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909), over bytes as in GPT-2, so that
      any text can be encoded
    - `wordpiece`: lower-cased words and word pieces, as BERT's
    - `unigram`: the most likely pieces (Kudo 2018, arXiv:1804.10959), with ▁ for a space, as T5's

    Args:
        vocab_size: largest size of the vocabulary, special tokens included.
        special_tokens: tokens that no text is encoded to; they have the first ids, in this order. `[UNK]`
            or `<unk>` among them is the unknown token (the last two kinds add theirs).
        lowercase: of `unigram`: make texts lower-case, as ALBERT's does.

    Raises:
        BadInput: an unknown kind, no text, a vocabulary too small for any text.
    """
    if kind not in KINDS:
        raise BadInput(f"unknown tokenizer {kind!r}: {', '.join(KINDS)}")
    texts = list(texts)
    if not any(texts):
        raise BadInput("no text to train a tokenizer on")
    min_size = len(special_tokens) + {"characters": 1, "bpe": 256}.get(kind, 2)
    if vocab_size < min_size:
        raise BadInput(f"a {kind} vocabulary of {vocab_size} is too small: at least {min_size}")
    if kind == "characters":
        return _characters(texts, vocab_size, special_tokens)
    unknown = {"wordpiece": "[UNK]", "unigram": "<unk>"}.get(kind)
    if unknown and unknown not in special_tokens:
        special_tokens = (*special_tokens, unknown)
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": list(special_tokens),
        "show_progress": False,
    }
    if kind == "bpe":
        tokenizer = byte_level_tokenizer(models.BPE())
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **settings)
    elif kind == "wordpiece":
        tokenizer = bert_tokenizer(models.WordPiece({}, unk_token=unknown), lowercase=True)
        # as special tokens the suffix letters get their ids in order, which decides between equal pairs
        normalized = (tokenizer.normalizer.normalize_str(text) for text in texts)
        letters = sorted({letter for text in normalized for letter in set(text) if letter.isalnum()})
        settings["special_tokens"] = [*special_tokens, *(f"##{letter}" for letter in letters)]
        trainer = trainers.WordPieceTrainer(**settings)
    else:
        tokenizer = Tokenizer(models.Unigram())
        steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])]
        tokenizer.normalizer = normalizers.Sequence(steps) if lowercase else steps[0]
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=unknown, **settings)
    batches = (texts[i : i + BATCH] for i in range(0, len(texts), BATCH))
    tokenizer.train_from_iterator(batches, trainer, len(texts))
    return tokenizer if kind == "bpe" else _make_deterministic(tokenizer, len(special_tokens))


def _make_deterministic(tokenizer: Tokenizer, special: int) -> Tokenizer:
    """The tokenizer without what differs from process to process.

    The order of the trainer's hash tables decides over ids, and over the scores of characters that are no
    likely piece; the order of its sums decides over the last digits of scores.
    """
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:special]
    model = content["model"]
    if model["type"] == "WordPiece":
        names = sorted(model["vocab"], key=lambda name: model["vocab"][name])
        names = names[:special] + sorted(names[special:])
        model["vocab"] = {name: i for i, name in enumerate(names)}
        return Tokenizer.from_str(json.dumps(content))
    pieces = {name: round(score, 6) for name, score in model["vocab"][special:]}
    # characters that are no likely piece have the lowest score, and 0.0001 more for each before them
    lowest = min(pieces.values(), default=0.0)
    steps = {name: (score - lowest) / 1e-4 for name, score in pieces.items() if len(name) == 1}
    count = len(steps)
    unlikely = [n for n, s in steps.items() if s < count + 1 and abs(s - round(s)) < 0.02]
    scores = sorted(pieces[name] for name in unlikely)
    pieces |= dict(zip(sorted(unlikely), scores, strict=True))
    ordered = sorted(pieces.items(), key=lambda piece: (-piece[1], piece[0]))
    model["vocab"] = model["vocab"][:special] + [list(piece) for piece in ordered]
    return Tokenizer.from_str(json.dumps(content))


def _characters(texts: list[str], vocab_size: int, special_tokens: tuple[str, ...]) -> Tokenizer:
    counts: dict[str, int] = {}
    for text in texts:
        points, numbers = np.unique(_code_points(text), return_counts=True)
        for point, count in zip(points.tolist(), numbers.tolist(), strict=True):
            counts[chr(point)] = counts.get(chr(point), 0) + count
    frequent = sorted(counts, key=lambda c: (-counts[c], c))[: vocab_size - len(special_tokens)]
    vocabulary = {token: i for i, token in enumerate((*special_tokens, *sorted(frequent)))}
    unknown = next((token for token in special_tokens if token in ("[UNK]", "<unk>")), None)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> Int64[Tensor, " tokens"]:
    """The ids of a text, without a tokenizer's own special tokens.

    Raises:
        BadInput: the text has a character outside of the vocabulary, and there is no unknown token.
    """
    table = _lookup_table(tokenizer) if len(text) > 1_000 else None  # the library takes minutes
    if table is not None:
        points = _code_points(text)
        inside = np.minimum(points, len(table) - 1)
        ids = np.where(points < len(table), table[inside], -1)
        if (ids < 0).any():
            _raise_unknown(tokenizer, chr(points[ids < 0][0]))
        return torch.from_numpy(ids)
    try:
        return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)
    except Exception:  # noqa: BLE001 -- the library raises plain exceptions
        vocabulary = tokenizer.get_vocab()
        _raise_unknown(tokenizer, next((c for c in text if c not in vocabulary), text[:10]))


def _raise_unknown(tokenizer: Tokenizer, character: str) -> NoReturn:
    count = tokenizer.get_vocab_size()
    raise BadInput(f"the character {character!r} is none of the {count} that the model knows")


def _lookup_table(tokenizer: Tokenizer) -> np.ndarray | None:
    """Code point -> id (-1: none), for a plain character vocabulary; None for other tokenizers."""
    if not isinstance(tokenizer.model, models.WordLevel) or tokenizer.normalizer is not None:
        return None
    if tokenizer.get_added_tokens_decoder() or tokenizer.model.unk_token is not None:
        return None
    vocabulary = tokenizer.get_vocab()
    if any(len(token) != 1 for token in vocabulary):
        return None
    table = np.full(max(map(ord, vocabulary)) + 1, -1, dtype=np.int64)
    for token, i in vocabulary.items():
        table[ord(token)] = i
    return table


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def to_metadata(tokenizer: Tokenizer) -> str:
    """The tokenizer as a JSON string, for a run's metadata or a `tokenizer.json`."""
    return tokenizer.to_str()


def save_tokenizer(text: str, folder: Path) -> None:
    """Write what `to_metadata` returned as `tokenizer.json`, into the run folder that holds `folder`."""
    (folder.parent / "tokenizer.json").write_text(text, encoding="utf-8")


def from_metadata(text: str) -> Tokenizer:
    """The tokenizer of what `to_metadata` returned.

    Raises:
        BadInput: the text is not a tokenizer.
    """
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 -- the library raises plain exceptions
        raise BadInput(f"the tokenizer saved with the model cannot be read: {error}") from None
