"""Translation: from a model that reads one sentence and writes another to a Run, and its use afterwards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import BucketBatches, PackedSequences
from torchstone.data.text.parallel import Pairs, ParallelCorpus, read_pairs
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.transformer.token_loss import token_loss, unigram_loss
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.translation_inference import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    bleu,
    encode_batch,
    group_by_length,
    report,
    translate_texts,
)


def train_tokenizer(recipe: Any, data: ParallelCorpus) -> Tokenizer:
    """One vocabulary of both languages, from the training pairs: `SPECIAL` come first."""
    texts = [text for pair in data.train for text in pair]
    return tokenizers.train(
        recipe.tokenizer, texts, vocab_size=recipe.vocab_size, special_tokens=SPECIAL_TOKENS
    )


def translate(
    model: nn.Module,
    recipe: Any,
    data: ParallelCorpus,
    tokenizer: Tokenizer,
    *,
    loss: Any = None,
    model_config: dict,
) -> Run:
    """A Run that trains `model` to write the target of each pair, given its source.

    `model(source, target)` gives logits of the token that follows each of `target`'s;
    `model.generate` writes; `model.looks` tells where it looks. The recipe states steps, batch
    (target tokens), seed, longest, smoothing, beams, penalty, judged, optimiser and its numbers,
    clip, accumulate, ema, precision, compile. Metrics: `loss`, nats per target token (smoothed in
    training only), `accuracy`, the share of tokens that come first, and BLEU by sacrebleu
    (0 to 100; `unigram` is the loss of telling tokens by their frequency), in validation of `judged` greedy translations, at the end of the whole test split.

    Args:
        model_config: what `model` was made with; kept with the weights, so that it can be made again.

    Raises:
        BadInput: no pair is short enough, or a batch cannot hold the longest.
    """
    device = next(model.parameters()).device
    everything = encode_pairs(data.train, tokenizer)
    kept = [pair for pair in everything if max(map(len, pair)) <= recipe.max_length]
    if not kept:
        raise BadInput(f"every pair of {data.name} is longer than {recipe.max_length} tokens: raise longest")
    stream = BucketBatches(
        *(PackedSequences(side, device) for side in zip(*kept, strict=True)),
        recipe.batch_size,
        pad=PAD,
        seed=recipe.seed,
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )

    def objective(net, batch):
        source, target = batch
        return token_loss(
            net(source, target[:, :-1]), target[:, 1:], pad=PAD, label_smoothing=recipe.label_smoothing
        )

    if loss is not None:
        objective = lambda net, batch: loss(net, batch, recipe.label_smoothing)  # noqa: E731
    update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream
    search = {"beams": recipe.beam_size, "penalty": recipe.length_penalty}

    def validate() -> dict[str, float]:
        results = measure(judged, data.val, tokenizer)
        if recipe.eval_examples:
            results["bleu"] = bleu(judged, tokenizer, data.val[: recipe.eval_examples])["bleu"]
        return results

    def test() -> dict[str, float]:
        results = measure(judged, data.test, tokenizer)
        seen, asked = (
            torch.tensor([token for _, row in rows for token in row[1:]])  # all but the start
            for rows in (kept, encode_pairs(data.test, tokenizer))
        )
        results["unigram"] = unigram_loss(seen, asked, tokenizer.get_vocab_size())
        return results | bleu(judged, tokenizer, data.test, **search)

    left = len(everything) - len(kept)
    said = f", {left} of more than {recipe.max_length} tokens not trained on" if left else ""
    return Run(
        stream=stream,
        update=update,
        evaluate=validate,
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(judged, tokenizer, data.test, folder, **search),
        metadata={
            "task": "translate",
            "variant": recipe.variant,
            "model_config": model_config,
            "tokenizer": tokenizers.to_metadata(tokenizer),
            "languages": [recipe.source, recipe.target],
            "search": search,
            "data": data.description + said,
        },
    )


def encode_pairs(pairs: Pairs, tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Token numbers: sources end with `</s>`, targets begin with `<s>` too."""
    sides = [encode_batch([pair[i] for pair in pairs], tokenizer) for i in range(2)]
    return [([*a, EOS], [BOS, *b, EOS]) for a, b in zip(*sides, strict=True)]


@torch.no_grad()
def measure(model: nn.Module, pairs: Pairs, tokenizer: Tokenizer) -> dict[str, float]:
    """Cross-entropy in nats and accuracy, per target token of all pairs."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    columns = list(zip(*encode_pairs(pairs, tokenizer), strict=True))
    sources, targets = (PackedSequences(side, device) for side in columns)
    sums, weights = torch.zeros(2, dtype=torch.float64), 0.0
    for rows in group_by_length(targets.lengths + sources.lengths):
        source, target = sources.pad_rows(rows, PAD), targets.pad_rows(rows, PAD)
        each = token_loss(model(source, target[:, :-1]), target[:, 1:], pad=PAD)
        weight = float(each["weight"])
        sums += weight * torch.stack([each["loss"], each["accuracy"]]).double().cpu()
        weights += weight
    model.train(was_training)
    loss, accuracy = (sums / weights).tolist()
    return {"loss": loss, "accuracy": accuracy}


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Loss, accuracy and BLEU on `spec`: its test split if `held_out`, else every pair of it."""
    data = read_pairs(spec, *metadata["languages"], split=held_out)
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    pairs = data.test if held_out else data.train + data.val + data.test
    results = measure(model, pairs, tokenizer) | bleu(model, tokenizer, pairs, **metadata["search"])
    return {**results, "pairs": len(pairs)}


def predict(model: Any, metadata: dict, inputs: Sequence[Path | str], **options: Any) -> list[dict]:
    """The translation of each input, a sentence.

    Args:
        options: `beams` and `penalty` in place of the recipe's.

    Raises:
        BadInput: an empty sentence, or one longer than the model has positions for.
    """
    tokenizer, texts = tokenizers.from_metadata(metadata["tokenizer"]), [str(text) for text in inputs]
    for text in texts:
        length = len(tokenizer.encode(text, add_special_tokens=False).ids) + 1
        if not text.strip():
            raise BadInput("nothing to translate: give a sentence")
        if length > model.max_length:
            raise BadInput(
                f"a sentence of {length} tokens, but the model takes {model.max_length}: cut it up"
            )
    answers = translate_texts(model, tokenizer, texts, **(metadata["search"] | options))
    return [{"input": a, "text": b} for a, b in zip(texts, answers, strict=True)]
