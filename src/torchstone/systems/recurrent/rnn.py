"""RNN: a recurrent network, whose hidden state is fed back and so summarizes all inputs so far.

Paper: Jeffrey L. Elman, "Finding Structure in Time", Cognitive Science 14(2):179-211, 1990. Before it:
Rumelhart, Hinton and Williams 1986 (back-propagation through time), Jordan 1986.

The idea. Give the hidden layer its own last state as a further input. The same weights then read a
sequence of any length, and the state is a memory that learns what to keep. Unrolled in time it is a deep
network with shared weights, and back-propagation trains it.

    h_t = tanh(W_hx x_t + W_hh h_{t-1} + b)          y_t = W_yh h_t + b_y
    ∂h_T/∂h_t = Π_{k=t+1..T} diag(1 − h_k²) W_hh      each factor shrinks or grows: over a hundred
                                                     time steps the gradient vanishes or explodes
                                                     (Bengio, Simard & Frasconi 1994; Pascanu et al. 2012)

That product is what the LSTM was invented to avoid. `rnn/adding` measures it: the recipe trains on the sum
of two numbers that are far apart in time, and draws how the gradient vanishes; `torchstone compare` draws
it with the same run of `lstm` and `gru`.

Shapes: tokens (batch, time) or vectors (batch, time, inputs) -> logits (batch, time, outputs).

What differs from the paper. Elman copied the state back and let the gradient go back one time step; here it
goes back through the whole sequence, or through `seq_len` time steps of a text, whose state is carried over
(truncated back-propagation through time). tanh instead of the logistic function, and two biases as in
torch. Both implementations, `fused` (torch's kernels) and `reference` (the equation above), give the same
numbers.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Run
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.recurrent.layers import Cell, Recurrent, State
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems import Variant
from torchstone.tasks.recurrent import Recipe, build_run, evaluate, few_shot, predict, sample

__all__ = [
    "CELL",
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "few_shot",
    "predict",
    "reference",
    "sample",
]

MARGIN = ("loss", -1.5)

TEXT = replace_fields(Recipe(), {"variant": "rnn", "hidden": 256, "seq_len": 64, "steps": 3000})
ADDING = Recipe(task="adding", data="synthetic", variant="rnn", seq_len=100, batch_size=50)
RECIPES = {
    "shakespeare": TEXT,
    "adding": replace_fields(ADDING, {"hidden": 64, "steps": 1500, "lr": 2e-3}),
    # for tests: seconds
    "smoke": replace_fields(
        TEXT, {"data": "python/json", "hidden": 32, "seq_len": 16, "batch_size": 8, "steps": 120, "lr": 1e-2}
    ),
}

# what of the paper is written out here; layers over time and losses are shared by all cells
STORY = ("step",)


def step(
    x: Float[Tensor, "batch units"],
    state: State,
    weight: Float[Tensor, "units units"],
    bias: Float[Tensor, " units"] | None,
) -> State:
    """One time step: the next h from this one; `x` is W_hx x + b already."""
    (h,) = state
    # h = tanh(W_hx x + W_hh h + b)
    return ((x + F.linear(h, weight, bias)).tanh(),)


CELL = Cell("rnn", 1, step, torch.rnn_tanh)
VARIANTS = {
    # the sizes of FACTS: 88 keys of a piano
    "rnn": Variant(partial(SequenceModel, CELL, inputs=88, outputs=88, tokens=False, hidden=128), (32, 88))
}


def build(recipe: Recipe) -> Iterator[Run]:
    yield build_run(recipe, VARIANTS)


# torch's h(i + h) + 2h
FACTS = [
    Fact("88 → 128 parameters", partial(count_on_meta, Recurrent, CELL, 88, 128), 27_904),
    Fact("1 → 128 parameters", partial(count_on_meta, Recurrent, CELL, 1, 128), 16_768),
]


def reference() -> Iterator[ParityCase]:
    """nn.RNN, over layers, directions, lengths and dropout, in both implementations."""
    from torchstone.references.recurrent import recurrent_cases

    yield from recurrent_cases(CELL, nn.RNN)
