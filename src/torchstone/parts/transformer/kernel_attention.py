"""Kernel attention (Performer, FAVOR+): softmax by positive random features, linear in the length."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from torchstone.parts.seeding import SeedStream, derive_generator

CHUNK = 64  # positions whose pairs are multiplied out in causal attention
# features of one piece of the work on a CPU: half a megabyte in float32, which stays in the cache of a core
PIECE, POSITIONS = 131_072, 256
LOWEST = -1e30  # log-feature of nothing
SMALLEST = 1e-30  # of a denominator


def kernel_attention(
    q: Float[Tensor, "batch heads length head_dim"],
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length values"],
    features: Float[Tensor, "*own features head_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch length"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads length values"]:
    """φ(Q)(φ(K)ᵀV) / φ(Q)(φ(K)ᵀ1), which approximates softmax(scale QKᵀ)V.

    Choromanski et al. 2020 (arXiv:2009.14794), section 2: φ(x) = exp(Wx̂ − |x̂|²/2) with x̂ = √scale x is
    positive, and E[φ(q)·φ(k)] = exp(scale q·k) over the random rows of W. The error falls as the square root
    of their number.

    Exponents are stabilized so that nothing overflows and no denominator vanishes, by factors that cancel:
    those of a key are reduced by the largest of the sequence, feature by feature, which the query takes over
    before its own largest is subtracted. (One number for all keys and an ε after the exponential, as
    in the authors' code, would be the floor of the error.) They are computed in float32 at least.

    A CPU works through pieces that stay in its cache and computes the features again in the backward pass;
    elsewhere, and where torch compiles, all features are made at once and kept.

    Args:
        features: W, of `draw_features`; (features, head_dim) is shared by the heads.
        causal: no key after the query, by prefix sums over chunks; memory stays linear in the length.
        mask: True for tokens, False for padding, which no token attends to and which gets zeros.
        scale: factor of the scores; by default 1/√head_dim.
    """
    dtype = q.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in (q, k, v))
        w = _scaled(features, q, scale)
        if q.device.type == "cpu" and not torch.compiler.is_compiling() and not features.requires_grad:
            out = _in_pieces(q, k, v, w, causal, mask, scale)
        else:
            attend = _causal if causal else _bidirectional
            out = attend(q @ w.transpose(-1, -2), _log_key_features(k, w, scale, mask), v)
        out = out if mask is None else out.masked_fill(~mask[:, None, :, None], 0)
    return out.to(dtype)


def _scaled(features: Tensor, x: Tensor, scale: float | None) -> Tensor:
    root = (x.shape[3] ** -0.5 if scale is None else scale) ** 0.5
    return features.to(x.dtype) * root


def _log_key_features(k: Tensor, w: Tensor, scale: float | None, mask: Tensor | None) -> Tensor:
    """Wk̂ − |k̂|²/2: (batch, heads, features, length), which leaves no transpose to the products to come.

    Padding's are −∞, and its features thereby 0. A query's norm cancels, and is left out everywhere.
    """
    return (w @ k.transpose(2, 3)).add_(_minus_half_norm(k, scale, mask)[:, :, None])


def _minus_half_norm(
    k: Tensor, scale: float | None, mask: Tensor | None
) -> Float[Tensor, "batch heads length"]:
    """−|k̂|²/2 of each key, −∞ for padding."""
    half = k.square().sum(3) * (-0.5 * (k.shape[3] ** -0.5 if scale is None else scale))
    return half if mask is None else half.masked_fill(~mask[:, None], -torch.inf)


def _query_features(logs: Tensor, peak: Tensor) -> Tensor:
    """exp, with the stabilizer `peak` of the keys taken over, and the largest of each row subtracted."""
    logs = logs.add_(peak)
    return logs.sub_(logs.detach().amax(-1, keepdim=True)).exp_()


def _bidirectional(log_q: Tensor, log_k: Tensor, v: Tensor) -> Tensor:
    peak = log_k.detach().amax(3, keepdim=True).clamp_(min=LOWEST)
    k = log_k.sub_(peak).exp_()
    sums = torch.cat([k @ v, k.sum(3, keepdim=True)], 3)  # (B, H, features, values + 1)
    return _divide(_query_features(log_q, peak.transpose(2, 3)) @ sums)


def _divide(sums: Tensor) -> Tensor:
    """The weighted sum of values by the sum of weights, which is the last column."""
    return sums[..., :-1] / sums[..., -1:].clamp(min=SMALLEST)


def _causal(log_q: Tensor, log_k: Tensor, v: Tensor) -> Tensor:
    """Chunk by chunk: the pairs within it, and the sums over all chunks before it."""
    length = v.shape[2]
    chunk = min(CHUNK, length)
    padding = -length % chunk
    if padding:
        log_q, v = (nn.functional.pad(x, (0, 0, 0, padding)) for x in (log_q, v))
        log_k = nn.functional.pad(log_k, (0, padding), value=-torch.inf)
    log_q, v = (x.unflatten(2, (-1, chunk)) for x in (log_q, v))  # (B, H, chunks, chunk, ...)
    log_k = log_k.unflatten(3, (-1, chunk)).transpose(2, 3).contiguous()  # (B, H, chunks, features, chunk)
    # largest log-feature up to the end of each chunk: later keys do not touch earlier results
    peak = log_k.detach().amax(4, keepdim=True).clamp_(min=LOWEST).cummax(2).values
    k = log_k.sub_(peak).exp_()
    q = _query_features(log_q, peak.transpose(3, 4))
    v = torch.cat([v, v.new_ones(()).expand(*v.shape[:-1], 1)], 4)
    added = (k @ v).unbind(2)  # (B, H, features, values + 1) of each chunk
    # a sum was stabilized by its own chunk's peak
    rescale = (peak[:, :, :-1] - peak[:, :, 1:]).exp().unbind(2)
    before = [torch.zeros_like(added[0])]
    for one, factor in zip(added, rescale, strict=False):
        before.append((before[-1] + one) * factor)
    out = _divide((q @ k).tril() @ v + q @ torch.stack(before, 2))
    return out.flatten(2, 3)[:, :, :length]


def _in_pieces(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, causal: bool, mask: Tensor | None, scale: float | None
) -> Tensor:
    batch, heads, length, width = q.shape
    half = _minus_half_norm(k.detach(), scale, mask).flatten(0, 1)
    w = w.detach().expand(batch, heads, -1, -1).flatten(0, 1)
    scale = width**-0.5 if scale is None else scale
    function = _CausalPieces if causal else _BidirectionalPieces
    out = function.apply(*(x.reshape(batch * heads, length, -1) for x in (q, k, v)), w, half, scale)
    return out.view(batch, heads, length, -1)


def _pieces(rows: int, length: int, features: int, positions: int) -> tuple[list[slice], list[slice]]:
    """Slices of the rows, and slices of `positions` positions, that together have about `PIECE` features."""
    positions = min(positions, length)
    group = max(1, PIECE // (positions * features))
    return (
        [slice(first, min(first + group, rows)) for first in range(0, rows, group)],
        [slice(first, min(first + positions, length)) for first in range(0, length, positions)],
    )


def _output_gradients(dout: Tensor, out: Tensor, weight: Tensor) -> Tensor:
    """Of the sums, from that of their quotient: d(a/b) = da/b − (a/b) db/b, of a and b side by side."""
    dvalues = dout / weight
    return torch.cat([dvalues, -(dvalues * out).sum(-1, keepdim=True)], -1)


class _BidirectionalPieces(torch.autograd.Function):
    """`_bidirectional` of rows (text and head) of q, k and v, each (rows, length, width), piece by piece.

    Forward, the sums over keys are rescaled whenever a piece raises the stabilizer. Backward, the features
    are computed again: with F = exp L, dL = dF ⊙ F, dX = dL W, and for a key −x · rowsum(dL) · scale more.
    """

    @staticmethod
    def forward(ctx, q, k, v, w, half, scale):
        (count, length, _), features = q.shape, w.shape[1]
        peak = q.new_full((count, features, 1), LOWEST)
        sums = q.new_zeros(count, features, v.shape[2] + 1)
        out, weight = torch.empty_like(v), v.new_empty(count, length, 1)
        groups, pieces = _pieces(count, length, features, POSITIONS)
        for rows in groups:
            for at in pieces:
                logs = torch.bmm(w[rows], k[rows, at].transpose(1, 2)).add_(half[rows, None, at])
                higher = torch.maximum(peak[rows], logs.amax(2, keepdim=True))
                sums[rows] *= (peak[rows] - higher).exp_()
                peak[rows] = higher
                _accumulate(sums[rows], logs.sub_(higher).exp_(), v[rows, at])
            for at in pieces:
                logs = torch.bmm(q[rows, at], w[rows].transpose(1, 2))
                total = torch.bmm(_query_features(logs, peak[rows].transpose(1, 2)), sums[rows])
                weight[rows, at] = total[..., -1:].clamp_(min=SMALLEST)
                torch.div(total[..., :-1], weight[rows, at], out=out[rows, at])
        ctx.save_for_backward(q, k, v, w, half, peak, sums, out, weight)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, w, half, peak, sums, out, weight = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        groups, pieces = _pieces(len(q), q.shape[1], w.shape[1], POSITIONS)
        with torch.autocast(q.device.type, enabled=False):
            for rows in groups:
                dsums = torch.zeros_like(sums[rows])
                for at in pieces:
                    dtotal = _output_gradients(dout[rows, at], out[rows, at], weight[rows, at])
                    logs = torch.bmm(q[rows, at], w[rows].transpose(1, 2))
                    features = _query_features(logs, peak[rows].transpose(1, 2))
                    dsums.baddbmm_(features.transpose(1, 2), dtotal)
                    dlogs = torch.bmm(dtotal, sums[rows].transpose(1, 2)).mul_(features)
                    dq[rows, at] = torch.bmm(dlogs, w[rows])
                dvalues, dweight = dsums[..., :-1].contiguous(), dsums[..., -1:]
                for at in pieces:
                    logs = torch.bmm(w[rows], k[rows, at].transpose(1, 2)).add_(half[rows, None, at])
                    features = logs.sub_(peak[rows]).exp_()
                    dv[rows, at] = torch.bmm(features.transpose(1, 2), dvalues)
                    dlogs = torch.baddbmm(dweight, dvalues, v[rows, at].transpose(1, 2)).mul_(features)
                    dk[rows, at] = _key_gradient(dlogs, w[rows], k[rows, at], ctx.scale)
        return dq, dk, dv, None, None, None


class _CausalPieces(torch.autograd.Function):
    """`_causal` of rows, chunk by chunk; the sums before each chunk are kept, and the features are not."""

    @staticmethod
    def forward(ctx, q, k, v, w, half, scale):
        (count, length, _), features = q.shape, w.shape[1]
        groups, chunks = _pieces(count, length, features, CHUNK)
        before = q.new_empty(len(chunks), count, features, v.shape[2] + 1)
        peaks = q.new_empty(len(chunks), count, features, 1)
        out, weight = torch.empty_like(v), v.new_empty(count, length, 1)
        for rows in groups:
            peak = torch.full_like(peaks[0, rows], LOWEST)
            sums = torch.zeros_like(before[0, rows])
            for i, at in enumerate(chunks):
                logs = torch.bmm(w[rows], k[rows, at].transpose(1, 2)).add_(half[rows, None, at])
                higher = torch.maximum(peak, logs.amax(2, keepdim=True))
                sums *= (peak - higher).exp_()
                peak = peaks[i, rows] = higher
                before[i, rows] = sums
                key_features = logs.sub_(peak).exp_()
                logs = torch.bmm(q[rows, at], w[rows].transpose(1, 2))
                query_features = _query_features(logs, peak.transpose(1, 2))
                pairs = torch.bmm(query_features, key_features).tril_()
                total = torch.bmm(query_features, sums)
                _accumulate(total, pairs, v[rows, at])
                weight[rows, at] = total[..., -1:].clamp_(min=SMALLEST)
                torch.div(total[..., :-1], weight[rows, at], out=out[rows, at])
                _accumulate(sums, key_features, v[rows, at])
        ctx.save_for_backward(q, k, v, w, half, peaks, before, out, weight)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, w, half, peaks, before, out, weight = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        groups, chunks = _pieces(len(q), q.shape[1], w.shape[1], CHUNK)
        with torch.autocast(q.device.type, enabled=False):
            for rows in groups:
                later, dsums = None, torch.zeros_like(before[0, rows])  # of the sums after a chunk
                for i, at in reversed(list(enumerate(chunks))):
                    peak, sums, values = peaks[i, rows], before[i, rows], v[rows, at]
                    if later is not None:
                        dsums *= (peak - later).exp_()
                    later = peak
                    logs = torch.bmm(w[rows], k[rows, at].transpose(1, 2)).add_(half[rows, None, at])
                    key_features = logs.sub_(peak).exp_()
                    logs = torch.bmm(q[rows, at], w[rows].transpose(1, 2))
                    query_features = _query_features(logs, peak.transpose(1, 2))
                    pairs = torch.bmm(query_features, key_features).tril_()
                    dtotal = _output_gradients(dout[rows, at], out[rows, at], weight[rows, at])
                    dvalues, dweight = dtotal[..., :-1], dtotal[..., -1:]
                    dpairs = torch.baddbmm(dweight, dvalues, values.transpose(1, 2)).tril_()
                    dlogs = torch.bmm(dtotal, sums.transpose(1, 2))
                    dlogs = dlogs.baddbmm_(dpairs, key_features.transpose(1, 2)).mul_(query_features)
                    dq[rows, at] = torch.bmm(dlogs, w[rows])
                    after = dsums[..., :-1].contiguous()
                    dv[rows, at] = torch.bmm(key_features.transpose(1, 2), after).baddbmm_(
                        pairs.transpose(1, 2), dvalues
                    )
                    dlogs = torch.baddbmm(dsums[..., -1:], after, values.transpose(1, 2))
                    dlogs = dlogs.baddbmm_(query_features.transpose(1, 2), dpairs).mul_(key_features)
                    dk[rows, at] = _key_gradient(dlogs, w[rows], k[rows, at], ctx.scale)
                    dsums.baddbmm_(query_features.transpose(1, 2), dtotal)
        return dq, dk, dv, None, None, None


def _accumulate(sums: Tensor, weights: Tensor, values: Tensor) -> None:
    """Adds the weighted sum of values, and in the last column the sum of weights."""
    sums[..., :-1].baddbmm_(weights, values)
    sums[..., -1] += weights.sum(2)


def _key_gradient(dlogs: Tensor, w: Tensor, k: Tensor, scale: float) -> Tensor:
    """Of a piece's keys, from that of their log-features (rows, features, positions)."""
    return torch.bmm(dlogs.transpose(1, 2), w).sub_(k * (dlogs.sum(1)[:, :, None] * scale))


class KernelState(NamedTuple):
    """All that kernel attention keeps of the past: its size does not depend on how long that was."""

    sums: Float[Tensor, "batch heads features values_and_weight"]
    peak: Float[Tensor, "batch heads features 1"]  # the stabilizer that the sums are reduced by


def kernel_state(
    k: Float[Tensor, "batch heads length head_dim"],
    v: Float[Tensor, "batch heads length values"],
    features: Float[Tensor, "*own features head_dim"],
    *,
    mask: Bool[Tensor, "batch length"] | None = None,
    scale: float | None = None,
) -> KernelState:
    """The state after a prompt of these keys and values; of length 0, the state to begin with."""
    with torch.autocast(k.device.type, enabled=False):
        k, v = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x for x in (k, v))
        w = _scaled(features, k, scale)
        logs = _log_key_features(k, w, scale, mask)
        start = logs.new_full((*logs.shape[:3], 1), LOWEST)
        peak = torch.cat([logs, start], 3).amax(3, keepdim=True)
        weights = (logs - peak).exp()
        return KernelState(torch.cat([weights @ v, weights.sum(3, keepdim=True)], 3), peak)


