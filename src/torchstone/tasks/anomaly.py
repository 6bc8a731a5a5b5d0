"""Anomaly scores: how unusual an input is under a model with a likelihood."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import BadInput, NotFinite
from torchstone.parts.indices import evenly_spaced

NUM_QUANTILES = 200  # of the validation scores that are saved
ANOMALY_RATE = 0.01  # fraction of validation data below which an input counts as unusual


def score_quantiles(scores: Float[Tensor, " count"]) -> list[float]:
    """Evenly spaced quantiles of the scores of validation data, from the lowest to the highest."""
    ordered = scores.double().cpu().sort().values
    return ordered[evenly_spaced(len(ordered), NUM_QUANTILES + 1)].tolist()


def classify_score(score: float, quantiles: Sequence[float] | None) -> dict[str, Any]:
    """`label`, usual or unusual, and `validation_rank`: the fraction of validation data that score no higher.
    It is no probability of the label: of usual data it takes every value.

    Raises:
        BadInput: no quantiles, because the run has not reached its first evaluation.
    """
    if not quantiles:
        raise BadInput("no validation scores to compare with yet: resume the run first")
    lower = sum(each <= score for each in quantiles) / len(quantiles)
    return {"label": "unusual" if lower < ANOMALY_RATE else "usual", "validation_rank": lower}


def check_finite(x: Tensor, name: str) -> Tensor:
    """`x` unchanged.

    Raises:
        NotFinite: one of its rows has a number that is NaN or infinite.
    """
    bad = int((~torch.isfinite(x)).reshape(len(x), -1).any(1).sum())
    if bad:
        raise NotFinite(f"{bad} of {len(x)} {name} are not finite: the weights are broken")
    return x
