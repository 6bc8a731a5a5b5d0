"""Class balance: generated training images for rare classes, and what a classifier gains by them.

A class of few images is usually repeated (oversampling). A class-conditional generator offers new ones
instead, which it has learned from the class and from what the class shares with the others. Whether that
helps is a question to measure: `measure_gain` trains the same classifier on both training sets, which have
the same number of images in every class, and compares its recall on images that neither has seen.
"""

import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.engine import rng
from torchstone.engine.console import track
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.files import atomic_write
from torchstone.metrics.classifier_features import IMAGE_SIZE
from torchstone.tasks.vision.classify import classify, compute_logits
from torchstone.tasks.vision.feature_classifier import ClassifierSpec, resize_split

Pixels = UInt8[Tensor, "count channel height width"]
TABLE = "labels.csv"  # of the folder: each file, its split, its label, and whether it was generated


class Gain(NamedTuple):
    """Recall on the test split, after training on repeated and on generated images, seed by seed.

    Args:
        repeated, generated: of each class.
        accuracy_repeated, accuracy_generated: of all images.
    """

    repeated: Float[Tensor, "seeds classes"]
    generated: Float[Tensor, "seeds classes"]
    accuracy_repeated: Float[Tensor, " seeds"]
    accuracy_generated: Float[Tensor, " seeds"]


def count_missing(labels: Int64[Tensor, " count"], num_classes: int, per_class: int) -> list[int]:
    """How many images each class lacks of `per_class`.

    Raises:
        BadInput: none lacks any, or a class has none at all.
    """
    counts = torch.bincount(labels.cpu(), minlength=num_classes)
    if not counts.all():
        raise BadInput(f"class {int(counts.argmin())} of {num_classes} has no training image to balance")
    missing = (per_class - counts).clamp(min=0).tolist()
    if not any(missing):
        raise BadInput(
            f"every class has {per_class} training images or more, the rarest {int(counts.min())}: give a "
            "larger --per-class"
        )
    return missing


def generate_missing(
    sample: Callable[[str, int], Sequence[UInt8[Tensor, "channel height width"]]],
    data: ImageDataset,
    per_class: int,
) -> dict[int, Pixels]:
    """The images that each rare class lacks of `per_class`, by class.

    Args:
        sample: (class name, count) -> images of that class, of the size of those of `data`.
    """
    missing = count_missing(data.train.labels, len(data.classes), per_class)
    rare = [(label, count) for label, count in enumerate(missing) if count]
    return {label: torch.stack(list(sample(data.classes[label], count))) for label, count in rare}


