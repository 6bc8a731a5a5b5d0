"""Pictures that a generator makes in one pass: drawn from noise, on a sheet, and judged."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.errors import BadInput, NotFinite, did_you_mean
from torchstone.plots.sample_grid import pixels, sheet
from torchstone.tasks.evaluate_samples import worth_of

ROWS = 250  # made at a time
MANY = 5000  # samples that are judged, unless the metadata says how many
WIDEST = 20  # classes up to which a row of a sheet shows one of each

Labels = Int64[Tensor, " count"]


def told_of(net: nn.Module, labels: Tensor) -> tuple[Tensor, ...]:
    """What a network is given beside its input: labels, if it is conditional (`classes`)."""
    return (labels,) if getattr(net, "classes", 0) else ()


def every_label(model: Any, count: int) -> Labels | None:
    """Each class in turn; nothing for a generator that is not conditional."""
    classes = getattr(model, "classes", 0)
    return torch.arange(count) % classes if classes else None


def columns_of(model: Any) -> int | None:
    """Of a sheet of `every_label`: a class a column, where there are not too many."""
    classes = getattr(model, "classes", 0)
    return classes if 0 < classes <= WIDEST else None


@torch.no_grad()
def drawn(
    model: Any,
    count: int,
    picture: dict[str, Any],
    *,
    labels: Labels | None = None,
    seed: int = 0,
    shown: bool = False,
) -> UInt8[Tensor, "count channel height width"]:
    """`count` pictures from the noise of `seed`, the same on every device but for rounding, on the CPU.

    Args:
        model: (z) -> pictures, or (z, labels); z is N(0, 1), `latent` wide. It is put in evaluation
            mode: a picture does not depend on those beside it.
        picture: the metadata its values are normalised by.
        labels: what each is to show; by default each class in turn.
        shown: a bar while it lasts, on a terminal.

    Raises:
        NotFinite: a picture has a number that is NaN or infinite; none is left out.
    """
    from rich.console import Console
    from rich.progress import track

    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    z = torch.randn(count, model.latent, generator=torch.Generator().manual_seed(seed))
    asked = every_label(model, count) if labels is None else labels
    parts, console = [], Console(stderr=True)
    quiet = not (shown and console.is_terminal)
    chunks = torch.arange(count).split(ROWS)
    for rows in track(chunks, "drawing", console=console, disable=quiet, transient=True):
        told = told_of(model, asked[rows].to(device)) if asked is not None else ()
        made = model(z[rows].to(device), *told)
        if not torch.isfinite(made).all():
            raise NotFinite("the generator's pictures are not finite: its weights are no good")
        parts.append(pixels(made, picture).cpu())
    model.train(was_training)
    return torch.cat(parts)


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    count: int = 64,
    seed: int = 0,
    label: str | int | None = None,
    out: str | Path | None = None,
) -> list:
    """Pictures, uint8 (channel, height, width), or the name of the sheet they were drawn into.

    Args:
        label: a class by name; without one each in turn, a class a column.
        out: a `.png` for all of them on one sheet.

    Raises:
        BadInput: no pictures asked for; a label that is not known, or none is.
    """
    if count < 1:
        raise BadInput(f"give a number of pictures of at least 1, not {count}")
    labels, columns = every_label(model, count), columns_of(model)
    if label is not None:
        if labels is None:
            raise BadInput(f"a {metadata['variant']} cannot be told a label: train cgan for that")
        if str(label) not in metadata["classes"]:
            raise BadInput(f"no label {str(label)!r}: {did_you_mean(str(label), metadata['classes'])}")
        labels, columns = torch.full((count,), metadata["classes"].index(str(label))), None
    made = drawn(model, count, metadata["picture"], labels=labels, seed=seed, shown=True)
    if out is None:
        return list(made)
    return [str(sheet(made, out, columns=columns))]


def evaluate(
    model: Any,
    metadata: dict[str, Any],
    spec: str,
    *,
    held_out: bool,
    classifier: Any,
    inception: str | Path | None = None,
) -> dict[str, Any]:
    """What samples are worth beside `spec`'s test split if `held_out`, else all of its pictures: as many
    of them as were judged at the end of training, and then the very same.

    Args:
        classifier, inception: of `worth.worth_of`.

    Raises:
        BadInput: a conditional generator, and other classes than it knows.
    """
    picture, device = metadata["picture"], next(model.parameters()).device
    data = load_images(spec, size=picture["size"], channels=picture["channels"], device=device)
    count = metadata.get("judged", MANY)
    asked = every_label(model, count)
    if asked is not None and list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the classes {', '.join(data.classes)}, but the generator makes "
            f"{', '.join(metadata['classes'])}"
        )
    splits = [data.test] if held_out else [data.train, data.val, data.test]
    found = worth_of(
        lambda: drawn(model, count, picture, labels=asked, shown=True),
        data, classifier, splits, asked=asked, inception=inception,
    )  # fmt: skip
    return found | {"samples": count, "pictures": sum(map(len, splits))}
