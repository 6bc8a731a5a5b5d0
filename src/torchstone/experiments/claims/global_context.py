"""With attention any two positions are one step apart: recall of one symbol over its distance."""

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.sequences import CELLS, accuracy, held_out, train_on
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems.transformer.gpt import GPT

CLAIM = Claim(
    "global-context",
    "Attention connects any two positions in one step, whatever lies between.",
    "Vaswani et al. 2017",
    "128 tokens without meaning, among them one of eight symbols, which the last token asks for; the "
    "distance is log-uniform. A causal transformer of two blocks, the same with a window of 8 tokens, an "
    "LSTM and an RNN, all of some 27,000 parameters, 300 updates of AdamW. Share of symbols recalled, "
    "over the distance; chance is 1/8.",
    "All must recall the symbol from nearby; and beyond the 16 tokens that two windows reach the windowed "
    "transformer must fail.",
    minutes=2.5,
)
LENGTH, SYMBOLS, FILLERS = 128, 8, 8
QUERY = SYMBOLS + FILLERS
DISTANCES = (2, 8, 32, 127)
NEAR, FAR = 2, 127
CHANCE = 1 / SYMBOLS


def draw_texts(
    count: int, generator: torch.Generator, distance: int | None = None
) -> tuple[Int64[Tensor, "count length"], Int64[Tensor, " count"]]:
    """Fillers, one symbol `distance` tokens before the end (by default log-uniform), and the question."""
    tokens = torch.randint(SYMBOLS, QUERY, (count, LENGTH), generator=generator)
    symbols = torch.randint(SYMBOLS, (count,), generator=generator)
    # from 1 to LENGTH − 1, both included
    far = (torch.rand(count, generator=generator) * math.log(LENGTH)).exp().long().clamp(1, LENGTH - 1)
    position = LENGTH - 1 - (far if distance is None else torch.full_like(far, distance))
    tokens[torch.arange(count), position] = symbols
    tokens[:, -1] = QUERY
    return tokens, symbols


class LastLogits(nn.Module):
    """A causal transformer's prediction after the last token."""

    def __init__(self, window: int | None):
        super().__init__()
        sizes: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "context": LENGTH, "init_std": 0.1}
        self.net = GPT.from_kwargs(vocab_size=QUERY + 1, window=window, **sizes)

    def forward(self, tokens: Int64[Tensor, "batch time"]) -> Tensor:
        return self.net(tokens, last_only=True)[:, 0]


def recurrent(cell: str, hidden: int) -> nn.Module:
    return SequenceModel(
        CELLS[cell].CELL, QUERY + 1, QUERY + 1, tokens=True, pool="last", hidden=hidden, embedding=32
    )


NETWORKS = {
    "attention": partial(LastLogits, None),
    "window of 8": partial(LastLogits, 8),
    "LSTM": partial(recurrent, "lstm", 64),
    "RNN": partial(recurrent, "rnn", 140),
}


def measure(seed: int) -> Row:
    """Share of symbols that each network recalls at each distance."""
    optim = OptimConfig(optimizer="adamw", lr=3e-3, warmup_ratio=0.1, max_grad_norm=1.0)
    row: Row = {}
    for name, make in NETWORKS.items():
        model = train_on(make, draw_texts, seed=seed, steps=300, optim=optim).model
        row[name] = [accuracy(model, *held_out(partial(draw_texts, distance=d))) for d in DISTANCES]
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, distance: int) -> list[float]:
        return [row[name][DISTANCES.index(distance)] for row in rows]

    far = {name: sum(column(name, FAR)) / len(rows) for name in NETWORKS}
    against = {
        name: paired(f"recall at {FAR}, attention − {name}", column("attention", FAR), column(name, FAR))
        for name in ("window of 8", "LSTM", "RNN")
    }
    loss = paired(
        f"recall of attention, at {NEAR} − at {FAR}", column("attention", NEAR), column("attention", FAR)
    )
    finding = f"{FAR} tokens back {', '.join(f'{name} recalls {value:.2f}' for name, value in far.items())}"
    tests = [*against.values(), loss]
    if far["window of 8"] > 2 * CHANCE or min(map(min, (column(n, NEAR) for n in NETWORKS))) < 0.5:
        return Verdict("not seen here", f"the controls fail: {finding}", tests)
    if not against["window of 8"].is_above_zero or far["attention"] < 0.9:
        return Verdict("not seen here", finding, tests)
    behind = [name for name in ("LSTM", "RNN") if against[name].is_above_zero]
    if len(behind) == 2:
        return Verdict("holds", finding, tests)
    if behind:
        return Verdict("holds only when", f"it is compared with an {behind[0]}: {finding}", tests)
    return Verdict("not seen here", f"recurrent networks recall as far: {finding}", tests)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in NETWORKS}
    return curves(
        {"share of symbols recalled": lines}, DISTANCES, "distance in tokens", xscale="log", ylim=(0, 1.03)
    )
