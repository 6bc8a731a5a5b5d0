"""GRU: two gates and one state, which is overwritten as little or as much as the moment asks.

Paper: Kyunghyun Cho, Bart van Merriënboer, Caglar Gulcehre, Dzmitry Bahdanau, Fethi Bougares, Holger
Schwenk and Yoshua Bengio, "Learning Phrase Representations using RNN Encoder-Decoder for Statistical
Machine Translation", 2014, arXiv:1406.1078. Compared with the LSTM: Chung et al. 2014, arXiv:1412.3555.

The idea. Let the state itself be the memory. An update gate z says how much of it stays; what is new is
computed from an old state that a reset gate r may hide. Where z is near 1 the state, and the gradient on
its way back, pass unchanged.

    r = σ(W_r x + U_r h + b_r)          reset
    z = σ(W_z x + U_z h + b_z)          update
    n = tanh(W x + U (r ∘ h) + b)       candidate, as in the paper                       gru_cho
    n = tanh(W x + b + r ∘ (U h + b'))  reset after the product: one product for all     gru
    h = z ∘ h + (1 − z) ∘ n

`gru` is what torch, cuDNN and most published weights compute; `gru_cho` is the paper's equations 5 to 8,
for which there is no fused kernel. Weights of the one are not weights of the other.

Shapes: tokens (batch, time) or vectors (batch, time, inputs) -> logits (batch, time, outputs).

What differs from the paper. The paper has no biases; here there are two as in torch, which load and save
as `nn.GRU`'s do (in `gru_cho` they add up to one). Its encoder and decoder for translation are
`seq2seq`. Gates stand in torch's order: r, z, n.
"""

import copy
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
__all__ = ["CELL", "CHO", "FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference", "sample"]
# fmt: on

MARGIN = ("loss", -1.5)

TEXT = Recipe(
    variant="gru", hidden=256, length=64, batch_size=32, steps=3000, optim=replace(Recipe.optim, lr=4e-3)
)
FAR = Recipe(use="adding", data="drawn", variant="gru", length=100, batch_size=50)
SERIES = Recipe(use="forecast", data="sea", variant="gru", hidden=64, length=192, patch=12)
RECIPES = {
    "shakespeare": TEXT,
    "forecast": replace(SERIES, steps=1000, optim=replace(SERIES.optim, lr=3e-3)),
    "glucose": replace(SERIES, data="glucose", length=72, steps=1000, optim=replace(SERIES.optim, lr=3e-3)),
    # torchstone train gru/etth1 --data FOLDER   the folder that holds ETTh1.csv
    "etth1": replace(SERIES, data="ETTh1.csv", length=336, horizon=96, patch=24, steps=1000),
    "adding": replace(FAR, hidden=64, steps=1500, optim=replace(FAR.optim, lr=1e-2)),
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
    x: Float[Tensor, "batch sums"],
    state: State,
    weight: Float[Tensor, "sums units"],
    bias: Float[Tensor, " sums"] | None,
) -> State:
    """One moment, reset after the product; `x` is W x + b of the three already."""
    (h,) = state
    r, z, n = x.chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, weight, bias).chunk(3, -1)
    r, z = (r + r_h).sigmoid(), (z + z_h).sigmoid()
    # n = tanh(W x + b + r ∘ (U h + b'))
    n = (n + r * n_h).tanh()
    # h = z ∘ h + (1 − z) ∘ n
    return (z * h + (1 - z) * n,)


def step_cho(
    x: Float[Tensor, "batch sums"],
    state: State,
    weight: Float[Tensor, "sums units"],
    bias: Float[Tensor, " sums"] | None,
) -> State:
    """One moment, reset before the product; `x` is W x + b of the three already."""
    (h,) = state
    r, z, n = (x if bias is None else x + bias).chunk(3, -1)
    U_r, U_z, U = weight.chunk(3)
    r, z = (r + h @ U_r.T).sigmoid(), (z + h @ U_z.T).sigmoid()
    # n = tanh(W x + U (r ∘ h) + b)
    n = (n + (r * h) @ U.T).tanh()
    # h = z ∘ h + (1 − z) ∘ n
    return (z * h + (1 - z) * n,)


CELL = Cell("gru", 3, step, torch.gru)
CHO_CELL = Cell("gru_cho", 3, step_cho)
WIDE = {"inputs": 88, "outputs": 88, "tokens": False, "hidden": 128}  # 88 keys of a piano
VARIANTS = {
    "gru": Variant(partial(SequenceModel, CELL, **WIDE), (32, 88)),
    "gru_cho": Variant(partial(SequenceModel, CHO_CELL, **WIDE, path="written"), (32, 88)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    yield recurrent.build_run(recipe, VARIANTS)


def count_parameters(inputs: int, hidden: int) -> int:
    with torch.device("meta"):
        return parameters(Recurrent(CELL, inputs, hidden))


# torch's 3 (h(i + h) + 2h)
FACTS = [
    Fact("88 → 128 parameters", partial(count_parameters, 88, 128), 83_712),
    Fact("1 → 128 parameters", partial(count_parameters, 1, 128), 50_304),
]


def by_units(net: Recurrent, x: Float[Tensor, "1 time inputs"]) -> tuple[Tensor, State]:
    """Cho's equations 5 to 8 a unit at a time, sums written out."""
    (W_r, W_z, W), (U_r, U_z, U) = net.weight_ih_l0.chunk(3), net.weight_hh_l0.chunk(3)  # ty: ignore
    b_r, b_z, b = (net.bias_ih_l0 + net.bias_hh_l0).chunk(3)  # ty: ignore[unsupported-operator]
    units, outputs = range(net.hidden), []
    h = [x.new_zeros(()) for _ in units]

    def total(w: Tensor, v) -> Tensor:
        return torch.stack([w[k] * v[k] for k in range(len(w))]).sum()

    for x_t in x[0]:
        r = [torch.sigmoid(total(W_r[j], x_t) + total(U_r[j], h) + b_r[j]) for j in units]
        z = [torch.sigmoid(total(W_z[j], x_t) + total(U_z[j], h) + b_z[j]) for j in units]
        hidden = [r[j] * h[j] for j in units]
        n = [torch.tanh(total(W[j], x_t) + total(U[j], hidden) + b[j]) for j in units]
        h = [z[j] * h[j] + (1 - z[j]) * n[j] for j in units]
        outputs.append(torch.stack(h))
    return torch.stack(outputs)[None], (torch.stack(h)[None, None],)


def reference() -> Iterator[ParityCase]:
    """nn.GRU, over layers, directions, lengths and dropout, on either path; Cho's, unit by unit."""
    yield from references.recurrent(CELL, nn.GRU)
    torch.manual_seed(0)
    ours = Recurrent(CHO_CELL, 3, 4, path="written").double()
    theirs = references.Answering(copy.deepcopy(ours), by_units)
    yield ParityCase(ours, theirs, torch.randn(1, 5, 3, dtype=torch.float64), label="gru_cho by units")
