"""GRUs do as well as LSTMs with fewer parameters: five tasks, at equal units and at equal parameters."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from torchstone.data.synthetic.memory_problems import ADDING_BASELINE
from torchstone.data.vision.dataset import load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.letters import draw_windows, held_out_windows, next_letter, word_ends
from torchstone.experiments.sequences import CELLS, accuracy, train_memory, train_on
from torchstone.experiments.training import train_images
from torchstone.parts.recurrent.sequence_model import SequenceModel

CLAIM = Claim(
    "gru-comparable",
    "GRUs do as well as LSTMs with fewer parameters.",
    "Cho et al. 2014; Chung et al. 2014; Jozefowicz et al. 2015",
    "Five tasks, 300 to 400 updates of Adam each: adding over 20 time steps (share of the error removed), "
    "copying ten symbols over 3 (symbols right), the next letter of Shakespeare and the ends of words "
    "without spaces (share right), digits of 8 × 8 row by row (share right). An LSTM of 32 units, a GRU "
    "of 32 with a quarter fewer recurrent parameters, and a GRU of as many parameters, 37 units or so. "
    "Mean score over the tasks.",
    "A plain RNN of 32 units must do worse, or the tasks tell nothing.",
    minutes=2.5,
)
TASKS = ("adding", "copying", "next letter", "word ends", "rows of digits")
ARMS = ("LSTM", "GRU", "GRU, as many parameters", "RNN")
UNITS = 32
TOLERANCE = 0.02  # of the mean score, within which two are equal


def units(arm: str, inputs: int) -> int:
    """Of the cell; for a GRU that has as many parameters as the LSTM, the nearest number."""
    if arm != "GRU, as many parameters":
        return UNITS
    goal = 4 * UNITS * (inputs + UNITS + 2)
    return min(range(UNITS, 2 * UNITS), key=lambda h: abs(3 * h * (inputs + h + 2) - goal))


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self, cell: str, hidden: int):
        super().__init__()
        self.net = SequenceModel(CELLS[cell].CELL, 8, 10, tokens=False, pool="last", hidden=hidden)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.squeeze(1))


def letter_model(cell: str, hidden: int, outputs: int) -> nn.Module:
    return SequenceModel(CELLS[cell].CELL, 27, outputs, tokens=True, hidden=hidden, embedding=24)


def measure(seed: int) -> Row:
    """Score of each network in each task, from 0 (or below, without memory) to 1."""
    optim = OptimConfig(lr=1e-2, warmup_ratio=0.05, max_grad_norm=1.0)
    row: Row = {}
    for arm in ARMS:
        cell = arm[:4].strip(", ").lower()
        memory = {"batch_size": 32, "seed": seed, "lr": 1e-2 if cell != "rnn" else 3e-3}
        adding = train_memory(cell, "adding", 20, hidden=units(arm, 2), steps=400, **memory)
        copying = train_memory(cell, "copy", 3, hidden=units(arm, 10), steps=400, **memory)
        scores = [1 - adding.metrics["test/loss"] / ADDING_BASELINE, copying.metrics["test/symbol_accuracy"]]
        for sequences, outputs in ((next_letter, 27), (word_ends, 2)):
            make = partial(letter_model, cell, units(arm, 24), outputs)
            draw_task = draw_windows(sequences("train"))
            model = train_on(make, draw_task, seed=seed, steps=300, optim=optim).model
            scores.append(accuracy(model, *held_out_windows(sequences("test"))))
        digits = load_images("digits", size=8, channels=1)
        make = partial(Rows, cell, units(arm, 8))
        scores.append(train_images(make, digits, seed=seed, steps=300, lr=1e-2).metrics["test/accuracy"])
        row[arm] = dict(zip(TASKS, scores, strict=True))
    return row


def judge(rows: list[Row]) -> Verdict:
    def mean_score(arm: str) -> list[float]:
        return [sum(row[arm].values()) / len(TASKS) for row in rows]

    def task_score(arm: str, task: str) -> list[float]:
        return [row[arm][task] for row in rows]

    equal_units = paired("mean score, GRU − LSTM", mean_score("GRU"), mean_score("LSTM"))
    equal_parameters = paired(
        "mean score, GRU, as many parameters − LSTM", mean_score(ARMS[2]), mean_score("LSTM")
    )
    control = paired("mean score, LSTM − RNN", mean_score("LSTM"), mean_score("RNN"))
    tasks = [
        paired(f"{task}, GRU − LSTM", task_score("GRU", task), task_score("LSTM", task)) for task in TASKS
    ]
    means = {arm: sum(mean_score(arm)) / len(rows) for arm in ARMS}
    finding = "mean score over five tasks " + ", ".join(f"{arm} {value:.3f}" for arm, value in means.items())
    tests = [equal_units, equal_parameters, control, *tasks]
    if not control.is_above_zero:
        return Verdict("not seen here", f"an RNN does as well: {finding}", tests)
    margins = equal_units.margin, equal_parameters.margin
    lowest = [
        each.mean - (margin or 0.0)
        for each, margin in zip((equal_units, equal_parameters), margins, strict=True)
    ]
    if margins[0] is not None and lowest[0] > -TOLERANCE:
        behind = [task for task, each in zip(TASKS, tasks, strict=True) if each.is_below_zero]
        if behind:
            condition = f"the task is not {' or '.join(behind)}: {finding}"
            return Verdict("holds only when", condition, tests)
        return Verdict("holds", finding, tests)
    if margins[1] is not None and lowest[1] > -TOLERANCE:
        return Verdict("holds only when", f"it has as many parameters: {finding}", tests)
    return Verdict("not seen here", finding, tests)


def draw(rows: list[Row]) -> Any:
    short = {arm: arm.replace("GRU, as many parameters", "GRU +").replace("LSTM", "LSTM") for arm in ARMS}
    return bars({task: {short[arm]: [row[arm][task] for row in rows] for arm in ARMS} for task in TASKS})
