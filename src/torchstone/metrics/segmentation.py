"""Segmentation metrics: intersection over union, from the confusion matrix of pixels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.segmentation import SegmentationSplit
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode


def confusion_matrix(
    predictions: Int64[Tensor, "batch height width"],
    labels: Int64[Tensor, "batch height width"],
    classes: int,
) -> Int64[Tensor, "classes classes"]:
    """Pixel counts by true class (row) and predicted class (column); ignored pixels are not counted."""
    labeled = labels != IGNORE_INDEX
    pairs = labels[labeled] * classes + predictions[labeled]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(matrix: Int64[Tensor, "classes classes"]) -> Float[Tensor, " classes"]:
    """Intersection over union of each class; NaN for one that is neither labeled nor predicted."""
    intersection = matrix.diagonal().double()
    return intersection / (matrix.sum(0) + matrix.sum(1) - intersection)


def iou_metrics(matrix: Int64[Tensor, "classes classes"]) -> dict[str, float]:
    """`miou`, the mean of intersection over union over the classes that are labeled or predicted, and
    `pixel_accuracy`, of one matrix over all images (Everingham et al. 2015, section 3.3: not the mean of
    per-image scores).

    Raises:
        BadInput: no pixel is labeled, or all are of one class, on which a constant prediction is perfect.
    """
    labeled = int((matrix.sum(1) > 0).sum())
    if labeled < 2:
        problem = "have one class only" if labeled else "are all void"
        raise BadInput(f"the masks {problem}: the mean intersection over union needs pixels of two classes")
    accuracy = matrix.diagonal().sum() / matrix.sum()
    return {"miou": class_iou(matrix).nanmean().item(), "pixel_accuracy": accuracy.item()}


@torch.no_grad()
def evaluate_splits(
    model: nn.Module, splits: Sequence[SegmentationSplit], metadata: dict, classes: int, batch_size: int = 16
) -> tuple[Tensor, float]:
    """(confusion matrix over full splits, mean cross-entropy), in evaluation mode."""
    device = splits[0].device
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    with eval_mode(model):
        for split in splits:
            for index in torch.arange(len(split), device=device).split(batch_size):
                images, labels = split.take(index)
                logits, labels = model(normalize(images, metadata)), labels.long()
                matrix += confusion_matrix(logits.argmax(1), labels, classes)
                total += F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return matrix, (total / matrix.sum().clamp(min=1)).item()


def named_ious(matrix: Int64[Tensor, "classes classes"], names: Sequence[str]) -> dict[str, float]:
    """`iou_NAME` of each class that the mean is over, and `classes`, how many these are."""
    ious = zip(names, class_iou(matrix).tolist(), strict=True)
    defined = {f"iou_{name}": iou for name, iou in ious if not math.isnan(iou)}
    return {**defined, "classes": len(defined)}


def split_metrics(
    model: nn.Module, splits: Sequence[SegmentationSplit], metadata: dict, classes: int
) -> dict:
    """mIoU, pixel accuracy and mean loss over full splits."""
    matrix, cross_entropy = evaluate_splits(model, splits, metadata, classes)
    return iou_metrics(matrix) | {"loss": cross_entropy}
