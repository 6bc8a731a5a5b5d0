"""Translation: a Run that trains an encoder–decoder on sentence pairs, its evaluation and its use."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import BucketBatches, PackedSequences
from torchstone.data.text.parallel import Pairs, ParallelCorpus, read_pairs
from torchstone.engine import parallel
from torchstone.engine.run import GENERATED, Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.transformer.token_loss import token_loss, unigram_loss
from torchstone.tasks.inference import refuse_file_names
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.translation_inference import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    bleu,
    bleu_tokenizer,
    encode_batch,
    group_by_length,
    report,
    translate_texts,
)

# the search options of runs of earlier versions
OLD_SEARCH = {"beams": "beam_size", "penalty": "length_penalty"}


def train_tokenizer(recipe: Any, data: ParallelCorpus) -> Tokenizer:
    """One vocabulary for both languages, from the training pairs; `SPECIAL_TOKENS` come first."""
    texts = [text for pair in data.train for text in pair]
    return tokenizers.train(
        recipe.tokenizer, texts, vocab_size=recipe.vocab_size, special_tokens=SPECIAL_TOKENS
    )


def target_loss(model: Any, batch: tuple[Tensor, Tensor], label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """Cross-entropy and accuracy per target token, each predicted from the source and those before it."""
    source, target = batch
    logits = model(source, target[:, :-1])  # (B, N - 1, V)
    return token_loss(logits, target[:, 1:], pad=PAD, label_smoothing=label_smoothing)


def translate(
    model: nn.Module,
    recipe: Any,
    data: ParallelCorpus,
    tokenizer: Tokenizer,
    *,
    model_config: dict,
    loss: Callable[[Any, tuple[Tensor, Tensor], float], dict[str, Tensor]] = target_loss,
) -> Run:
    """A Run that trains `model` to translate the source of each pair.

    `model(source, target)` gives logits of the token that follows each of `target`'s;
    `model.generate` translates; `model.attention_weights` gives its attention maps. The recipe states
    steps, batch_size (target tokens), seed, max_length, label_smoothing, beam_size, length_penalty,
    eval_examples and `optim`.

    Metrics: `loss`, nats per target token (smoothed in training only); `accuracy`, the fraction of target
    tokens that are the most likely ones; and BLEU by sacrebleu, in validation of `eval_examples` greedy
    translations, at the end of the whole test split; its tokenizer is that of the target's script
    (`bleu_tokenizer`). `unigram` is the loss of the token frequencies.

    Args:
        model_config: constructor arguments of `model`, saved with the weights.
        loss: (network, (sources, targets), label smoothing) -> loss, accuracy and number of tokens.

    Raises:
        BadInput: no pair is short enough, or a batch cannot hold the longest.
    """
    device = next(model.parameters()).device
    all_pairs = encode_pairs(data.train, tokenizer)
    pairs = [pair for pair in all_pairs if max(map(len, pair)) <= recipe.max_length]
    if not pairs:
        raise BadInput(
            f"every pair of {data.name} is longer than {recipe.max_length} tokens: raise max_length"
        )
    stream = BucketBatches(
        *(PackedSequences(side, device) for side in zip(*pairs, strict=True)),
        recipe.batch_size,
        pad=PAD,
        seed=recipe.seed,
        **parallel.share(),
    )
    update, state, eval_model = gradient_update(
        model, recipe.optim, lambda net, batch: loss(net, batch, recipe.label_smoothing), steps=recipe.steps
    )
    state["stream"] = stream
    search = {"beam_size": recipe.beam_size, "length_penalty": recipe.length_penalty}
    tokenize = bleu_tokenizer([target for _, target in data.test])
    val_tokens = [len(target) for _, target in encode_pairs(data.val, tokenizer)]

    def validate() -> dict[str, float]:
        metrics = measure(eval_model, data.val, tokenizer)
        if recipe.eval_examples:
            examples = data.val[: recipe.eval_examples]
            metrics["bleu"] = bleu(eval_model, tokenizer, examples, tokenize=tokenize)["bleu"]
        return metrics

    def evaluate_test() -> dict[str, float]:
        metrics = measure(eval_model, data.test, tokenizer)
        train, targets = (
            torch.tensor([token for _, row in rows for token in row[1:]])  # all but the start token
            for rows in (pairs, encode_pairs(data.test, tokenizer))
        )
        metrics["unigram"] = unigram_loss(train, targets, tokenizer.get_vocab_size())
        return metrics | bleu(eval_model, tokenizer, data.test, tokenize=tokenize, **search)

    too_long = len(all_pairs) - len(pairs)
    suffix = f", {too_long} of more than {recipe.max_length} tokens not trained on" if too_long else ""
    suffix += f", BLEU of sacrebleu's {tokenize} tokens" if tokenize != "13a" else ""
    return Run(
        stream=stream,
        update=update,
        evaluate=validate,
        best_metric="bleu" if recipe.eval_examples else "loss",
        examples=Examples(
            recipe.batch_size,
            sum(len(target) for _, target in pairs),
            sum(val_tokens),
            "target tokens",
            evaluation=sum(val_tokens) + GENERATED * sum(val_tokens[: recipe.eval_examples]),
        ),
        state=state,
        steps=recipe.steps,
        test=evaluate_test,
        report=lambda folder: report(eval_model, tokenizer, data.test, folder, **search),
        metadata={
            "task": "translate",
            "variant": recipe.variant,
            "model_config": model_config,
            "tokenizer": tokenizers.to_metadata(tokenizer),
            "languages": [recipe.source, recipe.target],
            "search": search,
            "bleu_tokenizer": tokenize,
            "data": data.description + suffix,
        },
    )


def encode_pairs(pairs: Pairs, tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Token ids: sources end with `</s>`; targets begin with `<s>` and end with `</s>`."""
    sides = [encode_batch([pair[i] for pair in pairs], tokenizer) for i in range(2)]
    return [([*a, EOS], [BOS, *b, EOS]) for a, b in zip(*sides, strict=True)]


