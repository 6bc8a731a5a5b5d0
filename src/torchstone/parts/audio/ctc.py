"""Connectionist temporal classification: from a label distribution at each moment to a sequence of labels.

Alex Graves, Santiago Fernández, Faustino Gomez and Jürgen Schmidhuber, "Connectionist Temporal
Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006.

A path names a label, or the blank, at every moment. B(path) leaves out repetitions, then blanks:
B(a–ab–) = B(–aa––abb) = aab. A labelling is as likely as all of its paths together,

    p(l|x) = Σ over π in B⁻¹(l) of Π_t y^t_{π_t}

which two recursions over l′ (blank, l₁, blank, l₂, …, blank) add up without listing them.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput

LOG_ZERO = -math.inf


def ctc_loss(
    logs: Float[Tensor, "batch time classes"],
    targets: Int64[Tensor, "batch labels"],
    lengths: Int64[Tensor, " batch"],
    target_lengths: Int64[Tensor, " batch"],
    *,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Float[Tensor, " batch"]:
    """−log p(l|x) in nats for each row, with the gradient that the forward-backward algorithm gives.

    Args:
        logs: log-probabilities; those after a row's `lengths` do not count.
        targets: labels, of which the first `target_lengths` of a row count; there may be none.
        zero_infinity: a labelling that does not fit into its moments (repeated labels need a blank
            between) is worth 0 and no gradient; by default its loss is infinite.

    Raises:
        BadInput: no moment, or a length that is longer than its tensor; a blank among the targets.
    """
    lengths, counts = lengths.to(logs.device), target_lengths.to(logs.device)
    time, most = logs.shape[1], targets.shape[1]
    if not 1 <= int(lengths.min()) <= int(lengths.max()) <= time or int(counts.max()) > most:
        raise BadInput(
            f"lengths of {int(lengths.min())} to {int(lengths.max())} moments and up to "
            f"{int(counts.max())} labels, where there are {time} and {most}"
        )
    targets = targets.to(logs.device)
    inside = torch.arange(most, device=logs.device) < counts[:, None]
    if bool(((targets == blank) & inside).any()):
        raise BadInput(f"a target holds {blank}, which is the blank")
    targets = targets.where(inside, blank)  # whatever they are filled up with
    loss = _ForwardBackward.apply(logs, targets, lengths, counts, blank)
    return torch.where(loss.isinf(), 0.0, loss) if zero_infinity else loss


class _ForwardBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logs: Tensor, targets: Tensor, lengths: Tensor, counts: Tensor, blank: int
    ) -> Tensor:
        extended, may_skip = _extended(targets, blank)
        # log y^t_{l′_s}: (time, batch, s)
        y = logs.gather(2, extended[:, None].expand(-1, logs.shape[1], -1)).transpose(0, 1)
        alpha = forward_variables(y, may_skip, lengths)
        last = alpha[-1]
        # the labelling is complete at its last label, or at the blank after it
        ends = last.gather(1, torch.stack([2 * counts, (2 * counts - 1).clamp(min=0)], 1))
        ends[:, 1].masked_fill_(counts == 0, LOG_ZERO)
        loss = -ends.logsumexp(1)
        ctx.save_for_backward(logs, y, alpha, extended, may_skip, lengths, counts, loss)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        """∂(−log p)/∂ log y^t_k = −(1/p) Σ of α_t(s) β_t(s) over the places s that hold k (section 4.2):
        how likely it is, given l, that the path goes through k at t."""
        logs, y, alpha, extended, may_skip, lengths, counts, loss = ctx.saved_tensors
        beta = backward_variables(y, may_skip, lengths, counts)
        through = (alpha + beta + loss[:, None]).exp().transpose(0, 1)
        moments = torch.arange(logs.shape[1], device=logs.device)
        through = through * (moments < lengths[:, None])[..., None]
        through = through.masked_fill(loss.isinf()[:, None, None], 0.0)
        places = extended[:, None].expand(-1, logs.shape[1], -1)
        gradient = torch.zeros_like(logs).scatter_add_(2, places, through)
        return -outer[:, None, None] * gradient, None, None, None, None


def _extended(targets: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """l′, and where a path may come from two places before: to a label, if that one was another."""
    rows, count = targets.shape
    extended = targets.new_full((rows, 2 * count + 1), blank)
    extended[:, 1::2] = targets
    may_skip = torch.zeros_like(extended, dtype=torch.bool)
    may_skip[:, 3::2] = targets[:, 1:] != targets[:, :-1]
    return extended, may_skip


def forward_variables(
    y: Float[Tensor, "time batch s"], may_skip: Tensor, lengths: Tensor
) -> Float[Tensor, "time batch s"]:
    """log α_t(s): paths over moments 1 to t that end in l′_s. At a row's end they stand still.

    α_t(s) = (α_{t−1}(s) + α_{t−1}(s−1) + α_{t−1}(s−2) where that may be skipped) y^t_{l′_s}
    """
    first = torch.full_like(y[0], LOG_ZERO)
    first[:, :2] = y[0, :, :2]
    alphas = [first]
    for t in range(1, len(y)):
        before = alphas[-1]
        two = _shifted(before, 2).masked_fill(~may_skip, LOG_ZERO)
        new = torch.logaddexp(torch.logaddexp(before, _shifted(before, 1)), two) + y[t]
        alphas.append(torch.where((t < lengths)[:, None], new, before))
    return torch.stack(alphas)


def backward_variables(
    y: Float[Tensor, "time batch s"], may_skip: Tensor, lengths: Tensor, counts: Tensor
) -> Float[Tensor, "time batch s"]:
    """log β_t(s): paths over moments t+1 to the end that complete l from l′_s.

    The paper's β takes in y^t too, and divides by it where α and β meet; a label that cannot be (y = 0)
    needs no division so.
    """
    places = torch.arange(y.shape[2], device=y.device)
    done = (places == 2 * counts[:, None]) | (places == 2 * counts[:, None] - 1)
    end = torch.zeros_like(y[0]).masked_fill(~done, LOG_ZERO)
    beta, betas = torch.full_like(end, LOG_ZERO), []
    for t in reversed(range(len(y))):
        if t + 1 < len(y):
            on = beta + y[t + 1]
            two = _shifted(on.masked_fill(~may_skip, LOG_ZERO), -2)
            beta = torch.logaddexp(torch.logaddexp(on, _shifted(on, -1)), two)
        beta = torch.where((lengths == t + 1)[:, None], end, beta)
        betas.append(beta)
    return torch.stack(betas[::-1])


def _shifted(x: Tensor, places: int) -> Tensor:
    """Each row moved on (or back, if negative), with log 0 in what comes in."""
    moved = torch.full_like(x, LOG_ZERO)
    if places > 0:
        moved[:, places:] = x[:, :-places]
    else:
        moved[:, :places] = x[:, -places:]
    return moved


def greedy_decode(
    logs: Float[Tensor, "batch time classes"], lengths: Int64[Tensor, " batch"], *, blank: int = 0
) -> list[list[int]]:
    """B of the likeliest label at each moment: greedy decoding (section 3.2)."""
    best = logs.argmax(2)
    fresh = torch.ones_like(best, dtype=torch.bool)
    fresh[:, 1:] = best[:, 1:] != best[:, :-1]
    inside = torch.arange(best.shape[1], device=best.device) < lengths.to(best.device)[:, None]
    kept = fresh & inside & (best != blank)
    return [row[mask].tolist() for row, mask in zip(best.cpu(), kept.cpu(), strict=True)]


def prefix_beam_search(
    logs: Float[Tensor, "time classes"],
    beams: int,
    *,
    blank: int = 0,
    least: float = LOG_ZERO,
) -> list[tuple[tuple[int, ...], float]]:
    """The likeliest labellings and their log-probabilities, best first, over all of their paths that
    the search has followed: prefixes that begin alike are one, whatever moments they took (Hannun,
    Maas, Jurafsky and Ng 2014, arXiv:1408.2873, algorithm 1, without a language model).

    With as many beams as there are prefixes nothing is left out.

    Args:
        beams: prefixes that are kept after each moment.
        least: labels whose log-probability at a moment is below it are not tried there.

    Raises:
        BadInput: `beams` is not positive.
    """
    if beams < 1:
        raise BadInput(f"beams must be at least 1, not {beams}")
    # of each prefix: its paths that end in a blank, and those that end in its last label
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, LOG_ZERO)}
    for row in logs.tolist():
        labels = [k for k, log in enumerate(row) if k != blank and log >= least]
        found: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (in_blank, in_label) in kept.items():
            whole = _sum(in_blank, in_label)
            blanks, again = found.get(prefix, (LOG_ZERO, LOG_ZERO))
            if prefix:
                again = _sum(again, in_label + row[prefix[-1]])
            found[prefix] = _sum(blanks, whole + row[blank]), again
            for k in labels:
                # the same label twice is two only across a blank
                begun = in_blank if prefix and prefix[-1] == k else whole
                longer = (*prefix, k)
                blanks, ending = found.get(longer, (LOG_ZERO, LOG_ZERO))
                found[longer] = blanks, _sum(ending, begun + row[k])
        best = sorted(found.items(), key=lambda item: -_sum(*item[1]))
        kept = dict(best[:beams])
    return [(prefix, _sum(*sums)) for prefix, sums in kept.items()]


def _sum(a: float, b: float) -> float:
    """log(eᵃ + eᵇ)."""
    if a < b:
        a, b = b, a
    return a if b == LOG_ZERO else a + math.log1p(math.exp(b - a))