def write_balanced(data: ImageDataset, generated: Mapping[int, Pixels], folder: Path) -> None:
    """A folder that trains a classifier: `train`, `val` and `test`, each with a folder for every class.

    Real images are those that the generator was trained on, at its size; generated ones are in `train` alone,
    and their names begin with `generated`. `labels.csv` lists them all. The folder is written whole or not
    at all.

    Raises:
        BadInput: two classes would have the same folder.
    """
    names = folder_names(data.classes)
    with atomic_write(folder) as new:
        rows: list[tuple[str, str, str, int]] = []

        def write(images: Pixels, labels: Sequence[int], split: str, is_generated: bool, start: int) -> None:
            kind = "generated" if is_generated else "real"
            for number, (image, label) in enumerate(zip(images, labels, strict=True), start):
                file = Path(split, names[label], f"{kind}-{number:05d}.png")
                (new / file).parent.mkdir(parents=True, exist_ok=True)
                save_png(image, new / file)
                rows.append((file.as_posix(), split, data.classes[label], int(is_generated)))

        for split in ("train", "val", "test"):
            part: ImageSplit = getattr(data, split)
            chunks = torch.arange(len(part), device=part.labels.device).split(1000)
            for index in track(chunks, f"writing {split}, chunk", len(chunks)):
                labels = part.labels[index].tolist()
                write(part.take(index).cpu(), labels, split, is_generated=False, start=int(index[0]))
        for label, images in generated.items():
            write(images.cpu(), [label] * len(images), "train", is_generated=True, start=0)
        with open(new / TABLE, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("file", "split", "label", "generated"))
            table.writerows(rows)


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class: its own, without what parts folders.

    Raises:
        BadInput: two would be the same.
    """
    names = [name.replace("/", "_").replace("\\", "_").strip() or "_" for name in classes]
    if len({name.lower() for name in names}) < len(names):
        raise BadInput(f"two of the classes {', '.join(classes)} would share a folder: rename one of them")
    return names


def save_png(image: UInt8[Tensor, "channel height width"], file: Path) -> None:
    array = np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file)


def repeat_to(labels: Int64[Tensor, " count"], missing: Mapping[int, int]) -> Int64[Tensor, " more"]:
    """Rows of the images to repeat, so that each class has so many more: its own in turn."""
    rows = []
    for label, count in missing.items():
        own = (labels == label).nonzero()[:, 0]
        rows.append(own[torch.arange(count, device=own.device) % len(own)])
    return torch.cat(rows)


def measure_gain(
    data: ImageDataset, generated: Mapping[int, Pixels], spec: ClassifierSpec, seeds: int
) -> Gain:
    """Train the classifier of `spec` on `data` with images of rare classes repeated, and with `generated`
    ones instead, `seeds` times each; its recall on the test split.

    Both training sets have the same number of images in each class, and both trainings the same seed, order
    and steps. The global random generators stay as they were.

    Raises:
        BadInput: a class without test images, whose recall is nothing.
    """
    device, num_classes = data.train.labels.device, len(data.classes)
    small = {name: resize_split(getattr(data, name), data.metadata) for name in ("train", "val", "test")}
    data = dataclasses.replace(data, **small, metadata=data.metadata | {"size": IMAGE_SIZE})
    tested = torch.bincount(data.test.labels.cpu(), minlength=num_classes)
    if not tested.all():
        raise BadInput(f"class {data.classes[int(tested.argmin())]!r} has no test image to measure recall on")
    train = data.train
    assert isinstance(train.images, Tensor)
    rows = repeat_to(train.labels, {label: len(images) for label, images in generated.items()})
    new_labels = torch.cat([torch.full((len(x),), label) for label, x in generated.items()]).to(device)
    new = ImageSplit(new_labels, torch.cat([x.to(device) for x in generated.values()]))
    new = resize_split(new, data.metadata)
    assert isinstance(new.images, Tensor)
    arms = {
        "repeated": ImageSplit(
            torch.cat([train.labels, train.labels[rows]]), torch.cat([train.images, train.images[rows]])
        ),
        "generated": ImageSplit(torch.cat([train.labels, new.labels]), torch.cat([train.images, new.images])),
    }
    recalls: dict[str, list[Tensor]] = {name: [] for name in arms}
    accuracies: dict[str, list[Tensor]] = {name: [] for name in arms}
    before = rng.snapshot()
    try:
        trainings = [(seed, name) for seed in range(seeds) for name in arms]
        for seed, name in track(trainings, "measuring the gain, classifier", len(trainings)):
            balanced = dataclasses.replace(data, train=arms[name])
            recall, accuracy = _train_and_test(balanced, spec, seed, device)
            recalls[name].append(recall)
            accuracies[name].append(accuracy)
    finally:
        rng.restore(before)
    by_arm = [torch.stack(recalls[name]) for name in arms]
    return Gain(*by_arm, *(torch.stack(accuracies[name]) for name in arms))


def _train_and_test(
    data: ImageDataset, spec: ClassifierSpec, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Recall of each class and accuracy, on the test split."""
    recipe: Any = dataclasses.replace(spec.recipe, data=data.name, device=str(device), seed=seed)
    model_config = {"num_classes": len(data.classes), "channels": data.metadata["channels"]}
    rng.seed(seed)
    network = spec.make(**model_config).to(device)
    run = classify(network, recipe, data, model_config=model_config)
    fit(run, intervals=Intervals(log=run.steps, evaluate=run.steps), quiet=True)
    right = compute_logits(network, data.test, data.metadata).argmax(1) == data.test.labels
    recalls = [right[data.test.labels == label].double().mean() for label in range(len(data.classes))]
    return torch.stack(recalls).cpu(), right.double().mean().cpu()
