"""Up- and downsampling with a finite impulse response (FIR) filter, so that no frequency folds over.

Karras et al. 2020 (arXiv:1912.04958), appendix B, after Zhang 2019 (arXiv:1904.11486): the binomial filter
[1, 3, 3, 1] in both directions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TAPS = (1, 3, 3, 1)

Filter = Float[Tensor, "taps taps"]


def fir_filter(taps: Sequence[float] = TAPS) -> Filter:
    """The outer product of `taps` with itself, of sum 1."""
    one = torch.tensor(taps, dtype=torch.float64)
    return (one.outer(one) / one.sum() ** 2).float()


def upfirdn2d(
    x: Float[Tensor, "batch channel height width"],
    fir: Filter,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> Float[Tensor, "batch channel h w"]:
    """Insert `up` − 1 zeros after each pixel, pad with zeros, convolve with `fir`, keep each `down`-th pixel.

    The sides become (side·up + before + after − taps) / down + 1, rounded down.

    Args:
        padding: before and after, in pixels of the upsampled image, the same in both directions; negative
            ones crop.
        gain: by which the result is multiplied; `up`² keeps the mean.
    """
    channels, taps = x.shape[1], fir.shape[-1]
    weight = (fir * gain).to(x.dtype).expand(channels, 1, taps, taps)
    before, after = padding
    if up == 1:  # a correlation with the flipped filter
        if before != after or before < 0:
            x, before = F.pad(x, (before, after, before, after)), 0
        return F.conv2d(x, weight.flip(2, 3), stride=down, padding=before, groups=channels)
    # transposed, the zeros are never stored; its result has taps − 1 pixels before the first valid one,
    # and no zeros after the last pixel
    start, stop = taps - 1 - before, taps - up - after
    crop = start if start == stop and start >= 0 else 0
    y = F.conv_transpose2d(x, weight, stride=up, padding=crop, groups=channels)
    if crop != start or crop != stop:
        y = F.pad(y, (-start, -stop, -start, -stop))
    return y if down == 1 else y[..., ::down, ::down]


def upsample2d(x: Float[Tensor, "batch channel height width"], fir: Filter) -> Float[Tensor, "b c h w"]:
    """Twice the sides, the same mean."""
    return upfirdn2d(x, fir, up=2, padding=(2, 1), gain=4)
