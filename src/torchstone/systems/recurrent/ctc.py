"""CTC: a recurrent network that transcribes speech without knowing when each label is spoken.

Paper: Alex Graves, Santiago Fernández, Faustino Gomez and Jürgen Schmidhuber, "Connectionist Temporal
Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006,
pages 369-376.

The idea. A transcript says what was spoken, not when; to train a network on every time step, someone had
to segment the sound first. Let the network emit a label or a blank at each time step, and count every path
of emissions that collapses to the transcript: the transcript's probability is their sum, which two
recursions compute. Trained to maximize it, the network finds the time steps itself, as spikes between
blanks.

    B(π)      removes repetitions, then blanks: B(a–ab–) = B(–aa––abb) = aab         (section 3.1)
    p(l|x)    = Σ over π in B⁻¹(l) of Π_t y^t_{π_t},   loss −log p(l|x)
    α_t(s)    = (α_{t−1}(s) + α_{t−1}(s−1) [+ α_{t−1}(s−2)]) y^t_{l′_s}              (section 4.1)
              the third where l′_s is a label other than l′_{s−2}; l′ is l with blanks between
    ∂/∂u^t_k  = y^t_k − (1/p) Σ over s with l′_s = k of α_t(s) β_t(s)                (section 4.2)
    decoding  B of the most likely label at each time step (best path), or the most likely prefixes,
              summed over their paths (section 3.2), in `parts/decoding/ctc_decoding.py`

    waveform → log-mel features, 100 frames a second (`parts/audio/spectrogram.py`) → `stride` of them
    stacked → bidirectional LSTM (batch, time, 2·hidden) → logits (batch, time, 1 + labels)

`ctc` is that network. `ctc_paper` is the paper's: one layer of 100 LSTM blocks with peepholes in each
direction, no stride, for 26 MFCC features and 61 phonemes and the blank: 114,662 weights.

`ctc/characters` has one recording of each character: its utterances are composed, with silence between
and noise under them, and the utterances for evaluation are composed anew of the same recordings. It shows
that the method works, not that it would understand strangers. `ctc/fsdd` transcribes digits of six
speakers: training utterances are composed of one to five recordings of one speaker, and it is evaluated
on the official test recordings, which it has never heard: on 300 utterances composed of them
(`label_error`), and on each of the 300 by itself (`single_error`). Label error is the smallest number of
insertions, deletions and substitutions that correct the transcript, per label. On a folder of your own
sounds utterances are used as they are.

What differs from the paper. Log-mel features, and characters as labels, not phonemes. Training uses
batches, Adam and torch's `ctc_loss`, to which `ctc_loss` below is equal; no noise is added to the inputs,
but to the sounds. The paper's prefix search is best-first over sections cut at sure blanks; here prefixes
are extended time step by time step, which with enough beams is exact too (Hannun et al. 2014,
arXiv:1408.2873). There is no language model. Batches have many lengths, so nothing is compiled.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.audio.speech import read_speech
from torchstone.data.audio.speech_batches import Augmentation
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.recurrent.layers import Recurrent
from torchstone.systems import Variant
from torchstone.systems.recurrent.lstm import CELL
from torchstone.tasks.audio.speech_recognition import evaluate, predict, train_recognizer

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

MARGIN = ("exact_match", 0.5)  # of short utterances, transcribed without an error
LOG_ZERO = -math.inf


@dataclass(frozen=True)
class NetworkConfig:
    """The fields of the `Recognizer` that a recipe sets."""

    hidden: int = 96  # LSTM units per layer and direction
    layers: int = 2  # stacked LSTM layers
    stride: int = 4  # feature vectors per time step of the network
    dropout: float = 0.2  # dropout probability between layers and before the output layer


@dataclass(frozen=True)
class Recipe:
    data: str = "captcha"  # data set: captcha, captcha/0123, FSDD, or a folder of sounds with transcripts
    variant: str = "ctc"  # network variant
    audio: AudioFeatures = AudioFeatures()  # audio features
    network: NetworkConfig = NetworkConfig()  # architecture
    augmentation: Augmentation = Augmentation(
        recordings_per_utterance=(1, 5), snr_db=(10.0, 60.0)
    )  # composition of utterances
    beam_size: int = 8  # beam size of the prefix search in the test, 1 for none
    steps: int = 1000  # number of updates
    batch_size: int = 16  # utterances per update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=5e-3, weight_decay=0.01, warmup_ratio=0.1, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    seed: int = 0  # seed of weights, utterances and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    "characters": Recipe(),
    "fsdd": Recipe(data="fsdd", steps=1600),
    # for tests: seconds
    "smoke": Recipe(
        data="captcha/0123",
        network=NetworkConfig(hidden=32, layers=1, stride=5, dropout=0.0),
        augmentation=replace(Recipe.augmentation, recordings_per_utterance=(1, 3)),
        steps=80,
        batch_size=8,
        optim=replace(Recipe.optim, lr=2e-2, ema_decay=0.0),
        beam_size=1,
    ),
}


class PeepholeLSTM(nn.Module):
    """The bidirectional LSTM layer of early speech recognizers: its gates see the cell through peepholes.

    Felix Gers, Nicol Schraudolph and Jürgen Schmidhuber, "Learning Precise Timing with LSTM Recurrent
    Networks", Journal of Machine Learning Research 3, 2002, section 3; in both directions as in Graves
    and Schmidhuber 2005.

        i = σ(W_i x + U_i h + p_i ∘ c + b_i)        h, c: of the time step before
        f = σ(W_f x + U_f h + p_f ∘ c + b_f)
        c′ = f ∘ c + i ∘ tanh(W_g x + U_g h + b_g)
        o = σ(W_o x + U_o h + p_o ∘ c′ + b_o)       it alone sees the new cell
        h′ = o ∘ tanh(c′)

    The outputs of the two directions are concatenated: `width` is 2·hidden. A direction has
    4·hidden·(inputs + hidden + 1) + 3·hidden weights: one bias per gate.
    """

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.hidden, self.width = hidden, 2 * hidden
        for direction in ("", "_reverse"):
            for name, shape in (
                ("weight_ih", (4 * hidden, inputs)),
                ("weight_hh", (4 * hidden, hidden)),
                ("bias", (4 * hidden,)),
                ("peephole", (3, hidden)),
            ):
                self.register_parameter(name + direction, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±0.1 (Graves et al. 2006, section 5.2)."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(
        self, x: Float[Tensor, "batch time inputs"], lengths: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch time width"]:
        """Outputs of both directions; past a row's `lengths` they are 0."""
        time_steps, valid = torch.arange(x.shape[1], device=x.device), None
        if lengths is not None:
            valid = (time_steps[:, None] < lengths.to(x.device))[..., None]  # (time, batch, 1)
        outputs = [self._one_direction(x.transpose(0, 1), d, valid) for d in ("", "_reverse")]
        return torch.cat(outputs, -1).transpose(0, 1)

    def _one_direction(self, x: Tensor, direction: str, valid: Tensor | None) -> Tensor:
        weight = getattr(self, f"weight_hh{direction}")
        p_i, p_f, p_o = getattr(self, f"peephole{direction}")
        sums = F.linear(x, getattr(self, f"weight_ih{direction}"), getattr(self, f"bias{direction}"))
        h = c = x.new_zeros(x.shape[1], self.hidden)
        outputs: list[Tensor] = []
        for t in reversed(range(len(x))) if direction else range(len(x)):
            i, f, g, o = (sums[t] + F.linear(h, weight)).chunk(4, -1)
            new_c = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
            new_h = (o + p_o * new_c).sigmoid() * new_c.tanh()
            if valid is not None:  # outside a row's own length its state does not change
                new_h, new_c = new_h.where(valid[t], h), new_c.where(valid[t], c)
            h, c = new_h, new_c
            outputs.append(h)
        y = torch.stack(outputs[::-1] if direction else outputs)
        return y if valid is None else y * valid


