"""A plain RNN loses what is far back; an orthogonal start delays it."""

from typing import Any

from torchstone.data.synthetic.memory_problems import ADDING_BASELINE
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.sequences import train_memory
from torchstone.experiments.training import tuned

CLAIM = Claim(
    "rnn-forgets",
    "A plain recurrent network loses long dependencies.",
    "Hochreiter 1991; Bengio, Simard and Frasconi 1994; Le et al. 2015",
    "The adding problem over 5 to 40 time steps, 32 units, 400 updates of Adam, the better of two rates "
    "by validation: squared error over that of answering the mean, 1 for no memory; and the gradient of "
    "the last output by the state 20 time steps before, over that one step before.",
    "An LSTM of as many units must learn the longest; an RNN whose recurrent matrix begins as a rotation "
    "shows whether the start is what forgets.",
    minutes=2,
)
LENGTHS = (5, 10, 20, 40)
RATES = (3e-3, 1e-2)
BACK = 20  # time steps, of the gradient
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN": ("rnn", {}),
    "RNN, rotation": ("rnn", {"recurrent_init": "orthogonal"}),
    "LSTM": ("lstm", {"forget_bias": 1.0}),
}
REMEMBERS, FORGETS = 0.5, 0.75  # share of the error without memory: at most, at least


def measure(seed: int) -> Row:
    """Relative squared error of each network at each length, and the gradient's decay at the longest."""
    row: Row = {"gradient": {}}
    for name, (cell, fields) in NETWORKS.items():
        row[name] = []
        for length in LENGTHS:
            shared = {"hidden": 32, "steps": 400, "batch_size": 32, "seed": seed, **fields}
            outcomes = {lr: train_memory(cell, "adding", length, lr=lr, **shared) for lr in RATES}
            metrics = tuned(outcomes, "val/loss", lowest=True)[1].metrics
            row[name].append(metrics["test/loss"] / ADDING_BASELINE)
        row["gradient"][name] = metrics[f"val/gradient/{BACK}"]
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, i: int) -> list[float]:
        return [row[name][i] for row in rows]

    def mean(name: str, i: int) -> float:
        return sum(column(name, i)) / len(rows)

    last = len(LENGTHS) - 1
    grows = paired(
        f"error of the RNN, {LENGTHS[-1]} − {LENGTHS[0]} steps", column("RNN", last), column("RNN", 0)
    )
    to_lstm = paired(f"error at {LENGTHS[-1]}, RNN − LSTM", column("RNN", last), column("LSTM", last))
    to_rotation = paired(
        f"error at {LENGTHS[-1]}, RNN − RNN, rotation", column("RNN", last), column("RNN, rotation", last)
    )
    gradient = {name: sum(row["gradient"][name] for row in rows) / len(rows) for name in NETWORKS}
    finding = (
        f"at {LENGTHS[-1]} time steps "
        + ", ".join(f"{name} has {mean(name, last):.2f}" for name in NETWORKS)
        + f" of the error without memory (RNN at {LENGTHS[0]}: {mean('RNN', 0):.2f}); the gradient {BACK} "
        + "steps "
        + "back is "
        + ", ".join(f"{gradient[name]:.1g} ({name})" for name in NETWORKS)
        + " of that one step back"
    )
    tests = [grows, to_lstm, to_rotation]
    if mean("RNN", 0) > REMEMBERS or mean("LSTM", last) > REMEMBERS:
        return Verdict("not seen here", f"the controls fail: {finding}", tests)
    if mean("RNN", last) < FORGETS or not (grows.is_above_zero and to_lstm.is_above_zero):
        return Verdict("not seen here", finding, tests)
    if to_rotation.is_above_zero and mean("RNN, rotation", last) < REMEMBERS:
        return Verdict("holds only when", f"it does not begin as a rotation: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    lines = {name: [row[name] for row in rows] for name in NETWORKS}
    return curves(
        {"squared error, 1 without memory": lines}, LENGTHS, "time steps", xscale="log", ylim=(0, 1.3)
    )
