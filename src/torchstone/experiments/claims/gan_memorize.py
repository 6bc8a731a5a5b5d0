"""A GAN of few training images makes copies of them."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.vision.dequantized_batches import all_images
from torchstone.data.vision.gan_batches import GanBatches
from torchstone.experiments.claim import Claim, Row, Verdict, paired
from torchstone.experiments.figures import bars
from torchstone.experiments.generators import GAN, Pixels, digits, train_all_steps
from torchstone.experiments.training import balanced_index, with_train
from torchstone.parts.metrics.fidelity_diversity import nearest_neighbor
from torchstone.plots.sample_grid import unit_range
from torchstone.systems.generative import gan
from torchstone.tasks.gan.inference import sample_images
from torchstone.tasks.vision.stream import image_batches

CLAIM = Claim(
    "gan-memorize",
    "GANs may memorize their training images.",
    "Arora and Zhang 2017; Webster et al. 2019; Feng et al. 2021",
    "A GAN of the 8 × 8 digits, 2,000 updates on 20, 100 or 640 images: the median distance of 500 "
    "samples to the nearest image it was trained on, over that to the nearest of as many other images of "
    "the training set, which it has not learned from.",
    "The same ratio of test images, which must be 1, and of the training images themselves, 0. With many "
    "examples samples must be as near to the others.",
    minutes=1.5,
)
SIZES = (20, 100, 640)
COUNT, STEPS = 500, 2000


def measure(seed: int) -> Row:
    """The ratio of distances, of samples and of test images, at each size."""
    data = digits()
    row: Row = {"samples": [], "test": []}
    index = balanced_index(data.train.labels, 2 * SIZES[-1], torch.Generator().manual_seed(seed))
    for size in SIZES:
        own, others = with_train(data, index[:size]), with_train(data, index[-size:])
        recipe = replace(GAN, seed=seed, steps=STEPS, batch_size=min(GAN.batch_size, size))
        (run,) = gan.build(recipe)
        metadata = unit_range(data.metadata)
        run.stream = GanBatches(image_batches(recipe, own.train, metadata), 100, discriminator_steps=1)
        model = train_all_steps(run).model
        samples = sample_images(model, COUNT, metadata, seed=seed, show_progress=False)
        pair = all_images(own.train), all_images(others.train)
        row["samples"].append(distance_ratio(samples, *pair))
        row["test"].append(distance_ratio(all_images(data.test), *pair))
    return row


def distance_ratio(images: Pixels, first: Pixels, second: Pixels) -> float:
    """Median distance to the nearest image of `first`, over that to the nearest of `second`."""

    def flat(pixels: Pixels) -> Float[Tensor, "count pixels"]:
        return pixels.float().flatten(1) / 255

    def distance(others: Pixels) -> float:
        x, y = flat(images), flat(others)
        return (x - y[nearest_neighbor(x, y)]).norm(dim=1).median().item()

    return distance(first) / distance(second)


def judge(rows: list[Row]) -> Verdict:
    def column(key: str, i: int) -> list[float]:
        return [row[key][i] for row in rows]

    nearer = [
        paired(f"ratio at {size}, test images − samples", column("test", i), column("samples", i))
        for i, size in enumerate(SIZES)
    ]
    finding = "; ".join(
        f"of {size} images samples are {sum(column('samples', i)) / len(rows):.2f} times as far from those "
        f"trained on as from others (test images {sum(column('test', i)) / len(rows):.2f})"
        for i, size in enumerate(SIZES)
    )
    memorized = [each.is_above_zero and each.mean > 0.1 for each in nearer]
    if all(memorized):
        return Verdict("holds", finding, nearer)
    if any(memorized):
        largest = max(size for size, each in zip(SIZES, memorized, strict=True) if each)
        return Verdict("holds only when", f"there are at most {largest} images: {finding}", nearer)
    return Verdict("not seen here", finding, nearer)


def draw(rows: list[Row]) -> Any:
    return bars(
        {
            "distance, trained on over others": {
                f"{label}\n{size}": [row[key][i] for row in rows]
                for i, size in enumerate(SIZES)
                for label, key in (("samples", "samples"), ("test", "test"))
            }
        }
    )
