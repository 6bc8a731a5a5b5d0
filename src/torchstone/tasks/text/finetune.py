"""Fine-tuning on labeled text: from a model, a recipe and labels to a Run."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledDataset, LabeledTexts
from torchstone.data.text.sentence_batches import IGNORE_INDEX, LabeledBatch, SentenceBatches
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.parts.modes import eval_mode
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.bert_data import BertSetup, build_rows
from torchstone.tasks.text.masked_lm import HeadModule


def label_loss(logits: Tensor, batch: LabeledBatch) -> dict[str, Tensor]:
    """Cross-entropy (nats) and accuracy of the labels, a mean over those that there are."""
    logits, labels = logits.flatten(0, -2), batch.labels.flatten()
    has_label = labels != IGNORE_INDEX
    accuracy = ((logits.detach().argmax(1) == labels) & has_label).sum() / has_label.sum()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
    return {"loss": loss, "accuracy": accuracy, "weight": has_label.sum()}


def finetune(
    model: nn.Module,
    recipe: Any,
    setup: BertSetup,
    *,
    model_config: dict,
    loss: Callable[[Any, LabeledBatch], dict[str, Tensor]] = label_loss,
    forward_module: nn.Module | None = None,
    others: Mapping[str, nn.Module] = {},
) -> Run:
    """A Run that trains `model` to classify texts, pairs of texts, or words.

    The recipe states batch_size, steps and seed. Metrics are `accuracy` (of texts, or of words) and `loss`
    (cross-entropy, nats); the test also has `tfidf`, the accuracy of logistic regression on TF-IDF features,
    on the same split.

    Args:
        loss: (output of `forward_module`, batch) -> metrics with `loss`.
        forward_module: what is called with rows; by default it gives the output of the head.
        others: networks whose accuracy the test measures too, under their names.
    """
    assert setup.dataset is not None
    dataset, device = setup.dataset, next(model.parameters()).device
    streams = {
        split: SentenceBatches(
            *build_rows(getattr(dataset, split), setup.tokenizer, setup.special),
            recipe.batch_size,
            setup.special,
            seed=recipe.seed,
            device=device,
            **parallel.share(),
        )
        for split in ("train", "val", "test")
    }

    update, state, eval_model = gradient_update(
        model,
        recipe.optim,
        lambda net, batch: loss(net(*batch.rows), batch),
        steps=recipe.steps,
        forward_module=HeadModule(model) if forward_module is None else forward_module,
    )
    state["stream"] = streams["train"]
    baseline = functools.cache(lambda: tfidf_baseline(dataset))
    metadata = {
        **setup.metadata,
        "task": "labels",
        "model_config": model_config,
        "classes": list(dataset.classes),
        "has_word_labels": dataset.has_word_labels,
        "pairs": dataset.train.second is not None,
        "max_examples": dataset.max_examples,
    }

    def test() -> dict[str, float]:
        metrics = measure(eval_model, streams["test"])
        for name, other in others.items():
            metrics[f"{name}_accuracy"] = measure(other, streams["test"])["accuracy"]
        return metrics if dataset.has_word_labels else {**metrics, "tfidf": baseline()}

    return Run(
        stream=streams["train"],
        update=update,
        evaluate=lambda: measure(eval_model, streams["val"]),
        best_metric="accuracy",
        examples=Examples(recipe.batch_size, len(dataset.train), len(dataset.val), "texts"),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(eval_model, streams["test"], metadata, folder),
        metadata=metadata,
    )


def tfidf_baseline(dataset: LabeledDataset) -> float:
    """Accuracy on the test split of logistic regression on TF-IDF features."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    train, test = ([" ".join(pair) for pair in _pairs(part)] for part in (dataset.train, dataset.test))
    return float(model.fit(train, dataset.train.labels).score(test, dataset.test.labels))


def _pairs(part: LabeledTexts) -> Iterable[tuple[str, ...]]:
    texts = [str(text) for text in part.first]
    return zip(texts) if part.second is None else zip(texts, part.second, strict=True)


@torch.no_grad()
def compute_logits(model: nn.Module, batches: SentenceBatches) -> tuple[Tensor, Tensor]:
    """Logits and labels of every sample (or labeled token), in the order of `eval_batches`."""
    logits, labels = [], []
    with eval_mode(model):
        for _, batch in batches.eval_batches():
            flat = model.logits(*batch.rows).flatten(0, -2).cpu()  # ty: ignore[not-callable]
            flat_labels = batch.labels.flatten().cpu()
            logits.append(flat[flat_labels != IGNORE_INDEX])
            labels.append(flat_labels[flat_labels != IGNORE_INDEX])
    return torch.cat(logits), torch.cat(labels)


def measure(model: nn.Module, batches: SentenceBatches) -> dict[str, float]:
    """Accuracy and mean loss (nats) on a full split."""
    logits, labels = compute_logits(model, batches)
    accuracy = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": accuracy.item(), "loss": F.cross_entropy(logits, labels).item()}


def report(model: nn.Module, batches: SentenceBatches, metadata: dict, folder: Path) -> None:
    """Draw the confusion matrix of the test split; write the tokenizer next to the figures."""
    from torchstone.plots.classification import plot_confusion_matrix

    tokenizers.save_tokenizer(metadata["tokenizer"], folder)
    logits, labels = compute_logits(model, batches)
    num_classes = len(metadata["classes"])
    matrix = torch.bincount(labels * num_classes + logits.argmax(1), minlength=num_classes**2)
    plot_confusion_matrix(
        matrix.reshape(num_classes, num_classes), metadata["classes"], folder / "confusion.png"
    )
