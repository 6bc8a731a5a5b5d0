"""Pre-training on hidden words: from a model, a recipe and text to a Run, and what it can fill in."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.mlm_batches import MLMBatch, MLMBatches
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SpecialTokens, collate
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.transformer.token_loss import unigram_loss
from torchstone.tasks.optimization import gradient_update

MARK = "[MASK]"


class HeadModule(nn.Module):
    """A network as its head answers, in one call: what is replicated over processes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model.logits(*inputs)  # ty: ignore[not-callable]


def split_output(output) -> tuple[Tensor, Tensor | None]:
    """Logits of words, and of the next sentence if the head tells it."""
    return output if isinstance(output, tuple) else (output, None)


def loss_of(output, batch: MLMBatch) -> dict[str, Tensor]:
    """−log p of the hidden words, in the mean, and of whether the second span follows."""
    words, follows = split_output(output)
    flat, targets = words.flatten(0, 1), batch.targets.flatten()
    each = F.cross_entropy(flat, targets, ignore_index=IGNORE_INDEX, reduction="none")
    # over all hidden words of the batch, and so that parts of it weigh by their rows
    loss = told = (each.view_as(batch.share) * batch.share).sum(1).mean()
    right = (words.detach().argmax(2) == batch.targets).float() * batch.share
    metrics = {"accuracy": right.sum(1).mean()}
    if follows is not None:
        metrics["cross_entropy"] = told.detach()
        loss = told + F.cross_entropy(follows, batch.stray)
        metrics["next_accuracy"] = (follows.detach().argmax(1) == batch.stray).float().mean()
    return {"loss": loss, **metrics}


def pretrain(
    model: nn.Module,
    recipe: Any,
    documents: dict[str, list[list[int]]],
    frame: SpecialTokens,
    *,
    metadata: dict,
) -> Run:
    """A Run that teaches `model` to tell hidden words, and with `recipe.pairs` next sentences.

    The recipe states batch, steps, seed, hidden, pairs, and what descent needs. Metrics are
    `cross_entropy` (nats a hidden word), `accuracy` (of them) and `next_accuracy` (shares); the test
    also has `unigram`, the cross-entropy of guessing by frequency.

    Args:
        documents: token ids of `train`, `val` and `test`.
    """
    size, device = metadata["model_config"]["vocabulary"], next(model.parameters()).device
    texts = {
        split: MLMBatches(
            documents[split],
            recipe.batch_size,
            frame,
            size,
            seed=recipe.seed,
            pairs=recipe.pairs,
            hidden=recipe.hidden,
            device=device,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
        )
        for split in ("train", "val", "test")
    }
    update, state, judged = gradient_update(
        model,
        recipe.optim,
        lambda net, batch: loss_of(net(*batch.rows, batch.places), batch),
        steps=recipe.steps,
        forward_module=HeadModule(model),
    )
    state["stream"] = texts["train"]

    def test() -> dict[str, float]:
        told = unigram_cross_entropy(documents["train"], texts["test"].once(most=4096), size)
        return {**measure(judged, texts["test"].once(most=4096)), "unigram": told}

    return Run(
        stream=texts["train"],
        update=update,
        evaluate=lambda: measure(judged, texts["val"].once()),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(judged, texts["test"], metadata, folder),
        metadata={**metadata, "task": "masked"},
    )


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[MLMBatch]) -> dict[str, float]:
    """Cross-entropy (nats) and accuracy on hidden words, accuracy on next sentences."""
    was_training = model.training
    model.eval()
    sums = dict.fromkeys(("cross_entropy", "accuracy", "next"), 0.0)
    words = rows = 0
    for batch in batches:
        logits, follows = split_output(model.logits(*batch.rows, batch.places))  # ty: ignore
        flat, targets = logits.flatten(0, 1), batch.targets.flatten()
        loss = F.cross_entropy(flat, targets, ignore_index=IGNORE_INDEX, reduction="sum")
        sums["cross_entropy"] += loss.item()
        sums["accuracy"] += (flat.argmax(1) == targets).sum().item()
        words, rows = words + int((targets != IGNORE_INDEX).sum()), rows + len(batch.stray)
        if follows is not None:
            sums["next"] += (follows.argmax(1) == batch.stray).sum().item()
    model.train(was_training)
    told = {name: sums[name] / max(1, words) for name in ("cross_entropy", "accuracy")}
    return {**told, "next_accuracy": sums["next"] / rows} if sums["next"] else told


def unigram_cross_entropy(train: list[list[int]], batches: Iterable[MLMBatch], size: int) -> float:
    """Cross-entropy (nats) of telling the hidden words by how often each stands in `train`."""
    flat = torch.tensor([token for document in train for token in document])
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    return unigram_loss(flat, targets[targets != IGNORE_INDEX], size)


@torch.no_grad()
def fill_mask(
    model: nn.Module, tokenizer: Any, frame: SpecialTokens, texts: Sequence[str], top: int = 5
) -> list[dict]:
    """The likeliest words in the places of [MASK], with their probabilities.

    Raises:
        BadInput: a text has no [MASK], or is longer than the network's rows.
    """
    answers, device = [], next(model.parameters()).device
    model.eval()
    for text in texts:
        if MARK not in text:
            raise BadInput(f"{text!r} has no {MARK}: put it where words are to be filled in")
        ids = [list(tokenizer.encode(p, add_special_tokens=False).ids) for p in text.split(MARK)]
        row = ids[0] + [t for part in ids[1:] for t in (frame.hidden, *part)]
        if len(row) > frame.length - 2:
            most = frame.length - 2
            raise BadInput(f"{text!r} is {len(row)} tokens long; the network takes {most}")
        rows = collate([frame.row(row, None)], frame)
        at = (rows.tokens == frame.hidden).nonzero()[:, 1]
        logits, _ = split_output(model.logits(*(r.to(device) for r in rows), at[None].to(device)))  # ty: ignore
        chances = without_special_tokens(logits[0].cpu(), frame.special).softmax(1)
        candidates = [
            [
                {"word": tokenizer.id_to_token(int(i)), "probability": float(p)}
                for p, i in zip(*row.topk(min(top, len(row))), strict=True)
            ]
            for row in chances
        ]
        told = text
        for gap in candidates:
            told = told.replace(MARK, str(gap[0]["word"]), 1)
        answers.append({"input": text, "text": told, "candidates": candidates})
    return answers


def without_special_tokens(
    logits: Float[Tensor, "n size"], special: frozenset[int]
) -> Float[Tensor, "n size"]:
    """Words only: a gap is never filled with [SEP]."""
    return logits.index_fill(1, torch.tensor(sorted(special)), -torch.inf)


def report(model: nn.Module, text: MLMBatches, metadata: dict, folder: Path) -> None:
    """Draw rows of the test split with what was hidden in them and what the model says; the tokenizer
    goes beside the pictures."""
    from torchstone.plots.masked_words import plot_masked_words

    tokenizers.save_tokenizer(metadata["tokenizer"], folder)
    plot_masked_words(model, text, tokenizers.from_metadata(metadata["tokenizer"]), folder / "hidden.png")
