"""The weight of a VAE's KL term trades reconstruction for codes that are distributed as the prior."""

from dataclasses import replace
from typing import Any

import torch

from torchstone.data.vision.dequantized_batches import all_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import curves
from torchstone.experiments.generators import digit_classifier, digits, train_system
from torchstone.parts.metrics.fidelity_diversity import frechet_distance
from torchstone.parts.vae.elbo import reparameterize
from torchstone.systems.generative import vae
from torchstone.tasks.vae.figures import encode, sample_images
from torchstone.tasks.vae.train import encode_all, fixed_binarization

CLAIM = Claim(
    "beta-trade",
    "The weight β of the KL term trades a VAE's reconstruction for a regular latent space.",
    "Higgins et al. 2017; Hoffman and Johnson 2016",
    "A VAE of eight latents on the binarized 8 × 8 digits, 1,000 updates at seven values of β: the test "
    "images' reconstruction in nats, the Fréchet distance of their codes from the prior N(0, I), and the "
    "Fréchet distance of samples from the prior to test images in the features of a classifier.",
    "If regular were all that counts, the largest β would have the best samples; where no latent is "
    "active they are all the same image.",
    minutes=1.5,
)
BETAS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
COUNT = 1000
RECIPE = replace(vae.RECIPES["smoke"], steps=1000, batch_size=64)


def measure(seed: int) -> Row:
    """At each β: reconstruction, distances of codes from the prior and of samples from the data."""
    data = digits()
    classifier, test = digit_classifier(data), all_images(data.test)
    binary = fixed_binarization(test, RECIPE.binarization)
    real = classifier.extract((255 * binary).byte()).features
    generator = torch.Generator().manual_seed(seed)
    prior = torch.randn(len(test), 8, generator=generator)
    row: Row = {"reconstruction": [], "codes": [], "samples": [], "active": []}
    for beta in BETAS:
        model = train_system(vae.build, replace(RECIPE, beta=beta, seed=seed)).model
        stats = encode_all(model, test, RECIPE.binarization, 5)
        mean, logvar = encode(model, binary)
        z = reparameterize(mean, logvar, torch.randn(len(test), 8, generator=generator))
        fake = classifier.extract(sample_images(model, COUNT, seed=seed)).features
        row["reconstruction"].append(-(stats.elbo + stats.kl.sum(1)).mean().item())
        row["codes"].append(frechet_distance(z, prior).item())
        row["samples"].append(frechet_distance(fake, real).item())
        row["active"].append(int((stats.mean.var(0) > 0.01).sum()))
    return row


def judge(rows: list[Row]) -> Verdict:
    def column(key: str, i: int) -> list[float]:
        return [row[key][i] for row in rows]

    def mean(key: str) -> list[float]:
        return [sum(column(key, i)) / len(rows) for i in range(len(BETAS))]

    codes, samples, active = mean("codes"), mean("samples"), mean("active")
    regular = codes.index(min(codes))
    best = samples.index(min(samples))
    differences = [
        paired(
            f"nats of reconstruction, β {BETAS[-1]:g} − {BETAS[0]:g}",
            column("reconstruction", -1),
            column("reconstruction", 0),
        ),
        paired(
            f"distance of codes from the prior, β {BETAS[0]:g} − {BETAS[regular]:g}",
            column("codes", 0),
            column("codes", regular),
        ),
        paired(
            f"distance of samples from the data, β {BETAS[0]:g} − {BETAS[best]:g}",
            column("samples", 0),
            column("samples", best),
        ),
        paired(
            f"distance of samples from the data, β {BETAS[-1]:g} − {BETAS[best]:g}",
            column("samples", -1),
            column("samples", best),
        ),
    ]
    nats = mean("reconstruction")
    finding = "; ".join(
        f"β {beta:g}: {nats[i]:.1f} nats, codes {codes[i]:.2f} from the prior, samples {samples[i]:.0f} "
        f"from the data, {active[i]:.1f} active latents"
        for i, beta in enumerate(BETAS)
    )
    if not (differences[0].is_above_zero and differences[1].is_above_zero):
        return Verdict("not seen here", finding, differences)
    if differences[3].is_above_zero and best < len(BETAS) - 1:
        collapsed = f"β leaves latents active (samples are best at {BETAS[best]:g})"
        return Verdict("holds only when", f"{collapsed}: {finding}", differences)
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    panels = {
        title: {"VAE": [row[key] for row in rows]}
        for title, key in (
            ("reconstruction of test images in nats", "reconstruction"),
            ("Fréchet distance of codes from the prior", "codes"),
            ("Fréchet distance of samples from the data", "samples"),
        )
    }
    figure = curves(panels, BETAS, "β", xscale="log")
    for axes in figure.axes[1:]:
        axes.set_yscale("log")
    return figure
