"""What the inference of several tasks shares: input files, and the answer about one of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchstone.errors import BadInput


def list_files(inputs: Sequence[Path | str]) -> list[Path]:
    """The files named, with folders replaced by the files in them.

    Raises:
        BadInput: an empty folder.
    """
    files = []
    for each in map(Path, inputs):
        inside = sorted(p for p in each.iterdir() if p.is_file()) if each.is_dir() else [each]
        if not inside:
            raise BadInput(f"{each} is an empty folder: give image files, or a folder of them")
        files += inside
    return files


def label_prediction(name: str, classes: Sequence[str], probabilities: Sequence[float]) -> dict[str, Any]:
    """The answer about the input `name`: its likeliest label, and the probability of each."""
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    return {
        "input": name,
        "label": classes[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }
