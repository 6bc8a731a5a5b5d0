"""What BERT's recipes begin with: the data, its word pieces, and perhaps weights."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledDataset, LabeledTexts, read_labeled
from torchstone.data.text.corpus import read_text
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SPECIAL_TOKENS, SpecialTokens
from torchstone.engine import checkpoint
from torchstone.errors import BadInput
from torchstone.hub import bert, hf_folder

TokenLists = list[list[int]]
# new where weights have none
HEADS = ("transform", "decoder", "follows", "classifier", "pooler")


class BertSetup(NamedTuple):
    """What training begins with: the network's arguments, weights if they are given, the words."""

    model_config: dict[str, Any]
    tensors: dict[str, Tensor] | None
    tokenizer: Any
    frame: SpecialTokens
    labelled: LabeledDataset | None
    documents: dict[str, TokenLists]  # of train, val and test, for hidden words
    metadata: dict[str, Any]


def prepare(recipe: Any, sizes: dict[str, int]) -> BertSetup:
    """Read the data, and learn the word pieces of its training split or take those of the weights.

    Raises:
        BadInput: the data cannot be read, or the weights are of another system.
    """
    labelled = texts = None
    if recipe.goal == "labels":
        labelled = read_labeled(recipe.data, recipe.most)
        parts = {split: getattr(labelled, split) for split in ("train", "val", "test")}
        texts = {split: [*all_texts(part)] for split, part in parts.items()}
        note = labelled.description
    else:
        text = read_text(recipe.data)
        note = text.description
        texts = {split: split_documents(getattr(text, split)) for split in ("train", "val", "test")}
        if recipe.most is not None:
            texts = {split: some[: recipe.most] for split, some in texts.items()}
    if recipe.weights is None:
        tensors, size = None, recipe.vocabulary
        tokenizer = tokenizers.train(
            "wordpiece", texts["train"], vocab_size=size, special_tokens=SPECIAL_TOKENS
        )
        tokenizer.post_processor = post_processor(tokenizer)
        model_config = {**bert.USUAL, **sizes, "vocabulary": tokenizer.get_vocab_size()}
        model_config["places"] = recipe.length
        model_config |= {"dropout": recipe.dropout, "attention_dropout": recipe.dropout}
    else:
        model_config, tensors, tokenizer = load_bert(Path(recipe.weights))
    frame = SpecialTokens.of(tokenizer, min(recipe.length, model_config["places"]))
    documents = {}
    if tensors is None or recipe.goal == "words":
        documents = {split: encode_texts(tokenizer, some) for split, some in texts.items()}
    metadata = {"variant": recipe.variant, "tokenizer": tokenizers.to_metadata(tokenizer)}
    metadata |= {"length": frame.length, "data": note}
    return BertSetup(model_config, tensors, tokenizer, frame, labelled, documents, metadata)


def post_processor(tokenizer: Any) -> Any:
    """How the tokenizer frames a text or a pair, for those who use it without us."""
    from tokenizers.processors import TemplateProcessing

    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    return TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=marks)


def all_texts(part: LabeledTexts) -> Iterable[str]:
    """Every text of a split; words that are labelled one by one, joined."""
    for i in range(len(part)):
        first = part.first[i]
        yield first if isinstance(first, str) else " ".join(first)
        if part.second is not None:
            yield part.second[i]


def split_documents(text: str) -> list[str]:
    """The documents that spans are taken from: what empty lines part, joined to a few hundred words."""
    found, size = [[]], 0
    for block in text.split("\n\n"):
        found[-1].append(block)
        size += len(block)
        if size > 2000:
            found.append([])
            size = 0
    return [" ".join(blocks) for blocks in found if "".join(blocks).strip()]


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> TokenLists:
    return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def load_bert(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """Arguments, weights and tokenizer of a BERT in a run folder or in Hugging Face layout."""
    if (path / "recipe.json").exists():
        found, meta, _ = checkpoint.find(path / "checkpoint")
        if meta["system"] != "bert":
            raise BadInput(f"{path} is a run of {meta['system']}, not of bert")
        held = checkpoint.tensors(found, "ema.module") or checkpoint.tensors(found, "model")
        return meta["metadata"]["model_config"], held, tokenizers.from_metadata(meta["metadata"]["tokenizer"])
    config, tensors = hf_folder.read(path)
    if hf_folder.system_of_config(config) != "bert":
        raise BadInput(f"{path} is of model_type {config['model_type']!r}, not bert")
    _, model_config = bert.from_config(config)
    return model_config, bert.published("bert_base", tensors), disable_padding(tokenizers.load(path))


def disable_padding(tokenizer: Any) -> Any:
    """Published tokenizers may cut and pad what they are given; rows are framed here."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def build_rows(part: LabeledTexts, tokenizer: Any, frame: SpecialTokens) -> tuple[list, list]:
    """Framed rows and their labels; of a word, its first piece is labelled (section 5.3)."""
    encode = functools.partial(encode_texts, tokenizer)
    if not part.first or isinstance(part.first[0], str):
        second = [None] * len(part) if part.second is None else encode(part.second)
        pairs = zip(encode(part.first), second, strict=True)
        return [frame.row(a, b) for a, b in pairs], list(part.labels)
    rows, labels = [], []
    for words, own in zip(part.first, part.labels, strict=True):
        pieces = [p or [tokenizer.token_to_id("[UNK]")] for p in encode(words)]
        flat = [[label] + [IGNORE_INDEX] * (len(p) - 1) for label, p in zip(own, pieces, strict=True)]
        row, end = frame.row([t for p in pieces for t in p], None)
        rows.append((row, end))
        each = [IGNORE_INDEX, *(label for some in flat for label in some)][: len(row) - 1]
        labels.append([*each, IGNORE_INDEX])
    return rows, labels


def load_matching_weights(model: nn.Module, tensors: Mapping[str, Tensor] | None) -> nn.Module:
    """The weights that the model has a place for; heads that they lack, and one for labels, are new."""
    own = model.state_dict()
    kept = {k: v for k, v in (tensors or {}).items() if k in own and not k.startswith("classifier.")}
    lost = [k for k in own if tensors and k not in kept and not k.startswith(HEADS)]
    if lost:
        raise BadInput(f"the weights lack {lost[0]}: take whole ones")
    model.load_state_dict(kept, strict=False)
    return model
