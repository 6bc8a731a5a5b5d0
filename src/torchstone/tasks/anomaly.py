"""How unusual an input is to a model that tells how likely things are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import BadInput, NotFinite

QUANTILES = 200  # that are kept of what validation data get
RARE = 0.01  # the share of validation data that counts as unusual


def usual(scores: Float[Tensor, " count"]) -> list[float]:
    """What data as in training get, as evenly spaced quantiles from the lowest to the highest."""
    ordered = scores.double().cpu().sort().values
    places = torch.linspace(0, len(ordered) - 1, min(QUANTILES + 1, len(ordered))).round().long()
    return ordered[places].tolist()


def verdict(score: float, quantiles: Sequence[float] | None) -> dict[str, Any]:
    """`label`, usual or unusual, and `probability`: the share of validation data that score no higher.

    Raises:
        BadInput: no quantiles: the run has not come to its first evaluation.
    """
    if not quantiles:
        raise BadInput("what is usual has not been measured yet: resume the run first")
    lower = sum(each <= score for each in quantiles) / len(quantiles)
    return {"label": "unusual" if lower < RARE else "usual", "probability": lower}


def finite(x: Tensor, what: str) -> Tensor:
    """`x`, all of it.

    Raises:
        NotFinite: a number in it is NaN or infinite; nothing is left out.
    """
    bad = int((~torch.isfinite(x)).reshape(len(x), -1).any(1).sum())
    if bad:
        raise NotFinite(f"{bad} of {len(x)} {what} are not finite: the weights are no good")
    return x


def files(inputs: Sequence[Path | str]) -> list[Path]:
    """Files as they are named; folders stand for the files in them.

    Raises:
        BadInput: an empty folder.
    """
    found = []
    for each in map(Path, inputs):
        inside = sorted(p for p in each.iterdir() if p.is_file()) if each.is_dir() else [each]
        if not inside:
            raise BadInput(f"{each} is an empty folder: give image files, or a folder of them")
        found += inside
    return found
