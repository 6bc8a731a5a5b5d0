"""Aggregates of several runs that are robust to outliers: interquartile mean and its bootstrap interval.

Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, "Deep reinforcement learning at the edge of the
statistical precipice", arXiv:2108.13264, sections 4.1 and 4.3.
"""

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000  # of the bootstrap


def interquartile_mean(values: Float[np.ndarray, "..."], axis: int = 0) -> Float[np.ndarray, "..."]:
    """The mean over an axis without the lowest and the highest quarter of the runs, both rounded down; of up
    to three runs it is the plain mean."""
    count = values.shape[axis]
    cut = count // 4
    middle = np.sort(values, axis).take(np.arange(cut, count - cut), axis)
    return np.asarray(middle.mean(axis))


def interval(
    values: Float[np.ndarray, "runs *points"], level: float = 0.95
) -> tuple[Float[np.ndarray, "*points"], Float[np.ndarray, "*points"]]:
    """The percentile bootstrap interval of the interquartile mean, resampled over whole runs with a constant
    seed."""
    rows = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    flat = values.reshape(len(values), -1)
    means = np.stack([interquartile_mean(flat[:, i][rows], 1) for i in range(flat.shape[1])], 1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])
