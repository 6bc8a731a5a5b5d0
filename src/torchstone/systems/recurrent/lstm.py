"""LSTM: a cell that keeps what it is given until a gate tells it to forget.

Paper: Sepp Hochreiter and Jürgen Schmidhuber, "Long Short-Term Memory", Neural Computation
9(8):1735-1780, 1997. The forget gate: Gers, Schmidhuber and Cummins 2000. Both directions: Schuster and
Paliwal 1997, Graves and Schmidhuber 2005. The sizes for Penn Treebank: Zaremba, Sutskever and Vinyals
2014, arXiv:1409.2329; AWD-LSTM: Merity, Keskar and Socher 2017, arXiv:1708.02182.

The idea. In a plain RNN a gradient is multiplied by a matrix at every moment, so that it fades or
explodes. Keep instead a cell that is only added to: its error comes back unchanged, as long as the forget
gate is open. Gates, computed from the input and the last output, say what is written (i), what is kept (f)
and what is shown (o).

    i = σ(W_i x + U_i h + b_i)          input gate
    f = σ(W_f x + U_f h + b_f)          forget gate
    o = σ(W_o x + U_o h + b_o)          output gate
    g = tanh(W_g x + U_g h + b_g)       candidate
    c = f ∘ c + i ∘ g                   cell
    h = o ∘ tanh(c)                     output; with a projection h = W_hr (o ∘ tanh(c))

Shapes: tokens (batch, time) or vectors (batch, time, inputs) -> logits (batch, time, outputs).

One system, many uses; `use` of a recipe says which. A text is read in lanes: gradients go back `length`
moments, the state is carried on over that border and into the checkpoint (`tasks/text/rnn_language_model.py`).
`lstm/adding` and `lstm/copy` are the problems that a plain RNN cannot learn: one number, or ten
symbols, from a hundred moments ago. `torchstone compare` draws runs of rnn, lstm and gru in one
picture, with how much of the gradient is left K moments back.

What differs from the paper. There was no forget gate in 1997, and gradients were cut at the gates; this is
the form of today. Gates stand in torch's order (i, f, g, o), with its two biases, so that `nn.LSTM`'s
weights load. `chrono` starts forget gates for times up to the problem's (Tallec and Ollivier 2018). The
fast path is torch's kernel; the written path is the lines above, and gives the same numbers.
"""

