"""Pre-training on masked words: from a model, a recipe and documents to a Run; and filling in [MASK]."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.mlm_batches import MLMBatch, MLMBatches
from torchstone.data.text.ngram_masking import SPACE, NGrams, piece_text, word_starts
from torchstone.data.text.sentence_batches import IGNORE_INDEX, SpecialTokens, collate
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.transformer.token_loss import unigram_loss
from torchstone.tasks.optimization import gradient_update

MASK = "[MASK]"
BYTE_SPACE = "Ġ"  # a space as a vocabulary over bytes spells it
MAX_VAL_SPANS, MAX_TEST_SPANS = 512, 4096  # spans that an evaluation reads, and the test


class HeadModule(nn.Module):
    """A network with its head as one `forward`, for replication over processes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model.logits(*inputs)  # ty: ignore[not-callable]


def split_output(output) -> tuple[Tensor, Tensor | None]:
    """Logits of the tokens, and of the next sentence if the head has them."""
    return output if isinstance(output, tuple) else (output, None)


def stream_options(metadata: dict) -> dict[str, Any]:
    """How `MLMBatches` makes rows, by a run's metadata: `pairs`, and if there are `pair_task` (`next` or
    `order`) and `max_ngram`."""
    ngrams = None
    if metadata.get("max_ngram"):
        tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
        is_start = word_starts(tokenizer, metadata["model_config"]["vocab_size"])
        ngrams = NGrams(metadata["max_ngram"], is_start)
    is_order = metadata.get("pair_task") == "order"
    return {"next_sentence": metadata["pairs"], "sentence_order": is_order, "ngrams": ngrams}


