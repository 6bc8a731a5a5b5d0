"""Segmentation: a class for every pixel. From a model, a recipe and scenes to a Run, and its use."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor, nn

from torchstone.data.vision import segmentation_batches
from torchstone.data.vision.dataset import normalize
from torchstone.data.vision.image_folder import SUFFIXES
from torchstone.data.vision.segmentation import SegmentationDataset, load_segmentation, preprocess
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.metrics.segmentation import class_iou, evaluate_splits, iou_metrics, split_metrics
from torchstone.plots import segmentation_masks
from torchstone.tasks.optimization import gradient_update

AUXILIARY = 0.5  # weight of the auxiliary head's loss, as for the published weights
MAX_SHOWN = 12  # pictures in the report
MAX_SIDE = 1024  # longest side of a mask that is drawn, pixels


def segment(model: nn.Module, recipe: Any, data: SegmentationDataset, *, model_config: dict) -> Run:
    """A Run that trains `model` to tell the class of every pixel.

    The recipe states batch, steps, seed, variant, augment, optimiser, lr, momentum, weight_decay,
    schedule, warmup, clip, accumulate, ema, precision, compile. Metrics are `miou` (`overlap.scores`),
    `pixel_accuracy` (shares, 0 to 1) and `loss`; validation guides, the test split is looked at once.

    Args:
        model_config: what `model` was made with; kept with the weights, so that it can be made again.
    """
    if data.train.device.type != "mps":  # faster on a CPU too, by a tenth
        model = model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]

    def objective(net, batch):
        images, labels = batch
        output = net(images)
        logits = output[0] if isinstance(output, tuple) else output
        known = labels != IGNORE_INDEX
        right = (logits.detach().argmax(1) == labels).sum() / known.sum()
        # the mean is over labelled pixels, and augmentation leaves some without a label
        return {"loss": loss(output, labels), "pixel_accuracy": right, "weight": known.sum()}

    update, state, followed = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream = segmentation_batches.SegmentationBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        metadata=data.metadata,
        augment=segmentation_batches.make_augmentation(recipe.augment),
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: split_metrics(followed, [data.val], data.metadata, len(data.classes)),
        state=state,
        steps=recipe.steps,
        test=lambda: split_metrics(followed, [data.test], data.metadata, len(data.classes)),
        report=lambda folder: save_report(followed, data, folder),
        metadata={
            "task": "segment",
            "variant": recipe.variant,
            "model_config": model_config,
            "classes": list(data.classes),
            "picture": data.metadata,
            "data": data.description,
        },
    )


def loss(
    output: Tensor | tuple[Tensor, ...], labels: Int64[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of labelled pixels; plus that of the auxiliary logits, weighted."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels, ignore_index=IGNORE_INDEX)
    main, aux = (F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX) for logits in output)
    return main + AUXILIARY * aux


@torch.no_grad()
def save_report(model: nn.Module, data: SegmentationDataset, folder: Path) -> None:
    """Draw pictures of the test split with their true and predicted masks, evenly over the split."""
    count = min(MAX_SHOWN, len(data.test))
    index = torch.linspace(0, len(data.test) - 1, count, dtype=torch.float64).round().long()
    pictures, labels = data.test.take(index)
    was_training = model.training
    model.eval()
    guesses = torch.cat([model(normalize(each[None], data.metadata)).argmax(1) for each in pictures])
    model.train(was_training)
    matrix, _ = evaluate_splits(model, [data.test], data.metadata, len(data.classes))
    segmentation_masks.plot_predictions(
        pictures.cpu(),
        labels.cpu().long(),
        guesses.cpu(),
        data.classes,
        class_iou(matrix).tolist(),
        folder / "masks.png",
    )


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """mIoU, each class's IoU, pixel accuracy and cross-entropy (nats) on `spec`: its test split if
    `held_out`, else every picture of it.

    Raises:
        BadInput: its classes are not those the model was trained to tell apart.
    """
    picture, device = metadata["picture"], next(model.parameters()).device
    data = load_segmentation(spec, size=picture["size"], device=device)
    if list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the classes {', '.join(data.classes)}, but the model tells apart "
            f"{', '.join(metadata['classes'])}"
        )
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    matrix, mean = evaluate_splits(model, splits, picture, len(data.classes))
    each = dict(zip(data.classes, class_iou(matrix).tolist(), strict=True))
    return {
        **iou_metrics(matrix),
        "cross_entropy": mean,
        **{f"iou_{name}": value for name, value in each.items()},
        "pictures": sum(map(len, splits)),
    }


@torch.no_grad()
def pixel_probabilities(model: nn.Module, metadata: dict, file: Path | str) -> tuple[Tensor, Image.Image]:
    """Probabilities (classes, height, width) of a picture's pixels, at the size that the model works at,
    its shorter side the metadata's; and the picture as it is."""
    pixels, image = preprocess(file, metadata["picture"])
    model.eval()
    logits = model(normalize(pixels.to(next(model.parameters()).device), metadata["picture"]))
    return logits[0].float().softmax(0).cpu(), image


def predict(model: nn.Module, metadata: dict, inputs: Sequence[Path | str]) -> list[dict]:
    """What each image file shows; folders stand for the images in them.

    `shares` are the classes' shares of the pixels, `label` is the class with the most pixels that is
    not the first (background), unless all are, and `probability` the mean one of that class over
    its pixels.

    Raises:
        BadInput: a file is missing, or is no picture.
    """
    answers = []
    for file in find_images(inputs):
        likely, _ = pixel_probabilities(model, metadata, file)
        best = likely.argmax(0)
        counts = torch.bincount(best.flatten(), minlength=len(likely))
        label = 1 + int(counts[1:].argmax()) if int(counts[1:].sum()) else 0
        shares = (counts / best.numel()).tolist()
        answers.append(
            {
                "input": str(file),
                "label": metadata["classes"][label],
                "probability": likely[label][best == label].mean().item(),
                "shares": dict(zip(metadata["classes"], shares, strict=True)),
            }
        )
    return answers


def explain(model: nn.Module, metadata: dict, inputs: Sequence[Path | str], file: Path) -> None:
    """Draws each picture beside itself with the predicted mask laid over.

    Raises:
        BadInput: an input is missing, or is no picture.
    """
    drawn = []
    for source in find_images(inputs):
        likely, image = pixel_probabilities(model, metadata, source)
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        size = (image.height, image.width)
        larger = F.interpolate(likely[None], size, mode="bilinear", align_corners=False)
        drawn.append((Path(source).name, image, larger[0].argmax(0)))
    segmentation_masks.plot_overlays(drawn, metadata["classes"], file)


def find_images(inputs: Sequence[Path | str]) -> list[Path]:
    """The files themselves, and the image files of the folders."""
    files = []
    for each in map(Path, inputs):
        inside = [each]
        if each.is_dir():
            inside = sorted(p for p in each.iterdir() if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise BadInput(f"{each} holds no pictures: give image files, or a folder of them")
        files += inside
    return files
