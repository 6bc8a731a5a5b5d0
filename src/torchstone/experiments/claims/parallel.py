"""Transformers train faster than recurrent networks of equal size: tokens a second over length."""

import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.engine import rng
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.sequences import CELLS
from torchstone.parts.facts import count_parameters
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems.transformer.gpt import GPT

CLAIM = Claim(
    "parallel",
    "Transformers train faster than recurrent networks of equal size, for they compute all positions at "
    "once.",
    "Vaswani et al. 2017",
    "A GPT of two blocks (64 wide), an LSTM and an RNN of some 105,000 parameters without positions: "
    "2,048 characters a gradient, in rows of 16 to 1,024; thousand characters per second of CPU time of "
    "one core, the median of five, the networks taking turns. A GPU, where parallel positions cost less, "
    "is not measured.",
    "With short rows a recurrent network has many rows at once, and must gain on the transformer.",
    minutes=0.5,
)
LENGTHS = (16, 64, 256, 1024)
TOKENS, VOCABULARY, REPEATS = 2048, 65, 5


def gpt() -> nn.Module:
    return GPT.from_kwargs(width=64, depth=2, heads=2, context=max(LENGTHS), vocab_size=VOCABULARY)


def recurrent(cell: str, hidden: int) -> nn.Module:
    return SequenceModel(CELLS[cell].CELL, VOCABULARY, VOCABULARY, tokens=True, hidden=hidden, embedding=64)


NETWORKS = {"GPT": gpt, "LSTM": partial(recurrent, "lstm", 125), "RNN": partial(recurrent, "rnn", 262)}


def parameters(name: str) -> int:
    """Without position embeddings, which the other networks have not."""
    model: Any = NETWORKS[name]()
    count = count_parameters(model)
    return count - model.position_embedding.weight.numel() if name == "GPT" else count


def measure(seed: int) -> Row:
    """Thousand tokens a second of each network at each length; these differ between runs."""
    rng.seed(seed)
    models = {name: make() for name, make in NETWORKS.items()}
    row: Row = {name: [] for name in NETWORKS} | {"parameters": {name: parameters(name) for name in NETWORKS}}
    for length in LENGTHS:
        tokens = torch.randint(VOCABULARY, (TOKENS // length, length + 1))
        seconds: dict[str, list[float]] = {name: [] for name in NETWORKS}
        for _ in range(REPEATS + 1):
            for name, model in models.items():
                began = time.process_time()
                F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
                seconds[name].append(time.process_time() - began)
                model.zero_grad()
        for name, each in seconds.items():  # the first one prepares kernels
            row[name].append(TOKENS / sorted(each[1:])[REPEATS // 2] / 1000)
    return row


def judge(rows: list[Row]) -> Verdict:
    def ratio(i: int) -> list[float]:
        return [row["GPT"][i] / row["LSTM"][i] for row in rows]

    ones = [1.0] * len(rows)
    against = [paired(f"speed over the LSTM's at {n}, less 1", ratio(i), ones) for i, n in enumerate(LENGTHS)]
    grows = paired(f"speed over the LSTM's, at {LENGTHS[-1]} − at {LENGTHS[0]}", ratio(-1), ratio(0))
    finding = "thousand characters a second " + "; ".join(
        f"in rows of {n}: "
        + ", ".join(f"{name} {sum(row[name][i] for row in rows) / len(rows):.1f}" for name in NETWORKS)
        for i, n in enumerate(LENGTHS)
    )
    tests = [*against, grows]
    faster = [n for n, each in zip(LENGTHS, against, strict=True) if each.is_above_zero]
    if len(faster) == len(LENGTHS):
        return Verdict("holds", finding, tests)
    if not faster:
        return Verdict("not seen here", f"on one core of a CPU: {finding}", tests)
    condition = f"rows have {' or '.join(map(str, faster))} characters, on one core of a CPU: {finding}"
    return Verdict("holds only when", condition, tests)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in NETWORKS}
    return curves(
        {"thousand characters a second, training": lines}, LENGTHS, "characters in a row", xscale="log"
    )
