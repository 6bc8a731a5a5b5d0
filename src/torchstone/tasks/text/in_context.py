"""In-context classification: a language model trained on episodes whose labels only their examples tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from torchstone.data import identity
from torchstone.data.synthetic.in_context import (
    HELD_OUT,
    IGNORED,
    LABELS,
    NAME,
    SYMBOLS,
    InContextEpisodes,
    make_tokenizer,
    symbols_per_episode,
)
from torchstone.data.text import tokenizers
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.plots.few_shot import draw_few_shot
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.text.few_shot import few_shot

SHOTS = (0, 1, 2, 4, 8, 16)  # of the picture
EVAL_EPISODES, EVAL_BATCH = 1000, 250  # held-out episodes, the same for every run
FEW = 16  # examples of `few_shot_accuracy`, if the context has room for them


def train_in_context(
    model: Any,
    recipe: Any,
    tokenizer: Tokenizer,
    *,
    loss: Callable[[Any, tuple[Tensor, Tensor]], Tensor],
    parameters: list[dict[str, Any]],
    model_config: dict[str, Any],
) -> Run:
    """A Run that trains `model` to predict the labels of episodes, each given all examples before it.

    The recipe states data (`in_context` or `in_context:SYMBOLS`), variant, batch_size (episodes, as long as
    the context), steps, seed and `optim`. The metric `loss` is the cross-entropy per label in nats, mean
    over all numbers of examples; `zero_shot_accuracy` and `few_shot_accuracy` are of the first label and of
    that after `FEW` examples, or as many as there is room for.

    Args:
        loss: (network, (tokens, next tokens, or −100 to leave one out)) -> mean cross-entropy.
        parameters: groups for the optimizer.
        model_config: constructor arguments of `model`, saved with the weights.

    Raises:
        BadInput: a context without room for an example; a number of symbols that there is not.
    """
    symbols, device = symbols_per_episode(recipe.data), next(model.parameters()).device
    identity.record(recipe.data)
    update, state, eval_model = gradient_update(
        model, recipe.optim, loss, steps=recipe.steps, parameters=parameters
    )
    stream = InContextEpisodes(
        model.context, recipe.batch_size, symbols=symbols, seed=recipe.seed, device=device, **parallel.share()
    )

    def measure_split(split: str) -> dict[str, float]:
        return measure(eval_model, symbols, HELD_OUT[split])

    def report(folder: Path) -> None:
        tokenizers.save_tokenizer(tokenizers.to_metadata(tokenizer), folder)
        shots = [k for k in SHOTS if 2 * k < model.context]
        metrics = few_shot(eval_model, metadata, recipe.data, shots=shots)
        draw_few_shot(metrics, shots, folder / "few_shot.png", f"{symbols} symbols, {len(LABELS)} labels")

    metadata = {
        "task": "in_context",
        "variant": recipe.variant,
        "model_config": model_config,
        "tokenizer": tokenizers.to_metadata(tokenizer),
        "prompt": SYMBOLS[0],  # what samples begin with
        "data": f"{NAME}: {symbols} of {len(SYMBOLS)} symbols, {len(LABELS)} labels, episodes without end",
    }
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure_split("val"),
        best_metric="loss",
        examples=Examples(recipe.batch_size, None, EVAL_EPISODES, "episodes"),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=lambda: measure_split("test"),
        report=report,
        metadata=metadata,
    )


@torch.no_grad()
def measure(model: Any, symbols: int, seed: int) -> dict[str, float]:
    """The loss per label on held-out episodes, and the accuracy without examples and with `FEW`. A label is
    right if it is the likeliest of all tokens."""
    device = next(model.parameters()).device
    stream = InContextEpisodes(model.context, EVAL_BATCH, symbols=symbols, seed=seed, device=device)
    losses, correct = [], []
    with eval_mode(model):
        for _ in range(EVAL_EPISODES // EVAL_BATCH):
            x, y = next(stream)
            logits = model(x).float()  # (B, T, V)
            losses.append(F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED).item())
            correct.append((logits[:, ::2].argmax(-1) == y[:, ::2]).double().mean(0).cpu())  # (examples,)
    by_shots = torch.stack(correct).mean(0)
    few = min(FEW, len(by_shots) - 1)
    return {
        "loss": sum(losses) / len(losses),
        "zero_shot_accuracy": by_shots[0].item(),
        "few_shot_accuracy": by_shots[few].item(),
    }


def evaluate(model: Any, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """The metrics of `measure` on the test episodes, whatever `held_out`: none is ever trained on.

    Raises:
        BadInput: a model of text, whose tokens are others.
    """
    symbols = symbols_per_episode(spec)
    if metadata["tokenizer"] != tokenizers.to_metadata(make_tokenizer()):
        raise BadInput(
            f"the model is one of text, with another vocabulary than {NAME}: give --shots, or a text"
        )
    identity.record(spec)
    return {**measure(model, symbols, HELD_OUT["test"]), "episodes": EVAL_EPISODES}
