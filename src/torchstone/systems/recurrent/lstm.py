"""LSTM: a recurrent network whose cell keeps its content until a gate tells it to forget.

Paper: Sepp Hochreiter and Jürgen Schmidhuber, "Long Short-Term Memory", Neural Computation
9(8):1735-1780, 1997. The forget gate: Gers, Schmidhuber and Cummins 2000. Both directions: Schuster and
Paliwal 1997, Graves and Schmidhuber 2005. The sizes for Penn Treebank: Zaremba, Sutskever and Vinyals
2014, arXiv:1409.2329; AWD-LSTM: Merity, Keskar and Socher 2017, arXiv:1708.02182.

The idea. In a plain RNN a gradient is multiplied by a matrix at every time step, so that it vanishes or
explodes. Use a cell that is only added to: its error flows back unchanged, as long as the forget gate is
open. Gates, computed from the input and the last output, control what is written (i), kept (f) and
output (o).

    i = σ(W_i x + U_i h + b_i)          input gate
    f = σ(W_f x + U_f h + b_f)          forget gate
    o = σ(W_o x + U_o h + b_o)          output gate
    g = tanh(W_g x + U_g h + b_g)       candidate
    c = f ∘ c + i ∘ g                   cell
    h = o ∘ tanh(c)                     output; with a projection h = W_hr (o ∘ tanh(c))

Shapes: tokens (batch, time) or vectors (batch, time, inputs) -> logits (batch, time, outputs).

One system, many tasks; a recipe's `task` names it. A language model is trained by truncated
back-propagation through time: gradients go back `seq_len` time steps, the state is carried over that
border and into the checkpoint (`tasks/text/rnn_language_model.py`). `lstm/adding` and `lstm/copy` are
problems that a plain RNN cannot learn: to remember one number, or ten symbols, for a hundred time steps.
`torchstone compare` draws runs of rnn, lstm and gru in one figure, with the gradient that remains K time
steps back.

What differs from the paper. There was no forget gate in 1997, and gradients were truncated at the gates;
this is today's form. Gates are in torch's order (i, f, g, o), with its two biases, so that `nn.LSTM`'s
weights load. `chrono` initializes forget gates for memories of up to the sequence length (Tallec and
Ollivier 2018). The fused implementation is torch's kernel; the reference implementation is the equations
above, and gives the same numbers.
"""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Run
from torchstone.parts.facts import Fact, ParityCase, count_on_meta, count_parameters
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

TEXT = replace_fields(Recipe(), {"hidden": 256, "seq_len": 64, "steps": 3000, "lr": 4e-3, "forget_bias": 1.0})
ADDING = Recipe(task="adding", data="synthetic", seq_len=100, batch_size=50)
COPY = Recipe(task="copy", data="synthetic", recurrent_init="chrono", seq_len=100, batch_size=20)
SENTIMENT = Recipe(task="label", data="sentiment", variant="bilstm", pool="max", vocab_size=8192)
VOICES = replace_fields(
    Recipe(task="voices", data="japanese_vowels", variant="bilstm", pool="max"),
    {"hidden": 64, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01, "warmup_ratio": 0.1}
    | {"ema_decay": 0.98},
)
MUSIC = replace_fields(
    Recipe(task="music", data="chorales", seq_len=256, batch_size=8, steps=480),
    {"hidden": 200, "dropout": 0.5, "lr": 5e-3, "warmup_ratio": 0.025, "ema_decay": 0.995},
)
RECIPES = {
    "shakespeare": TEXT,
    "sentiment": replace_fields(
        SENTIMENT, {"hidden": 64, "embedding": 64, "dropout": 0.5, "batch_size": 64, "steps": 930}
    ),
    "voices": replace_fields(VOICES, {"dropout": 0.5, "input_noise_std": 0.6, "steps": 800}),
    # torchstone train lstm/speakers --data FSDD   its zip file or folder, or a folder per speaker
    "speakers": replace_fields(
        VOICES, {"data": "fsdd", "seq_len": 60, "dropout": 0.3, "input_noise_std": 0.2, "steps": 600}
    ),
    "chorales": MUSIC,
    # torchstone train lstm/jsb --data FOLDER   the folder that holds jsb-chorales-quarter.json
    "jsb": replace_fields(MUSIC, {"data": "jsb-chorales"}),
    "adding": replace_fields(ADDING, {"hidden": 64, "steps": 4000, "lr": 5e-3, "forget_bias": 1.0}),
    "copy": replace_fields(
        COPY,
        {"hidden": 128, "steps": 8000, "lr": 5e-3, "beta2": 0.99, "lr_schedule": "constant"}
        | {"ema_decay": 0.99},
    ),
    # for tests: seconds
    "smoke": replace_fields(
        TEXT, {"data": "python/json", "hidden": 32, "seq_len": 16, "batch_size": 8, "steps": 120, "lr": 1e-2}
    ),
}

