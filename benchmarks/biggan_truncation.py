"""The truncation trick's trade-off: of a trained BigGAN, sample quality against diversity at several truncations.

    python benchmarks/biggan_truncation.py RUN [--samples 2000] [--out sheet.png]

A line for each truncation: the Fréchet distance to the test split, precision and recall, the spread of the samples of
one class as a fraction of the data's (variance of features around their class's mean), how many show their class, in
the features of the data's own classifier (84 numbers of a LeNet-5). Once with statistics measured for that truncation
(as `sample` does), once with those of training latents. The floor: the distance of the two halves of the real test images.
The sheet has a row for each truncation, from the same latents, a column for each class.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from torchstone.data.vision.dataset import load_images
from torchstone.metrics.classifier_features import ClassifierFeatures, sample_metrics
from torchstone.parts.metrics.fidelity_diversity import frechet_distance
from torchstone.plots.sample_grid import save_image_grid
from torchstone.runs.load import load_run
from torchstone.runs.recipes import read_recipe
from torchstone.systems.generative import CLASSIFIER
from torchstone.systems.generative.biggan import latents, measured
from torchstone.tasks.gan.inference import cycle_labels, images_of_latents
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier

TRUNCATIONS = (None, 1.0, 0.8, 0.6, 0.4, 0.2, 0.05)


def spread(features: Tensor, labels: Tensor) -> float:
    """The variance within classes."""
    parts = [features[labels == label] for label in labels.unique()]
    return float(torch.cat([part - part.mean(0) for part in parts]).double().square().sum(1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model, metadata, _ = load_run(args.run)
    picture = metadata["picture"]
    data = load_images(read_recipe(args.run)[2].data, size=picture["size"], channels=picture["channels"])
    classifier = train_or_load_classifier(data, CLASSIFIER)
    real, real_labels = classifier.extract_split(data.test)
    halves = real.features[::2], real.features[1::2]
    print(f"{len(real.features)} test images; their halves are {float(frechet_distance(*halves)):.2f} apart")
    natural = spread(real.features, real_labels)
    labels = cycle_labels(model, args.samples)
    assert labels is not None

    def samples(truncation: float | None, statistics: float | None) -> Tensor:
        z = latents(args.samples, model.latent_dim, truncation, torch.Generator().manual_seed(0))
        with measured(model, metadata, statistics):
            return images_of_latents(model, z, picture, labels=labels, show_progress=False)

    def line(images: Tensor) -> str:
        fake: ClassifierFeatures = classifier.extract(images)
        found = sample_metrics(fake, real, real_labels, target_labels=labels)
        names = ("frechet_distance", "precision", "recall", "label_accuracy")
        numbers = [f"{found[name]:8.3f}" for name in names]
        return " ".join([*numbers, f"{spread(fake.features, labels) / natural:8.3f}"])

    print("truncation   Fréchet precision  recall   label    spread | the same with statistics of N(0, I)")
    rows = []
    for truncation in TRUNCATIONS:
        images = samples(truncation, truncation)
        rows.append(images[: len(data.classes)])
        other = "" if truncation is None else line(samples(truncation, None))
        print(
            f"{truncation if truncation is not None else 'N(0, I)'!s:>10} {line(images)} | {other}",
            flush=True,
        )
    if args.out is not None:
        print(save_image_grid(torch.cat(rows), args.out, columns=len(data.classes)))


if __name__ == "__main__":
    main()
