"""Decoding of connectionist temporal classification: greedy (best path), and prefix beam search.

A path names a label, or the blank, at every time step. B(path) removes repetitions, then blanks:
B(a–ab–) = B(–aa––abb) = aab. A labeling is as likely as all of its paths together (Graves et al. 2006).
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput

LOG_ZERO = -math.inf


def greedy_decode(
    log_probs: Float[Tensor, "batch time classes"], lengths: Int64[Tensor, " batch"], *, blank: int = 0
) -> list[list[int]]:
    """B of the most likely label at each time step: best path decoding (section 3.2)."""
    best = log_probs.argmax(2)
    is_new = torch.ones_like(best, dtype=torch.bool)
    is_new[:, 1:] = best[:, 1:] != best[:, :-1]
    valid = torch.arange(best.shape[1], device=best.device) < lengths.to(best.device)[:, None]
    emitted = is_new & valid & (best != blank)
    return [row[mask].tolist() for row, mask in zip(best.cpu(), emitted.cpu(), strict=True)]


def prefix_beam_search(
    log_probs: Float[Tensor, "time classes"],
    beam_size: int,
    *,
    blank: int = 0,
    min_log_prob: float = LOG_ZERO,
) -> list[tuple[tuple[int, ...], float]]:
    """The most likely labelings and their log-probabilities, best first, over all of their paths that the
    search has followed: paths with the same prefix are merged, whatever time steps it took (Hannun, Maas,
    Jurafsky and Ng 2014, arXiv:1408.2873, algorithm 1, without a language model).

    With as many beams as there are prefixes it is exact.

    Args:
        beam_size: prefixes that remain after each time step.
        min_log_prob: labels with a lower log-probability at a time step are not tried there.

    Raises:
        BadInput: `beam_size` is not positive.
    """
    if beam_size < 1:
        raise BadInput(f"beam_size must be at least 1, not {beam_size}")
    # of each prefix: log-probability of its paths that end in a blank, and of those that end in a label
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, LOG_ZERO)}
    for row in log_probs.tolist():
        labels = [k for k, log_prob in enumerate(row) if k != blank and log_prob >= min_log_prob]
        candidates: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (in_blank, in_label) in beams.items():
            total = _log_add(in_blank, in_label)
            blanks, repeats = candidates.get(prefix, (LOG_ZERO, LOG_ZERO))
            if prefix:
                repeats = _log_add(repeats, in_label + row[prefix[-1]])
            candidates[prefix] = _log_add(blanks, total + row[blank]), repeats
            for k in labels:
                # the same label twice is two labels only across a blank
                before = in_blank if prefix and prefix[-1] == k else total
                longer = (*prefix, k)
                blanks, ends = candidates.get(longer, (LOG_ZERO, LOG_ZERO))
                candidates[longer] = blanks, _log_add(ends, before + row[k])
        best = sorted(candidates.items(), key=lambda item: -_log_add(*item[1]))
        beams = dict(best[:beam_size])
    return [(prefix, _log_add(*sums)) for prefix, sums in beams.items()]


def _log_add(a: float, b: float) -> float:
    """log(eᵃ + eᵇ)."""
    if a < b:
        a, b = b, a
    return a if b == LOG_ZERO else a + math.log1p(math.exp(b - a))
