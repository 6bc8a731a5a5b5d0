"""The measure of every family's samples, taken of what a model draws at the end, or when it is asked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Int64, UInt8
from torch import Tensor

from torchstone.data.vision.dataset import ImageDataset, ImageSplit
from torchstone.metrics.classifier_features import beside, compared, judge
from torchstone.metrics.inception import by_inception
from torchstone.metrics.inception import inception as load

Pixels = UInt8[Tensor, "count channel height width"]

FEW = 500  # samples, where a recipe judges none and it is asked for
PAIRS = 48  # samples that are shown with the training picture nearest to each


def worth_of(
    draw: Callable[[], Pixels],
    data: ImageDataset,
    classifier: Any,
    splits: Sequence[ImageSplit] | None = None,
    *,
    asked: Int64[Tensor, " count"] | None = None,
    inception: str | Path | None = None,
) -> dict[str, float]:
    """`quality.compared` of samples, beside the test split or `splits`, by `quality.judge`.

    Args:
        draw: makes the samples, once all else is known to be there.
        asked: the label that each was to show.
        inception: a file of Inception's weights, to compare by its features too (`metrics/inception.py`).

    Raises:
        BadInput: no such file, or one that holds something else.
    """
    chosen = [data.test] if splits is None else splits
    network = None if inception is None else load(inception, data.train.labels.device)
    judging = judge(data, classifier)
    made = draw()
    found = compared(judging.see(made), *judging.see_all(chosen), asked=asked)
    return found if network is None else found | by_inception(made, chosen, network)


def shown(made: Pixels, data: ImageDataset, classifier: Any, folder: Path) -> None:
    """`nearest.png`: samples, each with the nearest training picture below it."""
    beside(judge(data, classifier), made, data.train, folder / "nearest.png")
