"""Attention beats a single vector in translation, most for long sentences."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.sequences import IGNORED, accuracy, held_out, train_on
from torchstone.systems.recurrent.seq2seq import seq2seq
from torchstone.tasks.text.translate import PAD

CLAIM = Claim(
    "attention-translates",
    "Attention translates better than a decoder that has a single vector of the sentence, most so where "
    "sentences are long.",
    "Bahdanau, Cho and Bengio 2014; Luong, Pham and Manning 2015",
    "Texts of 2 to 24 random letters, each letter to be translated into another by a fixed code: an LSTM "
    "encoder and decoder of 64 units, with Luong's attention and without, 500 updates of Adam; share of "
    "letters right, given those before, over the length. Chance is 1/26. A code stands for a language, "
    "whose sentences take hours.",
    "At 4 letters the plain network must translate too: then what it lacks is room, not the code.",
    minutes=1.5,
)
LETTERS, LONGEST = 26, 24
START = 1  # PAD is 0; letters are 2 to 27
LENGTHS = (2, 4, 8, 16, 24)
SHORT, LONG = 4, 24


def draw_texts(count: int, generator: torch.Generator, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Source and decoder's input, each padded to the longest, in one row; the translation as targets."""
    code = torch.randperm(LETTERS, generator=torch.Generator().manual_seed(0))
    letters = torch.randint(LETTERS, (count, LONGEST), generator=generator)
    lengths = torch.randint(2, LONGEST + 1, (count, 1), generator=generator)
    is_text = torch.arange(LONGEST) < (lengths if length is None else length)
    source, target = ((each + 2).where(is_text, PAD) for each in (letters, code[letters]))
    inputs = torch.cat([torch.full((count, 1), START), target[:, :-1]], 1)
    return torch.cat([source, inputs], 1), target.where(is_text, IGNORED)


class Translator(nn.Module):
    """A sequence-to-sequence network that takes source and target in one row."""

    def __init__(self, decoder: str):
        super().__init__()
        sizes: dict[str, Any] = {"embedding": 32, "hidden": 64, "bidirectional": True, "dropout": 0.0}
        self.net = seq2seq(LETTERS + 2, LETTERS + 2, decoder=decoder, input_feeding=False, **sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, :LONGEST], x[:, LONGEST:])


NETWORKS = {"attention": "luong", "single vector": "plain"}


def measure(seed: int) -> Row:
    """Share of letters right by length."""
    optim = OptimConfig(lr=5e-3, warmup_ratio=0.05, max_grad_norm=1.0)
    row: Row = {}
    for name, decoder in NETWORKS.items():
        make = partial(Translator, decoder)
        model = train_on(make, draw_texts, seed=seed, steps=500, optim=optim).model
        row[name] = [accuracy(model, *held_out(partial(draw_texts, length=n))) for n in LENGTHS]
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, length: int) -> list[float]:
        return [row[name][LENGTHS.index(length)] for row in rows]

    def gain(length: int) -> list[float]:
        return [
            a - b for a, b in zip(column("attention", length), column("single vector", length), strict=True)
        ]

    zeros = [0.0] * len(rows)
    short = paired(f"letters right at {SHORT}, attention − single vector", gain(SHORT), zeros)
    long = paired(f"letters right at {LONG}, attention − single vector", gain(LONG), zeros)
    grows = paired(f"gain at {LONG} − gain at {SHORT}", gain(LONG), gain(SHORT))
    finding = "; ".join(
        f"of {n} letters "
        + ", ".join(f"{sum(column(name, n)) / len(rows):.2f} with {name}" for name in NETWORKS)
        for n in (SHORT, LONG)
    )
    tests = [short, long, grows]
    plain = sum(column("single vector", SHORT)) / len(rows)
    if plain < 0.5:
        return Verdict("not seen here", f"the plain network has not learned the code: {finding}", tests)
    if not long.is_above_zero:
        return Verdict("not seen here", finding, tests)
    if not grows.is_above_zero:
        return Verdict("holds only when", f"short texts gain as much: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in NETWORKS}
    return curves({"share of letters right": lines}, LENGTHS, "letters in a text", ylim=(0, 1.03))
