"""Gradients through time explode, and clipping lets such networks train."""

import math
from typing import Any

import torch

from torchstone.data.synthetic.memory_problems import MemoryProblems
from torchstone.engine.recipe_fields import replace_fields
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.training import train
from torchstone.systems.recurrent import rnn
from torchstone.tasks.memory_problems import problem_loss

CLAIM = Claim(
    "exploding-clip",
    "Gradients of recurrent networks explode over long sequences, and clipping their norm saves training.",
    "Pascanu, Mikolov and Bengio 2012",
    "An RNN of 32 units whose recurrent matrix begins as 1.5 times a rotation, on the adding problem over "
    "10 and 100 time steps, 150 updates of SGD with momentum at four rates, with gradients clipped to a "
    "norm of 1 and without. Share of failed runs, which end with a loss above 0.25, where answering the "
    "mean has 0.167; and the gradient's norm at the start.",
    "Over 10 time steps clipping must help less: else it only stands for a lower rate.",
    minutes=2,
    seeds=(0, 1, 2, 3, 4),
)
LENGTHS = (10, 100)
RATES = (0.003, 0.01, 0.03, 0.1)
FAILED = 0.25  # loss above which a run has failed
GAIN = 1.5
ARMS = {"clipped": 1.0, "not clipped": None}


def measure(seed: int) -> Row:
    """Final loss by arm, length and rate (1e6 where it is not finite), and the gradient's first norm."""
    row: Row = {name: [] for name in ARMS} | {"gradient": []}
    for length in LENGTHS:
        for name, limit in ARMS.items():
            row[name].append([])
            for lr in RATES:
                fields: dict[str, Any] = {
                    "seq_len": length,
                    "hidden": 32,
                    "steps": 150,
                    "batch_size": 20,
                    "seed": seed,
                }
                fields |= {"recurrent_init": "orthogonal", "optimizer": "momentum", "lr": lr}
                run = next(
                    rnn.build(replace_fields(rnn.RECIPES["adding"], fields | {"max_grad_norm": limit}))
                )
                model: Any = run.state["model"]
                with torch.no_grad():
                    model.recurrent.weight_hh_l0.mul_(GAIN)
                if name == "not clipped" and lr == RATES[0]:
                    problems = MemoryProblems("adding", length, 20, seed=seed)
                    row["gradient"].append(gradient_norm(model, *next(problems)))
                loss = train(run).metrics.get("test/loss", math.inf)
                row[name][-1].append(loss if math.isfinite(loss) else 1e6)
    return row


def gradient_norm(model: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    gradients = torch.autograd.grad(problem_loss(model(x), y), list(model.parameters()))
    return torch.stack([g.norm() for g in gradients]).norm().item()


def failed(row: Row, name: str, i: int) -> float:
    """Share of the rates at which a seed's runs failed."""
    losses = row[name][i]
    return sum(loss > FAILED for loss in losses) / len(losses)


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, i: int) -> list[float]:
        return [failed(row, name, i) for row in rows]

    def mean(name: str, i: int) -> float:
        return sum(column(name, i)) / len(rows)

    saved = [
        paired(
            f"failed runs over {n} time steps, not clipped − clipped",
            column("not clipped", i),
            column("clipped", i),
        )
        for i, n in enumerate(LENGTHS)
    ]
    more = paired(
        "runs saved, long − short",
        [a - b for a, b in zip(column("not clipped", 1), column("clipped", 1), strict=True)],
        [a - b for a, b in zip(column("not clipped", 0), column("clipped", 0), strict=True)],
    )
    grown = paired(
        "log10 of the gradient's norm at the start, long − short",
        [math.log10(row["gradient"][1]) for row in rows],
        [math.log10(row["gradient"][0]) for row in rows],
    )
    finding = "; ".join(
        f"over {n} time steps {mean('not clipped', i):.0%} of the runs fail, {mean('clipped', i):.0%} with "
        "clipping"
        for i, n in enumerate(LENGTHS)
    )
    tests = [*saved, more, grown]
    if not saved[1].is_above_zero:
        return Verdict("not seen here", finding, tests)
    if more.is_above_zero and grown.is_above_zero:
        return Verdict("holds", finding, tests)
    return Verdict("holds only when", f"clipping stands for a lower rate too: {finding}", tests)


def draw(rows: list[Row]) -> Any:
    panels = {
        f"final loss over {n} time steps (0.167: the mean)": {
            name: [[min(loss, 1e3) for loss in row[name][i]] for row in rows] for name in ARMS
        }
        for i, n in enumerate(LENGTHS)
    }
    return curves(panels, RATES, "learning rate", xscale="log", yscale="log")