@torch.no_grad()
def measure(model: nn.Module, pairs: Pairs, tokenizer: Tokenizer) -> dict[str, float]:
    """Cross-entropy in nats and accuracy, per target token of all pairs."""
    device = next(model.parameters()).device
    columns = list(zip(*encode_pairs(pairs, tokenizer), strict=True))
    sources, targets = (PackedSequences(side, device) for side in columns)
    sums, count = torch.zeros(2, dtype=torch.float64), 0.0
    with eval_mode(model):
        for rows in group_by_length(targets.lengths + sources.lengths):
            metrics = target_loss(model, (sources.pad_rows(rows, PAD), targets.pad_rows(rows, PAD)))
            weight = float(metrics["weight"])
            sums += weight * torch.stack([metrics["loss"], metrics["accuracy"]]).double().cpu()
            count += weight
    loss, accuracy = (sums / count).tolist()
    return {"loss": loss, "accuracy": accuracy}


def search_options(metadata: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """`beam_size` and `length_penalty`: the run's, or those in `options`; old names are understood."""
    return {OLD_SEARCH.get(name, name): value for name, value in (metadata["search"] | options).items()}


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Loss, accuracy and BLEU on `spec`: its test split if `held_out`, else every pair of it."""
    data = read_pairs(spec, *metadata["languages"], split=held_out)
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    pairs = data.test if held_out else data.train + data.val + data.test
    metrics = measure(model, pairs, tokenizer)
    tokenize = bleu_tokenizer([target for _, target in pairs])
    metrics |= bleu(model, tokenizer, pairs, tokenize=tokenize, **search_options(metadata))
    return {**metrics, "bleu_tokenizer": tokenize, "pairs": len(pairs)}


def predict(model: Any, metadata: dict, inputs: Sequence[Path | str], **options: Any) -> list[dict]:
    """The translation of each input, a sentence.

    Args:
        options: `beam_size` and `length_penalty`, in place of the recipe's.

    Raises:
        BadInput: an empty sentence, or one longer than the model has positions for.
    """
    tokenizer, texts = tokenizers.from_metadata(metadata["tokenizer"]), [str(text) for text in inputs]
    refuse_file_names(texts)
    for text in texts:
        length = len(tokenizer.encode(text, add_special_tokens=False).ids) + 1
        if not text.strip():
            raise BadInput("nothing to translate: give a sentence")
        if length > model.max_length:
            raise BadInput(
                f"a sentence of {length} tokens, but the model takes {model.max_length}: cut it up"
            )
    translations = translate_texts(model, tokenizer, texts, **search_options(metadata, **options))
    return [{"input": text, "text": answer} for text, answer in zip(texts, translations, strict=True)]
