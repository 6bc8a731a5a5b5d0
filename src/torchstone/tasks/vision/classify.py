"""Image classification: training as a `Run`, evaluation, prediction and explanation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from torchstone.data.vision.augment import make_augmentation, parse_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images, normalize
from torchstone.data.vision.preprocess import preprocess
from torchstone.engine import parallel, rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.interpret import feature_maps, grad_cam
from torchstone.parts.modes import eval_mode
from torchstone.plots import classification
from torchstone.tasks import transfer
from torchstone.tasks.inference import label_prediction, list_files
from torchstone.tasks.optimization import gradient_update, has_batch_norm


def train_classifier(
    recipe: Any,
    variants: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    **options: Any,
) -> Run:
    """A Run of `classify` on the recipe's images, with its variant's network from the recipe's seed.

    Args:
        arguments: of the network's constructor, beside `num_classes` and `channels`.
        size, channels: of the images, if they are no fields of the recipe.
        options: those of `classify`.
    """
    size = recipe.size if size is None else size
    channels = recipe.channels if channels is None else channels
    device = select_device(recipe.device)
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    model_config = {"num_classes": len(data.classes), "channels": channels, **(arguments or {})}
    rng.seed(recipe.seed)
    model = variants[recipe.variant].make(**model_config).to(device)
    return classify(model, recipe, data, model_config=model_config, **options)


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
    statistics: transfer.Statistics | transfer.FileStatistics = transfer.IMAGENET,
) -> Run:
    """A Run that trains `model` to classify the images of `data`.

    Special recipe fields: `augment`, `label_smoothing` (of the training loss alone), and to start from other
    weights, `weights` and `freeze`. Metrics are `loss` and `accuracy` (0 to 1). The test split is evaluated
    once, at the end.

    Args:
        model_config: the arguments that `model` was built with; saved with the weights, to rebuild it.
        loss: (output, labels) -> scalar. Networks with auxiliary heads output a tuple in training, whose
            first element is the logits.
        update: a learning rule other than gradient descent; its state is then all in the model.
        head, published, statistics: for initial weights, as in `transfer.initialize_from`.
    """
    data = transfer.initialize_from(
        model, recipe, data, head=head, published=published, statistics=statistics
    )
    augment, mixing = parse_augmentation(recipe.augment)
    if mixing and update is not None:
        augment = make_augmentation(recipe.augment)  # raises: this rule cannot mix labels
    if data.train.labels.device.type != "mps":
        # convolutions are up to twice as fast in this layout (benchmarks/convolutional.py)
        model = model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    state: dict[str, Any] = {"model": model}
    eval_model = model
    smoothing = getattr(recipe, "label_smoothing", 0.0)
    if update is None:

        def objective(net, batch):
            images, labels = batch
            output = net(images)
            logits = output[0] if isinstance(output, tuple) else output
            hard_labels = labels if labels.ndim == 1 else labels.argmax(1)
            accuracy = (logits.detach().argmax(1) == hard_labels).float().mean()
            if smoothing:
                labels = smooth_labels(labels, logits.shape[1], smoothing)
            return {"loss": loss(output, labels), "accuracy": accuracy}

        update, state, eval_model = gradient_update(
            model, recipe.optim, objective, steps=recipe.steps, measures_batch_norm=True
        )
    state["stream"] = stream = ImageBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        metadata=data.metadata,
        augment=augment,
        mixing=mixing,
        classes=len(data.classes),
        **parallel.share(),
    )
    tested: list[Tensor] = []  # logits of the test split, for the pictures of the same weights

    def test() -> dict:
        tested[:] = [compute_logits(eval_model, data.test, data.metadata)]
        return score(tested[0], data.test.labels, loss)

    is_swa = eval_model is not model and recipe.optim.swa_start is not None

    def evaluate_validation() -> dict:
        if is_swa and has_batch_norm(model):  # the mean of weights has no statistics of its own
            measure_batch_norm(eval_model, data.train, data.metadata)
        return evaluate_split(eval_model, data.val, data.metadata, loss)

    return Run(
        stream=stream,
        update=update,
        evaluate=evaluate_validation,
        best_metric="accuracy",
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "images"),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: save_report(eval_model, data, folder, *tested),
        metadata={
            "task": "classify",
            "variant": recipe.variant,
            "model_config": model_config,
            "classes": list(data.classes),
            "picture": data.metadata,
            "data": data.description,
        },
    )


def smooth_labels(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """(1 − ε)·y + ε/K for K classes (Szegedy et al. 2015, arXiv:1512.00567, section 7): probabilities,
    (batch, classes), of labels or of probabilities such as those of mixup."""
    probabilities = F.one_hot(labels, classes).float() if labels.ndim == 1 else labels
    return (1 - smoothing) * probabilities + smoothing / classes


@torch.no_grad()
def compute_logits(
    model: nn.Module, split: ImageSplit, metadata: dict, batch_size: int | None = None
) -> Tensor:
    """Logits of every image of a split, (images, classes), in evaluation mode.

    Args:
        batch_size: by default what is fastest: on a CPU the feature maps of a batch should fit its caches.
    """
    batch_size = batch_size or (256 if split.labels.device.type == "cpu" else 1024)
    rows = torch.arange(len(split), device=split.labels.device).split(batch_size)
    with eval_mode(model):
        return torch.cat([model(normalize(split.take(index), metadata)) for index in rows])


def measure_batch_norm(model: nn.Module, split: ImageSplit, metadata: dict, images: int = 10_000) -> None:
    """Measure the statistics of batch normalization anew, over at most so many images, evenly spaced."""
    count = min(images, len(split))
    rows = torch.linspace(0, len(split) - 1, count, device=split.labels.device).round().long()
    # a rest of one image would have no variance
    batches = rows.tensor_split(max(1, round(count / 256)))
    update_bn((normalize(split.take(index), metadata) for index in batches), model)


def evaluate_split(model: nn.Module, split: ImageSplit, metadata: dict, loss=F.cross_entropy) -> dict:
    """Accuracy (0 to 1) and mean loss on a full split."""
    return score(compute_logits(model, split, metadata), split.labels, loss)


def score(logits: Tensor, labels: Tensor, loss=F.cross_entropy) -> dict:
    """Accuracy (0 to 1) and mean loss of logits, (images, classes)."""
    accuracy = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": accuracy.item(), "loss": loss(logits, labels).item()}


def save_report(model: nn.Module, data: ImageDataset, folder: Path, logits: Tensor | None = None) -> None:
    """Plots of the test split: confusion matrix, worst mistakes, first filters and feature maps.

    Args:
        logits: the model's of the test split, if they are known.
    """
    if logits is None:
        logits = compute_logits(model, data.test, data.metadata)
    predictions, labels = logits.argmax(1).cpu(), data.test.labels.cpu()
    count = len(data.classes)
    matrix = torch.bincount(labels * count + predictions, minlength=count**2).reshape(count, count)
    classification.plot_confusion_matrix(matrix, data.classes, folder / "confusion.png")
    images = data.test.take(torch.arange(len(data.test), device=data.test.labels.device)).cpu()
    probabilities = logits.softmax(1).cpu()
    classification.plot_mistakes(
        images, labels, predictions, probabilities, data.classes, folder / "mistakes.png"
    )
    size, channels = data.metadata["size"], data.metadata["channels"]
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if first is not None:
        shape = (channels, size, size) if isinstance(first, nn.Linear) else None
        feature_maps.plot_filters(first.weight.detach().cpu(), folder / "filters.png", shape=shape)
    example = normalize(data.test.take(torch.tensor([0], device=data.test.labels.device)), data.metadata)
    feature_maps.plot_feature_maps(model, example, folder / "features.png")


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Accuracy and loss (cross-entropy in nats) on `spec`: its test split if `held_out`, else all its images.

    Raises:
        BadInput: its classes are not those that the model was trained on.
    """
    return evaluate_by(F.cross_entropy, model, metadata, spec, held_out=held_out)


