"""RNN: a network that feeds its own state back, and so has read all that came before.

Paper: Jeffrey L. Elman, "Finding Structure in Time", Cognitive Science 14(2):179-211, 1990. Before it:
Rumelhart, Hinton and Williams 1986 (back-propagation through time), Jordan 1986.

The idea. Give the hidden layer its own last state as a further input. The same weights then read a
sequence of any length, and the state is a memory that learns what is worth keeping. Unfolded in time it
is a deep network with shared weights, and back-propagation trains it.

    h_t = tanh(W_hx x_t + W_hh h_{t-1} + b)          y_t = W_yh h_t + b_y
    ∂h_T/∂h_t = Π_{k=t+1..T} diag(1 − h_k²) W_hh      each factor shrinks or grows: over a hundred
                                                     moments nothing is left, or too much (Bengio,
                                                     Simard & Frasconi 1994; Pascanu et al. 2012)

That product is why the LSTM was made. `rnn/adding` measures it: the recipe trains on a sum of two
numbers that stand far apart, and draws how the gradient fades; `torchstone compare` puts the same run
of `lstm` and `gru` into one picture.

Shapes: tokens (batch, time) or vectors (batch, time, inputs) -> logits (batch, time, outputs).

What differs from the paper. Elman copied the state back and let the gradient go one moment back; here it
goes back through the whole sequence, or through `length` moments of an endless one, whose state is carried
on. tanh instead of the logistic function, and two biases as in torch. Both paths, `fast` (torch's
kernels) and `written` (the line above), give the same numbers.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone import references
from torchstone.engine.run import Run
from torchstone.parts.facts import Fact, ParityCase, parameters
from torchstone.parts.recurrent.layers import Cell, Recurrent, State
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems import Variant
from torchstone.tasks import recurrent
from torchstone.tasks.recurrent import Recipe, evaluate, predict, sample

# fmt: off
__all__ = ["CELL", "FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference", "sample"]
# fmt: on

MARGIN = ("loss", -1.5)

TEXT = Recipe(
    variant="rnn",
    hidden=256,
    length=64,
    batch_size=32,
    steps=3000,
)
FAR = Recipe(use="adding", data="drawn", variant="rnn", length=100, batch_size=50)
RECIPES = {
    "shakespeare": TEXT,
    "adding": replace(FAR, hidden=64, steps=1500, optim=replace(FAR.optim, lr=2e-3)),
    # for tests: seconds
    "smoke": replace(
        TEXT,
        data="python/json",
        hidden=32,
        length=16,
        batch_size=8,
        steps=120,
        optim=replace(TEXT.optim, lr=1e-2),
    ),
}


def step(
    x: Float[Tensor, "batch units"],
    state: State,
    weight: Float[Tensor, "units units"],
    bias: Float[Tensor, " units"] | None,
) -> State:
    """One moment: the next h from this one; `x` is W_hx x + b already."""
    (h,) = state
    # h = tanh(W_hx x + W_hh h + b)
    return ((x + F.linear(h, weight, bias)).tanh(),)


CELL = Cell("rnn", 1, step, torch.rnn_tanh)
VARIANTS = {
    # as wide as the counts of FACTS: 88 keys of a piano
    "rnn": Variant(partial(SequenceModel, CELL, inputs=88, outputs=88, tokens=False, hidden=128), (32, 88)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    yield recurrent.build_run(recipe, VARIANTS)


def count_parameters(inputs: int, hidden: int) -> int:
    with torch.device("meta"):
        return parameters(Recurrent(CELL, inputs, hidden))


# torch's h(i + h) + 2h
FACTS = [
    Fact("88 → 128 parameters", partial(count_parameters, 88, 128), 27_904),
    Fact("1 → 128 parameters", partial(count_parameters, 1, 128), 16_768),
]


def reference() -> Iterator[ParityCase]:
    """nn.RNN, over layers, directions, lengths and dropout, on either path."""
    yield from references.recurrent(CELL, nn.RNN)
