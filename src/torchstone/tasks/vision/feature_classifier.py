"""The classifier whose features samples are scored in: trained once for a data set, and cached."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from torchstone.data.download import cache_dir
from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.engine import parallel, rng
from torchstone.engine.console import notify
from torchstone.engine.run import Intervals, fit
from torchstone.files import atomic_write
from torchstone.metrics.classifier_features import (
    CHUNK_SIZE,
    IMAGE_SIZE,
    MAX_TRAIN_IMAGES,
    FeatureClassifier,
    resize_uint8,
)
from torchstone.parts.indices import evenly_spaced
from torchstone.tasks.vision.classify import classify


class ClassifierSpec(NamedTuple):
    """How to make and train the classifier.

    Args:
        make: (num_classes, channels) -> a network for images of 32×32.
        recipe: how `classify` trains it; its data and device are replaced.
    """

    make: Callable[..., nn.Module]
    recipe: Any


def train_or_load_classifier(data: ImageDataset, spec: ClassifierSpec) -> FeatureClassifier:
    """The feature classifier of `data`: from the cache, or trained now. The same bits either way.

    The global random generators stay as they were.
    """
    resized = {name: resize_split(getattr(data, name), data.metadata) for name in ("train", "val", "test")}
    metadata = data.metadata | {"size": IMAGE_SIZE}
    small = dataclasses.replace(data, **resized, metadata=metadata)
    device = data.train.labels.device
    recipe = dataclasses.replace(spec.recipe, data=data.name, device=str(device))
    model_config = {"num_classes": len(data.classes), "channels": metadata["channels"]}
    training = {**dataclasses.asdict(recipe), "device": None, **model_config}
    name = re.sub(r"\W+", "-", data.name)
    file = cache_dir() / "classifiers" / f"{name}-{_digest(small, training)}.safetensors"
    before = rng.snapshot()
    try:
        rng.seed(recipe.seed)
        network = spec.make(**model_config)
        cached = _read(file, network)
        # several machines have a cache each: all load, or all train
        everywhere = parallel.gather(cached and cached[1])
        if cached is None or None in everywhere:
            tensors, accuracy = _train(network.to(device), recipe, small, model_config)
            if parallel.rank() == 0:
                _write(file, tensors, accuracy, training)
        else:
            tensors, accuracy = cached[0], everywhere[0]
        # training leaves weights in channels-last layout, under which convolutions round otherwise
        network = spec.make(**model_config)
        network.load_state_dict(tensors)
    finally:
        rng.restore(before)
    network = network.to(device).requires_grad_(False).eval()
    return FeatureClassifier(network, metadata, data.classes, accuracy)


def _train(
    network: nn.Module, recipe: Any, data: ImageDataset, model_config: dict[str, Any]
) -> tuple[dict[str, Tensor], float]:
    notify(f"training the feature classifier, {recipe.variant} on {data.name} (once, some seconds)")
    run = classify(network, recipe, data, model_config=model_config)
    fit(run, intervals=Intervals(log=run.steps, evaluate=run.steps), quiet=True)
    tensors = {name: each.cpu().contiguous() for name, each in network.state_dict().items()}
    return tensors, run.results["test/accuracy"]


def resize_split(split: ImageSplit, metadata: dict[str, Any]) -> ImageSplit:
    """Up to `MAX_TRAIN_IMAGES` evenly spaced images at the size of the classifier's input, in memory."""
    index = evenly_spaced(len(split), MAX_TRAIN_IMAGES).to(split.labels.device)
    images = [resize_uint8(split.take(rows), metadata) for rows in index.split(CHUNK_SIZE)]
    return ImageSplit(split.labels[index], torch.cat(images))


def _digest(data: ImageDataset, training: dict[str, Any]) -> str:
    """A hash of the images that it is trained and tested on, and of the recipe."""
    sha = hashlib.sha256(json.dumps([data.metadata, training], sort_keys=True).encode())
    for split in (data.train, data.test):
        assert isinstance(split.images, Tensor)
        sha.update(split.images.cpu().numpy().tobytes())
        sha.update(split.labels.cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


def _read(file: Path, network: nn.Module) -> tuple[dict[str, Tensor], float] | None:
    """Weights for `network` and their accuracy; None if there is no complete file that fits it."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            accuracy = float(opened.metadata()["accuracy"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    shapes = {name: each.shape for name, each in network.state_dict().items()}
    fits = {name: each.shape for name, each in tensors.items()} == shapes
    return (tensors, accuracy) if fits else None


def _write(file: Path, tensors: dict[str, Tensor], accuracy: float, training: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as new:
            save_file(tensors, new, metadata={"accuracy": repr(accuracy), "recipe": json.dumps(training)})
    except (OSError, SafetensorError) as error:  # it is only trained again next time
        notify(f"the feature classifier could not be cached in {file.parent} ({error})")