def evaluate_by(
    loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module, metadata: dict, spec: str, *, held_out: bool
) -> dict:
    """`evaluate` of a model that was trained with another loss.

    Raises:
        BadInput: its classes are not those that the model was trained on.
    """
    preprocessing, device = metadata["picture"], next(model.parameters()).device
    size, channels = preprocessing["size"], preprocessing["channels"]
    data = load_images(spec, size=size, channels=channels, device=device, model=preprocessing)
    classes = metadata["classes"]
    if sorted(data.classes) != sorted(classes):
        raise BadInput(
            f"{spec} has the classes {', '.join(data.classes)}, but the model was trained on "
            f"{', '.join(classes)}"
        )
    outputs = torch.tensor([classes.index(name) for name in data.classes], device=device)  # by name
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    logits = torch.cat([compute_logits(model, split, preprocessing) for split in splits])
    labels = outputs[torch.cat([split.labels for split in splits])]
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "loss": loss(logits, labels).item(),
        "images": len(labels),
    }


@torch.no_grad()
def predict(model: nn.Module, metadata: dict, inputs: Sequence[Path | str]) -> list[dict]:
    """Label and probabilities of image files; a folder stands for the images in it.

    Raises:
        BadInput: a file is missing, or is no image.
    """
    files = list_files(inputs)
    device = next(model.parameters()).device
    predictions = []
    with eval_mode(model):
        for file in files:
            image = normalize(preprocess(file, metadata["picture"]).to(device), metadata["picture"])
            probabilities = model(image).softmax(1)[0].tolist()
            predictions.append(label_prediction(str(file), metadata["classes"], probabilities))
    return predictions


def explain(model: nn.Module, metadata: dict, inputs: Sequence[Path | str], file: Path | str) -> None:
    """Plot each image with its Grad-CAM and its saliency for the predicted class.

    Raises:
        BadInput: an input is missing, or is no image.
    """
    grad_cam.explain(model, metadata, predict(model, metadata, inputs), file)
