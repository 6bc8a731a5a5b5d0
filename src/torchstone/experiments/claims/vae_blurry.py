"""Samples of a VAE are blurred; those of a GAN are as sharp as the data."""

from typing import Any

import torch.nn.functional as F

from torchstone.data.vision.dequantized_batches import all_images
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.generators import digit_classifier, digits, gradient_energy, samples_of_families
from torchstone.parts.metrics.fidelity_diversity import frechet_distance

CLAIM = Claim(
    "vae-blurry",
    "Samples of VAEs are blurred, those of GANs are sharp.",
    "Kingma and Welling 2013; Goodfellow et al. 2014; Larsen et al. 2015",
    "A VAE, a GAN, a flow and a diffusion model, each trained on the 8 × 8 digits for some seconds: the "
    "mean squared difference of neighboring pixels in 1,000 samples over that of test images, and the "
    "Fréchet distance to them in the features of a classifier.",
    "Test images blurred by a mean over 3 × 3 must score far lower than test images. Sharp need not be "
    "good: noise is sharp, and the distance tells it.",
    minutes=2,
)
FAMILIES = ("VAE", "GAN", "flow", "diffusion")
COUNT = 1000


def measure(seed: int) -> Row:
    """Sharpness and Fréchet distance of each family, and of the control."""
    data = digits()
    classifier, test = digit_classifier(data), all_images(data.test)
    real, unit = classifier.extract_split(data.test)[0], gradient_energy(test)
    blurred = F.avg_pool2d(test.float(), 3, stride=1, padding=1).round().byte()
    images = samples_of_families(seed, COUNT) | {"blurred test": blurred, "training": all_images(data.train)}
    return {
        name: {
            "sharpness": gradient_energy(pixels) / unit,
            "frechet": frechet_distance(classifier.extract(pixels).features, real.features).item(),
        }
        for name, pixels in images.items()
    }


def judge(rows: list[Row]) -> Verdict:
    def column(name: str, key: str) -> list[float]:
        return [row[name][key] for row in rows]

    def mean(name: str, key: str) -> float:
        return sum(column(name, key)) / len(rows)

    differences = [
        paired(f"sharpness, {name} − VAE", column(name, "sharpness"), column("VAE", "sharpness"))
        for name in FAMILIES[1:]
    ]
    differences.append(
        paired("Fréchet distance, VAE − GAN", column("VAE", "frechet"), column("GAN", "frechet"))
    )
    finding = "; ".join(
        f"{name} {mean(name, 'sharpness'):.2f} times as sharp as test images at a Fréchet distance of "
        f"{mean(name, 'frechet'):.0f}"
        for name in FAMILIES
    )
    finding += f"; blurred test images {mean('blurred test', 'sharpness'):.2f}"
    tells = mean("blurred test", "sharpness") < 0.7 * mean("training", "sharpness")
    blurred = mean("VAE", "sharpness") < 0.95 and differences[0].is_above_zero
    if not tells or not blurred:
        return Verdict("not seen here", finding, differences)
    if mean("GAN", "sharpness") < 0.9:
        return Verdict("not seen here", f"both are blurred: {finding}", differences)
    if differences[-1].is_below_zero:
        return Verdict(
            "holds only when",
            f"sharpness alone counts, for the VAE is nearer to the data: {finding}",
            differences,
        )
    return Verdict("holds", finding, differences)


def draw(rows: list[Row]) -> Any:
    names = (*FAMILIES, "blurred test")
    return bars(
        {
            title: {name: [row[name][key] for row in rows] for name in names}
            for title, key in (
                ("sharpness over that of test images", "sharpness"),
                ("Fréchet distance to test images", "frechet"),
            )
        }
    )
