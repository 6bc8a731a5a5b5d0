"""Semantic segmentation: training as a `Run`, evaluation, prediction and overlays."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from torchstone.data.vision import segmentation_batches
from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.segmentation import SegmentationDataset, load_segmentation, preprocess
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.metrics.segmentation import class_iou, evaluate_splits, iou_metrics, named_ious, split_metrics
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode
from torchstone.plots import segmentation_masks
from torchstone.tasks.inference import list_files
from torchstone.tasks.optimization import gradient_update

MAX_SHOWN = 12  # images in the report
MAX_SIDE = 1024  # longest side of a plotted mask, pixels


def segment(
    model: nn.Module,
    recipe: Any,
    data: SegmentationDataset,
    *,
    model_config: dict,
    loss: Callable[..., Tensor],
) -> Run:
    """A Run that trains `model` to classify every pixel.

    Special recipe field: `augment`. Metrics are `miou` (`iou_metrics`), `pixel_accuracy` (0 to 1) and
    `loss`. The test split is evaluated once, at the end, and also has the IoU of each class.

    Args:
        model_config: the arguments that `model` was built with; saved with the weights, to rebuild it.
        loss: (output, labels) -> mean over labeled pixels; the output is the logits, or in training a
            tuple whose first element is the logits.
    """
    if data.train.device.type != "mps":  # faster on a CPU too, by a tenth
        model = model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]

    def objective(net, batch):
        images, labels = batch
        output = net(images)
        logits = output[0] if isinstance(output, tuple) else output
        labeled = (labels != IGNORE_INDEX).sum()
        accuracy = (logits.detach().argmax(1) == labels).sum() / labeled.clamp(min=1)
        # augmentation can leave a batch without any label: a mean over nothing, which changes nothing
        mean = torch.where(labeled > 0, loss(output, labels), 0.0)
        weight = labeled.to(mean.dtype).clamp(min=1e-6)  # the mean is over labeled pixels
        return {"loss": mean, "pixel_accuracy": accuracy, "weight": weight}

    def test() -> dict[str, float]:
        matrix, cross_entropy = evaluate_splits(eval_model, [data.test], data.metadata, len(data.classes))
        return {**iou_metrics(matrix), "loss": cross_entropy, **named_ious(matrix, data.classes)}

    update, state, eval_model = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream = segmentation_batches.SegmentationBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        metadata=data.metadata,
        augment=segmentation_batches.make_augmentation(recipe.augment),
        **parallel.share(),
    )
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: split_metrics(eval_model, [data.val], data.metadata, len(data.classes)),
        best_metric="miou",
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "images"),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: save_report(eval_model, data, folder),
        metadata={
            "task": "segment",
            "variant": recipe.variant,
            "model_config": model_config,
            "classes": list(data.classes),
            "picture": data.metadata,
            "data": data.description,
        },
    )


@torch.no_grad()
def save_report(model: nn.Module, data: SegmentationDataset, folder: Path) -> None:
    """Plot images of the test split, evenly spaced, with their true and predicted masks."""
    images, labels = data.test.take(evenly_spaced(len(data.test), MAX_SHOWN))
    with eval_mode(model):
        masks = torch.cat([model(normalize(image[None], data.metadata)).argmax(1) for image in images])
    matrix, _ = evaluate_splits(model, [data.test], data.metadata, len(data.classes))
    segmentation_masks.plot_predictions(
        images.cpu(),
        labels.cpu().long(),
        masks.cpu(),
        data.classes,
        class_iou(matrix).tolist(),
        folder / "masks.png",
    )


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """mIoU, the IoU of each class that it is the mean of, their number, pixel accuracy and loss
    (cross-entropy in nats) on `spec`: its test split if `held_out`, else all its images.

    Raises:
        BadInput: its classes are not those that the model was trained on.
    """
    preprocessing, device = metadata["picture"], next(model.parameters()).device
    data = load_segmentation(spec, size=preprocessing["size"], device=device, model=preprocessing)
    if list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the classes {', '.join(data.classes)}, but the model was trained on "
            f"{', '.join(metadata['classes'])}"
        )
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    matrix, cross_entropy = evaluate_splits(model, splits, preprocessing, len(data.classes))
    return {
        **iou_metrics(matrix),
        "loss": cross_entropy,
        **named_ious(matrix, data.classes),
        "images": sum(map(len, splits)),
    }


@torch.no_grad()
def pixel_probabilities(model: nn.Module, metadata: dict, file: Path | str) -> tuple[Tensor, Image.Image]:
    """(class probabilities (classes, height, width) at the size that the model works at, the original
    image)."""
    pixels, image = preprocess(file, metadata["picture"])
    with eval_mode(model):
        logits = model(normalize(pixels.to(next(model.parameters()).device), metadata["picture"]))
    return logits[0].float().softmax(0).cpu(), image


def predict(model: nn.Module, metadata: dict, inputs: Sequence[Path | str]) -> list[dict]:
    """The classes in each image file; a folder stands for the images in it.

    `shares` are the classes' shares of the pixels. `label` is the class with the most pixels apart from
    the first (background), unless all are background, and `share` its own; `mean_probability` is the mean
    probability of that class over its pixels.

    Raises:
        BadInput: a file is missing, or is no image.
    """
    predictions = []
    for file in list_files(inputs):
        probabilities, _ = pixel_probabilities(model, metadata, file)
        mask = probabilities.argmax(0)
        counts = torch.bincount(mask.flatten(), minlength=len(probabilities))
        label = 1 + int(counts[1:].argmax()) if int(counts[1:].sum()) else 0
        shares = (counts / mask.numel()).tolist()
        predictions.append(
            {
                "input": str(file),
                "label": metadata["classes"][label],
                "share": shares[label],
                "mean_probability": probabilities[label][mask == label].mean().item(),
                "shares": dict(zip(metadata["classes"], shares, strict=True)),
            }
        )
    return predictions


def explain(model: nn.Module, metadata: dict, inputs: Sequence[Path | str], file: Path) -> None:
    """Plot each image next to itself with the predicted mask overlaid.

    Raises:
        BadInput: an input is missing, or is no image.
    """
    overlays, shares = [], []
    for source in list_files(inputs):
        probabilities, image = pixel_probabilities(model, metadata, source)
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        size = (image.height, image.width)
        upsampled = F.interpolate(probabilities[None], size, mode="bilinear", align_corners=False)
        overlays.append((Path(source).name, image, upsampled[0].argmax(0)))
        counts = torch.bincount(probabilities.argmax(0).flatten(), minlength=len(probabilities))
        shares.append((counts / counts.sum()).tolist())  # those that `predict` gives
    segmentation_masks.plot_overlays(overlays, metadata["classes"], file, shares[0])
