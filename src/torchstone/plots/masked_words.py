"""Figure of masked language modeling: masked words, and what a model predicts for them."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.sentence_batches import IGNORE_INDEX
from torchstone.parts.modes import eval_mode
from torchstone.plots.canvas import PALETTE, canvas, plain, save

CORRECT, WRONG = PALETTE[2], PALETTE[1]
LINE_LENGTH = 150  # characters


@torch.no_grad()
def plot_masked_words(
    model: nn.Module, stream: MLMBatches, tokenizer: Any, file: Path, rows: int = 8
) -> None:
    """Draw rows of `stream`: a masked word is green if the model predicts it, else orange, with the
    prediction after a slash."""
    batch = next(stream.eval_batches(batch_size=rows, max_spans=rows))
    with eval_mode(model):
        output = model.logits(*batch.rows, batch.positions)  # ty: ignore[not-callable]
    logits = output[0] if isinstance(output, tuple) else output
    figure = canvas(11, 0.6 + 0.75 * len(logits))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, LINE_LENGTH)
    line = 0
    for row in range(len(logits)):
        masked = {
            position: (target, int(scores.argmax()))
            for position, target, scores in zip(
                batch.positions[row].tolist(), batch.targets[row].tolist(), logits[row], strict=True
            )
            if target != IGNORE_INDEX
        }
        column = 0
        for position, token in enumerate(batch.rows.tokens[row].tolist()):
            if not batch.rows.mask[row, position]:
                break
            target, prediction = masked.get(position, (token, token))
            word, color = tokenizer.id_to_token(target), "0.25"
            if position in masked:
                color = CORRECT if prediction == target else WRONG
                word += "" if prediction == target else f"/{tokenizer.id_to_token(prediction)}"
            if column + len(word) > LINE_LENGTH:
                column, line = 0, line + 1
            style = {"color": color, "weight": "bold" if position in masked else "normal"}
            axes.text(column, -line, plain(word), family="monospace", fontsize=8, **style)
            column += len(word) + 1
        line += 2
    axes.set_ylim(-line, 1)
    figure.suptitle("masked words: green predicted correctly, orange original / predicted", fontsize=10)
    save(figure, file)
