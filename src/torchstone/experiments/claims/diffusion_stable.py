"""Diffusion models train at rates at which GANs of the same size fail."""

from typing import Any

from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.ring import MODES, train_diffusion, train_gan

CLAIM = Claim(
    "diffusion-stable",
    "Diffusion models train stably where GANs do not.",
    "Ho et al. 2020; Dhariwal and Nichol 2021",
    "Eight Gaussians on a ring, networks of two layers of 64 units, 800 updates of Adam at five rates: a "
    "run fails whose samples at the end miss a Gaussian, or of which less than half lie within three "
    "deviations of one. A diffusion model (25 steps of DDIM) and a GAN with the non-saturating loss and "
    "with WGAN-GP's.",
    "Rates that are far too low or too high must make the diffusion model fail as well.",
    minutes=3,
)
RATES = (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)
STEPS = 800
MODELS = ("diffusion", "non-saturating", "WGAN-GP")


def measure(seed: int) -> Row:
    """Gaussians covered and share of samples near one at the end, at each rate."""
    row: Row = {name: {"modes": [], "near": []} for name in MODELS}
    for lr in RATES:
        found = {
            "diffusion": train_diffusion(lr, seed, STEPS, 1),
            "non-saturating": train_gan("non-saturating", lr, seed, STEPS, 1),
            "WGAN-GP": train_gan("WGAN-GP", lr, seed, STEPS, 1, discriminator_steps=1),
        }
        for name, ((modes, near),) in found.items():
            row[name]["modes"].append(modes)
            row[name]["near"].append(near)
    return row


def succeeds(row: Row, name: str) -> list[bool]:
    """Of each rate, whether the run does not fail."""
    pairs = zip(row[name]["modes"], row[name]["near"], strict=True)
    return [modes == MODES and near >= 0.5 for modes, near in pairs]


def judge(rows: list[Row]) -> Verdict:
    rates = {name: [float(sum(succeeds(row, name))) for row in rows] for name in MODELS}
    differences = [
        paired(f"rates that succeed, diffusion − {name}", rates["diffusion"], rates[name])
        for name in MODELS[1:]
    ]
    count = len(RATES)
    finding = f"of {count} rates succeed " + ", ".join(
        f"{sum(values) / len(rows):.1f} with {name}" for name, values in rates.items()
    )
    if not any(rates["diffusion"]) or all(value == count for value in rates["diffusion"]):
        return Verdict("not seen here", f"the grid of rates can not tell: {finding}", differences)
    wins = [each.is_above_zero for each in differences]
    if all(wins):
        return Verdict("holds", finding, differences)
    if wins[0]:
        return Verdict("holds only when", f"the GAN is that of 2014, not WGAN-GP: {finding}", differences)
    return Verdict("not seen here", finding, differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        title: {name: [row[name][key] for row in rows] for name in MODELS}
        for title, key in (("Gaussians covered, of 8", "modes"), ("share of samples near one", "near"))
    }
    return curves(panels, RATES, "learning rate", xscale="log")
