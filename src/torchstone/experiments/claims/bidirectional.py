"""Reading in both directions helps where the future is known, and cheats where it is to be predicted."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.letters import Sequence, draw_windows, held_out_windows, next_letter, word_ends
from torchstone.experiments.sequences import target_loss, train_on
from torchstone.parts.modes import eval_mode
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.systems.recurrent import lstm

CLAIM = Claim(
    "bidirectional",
    "Reading a sequence in both directions helps where its future is known.",
    "Schuster and Paliwal 1997; Graves and Schmidhuber 2005",
    "Shakespeare's letters without spaces, in windows of 48: after which of them does a word end? An LSTM "
    "of 48 units, or of 24 in each direction, 400 updates of Adam: F1 of word ends on plays that were not "
    "trained on. And the next letter, with spaces, by the same networks: loss in nats where the window is "
    "given whole, and where it ends at the letter before.",
    "As a language model the bidirectional network must cheat: better on a whole window, whose next "
    "letters it reads, and worse where there are none.",
    minutes=1.5,
)
NETWORKS = {"one direction": (48, False), "both directions": (24, True)}
ONE, BOTH = NETWORKS


def network(hidden: int, bidirectional: bool, outputs: int) -> nn.Module:
    return SequenceModel(
        lstm.CELL, 27, outputs, tokens=True, hidden=hidden, bidirectional=bidirectional, embedding=24
    )


def measure(seed: int) -> Row:
    """F1 of word ends; loss of the next letter in a whole window, and at its end."""
    optim = OptimConfig(lr=1e-2, warmup_ratio=0.05, max_grad_norm=1.0)
    row: Row = {}
    for name, (hidden, both) in NETWORKS.items():

        def trained(sequence: Sequence, outputs: int, size: int = hidden, both: bool = both) -> nn.Module:
            make = partial(network, size, both, outputs)
            return train_on(make, draw_windows(sequence), seed=seed, steps=400, optim=optim).model

        tagger, model = trained(word_ends("train"), 2), trained(next_letter("train"), 27)
        row[name] = {
            "f1": f1(tagger, *held_out_windows(word_ends("test"))),
            "whole": loss(model, *held_out_windows(next_letter("test"))),
            "end": loss(model, *held_out_windows(next_letter("test"), only_last=True)),
        }
    return row


@torch.no_grad()
def loss(model: Any, x: Tensor, y: Tensor) -> float:
    with eval_mode(model):
        return target_loss(model(x), y).item()


@torch.no_grad()
def f1(model: Any, x: Tensor, y: Tensor) -> float:
    """2 · true positives / (found + present), of class 1."""
    with eval_mode(model):
        found = model(x).argmax(-1)
    both = (found * y).sum()
    return (2 * both / (found.sum() + y.sum())).item()


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    def mean(name: str, key: str) -> float:
        return sum(column(name, key)) / len(rows)

    helps = paired("F1 of word ends, both − one", column(BOTH, "f1"), column(ONE, "f1"))
    cheats = paired("loss in a whole window, one − both", column(ONE, "whole"), column(BOTH, "whole"))
    harms = paired("loss at a window's end, both − one", column(BOTH, "end"), column(ONE, "end"))
    finding = (
        f"F1 of word ends {mean(BOTH, 'f1'):.3f} in both directions and {mean(ONE, 'f1'):.3f} in one; the "
        f"next letter costs {mean(BOTH, 'whole'):.2f} and {mean(ONE, 'whole'):.2f} nats in a whole window, "
        f"{mean(BOTH, 'end'):.2f} and {mean(ONE, 'end'):.2f} where it is not given"
    )
    tests = [helps, cheats, harms]
    if not helps.is_above_zero:
        return Verdict("not seen here", finding, tests)
    if cheats.is_above_zero and harms.is_above_zero:
        return Verdict("holds only when", f"the future is not what is predicted: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    def panel(*keys: str) -> dict[str, list[float]]:
        labels = {"f1": "", "whole": "\nwhole window", "end": "\nwindow's end"}
        return {f"{n}{labels[k]}": [row[n][k] for row in rows] for k in keys for n in NETWORKS}

    return bars({"F1 of word ends": panel("f1"), "loss of the next letter, nats": panel("whole", "end")})
