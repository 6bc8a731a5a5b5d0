"""Training on generated sequences for an experiment: problems without end, `fit`, and recurrent recipes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from torchstone.data.sampler import itself, load_position, position_state
from torchstone.engine import rng
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.experiments.training import Outcome, train
from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.systems.recurrent import gru, lstm, rnn
from torchstone.tasks.optimization import gradient_update

IGNORED = -100  # torch's index of a target that is left out of the loss
CELLS: dict[str, Any] = {"rnn": rnn, "lstm": lstm, "gru": gru}
HELD_OUT, HELD_OUT_SEED = 500, 1998  # problems, the same for every run
# (count, generator) -> inputs and targets of so many problems
Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


class Problems:
    """Endless batches of a problem, fixed by seed and position alone."""

    def __init__(self, draw: Draw, batch_size: int, seed: int):
        self.draw, self.batch_size, self.seed, self.position = draw, batch_size, seed, 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> tuple[Tensor, Tensor]:
        generator = derive_generator(self.seed, SeedStream.MEMORY_PROBLEMS, self.position)
        self.position += self.batch_size
        return self.draw(self.batch_size, generator)


def held_out(draw: Draw, count: int = HELD_OUT) -> tuple[Tensor, Tensor]:
    return draw(count, derive_generator(HELD_OUT_SEED, SeedStream.MEMORY_PROBLEMS, 0))


def target_loss(logits: Tensor, y: Int64[Tensor, "*batch"]) -> Tensor:
    """Cross-entropy in nats of the targets that are not `IGNORED`."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def accuracy(model: Any, x: Tensor, y: Int64[Tensor, "*batch"]) -> float:
    """Share of the targets that are not `IGNORED` and are predicted."""
    with eval_mode(model):
        answers = torch.cat([model(rows).argmax(-1) for rows in x.split(100)])
    counted = y != IGNORED
    return (answers == y)[counted].double().mean().item()


def train_on(
    make_model: Callable[[], nn.Module],
    draw: Draw,
    *,
    seed: int,
    steps: int,
    batch_size: int = 32,
    optim: OptimConfig,
    objective: Callable[[Any, tuple[Tensor, Tensor]], Tensor] | None = None,
) -> Outcome:
    """Train a network on a problem; `test/accuracy` is of held-out ones, `test/loss` in nats.

    Args:
        objective: (network, batch) -> what is minimized; by default `target_loss`.
    """
    rng.seed(seed)
    model = make_model()
    stream: Iterator[Any] = Problems(draw, batch_size, seed)
    if objective is None:
        objective = lambda net, batch: target_loss(net(batch[0]), batch[1])  # noqa: E731
    update, state, eval_model = gradient_update(model, optim, objective, steps=steps)
    x, y = held_out(draw)

    @torch.no_grad()
    def score() -> dict[str, float]:
        with eval_mode(eval_model):
            loss = target_loss(eval_model(x), y).item()
        return {"loss": loss, "accuracy": accuracy(eval_model, x, y)}

    run = Run(
        stream=stream,
        update=update,
        evaluate=dict,
        test=score,
        state={**state, "stream": stream},
        steps=steps,
    )
    return train(run)


def train_memory(cell: str, task: str, length: int, *, seed: int, **fields: Any) -> Outcome:
    """RNN, LSTM or GRU on the adding problem or on copying, by the recipe of adding with `fields` changed."""
    system = CELLS[cell]
    fields = {"task": task, "seq_len": length, "seed": seed, **fields}
    return train(next(system.build(replace_fields(system.RECIPES["adding"], fields))))


def parameter_count(cell: str, inputs: int, hidden: int) -> int:
    """Of a recurrent layer with two biases, as torch has them."""
    gates = CELLS[cell].CELL.gates
    return gates * hidden * (inputs + hidden + 2)
