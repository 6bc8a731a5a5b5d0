"""Text to text: from an encoder-decoder to a Run, and its evaluation and prediction."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import PackedSequences
from torchstone.engine.run import GENERATED, Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.transformer.token_loss import unigram_loss
from torchstone.tasks.inference import refuse_file_names
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.text_to_text_data import (
    END,
    PAD,
    TextSettings,
    TextToTextData,
    TokenLists,
    TokenPairs,
    held_out_pairs,
    read_splits,
)

REPORTED = 20  # answers in a report

Batch = tuple[Int64[Tensor, "rows source"], Int64[Tensor, "rows target"]]
# (network, source, target, model.start_id) -> `loss`, `accuracy` and `weight`
Loss = Callable[[Any, Tensor, Tensor, int], dict[str, Tensor]]


def text_to_text(model: Any, recipe: Any, data: TextToTextData, loss: Loss, *, model_config: dict) -> Run:
    """A Run that trains `model` to write the target of each source.

    `model(source, decoder_input)` gives logits of the next target token; `model.generate` writes. Metrics:
    `loss`, nats per target token (`unigram`: the same for prediction by token frequency), `accuracy` of
    the most likely tokens, and `exact_match`, the share of `eval_samples` targets that are generated
    exactly.

    Args:
        loss: (network, source, target, start_id) -> metrics with `loss`.
        model_config: the arguments of `model`, saved with the weights.
    """
    device = next(model.parameters()).device
    search = {"beam_size": recipe.beam_size, "eval_samples": recipe.eval_samples}

    def objective(net, batch: Batch) -> dict[str, Tensor]:
        source, target = (tokens.to(device) for tokens in batch)
        return loss(net, source, target, model.start_id)

    def test() -> dict[str, float]:
        metrics = measure(model, data.test, loss, **search)
        train, held_out = flatten_targets(data.train_sample), flatten_targets(data.test)
        return metrics | {"unigram": unigram_loss(train, held_out, model.vocab_size)}

    update, state, _ = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    return Run(
        stream=data.stream,
        update=update,
        evaluate=lambda: measure(model, data.val, loss, **search),
        best_metric="loss",
        examples=count_examples(recipe, data),
        state={**state, "stream": data.stream},
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(model, data, folder, recipe.beam_size),
        metadata={
            "task": recipe.task,
            "variant": recipe.variant,
            "model_config": model_config,
            "tokenizer": tokenizers.to_metadata(data.tokenizer),
            "beam_size": recipe.beam_size,
            "text": dataclasses.asdict(data.settings),
            "data": data.description,
        },
    )


def count_examples(recipe: Any, data: TextToTextData) -> Examples:
    """In tokens of the targets, or of the texts that are corrupted."""
    targets, is_pairs = data.val[1], recipe.task == "texts"
    val = sum(map(len, targets)) if is_pairs else len(targets) * recipe.max_length
    generated = recipe.beam_size * sum(map(len, targets[: recipe.eval_samples]))
    return Examples(
        recipe.batch_size * recipe.max_length,
        data.train_tokens,
        val,
        "target tokens" if is_pairs else "tokens",
        evaluation=val + GENERATED * generated,
    )


def eval_batches(pairs: TokenPairs, device: torch.device, size: int = 64) -> Iterator[Batch]:
    """All pairs in padded batches of similar length."""
    source, target = (PackedSequences(column, device) for column in pairs)
    for index in (source.lengths + target.lengths).argsort(stable=True).split(size):
        yield source.pad_rows(index, PAD), target.pad_rows(index, PAD)


@torch.no_grad()
def measure(
    model: Any, pairs: TokenPairs, loss: Loss, *, beam_size: int = 1, eval_samples: int = 0
) -> dict[str, float]:
    """Loss and accuracy per target token of all pairs; `exact_match` of the first `eval_samples`, if any."""
    sums, count = torch.zeros(2, dtype=torch.float64), 0.0
    with eval_mode(model):
        for source, target in eval_batches(pairs, next(model.parameters()).device):
            each = loss(model, source, target, model.start_id)
            weight = float(each["weight"])
            sums += weight * torch.stack([each["loss"], each["accuracy"]]).double().cpu()
            count += weight
        metrics = dict(zip(("loss", "accuracy"), (sums / count).tolist(), strict=True))
        if eval_samples:
            sources, targets = (column[:eval_samples] for column in pairs)
            answers = generate_answers(model, sources, max(map(len, targets)), beam_size)
            matches = sum(a == b[:-1] for a, b in zip(answers, targets, strict=True))
            metrics["exact_match"] = matches / len(targets)
    return metrics


def generate_answers(model: Any, sources: TokenLists, max_new_tokens: int, beam_size: int = 1) -> TokenLists:
    """Token ids that the model generates for each source, without the end."""
    device, answers = next(model.parameters()).device, []
    for rows in torch.arange(len(sources)).split(64):
        batch = PackedSequences([sources[i] for i in rows.tolist()], device)
        tokens = batch.pad_rows(torch.arange(len(batch)), PAD)
        generated = model.generate(tokens, max_new_tokens, beam_size=beam_size)
        answers += [[*row, END][: [*row, END].index(END)] for row in generated.tolist()]
    return answers


def flatten_targets(pairs: TokenPairs) -> Int64[Tensor, " tokens"]:
    """All targets, concatenated."""
    return torch.tensor([token for row in pairs[1] for token in row])


def decode_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text with its sentinels, which a decoder would leave out."""
    return tokenizer.decode([i for i in ids if i not in (PAD, END)], skip_special_tokens=False)