def kernel_attention_step(
    q: Float[Tensor, "batch heads 1 head_dim"],
    k: Float[Tensor, "batch heads 1 head_dim"],
    v: Float[Tensor, "batch heads 1 values"],
    features: Float[Tensor, "*own features head_dim"],
    state: KernelState,
    *,
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch heads 1 values"], KernelState]:
    """One more token of causal kernel attention, in time and memory that do not grow with the past."""
    dtype, new = q.dtype, kernel_state(k, v, features, scale=scale)
    peak = torch.maximum(state.peak, new.peak)
    sums = state.sums * (state.peak - peak).exp() + new.sums * (new.peak - peak).exp()
    with torch.autocast(q.device.type, enabled=False):
        q = q.float() if q.dtype in (torch.bfloat16, torch.float16) else q
        logs = q @ _scaled(features, q, scale).transpose(-1, -2)
        out = _divide(_query_features(logs, peak.transpose(2, 3)) @ sums)
    return out.to(dtype), KernelState(sums, peak)


def draw_features(
    features: int, head_dim: int, *, generator: torch.Generator, orthogonal: bool = True
) -> Float[Tensor, "features head_dim"]:
    """W: rows as of a standard normal distribution, and orthogonal to each other in blocks of head_dim.

    Choromanski et al. 2020 (arXiv:2009.14794), section 2.4: the directions of a block are a random
    orthogonal matrix, and the lengths are those of independent normal vectors, so that the estimate stays
    unbiased; its variance is lower.
    """
    rows = torch.randn(features, head_dim, generator=generator, dtype=torch.float64)
    if orthogonal:
        blocks = -(-features // head_dim)
        square = torch.randn(blocks, head_dim, head_dim, generator=generator, dtype=torch.float64)
        directions, upper = torch.linalg.qr(square)
        # uniform only with the signs of R's diagonal (Mezzadri 2007, arXiv:math-ph/0609050)
        directions = directions * upper.diagonal(dim1=1, dim2=2).sign()[:, None]
        directions = directions.transpose(1, 2).reshape(-1, head_dim)[:features]
        rows = directions * rows.norm(dim=1, keepdim=True)
    return rows.to(torch.get_default_dtype())


class RandomFeatures(nn.Module):
    """W as a buffer: in the checkpoint, fixed in evaluation, drawn anew only by `redraw`.

    The n-th draw is decided by the seed and n, and n is a buffer too: after a resume the next draw is what it
    would have been.
    """

    matrix: Tensor
    draws: Int64[Tensor, ""]

    def __init__(self, features: int, head_dim: int, *, seed: int, orthogonal: bool = True):
        super().__init__()
        self.seed, self.orthogonal = seed, orthogonal
        self.register_buffer("matrix", torch.empty(features, head_dim))
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self.redraw()

    @torch.no_grad()
    def redraw(self) -> None:
        """Other features of the same distribution: another function, so only between training steps."""
        generator = derive_generator(self.seed, SeedStream.RANDOM_FEATURES, int(self.draws))
        features, head_dim = self.matrix.shape
        matrix = draw_features(features, head_dim, generator=generator, orthogonal=self.orthogonal)
        self.matrix.copy_(matrix)
        self.draws += 1

    def forward(self) -> Float[Tensor, "features head_dim"]:
        return self.matrix
