"""What several runs reached together, told so that few of them do not mislead.

Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, "Deep reinforcement learning at the edge of the
statistical precipice", arXiv:2108.13264, sections 4.1 and 4.3.
"""

import numpy as np
from jaxtyping import Float

DRAWS = 2000  # of the bootstrap


def interquartile_mean(values: Float[np.ndarray, "..."], axis: int = 0) -> Float[np.ndarray, "..."]:
    """The mean over an axis, without the quarter of the runs that is least and the quarter that is greatest, both
    rounded down: of up to three runs the plain mean."""
    count = values.shape[axis]
    cut = count // 4
    kept = np.sort(values, axis).take(np.arange(cut, count - cut), axis)
    return np.asarray(kept.mean(axis))


def interval(
    values: Float[np.ndarray, "runs *points"], level: float = 0.95
) -> tuple[Float[np.ndarray, "*points"], Float[np.ndarray, "*points"]]:
    """The bootstrap's percentile interval of the interquartile mean over whole runs, drawn by a constant
    seed."""
    rows = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    flat = values.reshape(len(values), -1)
    means = np.stack([interquartile_mean(flat[:, i][rows], 1) for i in range(flat.shape[1])], 1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])
