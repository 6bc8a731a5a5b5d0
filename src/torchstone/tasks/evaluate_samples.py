"""Evaluation of samples, the same for every generative model: at the end of training, and in `eval`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Int64, UInt8
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.hub.inception import load_inception
from torchstone.metrics import classifier_features
from torchstone.metrics.classifier_features import frechet_statement, sample_metrics
from torchstone.metrics.inception import inception_metrics
from torchstone.tasks.vision.feature_classifier import ClassifierSpec, train_or_load_classifier

Pixels = UInt8[Tensor, "count channel height width"]

DEFAULT_SAMPLES = 500  # where a recipe evaluates none, and the user asks for it
NUM_PAIRS = 48  # samples that are shown with their nearest training image


def evaluate_samples(
    sample: Callable[[], Pixels],
    data: ImageDataset,
    classifier: ClassifierSpec,
    splits: Sequence[ImageSplit] | None = None,
    *,
    target_labels: Int64[Tensor, " count"] | None = None,
    inception: str | Path | None = None,
) -> dict[str, float]:
    """`sample_metrics` and `frechet_statement` against the test split, or `splits`, in the features of the
    data's own classifier.

    Args:
        sample: generates the samples; called once all else is known to be there.
        target_labels: the labels that samples are generated for.
        inception: a file of Inception's weights, to compare by its features too (`metrics/inception.py`).

    Raises:
        BadInput: no such file, or one that holds something else.
    """
    splits = [data.test] if splits is None else splits
    network = None if inception is None else load_inception(inception, data.train.labels.device)
    feature_classifier = train_or_load_classifier(data, classifier)
    samples = sample()
    fake, (real, labels) = feature_classifier.extract(samples), feature_classifier.extract_all(splits)
    metrics = sample_metrics(fake, real, labels, target_labels=target_labels)
    metrics |= frechet_statement(fake.features, real.features, labels)
    return metrics if network is None else metrics | inception_metrics(samples, splits, network)


def save_nearest_samples(
    samples: Pixels, data: ImageDataset, classifier: ClassifierSpec, folder: Path
) -> None:
    """`nearest.png`: samples, each above its nearest training image."""
    feature_classifier = train_or_load_classifier(data, classifier)
    classifier_features.save_nearest_sheet(feature_classifier, samples, data.train, folder / "nearest.png")
