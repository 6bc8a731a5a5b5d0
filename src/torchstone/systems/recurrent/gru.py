"""GRU: a recurrent network with two gates and one state, which is overwritten as much as the input demands.

Paper: Kyunghyun Cho, Bart van Merriënboer, Caglar Gulcehre, Dzmitry Bahdanau, Fethi Bougares, Holger
Schwenk and Yoshua Bengio, "Learning Phrase Representations using RNN Encoder-Decoder for Statistical
Machine Translation", 2014, arXiv:1406.1078. Compared with the LSTM: Chung et al. 2014, arXiv:1412.3555.

The idea. Let the state itself be the memory. An update gate z controls how much of it stays; the candidate
is computed from the old state, parts of which a reset gate r may hide. Where z is near 1 the state passes
unchanged, and so does the gradient on its way back.

    r = σ(W_r x + U_r h + b_r)          reset gate
    z = σ(W_z x + U_z h + b_z)          update gate
    n = tanh(W x + U (r ∘ h) + b)       candidate, as in the paper                       gru_cho
    n = tanh(W x + b + r ∘ (U h + b'))  reset after the product: one product for all     gru
    h = z ∘ h + (1 − z) ∘ n

`gru` is what torch, cuDNN and most published weights compute; `gru_cho` is the paper's equations 5 to 8,
for which there is no fused kernel. Weights of the one do not fit the other.

Shapes: tokens (batch, time) or vectors (batch, time, inputs) -> logits (batch, time, outputs).

What differs from the paper. The paper has no biases; here there are two as in torch, which load and save
as `nn.GRU`'s do (in `gru_cho` they are summed). Its encoder–decoder for translation is in `seq2seq`. Gates
are in torch's order: r, z, n.
"""

import copy
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
    "CHO_CELL",
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

TEXT = replace_fields(Recipe(), {"variant": "gru", "hidden": 256, "seq_len": 64, "steps": 3000, "lr": 4e-3})
ADDING = Recipe(task="adding", data="synthetic", variant="gru", seq_len=100, batch_size=50)
FORECAST = replace_fields(
    Recipe(task="forecast", data="sea", variant="gru", seq_len=192, steps=1000), {"hidden": 64, "patch": 12}
)
RECIPES = {
    "shakespeare": TEXT,
    "forecast": replace_fields(FORECAST, {"lr": 3e-3, "linear_skip": True}),
    "glucose": replace_fields(FORECAST, {"data": "glucose", "seq_len": 72, "lr": 3e-3, "linear_skip": True}),
    # torchstone train gru/etth1 --data FOLDER   the folder that holds ETTh1.csv
    "etth1": replace_fields(FORECAST, {"data": "ETTh1.csv", "seq_len": 336, "horizon": 96, "patch": 24}),
    "adding": replace_fields(ADDING, {"hidden": 64, "steps": 1500, "lr": 1e-2}),
    # for tests: seconds
    "smoke": replace_fields(
        TEXT, {"data": "python/json", "hidden": 32, "seq_len": 16, "batch_size": 8, "steps": 120, "lr": 1e-2}
    ),
}

# what of the paper is written out here; layers over time and losses are shared by all cells
STORY = ("step", "step_cho")


def step(
    x: Float[Tensor, "batch sums"],
    state: State,
    weight: Float[Tensor, "sums units"],
    bias: Float[Tensor, " sums"] | None,
) -> State:
    """One time step, reset after the product; `x` is W x + b of the three already."""
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
    """One time step, reset before the product; `x` is W x + b of the three already."""
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
SIZES = {"inputs": 88, "outputs": 88, "tokens": False, "hidden": 128}  # 88 keys of a piano
VARIANTS = {
    "gru": Variant(partial(SequenceModel, CELL, **SIZES), (32, 88)),
    "gru_cho": Variant(partial(SequenceModel, CHO_CELL, **SIZES, implementation="reference"), (32, 88)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    yield build_run(recipe, VARIANTS)


# torch's 3 (h(i + h) + 2h)
FACTS = [
    Fact("88 → 128 parameters", partial(count_on_meta, Recurrent, CELL, 88, 128), 83_712),
    Fact("1 → 128 parameters", partial(count_on_meta, Recurrent, CELL, 1, 128), 50_304),
]


def by_units(net: Recurrent, x: Float[Tensor, "1 time inputs"]) -> tuple[Tensor, State]:
    """Cho's equations 5 to 8, one unit at a time, with explicit sums."""
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
    """nn.GRU, over layers, directions, lengths and dropout, in both implementations; Cho's, unit by unit."""
    from torchstone.references import OutputAdapter
    from torchstone.references.recurrent import recurrent_cases

    yield from recurrent_cases(CELL, nn.GRU)
    torch.manual_seed(0)
    ours = Recurrent(CHO_CELL, 3, 4, implementation="reference").double()
    theirs = OutputAdapter(copy.deepcopy(ours), by_units)
    yield ParityCase(ours, theirs, torch.randn(1, 5, 3, dtype=torch.float64), label="gru_cho by units")