import itertools
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
    hidden=256, length=64, batch_size=32, steps=3000, optim=replace(Recipe.optim, lr=4e-3), forget=1.0
)
FAR = Recipe(use="adding", data="drawn", length=100, batch_size=50)
COPY = replace(FAR, use="copy", hidden=128, start="chrono", batch_size=20)
LABELS = Recipe(use="label", data="sentiment", variant="bilstm", hidden=64, vocabulary=8192)
VOICES = Recipe(use="voices", data="japanese_vowels", variant="bilstm", hidden=64, pool="max")
VOICES = replace(
    VOICES,
    optim=replace(
        VOICES.optim, optimizer="adamw", lr=3e-3, weight_decay=0.01, warmup_ratio=0.1, ema_decay=0.98
    ),
)
MUSIC = Recipe(use="music", data="chorales", hidden=200, length=256, dropout=0.5, batch_size=8)
MUSIC = replace(MUSIC, steps=480, optim=replace(MUSIC.optim, lr=5e-3, warmup_ratio=0.025, ema_decay=0.995))
RECIPES = {
    "shakespeare": TEXT,
    "sentiment": replace(LABELS, pool="max", embedding=64, dropout=0.5, batch_size=64, steps=930),
    "voices": replace(VOICES, dropout=0.5, jitter=0.6, steps=800),
    # torchstone train lstm/speakers --data FSDD   its zip file or folder, or a folder a speaker
    "speakers": replace(VOICES, data="fsdd", length=60, dropout=0.3, jitter=0.2, steps=600),
    "chorales": MUSIC,
    # torchstone train lstm/jsb --data FOLDER   the folder that holds jsb-chorales-quarter.json
    "jsb": replace(MUSIC, data="jsb-chorales"),
    "adding": replace(FAR, hidden=64, steps=4000, optim=replace(FAR.optim, lr=5e-3), forget=1.0),
    "copy": replace(
        COPY,
        steps=8000,
        optim=replace(COPY.optim, lr=5e-3, beta2=0.99, lr_schedule="constant", ema_decay=0.99),
    ),
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
    """One moment: the next h and c from these; `x` is W x + b of the four already."""
    h, c = state
    i, f, g, o = (x + F.linear(h, weight, bias)).chunk(4, -1)
    # c = σ(f) ∘ c + σ(i) ∘ tanh(g)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    # h = σ(o) ∘ tanh(c)
    return o.sigmoid() * c.tanh(), c


CELL = Cell("lstm", 4, step, torch.lstm, states=2)


def treebank(hidden: int) -> Variant:
    """Two layers over the 10,000 words of Penn Treebank, 35 at a time (Zaremba et al., section 4.1)."""
    words = {"inputs": 10_000, "outputs": 10_000, "tokens": True}
    return Variant(partial(SequenceModel, CELL, **words, hidden=hidden, layers=2), (35,))


VARIANTS = {
    # 88 keys of a piano
    "lstm": Variant(partial(SequenceModel, CELL, inputs=88, outputs=88, tokens=False, hidden=128), (32, 88)),
    # 26 numbers of sound, 61 phonemes (Graves & Schmidhuber 2005)
    "bilstm": Variant(
        partial(SequenceModel, CELL, inputs=26, outputs=61, tokens=False, hidden=100, bidirectional=True),
        (32, 26),
    ),
    "lstm_ptb_small": treebank(200),
    "lstm_ptb_medium": treebank(650),
    "lstm_ptb_large": treebank(1500),
}


def build(recipe: Recipe) -> Iterator[Run]:
    yield recurrent.build_run(recipe, VARIANTS)


def count_parameters(inputs: int, hidden: int, bidirectional: bool = False) -> int:
    with torch.device("meta"):
        return parameters(Recurrent(CELL, inputs, hidden, bidirectional=bidirectional))


def treebank_parameters(size: str, biases: int = 2, tied: bool = False) -> int:
    """Counted with torch's two biases a layer, or with the paper's one."""
    with torch.device("meta"):
        model = VARIANTS[f"lstm_ptb_{size}"].make(tied=tied)
    second = (p.numel() for name, p in model.named_parameters() if "bias_hh" in name)
    return parameters(model) - (2 - biases) * sum(second)


def awd_parameters() -> int:
    """Three layers of 1150, 1150 and 400 units on tied embeddings of 400 (Merity et al., section 5)."""
    with torch.device("meta"):
        widths = (400, 1150, 1150, 400)
        layers = [Recurrent(CELL, *pair) for pair in itertools.pairwise(widths)]
        head = nn.Linear(400, 10_000)  # its matrix is the embedding
        return parameters(nn.ModuleList([*layers, head]))


FACTS = [
    # torch's 4 (h(i + h) + 2h)
    Fact("88 → 128 parameters", partial(count_parameters, 88, 128), 111_616),
    Fact("1 → 128 parameters", partial(count_parameters, 1, 128), 67_072),
    Fact("26 → 100, both ways, parameters", partial(count_parameters, 26, 100, bidirectional=True), 102_400),
    Fact("lstm_ptb_small parameters", partial(treebank_parameters, "small"), 4_653_200),
    Fact("lstm_ptb_medium parameters", partial(treebank_parameters, "medium"), 19_780_400),
    Fact("lstm_ptb_large parameters", partial(treebank_parameters, "large"), 66_034_000),
    Fact("lstm_ptb_small, one bias", partial(treebank_parameters, "small", 1), 4_651_600),
    Fact("lstm_ptb_medium, one bias", partial(treebank_parameters, "medium", 1), 19_775_200),
    Fact("lstm_ptb_large, one bias", partial(treebank_parameters, "large", 1), 66_022_000),
    Fact("lstm_ptb_small, tied", partial(treebank_parameters, "small", tied=True), 2_653_200),
    Fact("lstm_ptb_medium, tied", partial(treebank_parameters, "medium", tied=True), 13_280_400),
    Fact("lstm_ptb_large, tied", partial(treebank_parameters, "large", tied=True), 51_034_000),
    Fact("AWD-LSTM parameters", awd_parameters, 24_221_600),
]


def reference() -> Iterator[ParityCase]:
    """nn.LSTM, over layers, directions, lengths, dropout and projections, on either path."""
    yield from references.recurrent(CELL, nn.LSTM)
