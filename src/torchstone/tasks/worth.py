"""The measure of every family's samples, for models whose training does without it: taken at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from torchstone.streams.images import Pictures, PictureSet
from torchstone.tasks.quality import beside, compared, judge

PAIRS = 48  # samples that are shown with the training picture nearest to each


def worth_of(
    made: UInt8[Tensor, "count channel height width"],
    data: PictureSet,
    classifier: Any,
    splits: Sequence[Pictures] | None = None,
) -> dict[str, float]:
    """`quality.compared` of samples, beside the test split or `splits`, by `quality.judge`."""
    judging = judge(data, classifier)
    chosen = [data.test] if splits is None else splits
    return compared(judging.see(made), *judging.see_all(chosen))


def shown(
    made: UInt8[Tensor, "count channel height width"],
    data: PictureSet,
    classifier: Any,
    folder: Path,
) -> None:
    """`nearest.png`: samples, each with the nearest training picture below it."""
    beside(judge(data, classifier), made, data.train, folder / "nearest.png")
