"""A picture of hidden words: what stood there, and what a model says instead."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstone.data.text.mlm_batches import MLMBatches
from torchstone.data.text.sentence_batches import IGNORE_INDEX
from torchstone.plots.canvas import PALETTE, canvas, plain, save

RIGHT, WRONG = PALETTE[2], PALETTE[1]
WIDE = 150  # characters a line


@torch.no_grad()
def plot_masked_words(model: nn.Module, text: MLMBatches, tokenizer: Any, file: Path, rows: int = 8) -> None:
    """Draws rows of `text`; a hidden word stands in green if the model tells it, else in orange with
    the model's own word after a slash."""
    batch = next(text.once(batch=rows, most=rows))
    was_training = model.training
    model.eval()
    output = model.logits(*batch.rows, batch.places)  # ty: ignore[not-callable]
    model.train(was_training)
    words = output[0] if isinstance(output, tuple) else output
    figure = canvas(11, 0.6 + 0.75 * len(batch.stray))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, WIDE)
    height = 0
    for row in range(len(batch.stray)):
        said = {}
        for place, target, logits in zip(
            batch.places[row].tolist(), batch.targets[row].tolist(), words[row], strict=True
        ):
            if target != IGNORE_INDEX:
                said[place] = (target, int(logits.argmax()))
        across = 0
        for place, token in enumerate(batch.rows.tokens[row].tolist()):
            if not batch.rows.mask[row, place]:
                break
            target, guess = said.get(place, (token, token))
            word, colour = tokenizer.id_to_token(target), "0.25"
            if place in said:
                colour = RIGHT if guess == target else WRONG
                word += "" if guess == target else f"/{tokenizer.id_to_token(guess)}"
            if across + len(word) > WIDE:
                across, height = 0, height + 1
            style = {"color": colour, "weight": "bold" if place in said else "normal"}
            axes.text(across, -height, plain(word), family="monospace", fontsize=8, **style)
            across += len(word) + 1
        height += 2
    axes.set_ylim(-height, 1)
    figure.suptitle("hidden words: green told rightly, orange as they stood / as told", fontsize=10)
    save(figure, file)