# what of the paper is written out here; layers over time and losses are shared by all cells
STORY = ("step",)


def step(
    x: Float[Tensor, "batch sums"],
    state: State,
    weight: Float[Tensor, "sums units"],
    bias: Float[Tensor, " sums"] | None,
) -> State:
    """One time step: the next h and c from these; `x` is W x + b of all four already."""
    h, c = state
    i, f, g, o = (x + F.linear(h, weight, bias)).chunk(4, -1)
    # c = σ(f) ∘ c + σ(i) ∘ tanh(g)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    # h = σ(o) ∘ tanh(c)
    return o.sigmoid() * c.tanh(), c


CELL = Cell("lstm", 4, step, torch.lstm, states=2)


def treebank(hidden: int) -> Variant:
    """Two layers over the 10,000 words of Penn Treebank, windows of 35 (Zaremba et al., section 4.1)."""
    words = {"inputs": 10_000, "outputs": 10_000, "tokens": True}
    return Variant(partial(SequenceModel, CELL, **words, hidden=hidden, layers=2), (35,))


VARIANTS = {
    # 88 keys of a piano
    "lstm": Variant(partial(SequenceModel, CELL, inputs=88, outputs=88, tokens=False, hidden=128), (32, 88)),
    # 26 audio features, 61 phonemes (Graves & Schmidhuber 2005)
    "bilstm": Variant(
        partial(SequenceModel, CELL, inputs=26, outputs=61, tokens=False, hidden=100, bidirectional=True),
        (32, 26),
    ),
    "lstm_ptb_small": treebank(200),
    "lstm_ptb_medium": treebank(650),
    "lstm_ptb_large": treebank(1500),
}


def build(recipe: Recipe) -> Iterator[Run]:
    yield build_run(recipe, VARIANTS)


def treebank_parameters(size: str, biases: int = 2, tie_weights: bool = False) -> int:
    """With torch's two biases per layer, or with the paper's one."""
    with torch.device("meta"):
        model = VARIANTS[f"lstm_ptb_{size}"].make(tie_weights=tie_weights)
    second = (p.numel() for name, p in model.named_parameters() if "bias_hh" in name)
    return count_parameters(model) - (2 - biases) * sum(second)


def awd_parameters() -> int:
    """Three layers of 1150, 1150 and 400 units with tied embeddings of 400 (Merity et al., section 5)."""
    with torch.device("meta"):
        widths = (400, 1150, 1150, 400)
        layers = [Recurrent(CELL, *pair) for pair in itertools.pairwise(widths)]
        head = nn.Linear(400, 10_000)  # its matrix is the embedding
        return count_parameters(nn.ModuleList([*layers, head]))


FACTS = [
    # torch's 4 (h(i + h) + 2h)
    Fact("88 → 128 parameters", partial(count_on_meta, Recurrent, CELL, 88, 128), 111_616),
    Fact("1 → 128 parameters", partial(count_on_meta, Recurrent, CELL, 1, 128), 67_072),
    Fact(
        "26 → 100, bidirectional, parameters",
        partial(count_on_meta, Recurrent, CELL, 26, 100, bidirectional=True),
        102_400,
    ),
    Fact("lstm_ptb_small parameters", partial(treebank_parameters, "small"), 4_653_200),
    Fact("lstm_ptb_medium parameters", partial(treebank_parameters, "medium"), 19_780_400),
    Fact("lstm_ptb_large parameters", partial(treebank_parameters, "large"), 66_034_000),
    Fact("lstm_ptb_small, one bias", partial(treebank_parameters, "small", 1), 4_651_600),
    Fact("lstm_ptb_medium, one bias", partial(treebank_parameters, "medium", 1), 19_775_200),
    Fact("lstm_ptb_large, one bias", partial(treebank_parameters, "large", 1), 66_022_000),
    Fact("lstm_ptb_small, tied", partial(treebank_parameters, "small", tie_weights=True), 2_653_200),
    Fact("lstm_ptb_medium, tied", partial(treebank_parameters, "medium", tie_weights=True), 13_280_400),
    Fact("lstm_ptb_large, tied", partial(treebank_parameters, "large", tie_weights=True), 51_034_000),
    Fact("AWD-LSTM parameters", awd_parameters, 24_221_600),
]


def reference() -> Iterator[ParityCase]:
    """nn.LSTM, over layers, directions, lengths, dropout and projections, in both implementations."""
    from torchstone.references.recurrent import recurrent_cases

    yield from recurrent_cases(CELL, nn.LSTM)
