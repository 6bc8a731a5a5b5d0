"""CTC: a recurrent network that writes down what it hears, without being told when it is said.

Paper: Alex Graves, Santiago Fernández, Faustino Gomez and Jürgen Schmidhuber, "Connectionist Temporal
Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006,
pages 369-376.

The idea. A transcript says what was said, not when; to train a network on every moment, someone had to
cut the sound into pieces first. Let the network name a label or a blank at each moment, and count every
way of doing so that collapses to the transcript: its probability is their sum, which two recursions add
up. Trained to make that large, the network finds the moments by itself, as spikes between blanks.

    B(π)      repetitions out of a path, then blanks: B(a–ab–) = B(–aa––abb) = aab   (section 3.1)
    p(l|x)    = Σ over π in B⁻¹(l) of Π_t y^t_{π_t},   loss −log p(l|x)
    α_t(s)    = (α_{t−1}(s) + α_{t−1}(s−1) [+ α_{t−1}(s−2)]) y^t_{l′_s}              (section 4.1)
              the third where l′_s is a label other than l′_{s−2}; l′ is l with blanks between
    ∂/∂u^t_k  = y^t_k − (1/p) Σ over s with l′_s = k of α_t(s) β_t(s)                (section 4.2)
    decoding  B of the likeliest label at each moment (best path), or the likeliest prefixes,
              all of their paths together (section 3.2)

    wave (samples at `rate`) → log-mel vectors, 100 a second (`parts/audio/spectrogram.py`) → `stride` of them side
    by side → LSTM in both directions (batch, moments, 2·hidden) → logits (batch, moments, 1 + labels)

`ctc` is that network. `ctc_paper` is the paper's: one layer of 100 LSTM blocks with peepholes in each
direction, no stride, for 26 cepstra and 61 phonemes and the blank: 114,662 weights.

`ctc/characters` has one recording of each character: its utterances are composed, with silence and
noise between and under them, and those that it is judged on are composed anew of the same recordings.
It shows that the method works, not that strangers would be understood. `ctc/fsdd` hears digits of six
speakers: training utterances are composed of one to five recordings of one speaker, and it is judged
on the official test recordings, which it has never heard: on 300 utterances composed of them
(`label_error`), and on each of the 300 alone, as recorded (`single_error`). Label error is the fewest
insertions, deletions and substitutions that make the transcript right, over the labels there are.
On a folder of your own sounds utterances are taken as they are.

What differs from the paper. Log-mel vectors and no phonemes: characters are the labels. Training takes
batches, Adam and torch's `ctc_loss`, which `parts/audio/ctc.py` writes out and equals; no noise is added to
the inputs, but under the sounds. The paper's prefix search is best-first over sections cut at sure blanks;
here prefixes are kept moment by moment, which with beams enough is exact too (Hannun et al. 2014,
arXiv:1408.2873). No language model takes part. Batches are of many lengths: nothing is compiled.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.audio.speech import read_speech
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.audio.ctc import ctc_loss
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.parts.facts import Fact, ParityCase, parameters
from torchstone.parts.recurrent.layers import Recurrent
from torchstone.parts.recurrent.peephole_lstm import PeepholeLSTM
from torchstone.systems import Variant
from torchstone.systems.recurrent.lstm import CELL
from torchstone.tasks.audio.speech_recognition import evaluate, predict, train_recognizer

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

MARGIN = ("right", 0.5)  # of short utterances, from beginning to end


@dataclass(frozen=True)
class Recipe:
    data: str = "captcha"  # captcha, captcha/0123, FSDD, a folder of sounds with their transcripts
    variant: str = "ctc"  # which network
    rate: int = 8000  # samples a second that every sound is brought to
    features: Literal["mel", "cepstra"] = "mel"  # log-mel energies, or the paper's 26 numbers
    bands: int = 40  # mel bands
    window: float = 25.0  # milliseconds of sound in a vector
    hop: float = 10.0  # milliseconds from one vector to the next
    stride: int = 4  # vectors that become one moment of the network
    hidden: int = 96  # LSTM blocks a layer and direction
    layers: int = 2  # of them, one on the other
    dropout: float = 0.2  # share of numbers dropped between layers and before the last
    count: tuple[int, int] = (1, 5)  # recordings in a composed utterance, at least and at most
    speed: float = 0.1  # share that a recording is played faster or slower by, at most
    noise: tuple[float, float] = (10.0, 60.0)  # decibels that speech lies above noise
    beams: int = 8  # prefixes of the search that is tested beside greedy decoding; 1 for none
    steps: int = 1000  # updates
    batch_size: int = 16  # utterances an update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=5e-3, weight_decay=0.01, warmup_ratio=0.1, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    seed: int = 0  # of weights, utterances and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


EASY = Recipe(
    data="captcha/0123",
    count=(1, 3),
    hidden=32,
    layers=1,
    stride=5,
    dropout=0.0,
    optim=replace(Recipe.optim, ema_decay=0.0),
)
RECIPES = {
    "characters": Recipe(),
    "fsdd": Recipe(data="fsdd", steps=1600),
    # for tests: seconds
    "smoke": replace(EASY, steps=80, batch_size=8, optim=replace(EASY.optim, lr=2e-2), beams=1),
}


class Recognizer(nn.Module):
    """Vectors side by side, LSTM layers in both directions, a linear layer to the labels and the blank.

    Args:
        labels: what can be said, beside which label 0 is the blank.
        inputs: numbers a vector.
        stride: vectors that become one moment; zeros fill up the last.
        peepholes: one layer whose gates see the cell, and `dropout` before the last layer only.
    """

    def __init__(
        self, labels: int, inputs: int, *, hidden: int = 96, layers: int = 2, stride: int = 4,
        dropout: float = 0.0, peepholes: bool = False, path: Literal["fast", "written"] = "fast",
    ):  # fmt: skip
        super().__init__()
        if stride < 1 or (peepholes and layers != 1):
            what = f"stride {stride}" if stride < 1 else f"{layers} layers with peepholes"
            raise BadInput(f"a recogniser has stride 1 or more, and peepholes in one layer, not {what}")
        self.stride, self.dropout = stride, dropout
        self.recurrent: Any = (
            PeepholeLSTM(inputs * stride, hidden)
            if peepholes
            else Recurrent(
                CELL,
                inputs * stride,
                hidden,
                layers,
                bidirectional=True,
                dropout=dropout,
                path=path,
            )
        )
        self.head = nn.Linear(self.recurrent.width, 1 + labels)
        if peepholes:
            for parameter in self.head.parameters():
                nn.init.uniform_(parameter, -0.1, 0.1)

    def moments(self, lengths: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Moments that so many vectors become."""
        return (lengths + self.stride - 1) // self.stride

    def forward(
        self,
        x: Float[Tensor, "batch time inputs"],
        lengths: Int64[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch moments labels"]:
        """Logits of the blank (label 0) and the labels at each moment; `lengths` counts vectors."""
        moments = None
        if lengths is not None:
            there = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
            x, moments = x * there[..., None], self.moments(lengths)
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stride))
        y = self.recurrent(x.unflatten(1, (-1, self.stride)).flatten(2), moments)
        y = y[0] if isinstance(y, tuple) else y
        return self.head(F.dropout(y, self.dropout, self.training))


