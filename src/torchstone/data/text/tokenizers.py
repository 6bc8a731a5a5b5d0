"""Tokenizers of Hugging Face `tokenizers`: learnt from texts, read as published, kept as JSON.

A tokenizer is always a `tokenizers.Tokenizer`; what is kept with a run is its own JSON, the content
of a `tokenizer.json`.
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

from torchstone.data.text.pretrained_tokenizers import bert_tokenizer, byte_level_tokenizer
from torchstone.errors import BadInput

__all__ = ["beside", "encode", "from_metadata", "learn", "read", "to_metadata"]

KINDS = ("characters", "bpe", "wordpiece", "unigram")
BATCH = 1_000  # texts handed to the trainer at a time


def train(
    kind: str,
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: tuple[str, ...] = (),
) -> Tokenizer:
    """A tokenizer for texts like these; the same texts always give the same one.

    - `characters`: each character is a token, at most `size` of them, the most frequent ones
    - `bpe`: pairs of bytes joined by frequency (Sennrich et al. 2016, arXiv:1508.07909), over bytes as
      in GPT-2, so that any text can be written
    - `wordpiece`: lower-cased words and their pieces, as BERT's
    - `unigram`: the likeliest pieces (Kudo 2018, arXiv:1804.10959), a space as ▁, as T5's

    Args:
        size: of the vocabulary at most, special tokens included.
        special: tokens that text never becomes; they have the first ids, in this order. `[UNK]`
            or `<unk>` among them stands for what is not known (the last two kinds add theirs).

    Raises:
        BadInput: an unknown kind, no text, a size that cannot hold what every text needs.
    """
    if kind not in KINDS:
        raise BadInput(f"unknown tokenizer {kind!r}: {', '.join(KINDS)}")
    texts = list(texts)
    if not any(texts):
        raise BadInput("no text to learn a tokenizer from")
    least = len(special_tokens) + {"characters": 1, "bpe": 256}.get(kind, 2)
    if vocab_size < least:
        raise BadInput(f"a {kind} vocabulary of {vocab_size} is too small: at least {least}")
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
        # as special tokens the ends of words get their ids in order, by which equals are told apart
        normalised = (tokenizer.normalizer.normalize_str(text) for text in texts)
        letters = sorted({letter for text in normalised for letter in set(text) if letter.isalnum()})
        settings["special_tokens"] = [*special_tokens, *(f"##{letter}" for letter in letters)]
        trainer = trainers.WordPieceTrainer(**settings)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=unknown, **settings)
    batches = (texts[i : i + BATCH] for i in range(0, len(texts), BATCH))
    tokenizer.train_from_iterator(batches, trainer, len(texts))
    return tokenizer if kind == "bpe" else _settled(tokenizer, len(special_tokens))


def _settled(tokenizer: Tokenizer, special: int) -> Tokenizer:
    """What differs from process to process is put in order: which of the trainer's hash tables came
    first decides over ids, and over the scores of characters that are no piece of their own; the last
    digits of scores are those of sums in any order."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][:special]
    model = content["model"]
    if model["type"] == "WordPiece":
        names = sorted(model["vocab"], key=lambda name: model["vocab"][name])
        names = names[:special] + sorted(names[special:])
        model["vocab"] = {name: i for i, name in enumerate(names)}
        return Tokenizer.from_str(json.dumps(content))
    pieces = {name: round(score, 6) for name, score in model["vocab"][special:]}
    # characters that are no likely piece have the least score, and 0.0001 more for each before them
    least = min(pieces.values(), default=0.0)
    steps = {name: (score - least) / 1e-4 for name, score in pieces.items() if len(name) == 1}
    count = len(steps)
    given = [n for n, s in steps.items() if s < count + 1 and abs(s - round(s)) < 0.02]
    scores = sorted(pieces[name] for name in given)
    pieces |= dict(zip(sorted(given), scores, strict=True))
    ordered = sorted(pieces.items(), key=lambda piece: (-piece[1], piece[0]))
    model["vocab"] = model["vocab"][:special] + [list(piece) for piece in ordered]
    return Tokenizer.from_str(json.dumps(content))


def _characters(texts: list[str], size: int, special: tuple[str, ...]) -> Tokenizer:
    counts: dict[str, int] = {}
    for text in texts:
        points, times = np.unique(_points(text), return_counts=True)
        for point, count in zip(points.tolist(), times.tolist(), strict=True):
            counts[chr(point)] = counts.get(chr(point), 0) + count
    often = sorted(counts, key=lambda c: (-counts[c], c))[: size - len(special)]
    vocabulary = {token: i for i, token in enumerate((*special, *sorted(often)))}
    unknown = next((token for token in special if token in ("[UNK]", "<unk>")), None)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> Int64[Tensor, " tokens"]:
    """The ids of a text, without what a tokenizer may put around it.

    Raises:
        BadInput: the text has a character that the tokenizer does not know, and no token for such.
    """
    table = _table(tokenizer) if len(text) > 1_000 else None  # one by one it takes minutes
    if table is not None:
        points = _points(text)
        inside = np.minimum(points, len(table) - 1)
        ids = np.where(points < len(table), table[inside], -1)
        if (ids < 0).any():
            _refuse(tokenizer, chr(points[ids < 0][0]))
        return torch.from_numpy(ids)
    try:
        return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)
    except Exception:  # noqa: BLE001 -- the library raises plain exceptions
        known = tokenizer.get_vocab()
        _refuse(tokenizer, next((c for c in text if c not in known), text[:10]))


def _refuse(tokenizer: Tokenizer, character: str) -> NoReturn:
    count = tokenizer.get_vocab_size()
    raise BadInput(f"the character {character!r} is none of the {count} that the model knows")


def _table(tokenizer: Tokenizer) -> np.ndarray | None:
    """Code point -> id (-1: none), if the tokens are characters that nothing else can become."""
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


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def to_metadata(tokenizer: Tokenizer) -> str:
    """The tokenizer as text, for a run's metadata or a `tokenizer.json`."""
    return tokenizer.to_str()


def save_tokenizer(text: str, folder: Path) -> None:
    """What `to_metadata` gave as a file of its own, in the run folder above the pictures."""
    (folder.parent / "tokenizer.json").write_text(text, encoding="utf-8")


def from_metadata(text: str) -> Tokenizer:
    """The tokenizer that `to_metadata` wrote.

    Raises:
        BadInput: the text is none.
    """
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 -- the library raises plain exceptions
        raise BadInput(f"the tokenizer kept with the model cannot be read: {error}") from None
