"""How well masks agree: intersection over union, and the matrix of counts that it comes from."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.segmentation import SegmentationSplit
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX


def confusion_matrix(
    guesses: Int64[Tensor, "batch height width"],
    labels: Int64[Tensor, "batch height width"],
    classes: int,
) -> Int64[Tensor, "classes classes"]:
    """Pixels of each class (row) that were given each class (column); void ones are not counted."""
    known = labels != IGNORE_INDEX
    pairs = labels[known] * classes + guesses[known]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(matrix: Int64[Tensor, "classes classes"]) -> Float[Tensor, " classes"]:
    """Intersection over union of each class; NaN for one that neither side knows."""
    both = matrix.diagonal().double()
    return both / (matrix.sum(0) + matrix.sum(1) - both)


def iou_metrics(matrix: Int64[Tensor, "classes classes"]) -> dict[str, float]:
    """`miou`, the mean over classes of intersection over union, and `pixel_accuracy`, of one matrix over
    all pictures (Everingham et al. 2015, section 3.3: not the mean of pictures' scores)."""
    right = matrix.diagonal().sum() / matrix.sum()
    return {"miou": class_iou(matrix).nanmean().item(), "pixel_accuracy": right.item()}


@torch.no_grad()
def evaluate_splits(
    model: nn.Module, splits: Sequence[SegmentationSplit], metadata: dict, classes: int, batch: int = 16
) -> tuple[Tensor, float]:
    """The matrix of `confusion` over whole splits, in evaluation mode, and the mean cross-entropy."""
    was_training = model.training
    model.eval()
    device = splits[0].device
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for split in splits:
        for index in torch.arange(len(split), device=device).split(batch):
            pictures, labels = split.take(index)
            logits, labels = model(normalize(pictures, metadata)), labels.long()
            matrix += confusion_matrix(logits.argmax(1), labels, classes)
            total += F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    model.train(was_training)
    return matrix, (total / matrix.sum()).item()


def split_metrics(
    model: nn.Module, splits: Sequence[SegmentationSplit], metadata: dict, classes: int
) -> dict:
    """mIoU, pixel accuracy (shares) and mean loss on whole splits."""
    matrix, mean = evaluate_splits(model, splits, metadata, classes)
    return iou_metrics(matrix) | {"loss": mean}
