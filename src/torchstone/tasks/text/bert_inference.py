"""Use of a trained BERT: labels of texts, pairs and words, or the words that fill a gap."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledTexts, read_labeled
from torchstone.data.text.corpus import read_text
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SentenceBatches, SpecialTokens
from torchstone.errors import BadInput
from torchstone.tasks.text import masked_lm
from torchstone.tasks.text.bert_data import build_rows, encode_texts, split_documents
from torchstone.tasks.text.finetune import compute_logits


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Accuracy and cross-entropy (nats) on `spec`: its test split if `held_out`, else all of it; for
    a model of words, on the hidden ones.

    Raises:
        BadInput: it has other labels than the model was trained to tell.
    """
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    frame, device = SpecialTokens.of(tokenizer, metadata["length"]), next(model.parameters()).device
    if metadata["task"] == "masked":
        text = read_text(spec)
        whole = text.test if held_out else "\n\n".join((text.train, text.val, text.test))
        stream = masked_lm.MaskedText(
            encode_texts(tokenizer, split_documents(whole)),
            64,
            frame,
            metadata["model_config"]["vocabulary"],
            seed=0,
            pairs=metadata["pairs"],
            device=device,
        )
        return {**masked_lm.measure(model, stream.once(most=10**9)), "spans": len(stream.spans)}
    data = read_labeled(spec, metadata["most"] if held_out else None)
    if list(data.classes) != metadata["classes"] or data.words != metadata["words"]:
        raise BadInput(
            f"{spec} has the labels {', '.join(data.classes)}, but the model tells "
            f"{', '.join(metadata['classes'])}"
        )
    found = []
    for part in [data.test] if held_out else [data.train, data.val, data.test]:
        rows = SentenceBatches(*build_rows(part, tokenizer, frame), 1, frame, seed=0, device=device)
        found.append(compute_logits(model, rows))
    logits, labels = (torch.cat(column) for column in zip(*found, strict=True))
    right = (logits.argmax(1) == labels).double().mean().item()
    nats = F.cross_entropy(logits, labels).item()
    return {"accuracy": right, "cross_entropy": nats, "labels": len(labels)}


@torch.no_grad()
def predict(
    model: nn.Module, metadata: dict, inputs: Sequence[str | Path], *, fill: bool = False
) -> list[dict]:
    """What the model says of texts (or of a text file's lines): labels and their probabilities; the
    likeliest words for each [MASK] from a model of words. A pair is `first ||| second`.

    Raises:
        BadInput: the model was not trained for what is asked; no [MASK], or no pair, in a text.
    """
    texts = [line for each in inputs for line in _lines(each)]
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    frame, device = SpecialTokens.of(tokenizer, metadata["length"]), next(model.parameters()).device
    if metadata["task"] == "masked":
        return masked_lm.fill_mask(model, tokenizer, frame, texts)
    if fill:
        raise BadInput("this model tells labels: to fill in words train bert/masked")
    if metadata["words"]:
        given = [tuple(text.split()) for text in texts]
        part = LabeledTexts(given, None, [[0] * len(words) for words in given])
    elif metadata["pairs"]:
        halves = [text.split("|||") for text in texts]
        if wrong := [t for t, half in zip(texts, halves, strict=True) if len(half) != 2]:
            raise BadInput(f"this model labels pairs: give FIRST ||| SECOND, not {wrong[0]!r}")
        part = LabeledTexts([a.strip() for a, _ in halves], [b.strip() for _, b in halves], [0] * len(texts))
    else:
        part = LabeledTexts(texts, None, [0] * len(texts))
    rows = SentenceBatches(*build_rows(part, tokenizer, frame), 1, frame, seed=0, device=device)
    model.eval()
    answers = []
    for number, text in enumerate(texts):
        batch = rows.take([number])
        chances = model.logits(*batch.rows)[0].softmax(-1).cpu()  # ty: ignore[not-callable]
        if metadata["words"]:
            chances = chances[batch.labels[0].cpu() != IGNORE_INDEX]
            told = [metadata["classes"][int(i)] for i in chances.argmax(1)]
            pairs = zip(text.split(), told, strict=False)  # words beyond the length have no label
            said = " ".join(f"{word}/{label}" for word, label in pairs)
            answers.append({"input": text, "text": said, "labels": told})
            continue
        best = int(chances.argmax())
        answers.append(
            {
                "input": text,
                "label": metadata["classes"][best],
                "probability": float(chances[best]),
                "probabilities": dict(zip(metadata["classes"], chances.tolist(), strict=True)),
            }
        )
    return answers


def _lines(each: str | Path) -> list[str]:
    """A text itself, or the lines of a file of them."""
    if not Path(each).is_file():
        texts = [str(each)]
    else:
        try:
            texts = Path(each).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise BadInput(f"{each} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    if not any(text.strip() for text in texts):
        raise BadInput(f"{str(each)!r} holds no text")
    return [text for text in texts if text.strip()]
