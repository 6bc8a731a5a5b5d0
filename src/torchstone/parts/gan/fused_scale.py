"""A convolution fused with nearest-neighbor upsampling before it, or with average pooling after it.

Both are one convolution of stride 2 whose kernel is wider by one: the sum of the kernel at the four offsets
of 2 × 2 pixels. It takes 4/9 of the multiplications of a 3 × 3 kernel. Karras, Aila, Laine and Lehtinen 2018
(arXiv:1710.10196), in their published code.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch inputs height width"]
Weight = Float[Tensor, "outputs inputs kernel kernel"]


def widen(weight: Weight) -> Float[Tensor, "outputs inputs wider wider"]:
    """The sum of a kernel at the four offsets of 2 × 2 pixels."""
    w = F.pad(weight, (1, 1, 1, 1))
    w = w[:, :, 1:] + w[:, :, :-1]
    return w[..., 1:] + w[..., :-1]


def upsample_conv2d(x: Images, weight: Weight) -> Float[Tensor, "batch outputs h w"]:
    """`x` with each pixel repeated 2 × 2 times, then convolved with `weight`.

    The kernel's side is odd; half of it is padded with zeros, so that the image's sides are kept.
    """
    wide = widen(weight.flip(2, 3)).transpose(0, 1)
    return F.conv_transpose2d(x, wide, stride=2, padding=weight.shape[-1] // 2)


def conv_downsample2d(
    x: Images, weight: Weight, bias: Float[Tensor, " outputs"] | None = None
) -> Float[Tensor, "batch outputs h w"]:
    """`x` convolved with `weight`, as in `upsample_conv2d`; then the mean of each 2 × 2 pixels, and the
    bias."""
    return F.conv2d(x, widen(weight) / 4, bias, stride=2, padding=weight.shape[-1] // 2)