PAPER: dict[str, Any] = {"hidden": 100, "layers": 1, "stride": 1, "peepholes": True}
VARIANTS = {
    "ctc": Variant(partial(Recognizer, labels=36, inputs=40), (30, 40)),
    "ctc_paper": Variant(partial(Recognizer, labels=61, inputs=26, **PAPER), (20, 26)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    how = AudioFeatures(recipe.rate, recipe.window, recipe.hop, recipe.bands, kind=recipe.features)
    device = select_device(recipe.device)
    data = read_speech(recipe.data, recipe.rate)
    model_config = {
        "labels": len(data.alphabet),
        "inputs": how.width,
        **{name: getattr(recipe, name) for name in ("hidden", "layers", "stride")},
        **(PAPER if recipe.variant == "ctc_paper" else {}),
        "dropout": recipe.dropout,
    }
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield train_recognizer(model, recipe, data, how, model_config=model_config)


FACTS = [
    Fact("ctc_paper weights (paper: 114,662)", lambda: parameters(VARIANTS["ctc_paper"].make()), 114_662),
    Fact("of them in both LSTM layers", lambda: parameters(PeepholeLSTM(26, 100)), 102_200),
    Fact("the same with torch's two biases and no peepholes",
         lambda: parameters(Recurrent(CELL, 26, 100, bidirectional=True)), 102_400),
    Fact("ctc parameters, 36 characters", lambda: parameters(VARIANTS["ctc"].make()), 428_005),
]  # fmt: skip


class LossModule(nn.Module):
    """The CTC loss of fixed targets, ours or torch's, of a recogniser or of nn.LSTM and a linear layer."""

    def __init__(self, net: Any, *, ours: bool):
        super().__init__()
        self.net, self.ours = net, ours

    def forward(self, x: Tensor, lengths: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        if self.ours:
            logits, moments = self.net(x, lengths), self.net.moments(lengths)
            return logits, ctc_loss(logits.log_softmax(2), targets, moments, counts)
        recurrent, head = self.net
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        logits = head(nn.utils.rnn.pad_packed_sequence(recurrent(packed)[0], True)[0])
        logs = logits.log_softmax(2).transpose(0, 1)
        return logits, F.ctc_loss(logs, targets, lengths, counts, reduction="none")


class NaivePeepholeLSTM(nn.Module):
    """The peephole layer of one sequence after another, unit by unit, in plain loops."""

    def __init__(self, layer: PeepholeLSTM):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        width = int(x.shape[1])
        rows = [F.pad(self.one(a[:n]), (0, 0, 0, width - n)) for a, n in zip(x, lengths, strict=True)]
        return torch.stack(rows)

    def one(self, x: Tensor) -> Tensor:
        sides = []
        for way in ("", "_reverse"):
            names = ("weight_ih", "weight_hh", "bias", "peephole")
            W, U, b, p = (getattr(self.layer, name + way) for name in names)
            units, outputs = range(self.layer.hidden), []
            h = c = x.new_zeros(self.layer.hidden)
            for moment in x.flip(0) if way else x:

                def net(gate: int, j: int, moment=moment, h=h, W=W, U=U, b=b) -> Tensor:
                    row = gate * len(h) + j
                    return (W[row] * moment).sum() + (U[row] * h).sum() + b[row]

                cells, shown = [], []
                for j in units:
                    i = torch.sigmoid(net(0, j) + p[0, j] * c[j])
                    f = torch.sigmoid(net(1, j) + p[1, j] * c[j])
                    cells.append(f * c[j] + i * torch.tanh(net(2, j)))
                    o = torch.sigmoid(net(3, j) + p[2, j] * cells[-1])
                    shown.append(o * torch.tanh(cells[-1]))
                h, c = torch.stack(shown), torch.stack(cells)
                outputs.append(h)
            sides.append(torch.stack(outputs[::-1] if way else outputs))
        return torch.cat(sides, 1)


def reference() -> Iterator[ParityCase]:
    """nn.LSTM with torch's loss, of one and two layers; the peepholes in plain loops."""
    torch.manual_seed(0)
    x = torch.randn(3, 14, 5, dtype=torch.float64)
    targets = torch.tensor([[1, 1, 3, 2], [2, 0, 0, 0], [0, 0, 0, 0]])
    inputs = (x, torch.tensor([14, 9, 4]), targets, torch.tensor([4, 1, 0]))
    for layers in (1, 2):
        net = Recognizer(3, 5, hidden=6, layers=layers, stride=1).double()
        theirs = nn.LSTM(5, 6, layers, batch_first=True, bidirectional=True).double()
        theirs.load_state_dict(net.recurrent.state_dict())
        head = nn.Linear(12, 4).double()
        head.load_state_dict(net.head.state_dict())
        pair = nn.ModuleList([theirs, head])
        label = f"{layers} layers, repeated labels and none"
        yield ParityCase(LossModule(net, ours=True), LossModule(pair, ours=False), inputs, label=label)
    layer = PeepholeLSTM(5, 3).double()
    yield ParityCase(layer, NaivePeepholeLSTM(layer), inputs[:2], label="peepholes")
