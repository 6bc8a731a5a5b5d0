"""Sampling from a generator, and evaluation of its samples."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine.console import track
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.modes import eval_mode
from torchstone.plots.sample_grid import save_image_grid, to_uint8
from torchstone.tasks.evaluate_samples import Pixels, evaluate_samples
from torchstone.tasks.inference import class_index
from torchstone.tasks.vision.feature_classifier import ClassifierSpec

CHUNK_SIZE = 250  # images generated at a time
DEFAULT_SAMPLES = 5000  # that are evaluated, unless the metadata says how many
MAX_COLUMNS = 20  # number of classes up to which a row of a grid shows one of each

SamplingContext = Callable[[Any], contextlib.AbstractContextManager[Any]]
Labels = Int64[Tensor, " count"]


def label_inputs(net: nn.Module, labels: Tensor) -> tuple[Tensor, ...]:
    """The further inputs of a network: labels, if it is conditional (has `num_classes`)."""
    return (labels,) if getattr(net, "num_classes", 0) else ()


def cycle_labels(model: Any, count: int) -> Labels | None:
    """Each class in turn; None for a generator that is not conditional."""
    num_classes = getattr(model, "num_classes", 0)
    return torch.arange(count) % num_classes if num_classes else None


def grid_columns(model: Any) -> int | None:
    """Columns of a grid with `cycle_labels`: one for each class, if there are not too many."""
    num_classes = getattr(model, "num_classes", 0)
    return num_classes if 0 < num_classes <= MAX_COLUMNS else None


@torch.no_grad()
def sample_images(
    model: Any,
    count: int,
    metadata: dict[str, Any],
    *,
    labels: Labels | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> UInt8[Tensor, "count channel height width"]:
    """`count` images G(z) from the noise of `seed`, the same on every device but for rounding, on the CPU.

    Args:
        model: (z) -> images, or (z, labels); z is N(0, I) of `latent_dim` numbers. It is put in evaluation
            mode, so that an image does not depend on the others of its batch.
        metadata: normalization of the model's images.
        labels: of each image; by default each class in turn.
        show_progress: show how far it is.

    Raises:
        NotFinite: an image has a number that is NaN or infinite; none is left out.
    """
    z = torch.randn(count, model.latent_dim, generator=torch.Generator().manual_seed(seed))
    labels = cycle_labels(model, count) if labels is None else labels
    return images_of_latents(model, z, metadata, labels=labels, show_progress=show_progress)


@torch.no_grad()
def images_of_latents(
    model: Any,
    z: Float[Tensor, "count latent"],
    metadata: dict[str, Any],
    *,
    labels: Labels | Float[Tensor, "count classes"] | None,
    show_progress: bool = True,
    **options: Any,
) -> UInt8[Tensor, "count channel height width"]:
    """G(z), in evaluation mode, on the CPU.

    Args:
        labels: of each image, or a distribution over classes, if the generator is conditional.
        options: further arguments of the generator.

    Raises:
        NotFinite: an image has a number that is NaN or infinite; none is left out.
    """
    device = next(model.parameters()).device
    parts = []
    chunks = torch.arange(len(z)).split(CHUNK_SIZE)
    with eval_mode(model):
        for rows in track(chunks, "sampling, batch", len(chunks)) if show_progress else chunks:
            condition = label_inputs(model, labels[rows].to(device)) if labels is not None else ()
            images = model(z[rows].to(device), *condition, **options)
            if not torch.isfinite(images).all():
                raise NotFinite("the generator's images are not finite: its weights are broken")
            parts.append(to_uint8(images, metadata).cpu())
    return torch.cat(parts)


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    num_samples: int = 64,
    seed: int = 0,
    label: str | int | None = None,
    out: str | Path | None = None,
) -> list:
    """Images, uint8 (channel, height, width), or the name of the file that their grid was written to.

    Args:
        label: name of a class; without one each class in turn, one a column.
        out: a `.png` for a grid of all of them.

    Raises:
        BadInput: a count below 1; an unknown label, or a label for an unconditional generator.
    """
    if num_samples < 1:
        raise BadInput(f"give a number of images of at least 1, not {num_samples}")
    labels, columns = cycle_labels(model, num_samples), grid_columns(model)
    if label is not None:
        if labels is None:
            raise BadInput(f"a {metadata['variant']} takes no label: train cgan for that")
        labels, columns = torch.full((num_samples,), class_index(label, metadata["classes"])), None
    images = sample_images(
        model, num_samples, metadata["picture"], labels=labels, seed=seed, show_progress=True
    )
    if out is None:
        return list(images)
    return [str(save_image_grid(images, out, columns=columns))]


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: ClassifierSpec,
    inception: str | Path | None = None,
    sampling_context: SamplingContext = contextlib.nullcontext,
) -> dict[str, Any]:
    """`evaluate_samples` against `spec`: its test split if `held_out`, else all of its images.

    As many samples as at the end of training, and the very same ones.

    Args:
        sampling_context: the model is sampled within `sampling_context(model)`.

    Raises:
        BadInput: a conditional generator, and other classes than it knows.
    """
    picture, device = metadata["picture"], next(model.parameters()).device
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device, model=picture)
    count = metadata.get("eval_samples", DEFAULT_SAMPLES)
    labels = cycle_labels(model, count)
    if labels is not None and list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the classes {', '.join(data.classes)}, but the generator makes "
            f"{', '.join(metadata['classes'])}"
        )
    splits = [data.test] if held_out else [data.train, data.val, data.test]

    def sampled() -> Pixels:
        with sampling_context(model):
            return sample_images(model, count, picture, labels=labels, show_progress=True)

    metrics = evaluate_samples(sampled, data, classifier, splits, target_labels=labels, inception=inception)
    return metrics | {"samples": count, "images": sum(map(len, splits))}
