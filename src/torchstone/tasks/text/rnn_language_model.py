"""Language modelling with a state that is carried on: truncated back-propagation through time.

A text is read in lanes, window after window. The state at a window's end is where the next one begins,
but no gradient goes back over that border (Williams & Peng 1990; Mikolov et al. 2010). It is part of
the checkpoint: a run that is resumed remembers what was read before it was stopped.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.bptt_batches import BPTTBatches, BPTTWindow
from torchstone.data.text.corpus import read_text
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Cell, State
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.parts.transformer.token_loss import unigram
from torchstone.tasks.build_network import build_network
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text import language_model

EVAL_LANES, EVAL_WINDOW = 16, 512  # in which a held-out text is read


class StepModule(nn.Module):
    """The network as the loss calls it, state in and state out; what is replicated over processes."""

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """States here are (batch, layers, units), so that they are split as a batch is."""
        logits, state = self.model.step(x, tuple(each.transpose(0, 1) for each in state) or None)
        return logits, *(each.detach().transpose(0, 1) for each in state)


class StatefulUpdate:
    """An update that hands each batch the state in which the one before it ended."""

    def __init__(self, model: SequenceModel, recipe: Any):
        self.ends: list[State] = []  # of the micro-batches of one update

        def objective(net: Any, batch: tuple[Tensor, Tensor, State]) -> dict[str, Tensor]:
            x, y, state = batch
            logits, *state = net(x, *state)
            self.ends.append(tuple(state))
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            return {"loss": loss, "weight": torch.full_like(loss.detach(), y.numel())}

        down = gradient_update(
            model, recipe.optim, objective, steps=recipe.steps, forward_module=StepModule(model)
        )
        self.down, self.state, self.diagnosis = down.update, down.state, down.update.diagnosis
        self.model, self.eval_model, self.carried = model, down.eval_model, ()

    def __call__(self, batch: BPTTWindow) -> dict[str, Tensor]:
        if batch.fresh or not self.carried:
            self.carried = tuple(e.transpose(0, 1) for e in self.model.recurrent.empty(batch.x))
        self.ends.clear()
        metrics = self.down((batch.x, batch.y, self.carried))
        self.carried = tuple(torch.cat(parts) for parts in zip(*self.ends, strict=True))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """What is carried, of the lanes of all processes."""
        everyone = parallel.gather([each.cpu() for each in self.carried])
        return {"carried": [torch.cat(parts) for parts in zip(*everyone, strict=True)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = next(self.model.parameters()).device
        lanes = [each.chunk(parallel.world_size())[parallel.rank()] for each in state["carried"]]
        self.carried = tuple(each.to(device) for each in lanes)


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to tell the next token of a text.

    Metrics are `language.language`'s: `loss` in nats a token, and bits a character; of the test also
    `unigram`, the loss of telling the tokens by their frequency.

    Raises:
        BadInput: a network that reads from the end as well: it would see what it is to tell.
    """
    if recipe.bidirectional:
        raise BadInput("who reads from the end sees the next token: leave out bidirectional")
    text = read_text(recipe.data)
    tokenizer = language_model.vocabulary(recipe, text)
    size = tokenizer.get_vocab_size()
    model, model_config = build_network(recipe, cell, inputs=size, outputs=size, tokens=True, pool="each")
    device = next(model.parameters()).device
    train, val, test = (
        tokenizers.encode(tokenizer, part).to(device) if part else None
        for part in (text.train, text.val, text.test)
    )
    assert train is not None
    stream = BPTTBatches(
        train,
        recipe.length,
        recipe.batch_size,
        seed=recipe.seed,
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    update = StatefulUpdate(model, recipe)

    def judge(ids: Tensor | None, part: str, most: int | None = None) -> dict[str, float]:
        return {} if ids is None else measure(update.eval_model, ids, len(part), most=most)

    def validate() -> dict[str, float]:
        ended = stream.position >= recipe.steps
        return judge(val, text.val, None if ended else language_model.GLANCE)

    def tested() -> dict[str, float]:
        assert test is not None
        told = unigram(train.cpu(), test.cpu()[1:], size)
        return judge(test, text.test) | {"unigram": told}

    return Run(
        stream=stream,
        update=update,
        evaluate=validate,
        state={**update.state, "stream": stream, "carried": update},
        steps=recipe.steps,
        test=tested if test is not None else None,
        report=lambda folder: language_model.report(NextTokenAdapter(update.eval_model), tokenizer, text, folder),
        metadata={
            "task": "language",
            "variant": recipe.variant,
            "model_config": model_config,
            "tokenizer": tokenizers.to_metadata(tokenizer),
            "data": text.note,
        },
    )


@torch.no_grad()
def measure(
    model: SequenceModel, ids: Int64[Tensor, " tokens"], characters: int, *, most: int | None = None
) -> dict[str, float]:
    """Mean loss over every token of a text but the first, and bits a character.

    The text is read in up to `LANES` lanes side by side, the state carried along each: of a long text
    all but a few tokens are told from everything before them. With `most`, about so many tokens are
    read, at the beginnings of the lanes.

    Raises:
        BadInput: a text of one token.
    """
    count = len(ids) - 1
    if count < 1:
        raise BadInput(f"a text of {len(ids)} tokens cannot be measured: at least 2 are needed")
    was_training = model.training
    model.eval()
    lane = -(-count // EVAL_LANES)
    read = lane if most is None else min(lane, -(-most // EVAL_LANES))
    total, seen = 0.0, 0
    rows = count // lane
    parts = [(ids[: rows * lane].view(rows, lane), ids[1 : rows * lane + 1].view(rows, lane))]
    if rows * lane < count:  # the last lane is shorter
        parts.append((ids[None, rows * lane : -1], ids[None, rows * lane + 1 :]))
    for x, y in parts:
        state = None
        for at in range(0, min(read, x.shape[1]), EVAL_WINDOW):
            window = slice(at, min(at + EVAL_WINDOW, read))
            logits, state = model.step(x[:, window], state)
            own = y[:, window].flatten()
            total += F.cross_entropy(logits.flatten(0, 1).float(), own, reduction="sum").item()
            seen += own.numel()
    model.train(was_training)
    loss = total / seen
    return {"loss": loss, "bits_per_character": loss / math.log(2) * len(ids) / characters}


class NextTokenAdapter(nn.Module):
    """The network as `tasks.generate` asks it for the next token; the cache is its state, and there is no
    end to what it can look back on."""

    context = 2**31

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.model, self.vocabulary = model, model.outputs

    def past(self) -> list[State | None]:
        return [None]

    def forward(
        self,
        x: Int64[Tensor, "batch time"],
        past: list[State | None] | None = None,
        last: bool = False,
    ) -> Float[Tensor, "batch places vocabulary"]:
        logits, state = self.model.step(x, past[0] if past else None)
        if past:
            past[0] = state
        return logits[:, -1:] if last else logits


def evaluate(model: SequenceModel, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Loss and perplexity a token, and bits and perplexity a character, of a text: of its test split
    (or its validation split, if it has no other) where `held_out`, else of all of it."""
    return language_model.evaluate(model, metadata, spec, held_out=held_out, measure=measure)


def sample(model: SequenceModel, metadata: dict, **how: Any) -> list[str]:
    """Texts that the model writes, as `language.sample` has it."""
    return language_model.sample(NextTokenAdapter(model), metadata, **how)


def predict(model: SequenceModel, metadata: dict, inputs: Sequence[str | Path], **how: Any) -> list[dict[str, str]]:
    """The likeliest continuation of each text, as `language.predict` has it."""
    return language_model.predict(NextTokenAdapter(model), metadata, [str(each) for each in inputs], **how)
