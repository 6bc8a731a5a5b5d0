"""Using a trained BERT or a relative: labels of texts, pairs and words, or words for [MASK]."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.text import classification_files, tokenizers
from torchstone.data.text.classification import LabeledTexts, read_labeled
from torchstone.data.text.corpus import read_text
from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SentenceBatches, SpecialTokens
from torchstone.engine.console import notify
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.tasks.inference import label_prediction, looks_like_a_file
from torchstone.tasks.text import masked_lm
from torchstone.tasks.text.bert_data import build_rows, encode_texts, split_documents
from torchstone.tasks.text.finetune import compute_logits


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Accuracy and cross-entropy (nats) on `spec`: its test split if `held_out`, else all of it; for a
    masked language model, on the masked tokens.

    Raises:
        BadInput: it has other labels than the model was trained on.
    """
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    special = SpecialTokens.from_tokenizer(tokenizer, metadata["length"])
    device = next(model.parameters()).device
    if metadata["task"] == "masked":
        text = read_text(spec)
        part = text.test if held_out else "\n\n".join((text.train, text.val, text.test))
        stream = MLMBatches(
            encode_texts(tokenizer, split_documents(part)),
            64,
            special,
            metadata["model_config"]["vocab_size"],
            seed=0,
            device=device,
            **masked_lm.stream_options(metadata),
        )
        metrics = masked_lm.measure(model, stream.eval_batches(max_spans=10**9), metadata)
        return {**metrics, "spans": len(stream.spans)}
    dataset = read_labeled(spec, metadata["max_examples"] if held_out else None)
    has_word_labels = metadata["has_word_labels"]
    if list(dataset.classes) != metadata["classes"] or dataset.has_word_labels != has_word_labels:
        raise BadInput(
            f"{spec} has the labels {', '.join(dataset.classes)}, but the model predicts "
            f"{', '.join(metadata['classes'])}"
        )
    outputs = []
    for part in [dataset.test] if held_out else [dataset.train, dataset.val, dataset.test]:
        rows, row_labels = build_rows(part, tokenizer, special)
        batches = SentenceBatches(rows, row_labels, 1, special, seed=0, device=device)
        outputs.append(compute_logits(model, batches))
    logits, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    loss = F.cross_entropy(logits, labels).item()
    return {"accuracy": accuracy, "loss": loss, "labels": len(labels)}


@torch.no_grad()
def predict(
    model: nn.Module, metadata: dict, inputs: Sequence[str | Path], *, fill: bool = False
) -> list[dict]:
    """Labels of texts (or of those in files: the text column of a table, or lines) and their probabilities;
    from a masked language model the most likely words for each [MASK]. A pair is `first ||| second`.

    Raises:
        BadInput: the model was not trained for this; a text has no [MASK], or is no pair.
    """
    texts = [text for each in inputs for text in read_texts(each, metadata)]
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    special = SpecialTokens.from_tokenizer(tokenizer, metadata["length"])
    if metadata["task"] == "masked":
        return masked_lm.fill_mask(model, tokenizer, special, texts)
    if fill:
        raise BadInput("this model predicts labels: to fill in words train one with --task masked_lm")
    rows, labels = build_rows(as_unlabeled(texts, metadata), tokenizer, special)
    # only a row that is full may have been cut
    full = [text for text, (row, _) in zip(texts, rows, strict=True) if len(row) >= special.max_length]
    unlimited = replace(special, max_length=sys.maxsize)
    uncut, _ = build_rows(as_unlabeled(full, metadata), tokenizer, unlimited)
    if cut := sum(len(row) > special.max_length for row, _ in uncut):
        notify(
            f"{cut} of {len(texts)} texts are longer than the {special.max_length} tokens that the network "
            "reads: their ends are left out"
        )
    device = next(model.parameters()).device
    batches = SentenceBatches(rows, labels, 1, special, seed=0, device=device)
    answers = []
    with eval_mode(model):
        for number, text in enumerate(texts):
            batch = batches.collate([number])
            probabilities = model.logits(*batch.rows)[0].softmax(-1).cpu()  # ty: ignore[not-callable]
            if metadata["has_word_labels"]:
                probabilities = probabilities[batch.labels[0].cpu() != IGNORE_INDEX]
                answers.append(_word_answer(text, probabilities, metadata["classes"]))
            else:
                answers.append(label_prediction(text, metadata["classes"], probabilities.tolist()))
    return answers


def as_unlabeled(texts: list[str], metadata: dict) -> LabeledTexts:
    """Texts, pairs or words, as the model was trained on, with placeholders for labels."""
    if metadata["has_word_labels"]:
        sentences = [tuple(text.split()) for text in texts]
        return LabeledTexts(sentences, None, [[0] * len(words) for words in sentences])
    if not metadata["pairs"]:
        return LabeledTexts(texts, None, [0] * len(texts))
    halves = [text.split("|||") for text in texts]
    if wrong := [t for t, half in zip(texts, halves, strict=True) if len(half) != 2]:
        raise BadInput(f"this model classifies pairs: give FIRST ||| SECOND, not {wrong[0]!r}")
    return LabeledTexts([a.strip() for a, _ in halves], [b.strip() for _, b in halves], [0] * len(texts))


def _word_answer(text: str, probabilities: Tensor, classes: list[str]) -> dict:
    labels = [classes[int(i)] for i in probabilities.argmax(1)]
    pairs = zip(text.split(), labels, strict=False)  # words beyond the maximum length have no label
    return {"input": text, "text": " ".join(f"{word}/{label}" for word, label in pairs), "labels": labels}


def read_texts(each: str | Path, metadata: dict) -> list[str]:
    """A text itself, or those of a file: the column of a table, or lines; of pairs `first ||| second`."""
    if not os.path.isfile(each):  # which, unlike Path's, takes texts longer than a file name
        if not str(each).strip():
            raise BadInput(f"{str(each)!r} holds no text")
        if looks_like_a_file(str(each)):
            raise BadInput(f"{each} does not exist: give a file that does, or a text")
        return [str(each)]
    labels = metadata["task"] != "masked"
    pairs, words = labels and metadata["pairs"], labels and metadata["has_word_labels"]
    found = classification_files.read_unlabeled(Path(each), pairs=pairs, words=words)
    return [first if second is None else f"{first} ||| {second}" for first, second in found]
