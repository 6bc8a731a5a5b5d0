"""Recurrent language models: truncated back-propagation through time with a stateful update.

A text is read in parallel lanes, window after window. The state at a window's end is the initial state of
the next one, but gradients stop at that border (Williams & Peng 1990; Mikolov et al. 2010). The state is
part of the checkpoint: a resumed run continues with what it had read.
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
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.recurrent.layers import Cell, State
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.parts.transformer.token_loss import unigram_loss
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.recurrent import build_network
from torchstone.tasks.text import few_shot as few_shot_module
from torchstone.tasks.text import language_model

EVAL_LANES, EVAL_WINDOW = 16, 512  # in which a held-out text is read


class StepModule(nn.Module):
    """The network as the loss calls it, state in and state out; this is what processes replicate."""

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """States here are (batch, layers, units), so that they are split as a batch is."""
        logits, state = self.model.step(x, tuple(each.transpose(0, 1) for each in state) or None)
        return logits, *(each.detach().transpose(0, 1) for each in state)


class StatefulUpdate:
    """An update that starts each window from the state in which the one before it ended."""

    def __init__(self, model: SequenceModel, recipe: Any):
        self.final_states: list[State] = []  # of the micro-batches of one update

        def objective(net: Any, batch: tuple[Tensor, Tensor, State]) -> dict[str, Tensor]:
            x, y, state = batch
            logits, *state = net(x, *state)
            self.final_states.append(tuple(state))
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            return {"loss": loss, "weight": torch.full_like(loss.detach(), y.numel())}

        parts = gradient_update(
            model, recipe.optim, objective, steps=recipe.steps, forward_module=StepModule(model)
        )
        self.update, self.state, self.diagnosis = parts.update, parts.state, parts.update.diagnosis
        self.model, self.eval_model, self.hidden_state = model, parts.eval_model, ()

    def __call__(self, batch: BPTTWindow) -> dict[str, Tensor]:
        if batch.reset or not self.hidden_state:
            self.hidden_state = tuple(e.transpose(0, 1) for e in self.model.recurrent.empty(batch.x))
        self.final_states.clear()
        metrics = self.update((batch.x, batch.y, self.hidden_state))
        self.hidden_state = tuple(torch.cat(parts) for parts in zip(*self.final_states, strict=True))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The hidden state of the lanes of all processes."""
        gathered = parallel.gather([each.cpu() for each in self.hidden_state])
        return {"hidden_state": [torch.cat(parts) for parts in zip(*gathered, strict=True)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = next(self.model.parameters()).device
        saved = state["hidden_state"] if "hidden_state" in state else state["carried"]  # its old name
        lanes = [each.chunk(parallel.world_size())[parallel.rank()] for each in saved]
        self.hidden_state = tuple(each.to(device) for each in lanes)


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to predict the next token of a text.

    Metrics are those of `language_model.train_language_model`: `loss` in nats per token, and bits per
    character; on the test split also `unigram`, the loss of the token frequencies.

    Raises:
        BadInput: a bidirectional network, which would see the token it is to predict.
    """
    if recipe.network.bidirectional:
        raise BadInput("a bidirectional network sees the next token: leave out bidirectional")
    text = read_text(recipe.data)
    tokenizer = language_model.make_tokenizer(recipe, text)
    size = tokenizer.get_vocab_size()
    model, model_config = build_network(recipe, cell, inputs=size, outputs=size, tokens=True, pool="each")
    device = next(model.parameters()).device
    train, val, test = (
        tokenizers.encode(tokenizer, part).to(device) if part else None
        for part in (text.train, text.val, text.test)
    )
    assert train is not None
    stream = BPTTBatches(train, recipe.seq_len, recipe.batch_size, seed=recipe.seed, **parallel.share())
    update = StatefulUpdate(model, recipe)

    def measure_part(ids: Tensor | None, part: str, max_tokens: int | None = None) -> dict[str, float]:
        return {} if ids is None else measure(update.eval_model, ids, len(part), max_tokens=max_tokens)

    def evaluate_test() -> dict[str, float]:
        assert test is not None
        unigram = unigram_loss(train.cpu(), test.cpu()[1:], size)
        return measure_part(test, text.test) | {"unigram": unigram}

    def report(folder: Path) -> None:
        language_model.report(NextTokenAdapter(update.eval_model), tokenizer, text, folder)

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure_part(val, text.val, language_model.VAL_TOKENS),
        evaluate_all=lambda: measure_part(val, text.val),
        best_metric="loss",
        examples=Examples(
            recipe.batch_size * recipe.seq_len,
            len(train),
            None if val is None else min(language_model.VAL_TOKENS, len(val)),
            "tokens",
        ),
        state={**update.state, "stream": stream, "hidden_state": update},
        steps=recipe.steps,
        test=evaluate_test if test is not None else None,
        report=report,
        metadata={
            "task": "language",
            "variant": recipe.variant,
            "model_config": model_config,
            "tokenizer": tokenizers.to_metadata(tokenizer),
            "data": text.description,
        },
    )


@torch.no_grad()
def measure(
    model: SequenceModel, ids: Int64[Tensor, " tokens"], characters: int, *, max_tokens: int | None = None
) -> dict[str, float]:
    """Mean loss over every token of a text but the first, and bits per character.

    The text is read in up to `EVAL_LANES` parallel lanes with a state each: in a long text all but a few
    tokens are predicted from everything before them. With `max_tokens`, about so many tokens are read, at
    the beginnings of the lanes.

    Args:
        characters: number of characters of the text.

    Raises:
        BadInput: a text of one token.
    """
    count = len(ids) - 1
    if count < 1:
        raise BadInput(f"a text of {len(ids)} tokens cannot be measured: at least 2 are needed")
    lane = -(-count // EVAL_LANES)
    limit = lane if max_tokens is None else min(lane, -(-max_tokens // EVAL_LANES))
    total, tokens = 0.0, 0
    rows = count // lane
    parts = [(ids[: rows * lane].view(rows, lane), ids[1 : rows * lane + 1].view(rows, lane))]
    if rows * lane < count:  # the last lane is shorter
        parts.append((ids[None, rows * lane : -1], ids[None, rows * lane + 1 :]))
    with eval_mode(model):
        for x, y in parts:
            state = None
            for first in range(0, min(limit, x.shape[1]), EVAL_WINDOW):
                window = slice(first, min(first + EVAL_WINDOW, limit))
                logits, state = model.step(x[:, window], state)
                targets = y[:, window].flatten()
                total += F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum").item()
                tokens += targets.numel()
    loss = total / tokens
    return {"loss": loss, "bits_per_character": loss / math.log(2) * len(ids) / characters}


class NextTokenAdapter(nn.Module):
    """The network as `tasks.text.generate` calls a language model: the state takes the place of the
    key–value cache, and the context is unlimited."""

    context = 2**31

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.model, self.vocab_size = model, model.outputs

    def make_cache(self) -> list[State | None]:
        return [None]

    def forward(
        self, x: Int64[Tensor, "batch time"], cache: list[State | None] | None = None, last_only: bool = False
    ) -> Float[Tensor, "batch positions vocab_size"]:
        logits, state = self.model.step(x, cache[0] if cache else None)
        if cache:
            cache[0] = state
        return logits[:, -1:] if last_only else logits


def evaluate(model: SequenceModel, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Loss and perplexity per token, and bits and perplexity per character, of a text: of its test split
    (or its validation split, if it has no other) where `held_out`, else of all of it."""
    return language_model.evaluate(model, metadata, spec, held_out=held_out, measure=measure)


def few_shot(model: SequenceModel, metadata: dict, spec: str, **options: Any) -> dict[str, float]:
    """Accuracy with examples in the context, with the options of `few_shot.few_shot`."""
    return few_shot_module.few_shot(NextTokenAdapter(model), metadata, spec, **options)


def sample(model: SequenceModel, metadata: dict, **sampling: Any) -> list[str]:
    """Generated texts, with the options of `language_model.sample`."""
    return language_model.sample(NextTokenAdapter(model), metadata, **sampling)


def predict(
    model: SequenceModel, metadata: dict, inputs: Sequence[str | Path], **options: Any
) -> list[dict[str, str]]:
    """The greedy continuation of each text, with the options of `language_model.predict`."""
    return language_model.predict(
        NextTokenAdapter(model), metadata, [str(each) for each in inputs], **options
    )
