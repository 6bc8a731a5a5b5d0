"""What recipes of BERT and its relatives start from: the data, its tokenizer, weights if there are any."""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledDataset, LabeledTexts, read_labeled
from torchstone.data.text.corpus import read_text
from torchstone.data.text.sentence_batches import (
    ALBERT_TOKENS,
    IGNORE_INDEX,
    SPECIAL_TOKENS,
    Row,
    SpecialTokens,
    special_tokens_of,
)
from torchstone.engine import checkpoint
from torchstone.engine.console import notify
from torchstone.errors import BadInput
from torchstone.hub import albert, bert, bigbird, distilbert, hf_folder, longformer, roberta
from torchstone.parts.old_keys import rename_old_keys

TokenLists = list[list[int]]
# parts of the network that weights may lack: they are initialized
HEADS = ("transform", "decoder", "next_sentence", "sentence_order", "classifier", "pre_classifier", "pooler")
DOCUMENT_LENGTH = 2000  # characters at which paragraphs are joined to a document


# special tokens of a vocabulary over bytes, in the order of RoBERTa's, whose padding is 1
BYTE_PAIR_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


class Family(NamedTuple):
    """A family of encoders: its module of `hub`, if any are published, and the tokenizer trained for it."""

    hub: Any
    tokenizer: str = "wordpiece"
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS
    lowercase: bool = False  # of `unigram`; `wordpiece` always is


FAMILIES = {
    "bert": Family(bert),
    "albert": Family(albert, "unigram", ALBERT_TOKENS, lowercase=True),
    "distilbert": Family(distilbert),
    "longformer": Family(longformer, "bpe", BYTE_PAIR_TOKENS),
    "bigbird": Family(bigbird, "bpe", ALBERT_TOKENS),
    "linformer": Family(None, "bpe", BYTE_PAIR_TOKENS),
    "performer": Family(None, "bpe", BYTE_PAIR_TOKENS),
    "roberta": Family(roberta),  # of which weights are read
}