class Recognizer(nn.Module):
    """Stacked feature vectors, bidirectional LSTM layers, a linear layer to the blank and the labels.

    Args:
        labels: number of labels without the blank, which is label 0.
        inputs: features per vector.
        stride: vectors that are stacked to a time step; the last one is padded with zeros.
        peepholes: one layer of `PeepholeLSTM`, and `dropout` before the output layer only.
    """

    def __init__(
        self,
        labels: int,
        inputs: int,
        *,
        hidden: int = 96,
        layers: int = 2,
        stride: int = 4,
        dropout: float = 0.0,
        peepholes: bool = False,
        implementation: Literal["fused", "reference"] = "fused",
    ):
        super().__init__()
        if stride < 1 or (peepholes and layers != 1):
            wrong = f"stride {stride}" if stride < 1 else f"{layers} layers with peepholes"
            raise BadInput(f"a recognizer has stride 1 or more, and peepholes in one layer, not {wrong}")
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
                implementation=implementation,
            )
        )
        self.head = nn.Linear(self.recurrent.width, 1 + labels)
        if peepholes:
            for parameter in self.head.parameters():
                nn.init.uniform_(parameter, -0.1, 0.1)

    def output_lengths(self, lengths: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Number of time steps for so many feature vectors."""
        return (lengths + self.stride - 1) // self.stride

    def forward(
        self, x: Float[Tensor, "batch frames inputs"], lengths: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch time labels"]:
        """Logits of the blank (label 0) and the labels at each time step; `lengths` counts vectors."""
        time_steps = None
        if lengths is not None:
            valid = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
            x, time_steps = x * valid[..., None], self.output_lengths(lengths)
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stride))
        y = self.recurrent(x.unflatten(1, (-1, self.stride)).flatten(2), time_steps)
        y = y[0] if isinstance(y, tuple) else y
        return self.head(F.dropout(y, self.dropout, self.training))


def training_loss(
    log_probs: Float[Tensor, "batch time classes"],
    lengths: Int64[Tensor, " batch"],
    labels: Int64[Tensor, "batch labels"],
    counts: Int64[Tensor, " batch"],
) -> dict[str, Tensor]:
    """−log p(l|x) in nats per label, by torch's kernel, and the number of labels."""
    losses = F.ctc_loss(log_probs.transpose(0, 1), labels, lengths, counts, reduction="none")
    total = counts.sum()
    return {"loss": losses.sum() / total, "weight": total}


def ctc_loss(
    log_probs: Float[Tensor, "batch time classes"],
    targets: Int64[Tensor, "batch labels"],
    lengths: Int64[Tensor, " batch"],
    target_lengths: Int64[Tensor, " batch"],
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Float[Tensor, " batch"]:
    """−log p(l|x) in nats for each row, with the gradient of the forward-backward algorithm.

    Args:
        log_probs: log-probabilities; those after a row's `lengths` do not count.
        targets: labels, of which the first `target_lengths` of a row count; there may be none.
        zero_infinity: a labeling that does not fit into its time steps (repeated labels need a blank
            between) has loss 0 and no gradient; by default its loss is infinite.

    Raises:
        BadInput: no time step, or a length that is longer than its tensor; a blank among the targets.
    """
    lengths, counts = lengths.to(log_probs.device), target_lengths.to(log_probs.device)
    time, most = log_probs.shape[1], targets.shape[1]
    if not 1 <= int(lengths.min()) <= int(lengths.max()) <= time or int(counts.max()) > most:
        raise BadInput(
            f"lengths of {int(lengths.min())} to {int(lengths.max())} time steps and up to "
            f"{int(counts.max())} labels, where there are {time} and {most}"
        )
    targets = targets.to(log_probs.device)
    inside = torch.arange(most, device=log_probs.device) < counts[:, None]
    if bool(((targets == blank) & inside).any()):
        raise BadInput(f"a target holds {blank}, which is the blank")
    targets = targets.where(inside, blank)  # whatever the padding is
    loss = _ForwardBackward.apply(log_probs, targets, lengths, counts, blank)
    return torch.where(loss.isinf(), 0.0, loss) if zero_infinity else loss


class _ForwardBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_probs: Tensor, targets: Tensor, lengths: Tensor, counts: Tensor, blank: int
    ) -> Tensor:
        extended, may_skip = _extend(targets, blank)
        # log y^t_{l′_s}: (time, batch, s)
        y = log_probs.gather(2, extended[:, None].expand(-1, log_probs.shape[1], -1)).transpose(0, 1)
        alpha = forward_variables(y, may_skip, lengths)
        last = alpha[-1]
        # the labeling is complete at its last label, or at the blank after it
        ends = last.gather(1, torch.stack([2 * counts, (2 * counts - 1).clamp(min=0)], 1))
        ends[:, 1].masked_fill_(counts == 0, LOG_ZERO)
        loss = -ends.logsumexp(1)
        ctx.save_for_backward(log_probs, y, alpha, extended, may_skip, lengths, counts, loss)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        """∂(−log p)/∂ log y^t_k = −(1/p) Σ of α_t(s) β_t(s) over the positions s that hold k (section
        4.2): the probability, given l, that the path goes through k at t."""
        log_probs, y, alpha, extended, may_skip, lengths, counts, loss = ctx.saved_tensors
        beta = backward_variables(y, may_skip, lengths, counts)
        occupancy = (alpha + beta + loss[:, None]).exp().transpose(0, 1)
        time_steps = torch.arange(log_probs.shape[1], device=log_probs.device)
        occupancy = occupancy * (time_steps < lengths[:, None])[..., None]
        occupancy = occupancy.masked_fill(loss.isinf()[:, None, None], 0.0)
        labels = extended[:, None].expand(-1, log_probs.shape[1], -1)
        gradient = torch.zeros_like(log_probs).scatter_add_(2, labels, occupancy)
        return -outer[:, None, None] * gradient, None, None, None, None


def _extend(targets: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """l′, and True where a path may skip from two positions before: to a label other than the last one."""
    rows, count = targets.shape
    extended = targets.new_full((rows, 2 * count + 1), blank)
    extended[:, 1::2] = targets
    may_skip = torch.zeros_like(extended, dtype=torch.bool)
    may_skip[:, 3::2] = targets[:, 1:] != targets[:, :-1]
    return extended, may_skip


def forward_variables(
    y: Float[Tensor, "time batch s"], may_skip: Tensor, lengths: Tensor
) -> Float[Tensor, "time batch s"]:
    """log α_t(s): paths over time steps 1 to t that end in l′_s; constant after a row's end.

    α_t(s) = (α_{t−1}(s) + α_{t−1}(s−1) + α_{t−1}(s−2) where that may be skipped) y^t_{l′_s}
    """
    first = torch.full_like(y[0], LOG_ZERO)
    first[:, :2] = y[0, :, :2]
    alphas = [first]
    for t in range(1, len(y)):
        before = alphas[-1]
        two = _shift(before, 2).masked_fill(~may_skip, LOG_ZERO)
        new = torch.logaddexp(torch.logaddexp(before, _shift(before, 1)), two) + y[t]
        alphas.append(torch.where((t < lengths)[:, None], new, before))
    return torch.stack(alphas)


def backward_variables(
    y: Float[Tensor, "time batch s"], may_skip: Tensor, lengths: Tensor, counts: Tensor
) -> Float[Tensor, "time batch s"]:
    """log β_t(s): paths over time steps t+1 to the end that complete l from l′_s.

    The paper's β includes y^t too, and divides by it where α and β meet; without it an impossible label
    (y = 0) needs no division.
    """
    positions = torch.arange(y.shape[2], device=y.device)
    complete = (positions == 2 * counts[:, None]) | (positions == 2 * counts[:, None] - 1)
    end = torch.zeros_like(y[0]).masked_fill(~complete, LOG_ZERO)
    beta, betas = torch.full_like(end, LOG_ZERO), []
    for t in reversed(range(len(y))):
        if t + 1 < len(y):
            after = beta + y[t + 1]
            two = _shift(after.masked_fill(~may_skip, LOG_ZERO), -2)
            beta = torch.logaddexp(torch.logaddexp(after, _shift(after, -1)), two)
        beta = torch.where((lengths == t + 1)[:, None], end, beta)
        betas.append(beta)
    return torch.stack(betas[::-1])


def _shift(x: Tensor, offset: int) -> Tensor:
    """Each row shifted right (or left, if negative), filled with log 0."""
    shifted = torch.full_like(x, LOG_ZERO)
    if offset > 0:
        shifted[:, offset:] = x[:, :-offset]
    else:
        shifted[:, :offset] = x[:, -offset:]
    return shifted


PAPER: dict[str, Any] = {"hidden": 100, "layers": 1, "stride": 1, "peepholes": True}
VARIANTS = {
    "ctc": Variant(partial(Recognizer, labels=36, inputs=40), (30, 40)),
    "ctc_paper": Variant(partial(Recognizer, labels=61, inputs=26, **PAPER), (20, 26)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = read_speech(recipe.data, recipe.audio.sample_rate)
    model_config = {
        "labels": len(data.alphabet),
        "inputs": recipe.audio.width,
        **asdict(recipe.network),
        **(PAPER if recipe.variant == "ctc_paper" else {}),
    }
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield train_recognizer(model, recipe, data, loss=training_loss, model_config=model_config)


FACTS = [
    Fact(
        "ctc_paper weights (paper: 114,662)", lambda: count_parameters(VARIANTS["ctc_paper"].make()), 114_662
    ),
    Fact("of them in both LSTM layers", lambda: count_parameters(PeepholeLSTM(26, 100)), 102_200),
    Fact(
        "the same with torch's two biases and no peepholes",
        lambda: count_parameters(Recurrent(CELL, 26, 100, bidirectional=True)),
        102_400,
    ),
    Fact("ctc parameters, 36 characters", lambda: count_parameters(VARIANTS["ctc"].make()), 428_005),
]


class LossModule(nn.Module):
    """The CTC loss of fixed targets, ours or torch's, of a recognizer or of nn.LSTM and a linear layer."""

    def __init__(self, net: Any, *, is_ours: bool):
        super().__init__()
        self.net, self.is_ours = net, is_ours

    def forward(self, x: Tensor, lengths: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        if self.is_ours:
            logits, time_steps = self.net(x, lengths), self.net.output_lengths(lengths)
            return logits, ctc_loss(logits.log_softmax(2), targets, time_steps, counts)
        recurrent, head = self.net
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        logits = head(nn.utils.rnn.pad_packed_sequence(recurrent(packed)[0], True)[0])
        log_probs = logits.log_softmax(2).transpose(0, 1)
        return logits, F.ctc_loss(log_probs, targets, lengths, counts, reduction="none")


class NaivePeepholeLSTM(nn.Module):
    """The peephole layer on one sequence at a time, unit by unit, in plain loops."""

    def __init__(self, layer: PeepholeLSTM):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        width = int(x.shape[1])
        rows = [F.pad(self.one_row(a[:n]), (0, 0, 0, width - n)) for a, n in zip(x, lengths, strict=True)]
        return torch.stack(rows)

    def one_row(self, x: Tensor) -> Tensor:
        directions = []
        for direction in ("", "_reverse"):
            names = ("weight_ih", "weight_hh", "bias", "peephole")
            W, U, b, p = (getattr(self.layer, name + direction) for name in names)
            units, outputs = range(self.layer.hidden), []
            h = c = x.new_zeros(self.layer.hidden)
            for x_t in x.flip(0) if direction else x:

                def net(gate: int, j: int, x_t=x_t, h=h, W=W, U=U, b=b) -> Tensor:
                    row = gate * len(h) + j
                    return (W[row] * x_t).sum() + (U[row] * h).sum() + b[row]

                cells, hidden = [], []
                for j in units:
                    i = torch.sigmoid(net(0, j) + p[0, j] * c[j])
                    f = torch.sigmoid(net(1, j) + p[1, j] * c[j])
                    cells.append(f * c[j] + i * torch.tanh(net(2, j)))
                    o = torch.sigmoid(net(3, j) + p[2, j] * cells[-1])
                    hidden.append(o * torch.tanh(cells[-1]))
                h, c = torch.stack(hidden), torch.stack(cells)
                outputs.append(h)
            directions.append(torch.stack(outputs[::-1] if direction else outputs))
        return torch.cat(directions, 1)


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
        yield ParityCase(LossModule(net, is_ours=True), LossModule(pair, is_ours=False), inputs, label=label)
    layer = PeepholeLSTM(5, 3).double()
    yield ParityCase(layer, NaivePeepholeLSTM(layer), inputs[:2], label="peepholes")
