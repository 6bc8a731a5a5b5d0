"""An LSTM carries information far; how far depends on the updates, and 1,000 steps are too many for few."""

from typing import Any

from torchstone.data.synthetic.memory_problems import ADDING_BASELINE
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.sequences import train_memory

CLAIM = Claim(
    "lstm-remembers",
    "The gates of an LSTM carry information over long times.",
    "Hochreiter and Schmidhuber 1997; Gers et al. 2000; Bai et al. 2018",
    "The adding problem over 20, 50, 100 and 1,000 time steps, 400 updates of Adam on batches of 20: an "
    "LSTM of 32 units whose forget gates begin open, and a plain RNN (up to 100). Squared error over that "
    "of answering the mean, 1 for no memory.",
    "The RNN must fail where the LSTM does not; and over 1,000 time steps the LSTM is known to stay at no "
    "memory for long.",
    minutes=2,
)
LENGTHS = (20, 50, 100, 1000)
RNN_LENGTHS = LENGTHS[:-1]  # what fails at 100 is not tried at 1,000
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "LSTM": ("lstm", {"forget_bias": 1.0, "lr": 1e-2}, LENGTHS),
    "RNN": ("rnn", {"lr": 3e-3}, RNN_LENGTHS),
}
REMEMBERS, FORGETS = 0.5, 0.75  # share of the error without memory: at most, at least


def measure(seed: int) -> Row:
    """Relative squared error of each network at each of its lengths."""
    row: Row = {}
    for name, (cell, fields, lengths) in NETWORKS.items():
        shared = {"hidden": 32, "steps": 400, "batch_size": 20, "seed": seed, **fields}
        row[name] = [
            train_memory(cell, "adding", n, **shared).metrics["test/loss"] / ADDING_BASELINE for n in lengths
        ]
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, i: int) -> list[float]:
        return [row[name][i] for row in rows]

    def mean(name: str, i: int) -> float:
        return sum(column(name, i)) / len(rows)

    better = [
        paired(f"error over {n} time steps, RNN − LSTM", column("RNN", i), column("LSTM", i))
        for i, n in enumerate(RNN_LENGTHS)
    ]
    limit = paired(
        f"error of the LSTM, {LENGTHS[-1]:,} − {LENGTHS[0]} time steps", column("LSTM", -1), column("LSTM", 0)
    )
    finding = "error over that without memory " + "; ".join(
        f"over {n:,} time steps LSTM {mean('LSTM', i):.2f}"
        + (f", RNN {mean('RNN', i):.2f}" if i < len(RNN_LENGTHS) else "")
        for i, n in enumerate(LENGTHS)
    )
    tests = [*better, limit]
    remembers = [
        i
        for i, each in enumerate(better)
        if each.is_above_zero and mean("LSTM", i) <= REMEMBERS and mean("RNN", i) >= FORGETS
    ]
    if not remembers:
        return Verdict("not seen here", finding, tests)
    if mean("LSTM", -1) <= REMEMBERS:
        return Verdict("holds", finding, tests)
    longest = LENGTHS[remembers[-1]]
    condition = f"there are some {longest} time steps, within 400 updates: {finding}"
    return Verdict("holds only when", condition, tests)


def draw(rows: list[Row]) -> Any:
    padded = {
        name: [row[name] + [float("nan")] * (len(LENGTHS) - len(row[name])) for row in rows]
        for name in NETWORKS
    }
    return curves(
        {"squared error, 1 without memory": padded}, LENGTHS, "time steps", xscale="log", ylim=(0, 1.3)
    )
