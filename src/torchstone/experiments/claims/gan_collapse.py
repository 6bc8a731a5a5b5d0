"""Adversarial training serves a part of the data and moves on to another; later losses do so less."""

import itertools
from typing import Any

from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.ring import MODES, GanName, mode_shares, train_gan

CLAIM = Claim(
    "gan-collapse",
    "Generators of GANs collapse to a few modes of the data, and oscillate between them.",
    "Goodfellow et al. 2014; Metz et al. 2016; Gulrajani et al. 2017; Miyato et al. 2018",
    "Eight Gaussians on a ring, networks of two layers of 64 units, 960 updates of Adam at a rate of "
    "0.001, one step of the discriminator to one of the generator: at twelve times of the training, to "
    "how many Gaussians at least a quarter of a fair share of the samples is nearest, and how much of the "
    "samples has moved to other Gaussians since the time before. With the losses of 2014, minimax and "
    "non-saturating, with WGAN-GP and with spectral normalization.",
    "The same networks must end on all eight with one of the later losses: else they are too small, and "
    "it is no collapse. And with three steps of the discriminator, which is then closer to its optimum, "
    "the non-saturating loss should collapse less.",
    minutes=1.5,
    seeds=(0, 1, 2, 3, 4),
)
LR, STEPS, EVALUATIONS = 1e-3, 960, 12
PLAIN, LATER = ("minimax", "non-saturating"), ("WGAN-GP", "spectral norm")
MANY = "non-saturating, 3 steps"
# name -> the GAN, steps of its discriminator
ARMS: dict[str, tuple[GanName, int]] = {
    "minimax": ("minimax", 1),
    "non-saturating": ("non-saturating", 1),
    "WGAN-GP": ("WGAN-GP", 1),
    "spectral norm": ("spectral norm", 1),
    MANY: ("non-saturating", 3),
}


def measure(seed: int) -> Row:
    """The share of samples nearest to each Gaussian, at each evaluation."""
    return {
        arm: train_gan(name, LR, seed, STEPS, EVALUATIONS, discriminator_steps=steps, measured=mode_shares)
        for arm, (name, steps) in ARMS.items()
    }


def covered(row: Row, name: str) -> list[int]:
    """How many Gaussians have at least a quarter of a fair share, at each evaluation."""
    return [sum(share >= 0.25 / MODES for share in shares) for shares in row[name]]


def moved(row: Row, name: str) -> list[float]:
    """The share of samples that is nearest to another Gaussian than at the evaluation before (half of the sum
    of absolute changes)."""
    return [
        sum(abs(a - b) for a, b in zip(before, after, strict=True)) / 2
        for before, after in itertools.pairwise(row[name])
    ]


def judge(rows: list[Row]) -> Verdict:
    def mean(values: list[float] | list[int]) -> float:
        return sum(values) / len(values)

    modes = {name: [mean(covered(row, name)) for row in rows] for name in ARMS}
    changes = {name: [mean(moved(row, name)) for row in rows] for name in ARMS}
    last = {name: mean([covered(row, name)[-1] for row in rows]) for name in ARMS}
    best = max(LATER, key=lambda name: last[name])
    fewer = [paired(f"Gaussians covered, {best} − {name}", modes[best], modes[name]) for name in PLAIN]
    moving = [paired(f"samples moved, {name} − {best}", changes[name], changes[best]) for name in PLAIN]
    help_of_steps = paired("Gaussians covered, non-saturating, 3 steps − 1", modes[MANY], modes[PLAIN[1]])
    differences = [*fewer, *moving, help_of_steps]
    finding = "; ".join(
        f"{name} covers {mean(modes[name]):.1f} of {MODES} over the training and {last[name]:.1f} at its "
        f"end, and {mean(changes[name]):.0%} of the samples move between evaluations"
        for name in ARMS
    )
    if last[best] < 0.9 * MODES:
        return Verdict(
            "not seen here", f"no loss ends on the ring, so no collapse shows: {finding}", differences
        )
    collapsed = [name for name, each in zip(PLAIN, fewer, strict=True) if each.is_above_zero]
    if collapsed and help_of_steps.is_above_zero:
        condition = "the discriminator takes no more steps than the generator"
        return Verdict("holds only when", f"{condition}: {finding}", differences)
    if len(collapsed) == len(PLAIN) and any(each.is_above_zero for each in moving):
        return Verdict("holds", finding, differences)
    if collapsed:
        return Verdict("holds only when", f"the loss is {' or '.join(collapsed)}: {finding}", differences)
    return Verdict("not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    steps = [STEPS // EVALUATIONS * (i + 1) for i in range(EVALUATIONS)]
    panels = {
        "Gaussians covered, of 8": {name: [covered(row, name) for row in rows] for name in ARMS},
        "share of samples that moved": {name: [[0.0, *moved(row, name)] for row in rows] for name in ARMS},
    }
    return curves(panels, steps, "updates")