class Start(NamedTuple):
    """Arguments, weights and tokenizer that training starts from."""

    model_config: dict[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: Any
    classes: list[str] | None = None  # of a classifier


class BertSetup(NamedTuple):
    """What training starts from: arguments of the network, weights if there are any, and the data."""

    model_config: dict[str, Any]
    tensors: dict[str, Tensor] | None
    tokenizer: Any
    special: SpecialTokens
    dataset: LabeledDataset | None
    documents: dict[str, TokenLists]  # of train, val and test, for masked language modeling
    metadata: dict[str, Any]


def prepare(
    recipe: Any, sizes: Mapping[str, int], system: str = "bert", start: Start | None = None
) -> BertSetup:
    """Read the data, and train a tokenizer on its training split or take the one of the weights.

    Args:
        sizes: arguments of the network, where there are no weights.
        system: one of `FAMILIES`.
        start: weights, in place of those that `recipe.weights` names.

    Raises:
        BadInput: an unknown task, data that cannot be read, or weights of another system.
    """
    if recipe.task not in ("classify", "masked_lm"):
        raise BadInput(f"task is classify or masked_lm, not {recipe.task!r}")
    dataset = None
    if recipe.task == "classify":
        dataset = read_labeled(recipe.data, recipe.max_examples)
        splits = {split: getattr(dataset, split) for split in ("train", "val", "test")}
        texts = {split: [*all_texts(part)] for split, part in splits.items()}
        description = dataset.description
    else:
        text = read_text(recipe.data)
        description = text.description
        texts = {split: split_documents(getattr(text, split)) for split in ("train", "val", "test")}
        if recipe.max_examples is not None:
            texts = {split: documents[: recipe.max_examples] for split, documents in texts.items()}
    if start is None and recipe.weights is not None:
        start = load_encoder(Path(recipe.weights), system)
    if start is None:
        family, tensors = FAMILIES[system], None
        tokenizer = tokenizers.train(
            family.tokenizer,
            texts["train"],
            vocab_size=recipe.vocab_size,
            special_tokens=family.special_tokens,
            lowercase=family.lowercase,
        )
        tokenizer.post_processor = post_processor(tokenizer)
        defaults = {} if family.hub is None else family.hub.DEFAULTS
        model_config = {**defaults, **sizes, "vocab_size": tokenizer.get_vocab_size()}
        model_config["max_length"] = recipe.max_length
        model_config |= {"dropout": recipe.dropout, "attention_dropout": recipe.dropout}
    else:
        model_config, tensors, tokenizer, _ = start
        if recipe.max_length > model_config["max_length"]:
            notify(
                f"the weights have positions for {model_config['max_length']} tokens: rows are as long, not "
                f"{recipe.max_length}"
            )
    special = SpecialTokens.from_tokenizer(tokenizer, min(recipe.max_length, model_config["max_length"]))
    documents = {}
    if tensors is None or recipe.task == "masked_lm":
        documents = {split: encode_texts(tokenizer, own) for split, own in texts.items()}
    metadata = {"variant": recipe.variant, "tokenizer": tokenizers.to_metadata(tokenizer)}
    metadata |= {"length": special.max_length, "data": description}
    return BertSetup(model_config, tensors, tokenizer, special, dataset, documents, metadata)


def post_processor(tokenizer: Any) -> Any:
    """The template by which the tokenizer adds [CLS] and [SEP], for users of the exported tokenizer."""
    from tokenizers.processors import TemplateProcessing

    _, _, start, end, _ = special_tokens_of(tokenizer)
    second = "" if start == "<s>" else ":1"  # RoBERTa and Longformer have one kind of segment
    return TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B{second} {end}{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
    )


def all_texts(part: LabeledTexts) -> Iterable[str]:
    """Every text of a split; words that have a label each are joined."""
    for i in range(len(part)):
        first = part.first[i]
        yield first if isinstance(first, str) else " ".join(first)
        if part.second is not None:
            yield part.second[i]


def split_documents(text: str) -> list[str]:
    """The documents that spans are taken from: paragraphs, joined to a few hundred words."""
    documents, size = [[]], 0
    for paragraph in text.split("\n\n"):
        documents[-1].append(paragraph)
        size += len(paragraph)
        if size > DOCUMENT_LENGTH:
            documents.append([])
            size = 0
    return [" ".join(paragraphs) for paragraphs in documents if "".join(paragraphs).strip()]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> TokenLists:
    """Token ids of each text, without special tokens."""
    return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def load_encoder(path: Path, system: str, also: Collection[str] = ()) -> Start:
    """A network of `system` in a run folder or in Hugging Face layout (also `hf:ORG/NAME`).

    Args:
        also: other keys of `FAMILIES` that are accepted.

    Raises:
        BadInput: it is of another system; it lacks its tokenizer or is not whole.
    """
    path = hf_folder.fetch(str(path)) if str(path).startswith("hf:") else path
    if (path / "recipe.json").exists():
        folder, meta, _ = checkpoint.find(path / "checkpoint")
        if meta["system"] not in (system, *also):
            raise BadInput(f"{path} is a run of {meta['system']}, not of {system}")
        tensors, metadata = checkpoint.weights(folder, meta)
        tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
        return Start(metadata["model_config"], tensors, tokenizer, metadata.get("classes"))
    config, tensors = hf_folder.read(path)
    kind = config.get("model_type")
    kind = kind if kind in also else hf_folder.system_of_config(config)
    if kind not in (system, *also):
        raise BadInput(f"{path} is of model_type {config['model_type']!r}, not {system}")
    hub = FAMILIES[kind].hub
    variant, model_config = hub.from_config(config)
    tokenizer = disable_padding(tokenizers.load(path))
    has_classes = model_config["head"] in ("sentence", "tokens")
    classes = hf_folder.class_names(config, model_config["num_classes"]) if has_classes else None
    return Start(model_config, hub.published(variant, tensors), tokenizer, classes)


def disable_padding(tokenizer: Any) -> Any:
    """Turn off the padding and truncation of a published tokenizer; rows are built here."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def build_rows(part: LabeledTexts, tokenizer: Any, special: SpecialTokens) -> tuple[list[Row], list]:
    """Rows and their labels; the label of a word is that of its first piece (section 5.3)."""
    encode = functools.partial(encode_texts, tokenizer)
    if not part.first or isinstance(part.first[0], str):
        second = [None] * len(part) if part.second is None else encode(part.second)
        pairs = zip(encode(part.first), second, strict=True)
        return [special.build_row(a, b) for a, b in pairs], list(part.labels)
    rows, labels = [], []
    for words, word_labels in zip(part.first, part.labels, strict=True):
        unknown = next(i for t in ("[UNK]", "<unk>") if (i := tokenizer.token_to_id(t)) is not None)
        pieces = [ids or [unknown] for ids in encode(words)]
        row, second = special.build_row([token for ids in pieces for token in ids], None)
        rows.append((row, second))
        token_labels = [IGNORE_INDEX]
        for label, ids in zip(word_labels, pieces, strict=True):
            token_labels += [label] + [IGNORE_INDEX] * (len(ids) - 1)
        labels.append([*token_labels[: len(row) - 1], IGNORE_INDEX])
    return rows, labels


def load_matching_weights(model: nn.Module, tensors: Mapping[str, Tensor] | None) -> nn.Module:
    """Load the weights that `model` has parameters for; missing heads, and a classifier, are initialized."""
    own, tensors = model.state_dict(), rename_old_keys(model, tensors or {})
    matching = {k: v for k, v in tensors.items() if k in own and not k.startswith("classifier.")}
    missing = [k for k in own if tensors and k not in matching and not k.startswith(HEADS)]
    if missing:
        raise BadInput(f"the weights lack {missing[0]}: use complete ones")
    model.load_state_dict(matching, strict=False)
    return model