def masked_word_loss(
    logits: Float[Tensor, "batch masked size"], batch: MLMBatch
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """−log p of the masked words (nats) and their accuracy, each a mean over all masked words of the batch,
    into however many micro-batches it is split."""
    flat, targets = logits.flatten(0, 1), batch.targets.flatten()
    losses = F.cross_entropy(flat, targets, ignore_index=IGNORE_INDEX, reduction="none")
    loss = (losses.view_as(batch.weights) * batch.weights).sum(1).mean()
    is_correct = (logits.detach().argmax(2) == batch.targets).float() * batch.weights
    return loss, is_correct.sum(1).mean()


def pretrain(
    model: nn.Module,
    recipe: Any,
    documents: dict[str, list[list[int]]],
    special: SpecialTokens,
    loss: Callable[[Any, MLMBatch], dict[str, Tensor]],
    *,
    metadata: dict,
    forward_module: nn.Module | None = None,
    others: Mapping[str, nn.Module] = {},
) -> Run:
    """A Run that trains `model` to predict masked tokens and, with `pairs` in the metadata, whether a span
    follows another, or in which order two are (`stream_options`).

    The recipe states batch_size, steps, seed and mask_prob. Metrics are `cross_entropy` (nats per masked
    token), `accuracy` (of them) and `next_accuracy` or `order_accuracy`; the test also has `unigram`, the
    cross-entropy of predicting by token frequency.

    Args:
        documents: token ids of `train`, `val` and `test`.
        loss: (output of `forward_module`, batch) -> metrics with `loss`.
        forward_module: what is called with rows and positions; by default it gives the output of the head.
        others: networks that the test measures too; their metrics have the names in front.
    """
    vocab_size, device = metadata["model_config"]["vocab_size"], next(model.parameters()).device
    options = stream_options(metadata)
    streams = {
        split: MLMBatches(
            documents[split],
            recipe.batch_size,
            special,
            vocab_size,
            seed=recipe.seed,
            mask_prob=recipe.mask_prob,
            device=device,
            **options,
            **parallel.share(),
        )
        for split in ("train", "val", "test")
    }
    update, state, eval_model = gradient_update(
        model,
        recipe.optim,
        lambda net, batch: loss(net(*batch.rows, batch.positions), batch),
        steps=recipe.steps,
        forward_module=HeadModule(model) if forward_module is None else forward_module,
    )
    state["stream"] = streams["train"]

    def test() -> dict[str, float]:
        batches = streams["test"].eval_batches(max_spans=MAX_TEST_SPANS)
        baseline = unigram_cross_entropy(documents["train"], batches, vocab_size)
        batches = streams["test"].eval_batches(max_spans=MAX_TEST_SPANS)
        metrics = {**measure(eval_model, batches, metadata), "unigram": baseline}
        for name, other in others.items():
            measured = measure(other, streams["test"].eval_batches(max_spans=MAX_TEST_SPANS))
            metrics |= {f"{name}_{metric}": measured[metric] for metric in ("cross_entropy", "accuracy")}
        return metrics

    return Run(
        stream=streams["train"],
        update=update,
        evaluate=lambda: measure(eval_model, streams["val"].eval_batches(max_spans=MAX_VAL_SPANS), metadata),
        best_metric="cross_entropy",
        examples=Examples(
            recipe.batch_size,
            len(streams["train"].spans),
            min(MAX_VAL_SPANS, len(streams["val"].spans)),
            "rows",
        ),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(eval_model, streams["test"], metadata, folder),
        metadata={**metadata, "task": "masked"},
    )


@torch.no_grad()
def measure(
    model: nn.Module, batches: Iterable[MLMBatch], metadata: Mapping[str, Any] = {}
) -> dict[str, float]:
    """Cross-entropy (nats) and accuracy on masked tokens, and accuracy on next sentences or on the order of
    two (`pair_task` in the metadata)."""
    sums = dict.fromkeys(("cross_entropy", "accuracy", "next"), 0.0)
    tokens = rows = 0
    with eval_mode(model):
        for batch in batches:
            output = model.logits(*batch.rows, batch.positions)  # ty: ignore[not-callable]
            logits, next_logits = split_output(output)
            logits, targets = logits.flatten(0, 1), batch.targets.flatten()
            loss = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
            sums["cross_entropy"] += loss.item()
            sums["accuracy"] += (logits.argmax(1) == targets).sum().item()
            tokens += int((targets != IGNORE_INDEX).sum())
            rows += len(batch.is_random_next)
            if next_logits is not None:
                sums["next"] += (next_logits.argmax(1) == batch.is_random_next).sum().item()
    metrics = {name: sums[name] / max(1, tokens) for name in ("cross_entropy", "accuracy")}
    name = f"{metadata.get('pair_task', 'next')}_accuracy"
    return {**metrics, name: sums["next"] / rows} if sums["next"] else metrics


def unigram_cross_entropy(train: list[list[int]], batches: Iterable[MLMBatch], vocab_size: int) -> float:
    """Cross-entropy (nats) of predicting the masked tokens by their frequency in `train`."""
    flat = torch.tensor([token for document in train for token in document])
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    return unigram_loss(flat, targets[targets != IGNORE_INDEX], vocab_size)


@torch.no_grad()
def fill_mask(
    model: nn.Module, tokenizer: Any, special: SpecialTokens, texts: Sequence[str], top: int = 5
) -> list[dict]:
    """The `top` most likely words for each [MASK], with their probabilities.

    Raises:
        BadInput: a text has no [MASK], or is longer than the network's rows.
    """
    answers, device = [], next(model.parameters()).device
    blank = tokenizer.token_to_id(BYTE_SPACE if has_byte_level(tokenizer) else SPACE)  # fills no gap
    excluded = special.ids if blank is None else special.ids | {blank}
    with eval_mode(model):
        for text in texts:
            rows = collate([special.build_row(masked_tokens(text, tokenizer, special), None)], special)
            positions = (rows.tokens == special.mask).nonzero()[:, 1]
            inputs = [each.to(device) for each in (*rows, positions[None])]
            logits, _ = split_output(model.logits(*inputs))  # ty: ignore[not-callable]
            probabilities = without_special_tokens(logits[0].cpu(), excluded).softmax(1)
            candidates = [
                [
                    {"word": token_text(tokenizer, int(i)), "probability": float(p)}
                    for p, i in zip(*row.topk(min(top, len(row))), strict=True)
                ]
                for row in probabilities
            ]
            filled = text
            for gap in candidates:
                filled = filled.replace(MASK, str(gap[0]["word"]), 1)
            answers.append({"input": text, "text": filled, "candidates": candidates})
    return answers


def has_byte_level(tokenizer: Any) -> bool:
    """Whether its tokens are made of bytes, as those of GPT-2 and RoBERTa are."""
    return type(tokenizer.decoder).__name__ == "ByteLevel"


def token_text(tokenizer: Any, token: int) -> str:
    """A token as it is printed, without the mark of a word's begin."""
    if has_byte_level(tokenizer):
        return tokenizer.decode([token], skip_special_tokens=False).strip()
    return piece_text(tokenizer.id_to_token(token))


def masked_tokens(text: str, tokenizer: Any, special: SpecialTokens) -> list[int]:
    """Token ids of a text with [MASK] in it."""
    if MASK not in text:
        raise BadInput(f"{text!r} has no {MASK}: put it where words are to be filled in")
    # over bytes a word includes the space before it
    strip = str.rstrip if has_byte_level(tokenizer) else str.strip
    first, *rest = [tokenizer.encode(strip(p), add_special_tokens=False).ids for p in text.split(MASK)]
    tokens = [*first, *(token for part in rest for token in (special.mask, *part))]
    if len(tokens) > special.max_length - 2:
        limit = special.max_length - 2
        raise BadInput(f"{text!r} is {len(tokens)} tokens long; the network takes {limit}")
    return tokens


def without_special_tokens(logits: Float[Tensor, "n size"], special_ids: Set[int]) -> Float[Tensor, "n size"]:
    """Logits in which special tokens are impossible: a gap is never filled with [SEP]."""
    return logits.index_fill(1, torch.tensor(sorted(special_ids)), -torch.inf)


def report(model: nn.Module, stream: MLMBatches, metadata: dict, folder: Path) -> None:
    """Draw rows of the test split with the masked tokens and the predictions; write the tokenizer next
    to the figures."""
    from torchstone.plots.masked_words import plot_masked_words

    tokenizers.save_tokenizer(metadata["tokenizer"], folder)
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    plot_masked_words(model, stream, tokenizer, folder / "masked_words.png")
