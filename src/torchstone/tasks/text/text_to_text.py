"""Text to text: from a model that reads a text and writes one to a Run, and its use afterwards."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.bucket_batches import PackedSequences
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.transformer.token_loss import token_loss, unigram_loss
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.text_to_text_data import (
    END,
    PAD,
    TextToTextData,
    TokenLists,
    TokenPairs,
    read_splits,
)
from torchstone.tasks.text.text_to_text_data import held_out_pairs as judged_rows

SHOWN = 20  # answers written out

Batch = tuple[Int64[Tensor, "rows source"], Int64[Tensor, "rows target"]]


def text_to_text(model: Any, recipe: Any, data: TextToTextData, *, model_config: dict) -> Run:
    """A Run that trains `model` to write the target of each source.

    `model(source, target)` gives logits of the token that follows each of `target`'s, which begins
    with `model.start`; `model.generate` writes. Metrics: `loss`, nats a target token (`unigram`: the
    same of their frequencies, for comparison), `accuracy`, the share of tokens that come first, and
    `exact`, the share of `judged` targets that the model writes to the last token.

    Args:
        model_config: what `model` was made with; kept with the weights, so that it can be made again.
    """
    device = next(model.parameters()).device

    def objective(net, batch: Batch) -> dict[str, Tensor]:
        source, target = (side.to(device) for side in batch)
        return token_loss(net(source, shift_right(target, model.start)), target, pad=PAD)

    update, state, _ = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    search = {"beams": recipe.beams, "judged": recipe.judged}
    return Run(
        stream=data.stream,
        update=update,
        evaluate=lambda: measure(model, data.val, **search),
        state={**state, "stream": data.stream},
        steps=recipe.steps,
        test=lambda: measure(model, data.test, **search) | {"unigram": unigram_loss(*map(flatten_targets, (data.seen, data.test)), model.vocabulary)},
        report=lambda folder: report(model, data, folder, recipe.beams),
        metadata={
            "task": recipe.task,
            "variant": recipe.variant,
            "model_config": model_config,
            "tokenizer": tokenizers.to_metadata(data.tokenizer),
            "beams": recipe.beams,
            "text": data.settings,
            "data": data.description,
        },
    )  # fmt: skip


def shift_right(target: Int64[Tensor, "rows n"], start: int) -> Int64[Tensor, "rows n"]:
    """What the decoder reads while it writes `target`."""
    return torch.cat([torch.full_like(target[:, :1], start), target[:, :-1]], 1)


def eval_batches(rows: TokenPairs, device: torch.device, size: int = 64) -> Iterator[Batch]:
    """All rows, those of like length together, side by side."""
    source, target = (PackedSequences(side, device) for side in rows)
    for index in (source.lengths + target.lengths).argsort(stable=True).split(size):
        yield source.pad_rows(index, PAD), target.pad_rows(index, PAD)


@torch.no_grad()
def measure(model: Any, rows: TokenPairs, *, beams: int = 1, judged: int = 0) -> dict[str, float]:
    """Loss and accuracy per target token of all rows; `exact` of the first `judged`, if any."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    sums, count = torch.zeros(2, dtype=torch.float64), 0.0
    for source, target in eval_batches(rows, device):
        each = token_loss(model(source, shift_right(target, model.start)), target, pad=PAD)
        weight = float(each["weight"])
        sums += weight * torch.stack([each["loss"], each["accuracy"]]).double().cpu()
        count += weight
    results = dict(zip(("loss", "accuracy"), (sums / count).tolist(), strict=True))
    if judged:
        sources, targets = (side[:judged] for side in rows)
        said = generate_answers(model, sources, max(map(len, targets)), beams)
        right = sum(a == b[:-1] for a, b in zip(said, targets, strict=True))
        results["exact"] = right / len(targets)
    model.train(was_training)
    return results


def generate_answers(model: Any, sources: TokenLists, most: int, beams: int = 1) -> TokenLists:
    """What the model writes after each source, without the end."""
    device, found = next(model.parameters()).device, []
    for rows in torch.arange(len(sources)).split(64):
        some = PackedSequences([sources[i] for i in rows.tolist()], device)
        written = model.generate(some.pad_rows(torch.arange(len(some)), PAD), most, beam_size=beams)
        found += [[*row, END][: [*row, END].index(END)] for row in written.tolist()]
    return found


def flatten_targets(rows: TokenPairs) -> Int64[Tensor, " tokens"]:
    """All targets, one after another."""
    return torch.tensor([token for row in rows[1] for token in row])


def decode_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text with its sentinels, which a decoder would leave out."""
    return tokenizer.decode([i for i in ids if i not in (PAD, END)], skip_special_tokens=False)


def report(model: Any, data: TextToTextData, folder: Path, beams: int) -> None:
    """Write test sources beside what was wanted and what the model writes."""
    tokenizers.save_tokenizer(tokenizers.to_metadata(data.tokenizer), folder)
    sources, targets = (side[:SHOWN] for side in data.test)
    model.eval()
    said = generate_answers(model, sources, max(map(len, targets)), beams)
    blocks = [
        f"source   {decode_text(data.tokenizer, a)}\ntarget   {decode_text(data.tokenizer, b)}\n"
        f"written  {decode_text(data.tokenizer, c)}\n"
        for a, b, c in zip(sources, targets, said, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.txt").write_text("\n".join(blocks), encoding="utf-8")


def evaluate(model: Any, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Loss, accuracy and the share of exact answers on `spec`: its test split if `held_out`, else all."""
    tokenizer, settings = tokenizers.from_metadata(metadata["tokenizer"]), metadata["text"]
    parts, _ = read_splits(spec, settings, split=held_out)
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    rows = judged_rows(parts[-1] if held_out else whole, tokenizer, settings, seed=1)
    results = measure(model, rows, beams=metadata["beams"], judged=len(rows[0]))
    return {**results, "texts": len(rows[0])}


def predict(
    model: nn.Module, metadata: dict, inputs: Sequence[Path | str], *, beams: int | None = None
) -> list[dict]:
    """What the model writes after each input, a text; `<extra_id_0>` and so on stand for gaps.

    Raises:
        BadInput: an empty text.
    """
    tokenizer, texts = tokenizers.from_metadata(metadata["tokenizer"]), [str(text) for text in inputs]
    if not all(text.strip() for text in texts):
        raise BadInput("nothing to read: give a text")
    sources = [[*tokenizers.encode(tokenizer, text).tolist(), END] for text in texts]
    model.eval()
    said = generate_answers(model, sources, 2 * metadata["text"]["length"], beams or metadata["beams"])
    return [{"input": a, "text": decode_text(tokenizer, b)} for a, b in zip(texts, said, strict=True)]
