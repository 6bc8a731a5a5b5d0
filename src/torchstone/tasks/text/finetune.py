"""Fine-tuning on labelled text: from a model, a recipe and labels to a Run."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledDataset, LabeledTexts
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SentenceBatches
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.bert_data import BertSetup, build_rows
from torchstone.tasks.text.masked_lm import HeadModule


def finetune(model: nn.Module, recipe: Any, start: BertSetup, *, model_config: dict) -> Run:
    """A Run that trains `model` to tell the labels; validation guides, the test is looked at once.

    Metrics are `accuracy` (of texts, or of words) and `loss` (cross-entropy, nats); the test also has
    `tfidf`, the accuracy of logistic regression on words' frequencies, on the same split.
    """
    assert start.labelled is not None
    data, device = start.labelled, next(model.parameters()).device
    parts = {
        split: SentenceBatches(
            *build_rows(getattr(data, split), start.tokenizer, start.frame),
            recipe.batch_size,
            start.frame,
            seed=recipe.seed,
            device=device,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
        )
        for split in ("train", "val", "test")
    }

    def objective(net, batch) -> dict[str, Tensor]:
        logits, labels = net(*batch.rows).flatten(0, -2), batch.labels.flatten()
        known = labels != IGNORE_INDEX
        right = ((logits.detach().argmax(1) == labels) & known).sum() / known.sum()
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
        return {"loss": loss, "accuracy": right, "weight": known.sum()}

    update, state, judged = gradient_update(
        model, recipe.optim, objective, steps=recipe.steps, forward_module=HeadModule(model)
    )
    state["stream"] = parts["train"]
    words_counted = functools.cache(lambda: tfidf_baseline(data))
    metadata = {
        **start.metadata,
        "task": "labels",
        "model_config": model_config,
        "classes": list(data.classes),
    }
    metadata |= {"words": data.words, "pairs": data.train.second is not None, "most": recipe.most}

    def test() -> dict[str, float]:
        found = measure(judged, parts["test"])
        return found if data.words else {**found, "tfidf": words_counted()}

    return Run(
        stream=parts["train"],
        update=update,
        evaluate=lambda: measure(judged, parts["val"]),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(judged, parts["test"], metadata, folder),
        metadata=metadata,
    )


def tfidf_baseline(data: LabeledDataset) -> float:
    """Accuracy on the test split of logistic regression on the frequencies of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    first, last = ([" ".join(pair) for pair in _paired(part)] for part in (data.train, data.test))
    return float(model.fit(first, data.train.labels).score(last, data.test.labels))


def _paired(part: LabeledTexts) -> Iterable[tuple[str, ...]]:
    texts = [str(text) for text in part.first]
    return zip(texts) if part.second is None else zip(texts, part.second, strict=True)


@torch.no_grad()
def compute_logits(model: nn.Module, rows: SentenceBatches) -> tuple[Tensor, Tensor]:
    """Logits and labels of every sample (or labelled token), in the order of `Sentences.once`."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for _, batch in rows.once():
        each, own = model.logits(*batch.rows).flatten(0, -2).cpu(), batch.labels.flatten().cpu()  # ty: ignore
        logits.append(each[own != IGNORE_INDEX])
        labels.append(own[own != IGNORE_INDEX])
    model.train(was_training)
    return torch.cat(logits), torch.cat(labels)


def measure(model: nn.Module, rows: SentenceBatches) -> dict[str, float]:
    """Accuracy (a share) and mean loss (nats) on a whole split."""
    logits, labels = compute_logits(model, rows)
    right = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": right.item(), "loss": F.cross_entropy(logits, labels).item()}


def report(model: nn.Module, rows: SentenceBatches, metadata: dict, folder: Path) -> None:
    """Draw what is confused with what on the test split; the tokenizer goes beside the pictures."""
    from torchstone.plots.classification import confusion

    tokenizers.save_tokenizer(metadata["tokenizer"], folder)
    logits, labels = compute_logits(model, rows)
    count = len(metadata["classes"])
    matrix = torch.bincount(labels * count + logits.argmax(1), minlength=count**2)
    confusion(matrix.reshape(count, count), metadata["classes"], folder / "confusion.png")
