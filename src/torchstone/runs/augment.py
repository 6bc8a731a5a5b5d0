"""Balancing classes with a run's class-conditional generator."""

import inspect
from pathlib import Path
from typing import Any

from torchstone.engine.field_ranges import check_range
from torchstone.errors import BadInput
from torchstone.metrics.paired import margin
from torchstone.runs.evaluate import system_use
from torchstone.runs.load import is_published, load_any
from torchstone.runs.lock import holds_anything
from torchstone.runs.recipes import read_recipe


def augment(
    path: Path,
    *,
    per_class: int,
    out: Path,
    data: str | None,
    measure: int | None,
    seed: int,
    device: str,
    last: bool,
) -> dict[str, Any]:
    """What `torchstone.augment` does."""
    from torchstone.data.vision.dataset import load_images
    from torchstone.systems.generative import CLASSIFIER
    from torchstone.tasks.vision.class_balance import (
        folder_names,
        generate_missing,
        measure_gain,
        write_balanced,
    )

    check_range("seed", seed)
    if out.exists() and (not out.is_dir() or holds_anything(out)):
        raise BadInput(f"{out} is there already: choose another --out, or empty it")
    if not out.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {out.parent}: make it, or choose another --out")
    model, metadata, entry = load_any(path, device, last=last)
    sample = system_use(entry, "sample")
    classes, picture = metadata.get("classes"), metadata.get("picture")
    if "label" not in inspect.signature(sample).parameters or not classes or not picture:
        raise BadInput(
            f"{path} generates no images of a class asked for: train a class-conditional generator, such as "
            "cgan or ddpm"
        )
    spec = data if data is not None or is_published(path) else read_recipe(path)[2].data
    if spec is None:
        raise BadInput(f"{path} is no run with data of its own: say which with --data")
    where = next(model.parameters()).device
    images = load_images(
        spec, size=picture["size"], channels=picture["channels"], device=where, model=picture
    )
    if list(images.classes) != classes:
        raise BadInput(
            f"{spec} has the classes {', '.join(images.classes)}, but the generator makes "
            f"{', '.join(classes)}"
        )
    folder_names(images.classes)  # refused now, not after all the work
    generated = generate_missing(
        lambda label, count: sample(model, metadata, num_samples=count, label=label, seed=seed),
        images,
        per_class,
    )
    gain = measure_gain(images, generated, CLASSIFIER, measure) if measure else None
    if out.exists():
        out.rmdir()  # empty: the folder is written beside it and takes its place
    write_balanced(images, generated, out)
    counts = images.train.labels.bincount(minlength=len(classes)).tolist()
    rows: list[dict[str, Any]] = [
        {"class": name, "real": counts[label], "generated": len(generated.get(label, ()))}
        for label, name in enumerate(classes)
    ]
    summary: dict[str, Any] = {"folder": str(out), "classes": rows}
    if gain is not None:
        for label, row in enumerate(rows):
            repeated, from_samples = gain.repeated[:, label], gain.generated[:, label]
            row["recall_repeated"], row["recall_generated"] = (
                repeated.mean().item(),
                from_samples.mean().item(),
            )
            row["gain"] = (from_samples - repeated).mean().item()
            row["gain_margin"] = margin((from_samples - repeated).tolist())
        summary["accuracy_repeated"] = gain.accuracy_repeated.mean().item()
        summary["accuracy_generated"] = gain.accuracy_generated.mean().item()
    return summary
