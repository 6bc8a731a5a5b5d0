"""Steps to a validation loss on Shakespeare by optimizer, in the form of the public speed runs."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from torchstone.data.text import tokenizers
from torchstone.data.text.corpus import read_text
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.experiments.agents import History, mean, train_agent
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.plots.canvas import LEGEND, PALETTE, canvas, frame
from torchstone.systems.transformer import gpt
from torchstone.tasks.text import language_model

CLAIM = Claim(
    "muon-faster",
    "Orthogonalized momentum (Muon) needs fewer steps than other optimizers.",
    "Jordan et al. 2024; Loshchilov and Hutter 2017; Chen et al. 2023",
    "A GPT of two blocks of width 64 on the characters of Shakespeare's plays, windows of 32, batches of "
    "32: steps and CPU seconds of updates to a validation loss of 1.90, on 8,192 characters every 40 "
    "steps, with a rate that is constant and falls linearly over the second half of 1,000 steps. The rate "
    "of each optimizer is the one of four, a factor of three apart, that has the lowest loss after 200 "
    "steps of another seed.",
    "Where a loss is not reached in 1,000 steps, 1,000 is counted, which favors the slower. Muon's step "
    "costs more: seconds may come out the other way.",
    minutes=10,
    seeds=(0, 1, 2, 3, 4),
)
LEVEL, STEPS, EVERY, TUNING_STEPS, TUNING_SEED = 1.90, 1000, 40, 200, 100
VAL_TOKENS = 8192
Optimizer = Literal["sgd", "adam", "adamw", "lion", "muon"]
RATES: dict[Optimizer, tuple[float, ...]] = {
    "sgd": (0.03, 0.1, 0.3, 1.0),
    "adam": (1e-3, 3e-3, 1e-2, 3e-2),
    "adamw": (1e-3, 3e-3, 1e-2, 3e-2),
    "lion": (3e-4, 1e-3, 3e-3, 1e-2),
    "muon": (3e-3, 1e-2, 3e-2, 0.1),
}
DECAY = {"adamw": 0.1, "lion": 0.1, "muon": 0.1}  # decoupled
RECIPE = replace(gpt.NANO, width=64, depth=2, heads=2, context=32, batch_size=32)


def measure(seed: int) -> Row:
    """Steps and seconds to the level (None where it is not reached), the last loss, the rate."""
    row: Row = {}
    for name, lr in tuned_rates().items():
        history = train_gpt(name, lr, seed, STEPS)
        losses = [each["loss"] for each in history.evaluations]
        is_reached = losses[-1] <= LEVEL
        row[name] = {
            "rate": lr,
            "losses": [round(loss, 4) for loss in losses],
            "steps": crossing(losses) if is_reached else None,
            "seconds": round(history.seconds, 2),
            "updates": len(history.updates),
        }
    return row


@functools.cache
def tuned_rates() -> dict[Optimizer, float]:
    """The rate of each optimizer with the lowest validation loss after some steps, of a seed of its own."""
    best: dict[Optimizer, float] = {}
    for name, rates in RATES.items():
        losses = {}
        for lr in rates:
            evaluations = train_gpt(name, lr, TUNING_SEED, TUNING_STEPS, every=TUNING_STEPS).evaluations
            losses[lr] = evaluations[-1]["loss"] if len(evaluations) > 1 else float("inf")  # or it diverged
        best[name] = min(losses, key=lambda lr: losses[lr])
    return best


def train_gpt(name: Optimizer, lr: float, seed: int, steps: int, every: int = EVERY) -> History:
    """Until the level is reached, or the last step."""
    optim = OptimConfig(
        optimizer=name,
        lr=lr,
        weight_decay=DECAY.get(name, 0.0),
        lr_schedule="constant_linear",
        warmup_ratio=0.02,
        max_grad_norm=1.0,
    )
    recipe = replace(RECIPE, seed=seed, steps=steps, optim=optim)
    return train_agent(
        build, recipe, evaluations=steps // every, stop_when=lambda metrics: metrics["loss"] <= LEVEL
    )


def build(recipe: gpt.Recipe) -> Iterator[Run]:
    """As the system's, evaluated on fewer characters."""
    (run,) = gpt.build(recipe)
    text = read_text(recipe.data)
    ids = tokenizers.encode(language_model.make_tokenizer(recipe, text), text.val)
    model = run.state["model"]

    def evaluate() -> dict[str, float]:
        return {"loss": language_model.measure(model, ids, len(ids), max_tokens=VAL_TOKENS)["loss"]}

    run.evaluate = evaluate
    yield run


def crossing(losses: list[float]) -> float:
    """Steps at which the loss reaches the level, between two evaluations as on a straight line."""
    last = len(losses) - 1
    return EVERY * (last - 1 + (losses[-2] - LEVEL) / (losses[-2] - losses[-1]))


def judge(rows: list[Row]) -> Verdict:
    def steps(name: str) -> list[float]:
        return [row[name]["steps"] or float(STEPS) for row in rows]

    def seconds(name: str) -> list[float]:
        """CPU seconds at that step."""
        return [row[name]["seconds"] * (row[name]["steps"] or STEPS) / row[name]["updates"] for row in rows]

    others = [name for name in RATES if name != "muon"]
    fewer = [paired(f"steps, {name} − muon", steps(name), steps("muon")) for name in others]
    sooner = [paired(f"CPU seconds, {name} − muon", seconds(name), seconds("muon")) for name in others]
    reached = {name: sum(row[name]["steps"] is not None for row in rows) for name in RATES}
    finding = "; ".join(
        f"{name} at {rows[0][name]['rate']:g}: {mean(steps(name)):.0f} steps and {mean(seconds(name)):.1f} "
        f"CPU seconds ({reached[name]} of {len(rows)} runs reach {LEVEL:.2f})"
        for name in RATES
    )
    if not all(each.is_above_zero for each in fewer):
        return Verdict("not seen here", finding, fewer + sooner)
    if not all(each.is_above_zero for each in sooner):
        return Verdict("holds only when", f"steps are counted, not seconds: {finding}", fewer + sooner)
    return Verdict("holds", finding, fewer + sooner)


def draw(rows: list[Row]) -> Any:
    figure = canvas(9.6, 3.4)
    curves_axes, bar_axes = figure.subplots(1, 2)
    frame(curves_axes, "validation loss")
    for color, name in zip(PALETTE, RATES, strict=False):
        for row in rows:
            losses = row[name]["losses"][1:]
            x = [EVERY * (i + 1) for i in range(len(losses))]
            curves_axes.plot(x, losses, color=color, linewidth=1, label=name if row is rows[0] else None)
    curves_axes.axhline(LEVEL, color="black", linewidth=0.8)
    curves_axes.set_xlabel("steps", fontsize=9)
    curves_axes.set(ylim=(1.85, 3.0))
    curves_axes.legend(**LEGEND)
    frame(bar_axes, f"steps to {LEVEL:.2f} (at most {STEPS:,})")
    for at, (color, name) in enumerate(zip(PALETTE, RATES, strict=False)):
        steps = [row[name]["steps"] or STEPS for row in rows]
        bar_axes.bar(at, mean(steps), 0.6, color=color, alpha=0.35)
        bar_axes.plot([at] * len(steps), steps, ".", color=color)
    bar_axes.set_xticks(range(len(RATES)), list(RATES), fontsize=8)
    return figure
