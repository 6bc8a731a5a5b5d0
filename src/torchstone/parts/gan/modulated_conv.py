"""Modulated convolution: each image's style scales the input channels, and the outputs are normalized.

Karras et al. 2020 (arXiv:1912.04958), section 2.2:

    w'_{oik} = s_i w_{oik},     w''_{oik} = w'_{oik} / √(Σ_{ik} w'_{oik}² + ε)          (equations 1 to 3)

With weights that differ from image to image this is a grouped convolution. But the scales of inputs and
outputs can as well be applied to the activations:

    y_o = d_o Σ_i w_{oi} ∗ (s_i x_i),     d_o = (Σ_i s_i² Σ_k w_{oik}² + ε)^(−½)

which is one convolution for the entire batch, and d one matrix product. Here d is a result of its own
(`demodulation`): what follows is a leaky ReLU, for which d > 0 can be multiplied later, in the next layer's
s, where it costs nothing.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from torchstone.parts.gan.resample import Filter, upfirdn2d

EPS = 1e-8

Images = Float[Tensor, "batch inputs height width"]
Styles = Float[Tensor, "batch inputs"]
Weight = Float[Tensor, "outputs inputs kernel kernel"]


def demodulation(weight: Weight, styles: Styles) -> Float[Tensor, "batch outputs"]:
    """d: one over the expected standard deviation of the outputs, for inputs of variance 1."""
    return (styles.square() @ weight.square().sum((2, 3)).T + EPS).rsqrt()


def scaled_conv2d(
    x: Images, weight: Weight, scales: Styles, fir: Filter | None = None
) -> Float[Tensor, "batch outputs h w"]:
    """The convolution of `x`, whose channels are scaled first, with twice the sides if there is a `fir`.

    Doubling: a transposed convolution of stride 2, which `fir` smooths.
    """
    x = x * scales[:, :, None, None]
    padding = weight.shape[-1] // 2
    if fir is None:
        return F.conv2d(x, weight, padding=padding)
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    margin = 2 - padding  # 1 for a kernel of 3
    return upfirdn2d(y, fir, padding=(margin, margin), gain=4)


def modulated_conv2d(
    x: Images, weight: Weight, styles: Styles, *, demodulates: bool = True, fir: Filter | None = None
) -> Float[Tensor, "batch outputs h w"]:
    """The modulated convolution as one function (equations 1 to 3)."""
    y = scaled_conv2d(x, weight, styles, fir)
    return y * demodulation(weight, styles)[:, :, None, None] if demodulates else y


def modulated_pointwise(
    x: Images, weight: Float[Tensor, "outputs inputs"], scales: Styles
) -> Float[Tensor, "batch outputs height width"]:
    """A 1 × 1 convolution without demodulation, with weights of each image's own: they are few, the pixels
    are many."""
    own = weight * scales[:, None, :]
    return torch.bmm(own, x.flatten(2)).unflatten(2, x.shape[2:])