def report(model: Any, data: TextToTextData, folder: Path, beam_size: int) -> None:
    """Write test sources with their targets and the model's answers."""
    tokenizers.save_tokenizer(tokenizers.to_metadata(data.tokenizer), folder)
    sources, targets = (column[:REPORTED] for column in data.test)
    with eval_mode(model):
        answers = generate_answers(model, sources, max(map(len, targets)), beam_size)
    blocks = [
        f"source   {decode_text(data.tokenizer, source)}\ntarget   {decode_text(data.tokenizer, target)}\n"
        f"written  {decode_text(data.tokenizer, answer)}\n"
        for source, target, answer in zip(sources, targets, answers, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.txt").write_text("\n".join(blocks), encoding="utf-8")


def evaluate(model: Any, metadata: dict, spec: str, loss: Loss, *, held_out: bool) -> dict:
    """Loss, accuracy and exact match on `spec`: its test split if `held_out`, else all of it."""
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    settings = TextSettings.from_metadata(metadata["text"])
    splits, _ = read_splits(spec, settings, split=held_out)
    full = splits[0]
    for part in splits[1:]:
        full = full + part
    pairs = held_out_pairs(splits[-1] if held_out else full, tokenizer, settings, seed=1)
    count = len(pairs[0])
    metrics = measure(model, pairs, loss, beam_size=metadata["beam_size"], eval_samples=count)
    return {**metrics, "texts": count}


def predict(
    model: nn.Module, metadata: dict, inputs: Sequence[Path | str], *, beam_size: int | None = None
) -> list[dict]:
    """The model's answer to each input text; `<extra_id_0>` and so on stand for removed spans.

    Raises:
        BadInput: an empty text.
    """
    tokenizer, texts = tokenizers.from_metadata(metadata["tokenizer"]), [str(text) for text in inputs]
    refuse_file_names(texts)
    if not all(text.strip() for text in texts):
        raise BadInput("empty input: give a text")
    sources = [[*tokenizers.encode(tokenizer, text).tolist(), END] for text in texts]
    max_new_tokens = 2 * TextSettings.from_metadata(metadata["text"]).max_length
    with eval_mode(model):
        answers = generate_answers(model, sources, max_new_tokens, beam_size or metadata["beam_size"])
    return [{"input": a, "text": decode_text(tokenizer, b)} for a, b in zip(texts, answers, strict=True)]
