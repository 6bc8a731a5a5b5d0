"""Examples in the context are learned from, by networks that can look them up."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchstone.data.synthetic.in_context import LABELS, SYMBOLS, draw_episodes, optimal_accuracy
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.sequences import HELD_OUT_SEED, IGNORED, train_on
from torchstone.parts.modes import eval_mode
from torchstone.systems.transformer.gpt import GPT

CLAIM = Claim(
    "few-shot",
    "A language model learns from examples in its context, the better the more there are.",
    "Brown et al. 2020; Olsson et al. 2022",
    "Episodes in which each of four symbols has a random label of eight, which no other episode shares: "
    "symbol and label in turn, 1,500 updates of AdamW. Causal transformers of one block and of two, 64 "
    "wide, and of two, 16 wide. Share of right labels after 0 to 15 examples, and the best possible.",
    "Without examples the labels cannot be known: 1/8. One block cannot look for what followed a symbol, "
    "and must stay behind. Real text is another matter, which these sizes do not reach.",
    minutes=2.5,
)
EXAMPLES = 16
SHOTS = (0, 1, 2, 4, 8, 15)
SIZES = {"two blocks, 64 wide": (64, 2), "two blocks, 16 wide": (16, 2), "one block, 64 wide": (64, 1)}
LARGE, NARROW, SHALLOW = SIZES
MOST = SHOTS[-1]


def draw_texts(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbol and label in turn; the labels are to be predicted, each after its symbol."""
    episodes = draw_episodes(count, EXAMPLES, generator=generator)
    labels = episodes.labels + len(SYMBOLS)
    tokens = torch.stack([episodes.symbols, labels], 2).flatten(1)
    targets = torch.stack([labels, torch.full_like(labels, IGNORED)], 2).flatten(1)
    return tokens, targets


def network(width: int, depth: int) -> GPT:
    return GPT.from_kwargs(
        width=width,
        depth=depth,
        heads=1,
        context=2 * EXAMPLES,
        vocab_size=len(SYMBOLS + LABELS),
        init_std=0.15,
    )


def measure(seed: int) -> Row:
    """Share of right labels of each network after so many examples."""
    optim = OptimConfig(
        optimizer="adamw", lr=3e-3, beta2=0.99, weight_decay=0.1, warmup_ratio=0.05, max_grad_norm=1.0
    )
    row: Row = {}
    x, y = draw_texts(2000, torch.Generator().manual_seed(HELD_OUT_SEED))
    for name, (width, depth) in SIZES.items():
        make = partial(network, width, depth)
        model: Any = train_on(make, draw_texts, seed=seed, steps=1500, optim=optim).model
        with torch.no_grad(), eval_mode(model):
            right = model(x)[:, ::2].argmax(-1) == y[:, ::2]  # (episodes, examples)
        row[name] = [right[:, shots].double().mean().item() for shots in SHOTS]
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, shots: int) -> list[float]:
        return [row[name][SHOTS.index(shots)] for row in rows]

    mean = {name: sum(column(name, MOST)) / len(rows) for name in SIZES}
    learns = {
        name: paired(f"labels right, {name}, {MOST} − 0 examples", column(name, MOST), column(name, 0))
        for name in SIZES
    }
    control = paired(f"at {MOST}, two blocks − one", column(LARGE, MOST), column(SHALLOW, MOST))
    finding = (
        f"after {MOST} examples "
        + ", ".join(f"{name} {value:.2f}" for name, value in mean.items())
        + f" of the labels are right ({optimal_accuracy(MOST):.2f} at best); without any "
        + f"{sum(column(LARGE, 0)) / len(rows):.2f}"
    )
    tests = [*learns.values(), control]
    best = optimal_accuracy(MOST)
    works = [n for n in SIZES if learns[n].is_above_zero and mean[n] > best / 2]
    if not works:
        return Verdict("not seen here", finding, tests)
    if len(works) < len(SIZES):
        return Verdict("holds only when", f"the network has {' or '.join(works)}: {finding}", tests)
    return Verdict("holds", finding, tests)


def draw(rows: list[Row]) -> Any:
    lines: dict[str, Any] = {name: [row[name] for row in rows] for name in SIZES}
    lines["best possible"] = [[optimal_accuracy(shots) for shots in SHOTS]]
    return curves({"share of right labels": lines}, SHOTS, "examples in the context", ylim=(0, 1.03))
