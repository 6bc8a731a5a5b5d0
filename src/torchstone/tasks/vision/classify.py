"""Classification of pictures: from a model, a recipe and data to a Run, and its use afterwards."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.vision.augment import make_augmentation, parse_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images, normalize
from torchstone.data.vision.preprocess import preprocess
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.interpret import feature_maps
from torchstone.plots import classification
from torchstone.tasks import transfer
from torchstone.tasks.optimization import gradient_update


def classify(
    model: nn.Module,
    recipe: Any,
    data: ImageDataset,
    *,
    model_config: dict,
    loss: Callable[..., Tensor] = F.cross_entropy,
    update: Callable | None = None,
    head: tuple[str, ...] = (),
    published: Callable[[str, dict], Mapping[str, Tensor]] | None = None,
    statistics: transfer.Statistics = transfer.IMAGENET,
) -> Run:
    """A Run that trains `model` to tell the classes of `data` apart.

    The recipe states batch, steps, seed, variant, augment, optimiser, lr, momentum, weight_decay,
    schedule, warmup, clip, accumulate, ema, precision, compile, and where it is to start from other
    weights, weights and freeze. Metrics are `loss` and `accuracy`
    (a share, 0 to 1); validation guides, the test split is looked at once, at the end.

    Args:
        model_config: what `model` was made with; kept with the weights, so that it can be made again.
        loss: (output, labels) -> scalar; networks with auxiliary heads give a tuple in training,
            whose first are the logits.
        update: another learning rule than descent; its state is then all in the model.
        head, published, statistics: for weights to start from, as in `transfer.begin`.
    """
    data = transfer.initialize_from(
        model, recipe, data, head=head, published=published, statistics=statistics
    )
    augment, mixing = parse_augmentation(recipe.augment)
    if mixing and update is not None:
        augment = make_augmentation(recipe.augment)  # says that it cannot
    if data.train.labels.device.type != "mps":
        # convolutions are up to twice as fast so (benchmarks/convolutional.py)
        model = model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    state: dict[str, Any] = {"model": model}
    judged = model
    if update is None:

        def objective(net, batch):
            images, labels = batch
            output = net(images)
            logits = output[0] if isinstance(output, tuple) else output
            most = labels if labels.ndim == 1 else labels.argmax(1)  # of a mixture
            right = (logits.detach().argmax(1) == most).float().mean()
            return {"loss": loss(output, labels), "accuracy": right}

        update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream = ImageBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        metadata=data.metadata,
        augment=augment,
        mixing=mixing,
        classes=len(data.classes),
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: evaluate_split(judged, data.val, data.metadata, loss),
        state=state,
        steps=recipe.steps,
        test=lambda: evaluate_split(judged, data.test, data.metadata, loss),
        report=lambda folder: save_report(judged, data, folder),
        metadata={
            "task": "classify",
            "variant": recipe.variant,
            "model_config": model_config,
            "classes": list(data.classes),
            "picture": data.metadata,
            "data": data.description,
        },
    )


@torch.no_grad()
def compute_logits(model: nn.Module, split: ImageSplit, metadata: dict, batch: int = 1024) -> Tensor:
    """Logits of every picture of a split, (pictures, classes), in evaluation mode."""
    was_training = model.training
    model.eval()
    device = split.labels.device
    rows = torch.arange(len(split), device=device).split(batch)
    logits = [model(normalize(split.take(index), metadata)) for index in rows]
    model.train(was_training)
    return torch.cat(logits)


def evaluate_split(model: nn.Module, split: ImageSplit, metadata: dict, loss=F.cross_entropy) -> dict:
    """Accuracy (a share) and mean loss on a whole split."""
    logits = compute_logits(model, split, metadata)
    right = (logits.argmax(1) == split.labels).double().mean()
    return {"accuracy": right.item(), "loss": loss(logits, split.labels).item()}


def save_report(model: nn.Module, data: ImageDataset, folder: Path) -> None:
    """Draw what the model gets right and wrong on the test split, and what it looks for."""
    logits = compute_logits(model, data.test, data.metadata)
    guesses, labels = logits.argmax(1).cpu(), data.test.labels.cpu()
    count = len(data.classes)
    matrix = torch.bincount(labels * count + guesses, minlength=count**2).reshape(count, count)
    classification.plot_confusion_matrix(matrix, data.classes, folder / "confusion.png")
    everything = data.test.take(torch.arange(len(data.test), device=data.test.labels.device)).cpu()
    chances = logits.softmax(1).cpu()
    classification.plot_mistakes(everything, labels, guesses, chances, data.classes, folder / "mistakes.png")
    size, channels = data.metadata["size"], data.metadata["channels"]
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if first is not None:
        shape = (channels, size, size) if isinstance(first, nn.Linear) else None
        feature_maps.plot_filters(first.weight.detach().cpu(), folder / "filters.png", shape=shape)
    example = normalize(data.test.take(torch.tensor([0], device=data.test.labels.device)), data.metadata)
    feature_maps.plot_feature_maps(model, example, folder / "features.png")


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Accuracy and cross-entropy (nats) on `spec`: its test split if `held_out`, else every picture of it.

    Raises:
        BadInput: its classes are not those the model was trained to tell apart.
    """
    picture, device = metadata["picture"], next(model.parameters()).device
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device)
    if list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the classes {', '.join(data.classes)}, but the model tells apart "
            f"{', '.join(metadata['classes'])}"
        )
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    logits = torch.cat([compute_logits(model, split, picture) for split in splits])
    labels = torch.cat([split.labels for split in splits])
    right = (logits.argmax(1) == labels).double().mean().item()
    return {
        "accuracy": right,
        "cross_entropy": F.cross_entropy(logits, labels).item(),
        "pictures": len(labels),
    }


@torch.no_grad()
def predict(model: nn.Module, metadata: dict, inputs: Sequence[Path | str]) -> list[dict]:
    """Label and probabilities of image files; folders stand for the images in them.

    Raises:
        BadInput: a file is missing, or is no picture.
    """
    files = []
    for each in map(Path, inputs):
        inside = sorted(p for p in each.iterdir() if p.is_file()) if each.is_dir() else [each]
        if not inside:
            raise BadInput(f"{each} is an empty folder: give image files, or a folder of them")
        files += inside
    device = next(model.parameters()).device
    model.eval()
    answers = []
    for file in files:
        image = normalize(preprocess(file, metadata["picture"]).to(device), metadata["picture"])
        chances = model(image).softmax(1)[0].tolist()
        best = max(range(len(chances)), key=chances.__getitem__)
        answers.append(
            {
                "input": str(file),
                "label": metadata["classes"][best],
                "probability": chances[best],
                "probabilities": dict(zip(metadata["classes"], chances, strict=True)),
            }
        )
    return answers
