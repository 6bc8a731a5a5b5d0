"""Convolution with norm and activation, its separable and dilated forms, and their cost."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Layer = Callable[..., nn.Module]


def relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def conv_norm_act(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    norm: Layer = nn.BatchNorm2d,
    act: Callable[[], nn.Module] | None = relu,
    convolution: Layer = nn.Conv2d,
) -> nn.Sequential:
    """Convolution (no bias: the norm has one), norm and activation, as layers 0, 1 and 2.

    An odd kernel preserves height and width, divided by `stride` and rounded up. `act=None` omits the
    activation.
    """
    if not kernel % 2:
        raise ValueError(f"a kernel of {kernel} has no center: use an odd one")
    layers = [
        convolution(
            inputs,
            outputs,
            kernel,
            stride,
            padding=dilation * (kernel - 1) // 2,
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        norm(outputs),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


def depthwise_separable(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **kwargs
) -> nn.Sequential:
    """Depthwise (one filter per channel), then pointwise (1×1); norm and activation after each.

    Howard et al. 2017, arXiv:1704.04861, section 3.1. `kwargs` are those of `conv_norm_act`.
    """
    return nn.Sequential(
        conv_norm_act(inputs, inputs, kernel, stride, groups=inputs, **kwargs),
        conv_norm_act(inputs, outputs, 1, **kwargs),
    )


def separable_cost(outputs: int, kernel: int) -> float:
    """Cost of depthwise and 1×1 relative to a full convolution at the same stride: 1/N + 1/k² (ibid.)."""
    return 1 / outputs + 1 / kernel**2


class SamePadding(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding: the output is ⌈side / stride⌉, and an odd pixel of
    padding goes to the bottom and right. Weights trained there with stride 2 expect it."""

    def forward(self, input: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        pads: list[int] = []
        for axis in (1, 0):  # F.pad takes the width first
            side, k, s = input.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            extent = effective_kernel(k, self.dilation[axis])
            total = max(0, (math.ceil(side / s) - 1) * s + extent - side)
            pads += [total // 2, total - total // 2]
        if any(pads):
            input = F.pad(input, pads)
        return F.conv2d(input, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def effective_kernel(kernel: int, dilation: int) -> int:
    """The extent of a dilated kernel in pixels: k + (k − 1)(d − 1)."""
    return kernel + (kernel - 1) * (dilation - 1)


def zero_stuff(weight: Float[Tensor, "outputs inputs k k2"], dilation: int) -> Tensor:
    """The kernel with `dilation` − 1 zeros between its weights: a plain convolution with it is the dilated
    one with `weight` (Yu and Koltun 2015, arXiv:1511.07122)."""
    height, width = (effective_kernel(k, dilation) for k in weight.shape[2:])
    zeros = torch.zeros(*weight.shape[:2], height, width, dtype=weight.dtype, device=weight.device)
    zeros[:, :, ::dilation, ::dilation] = weight
    return zeros


def make_divisible(channels: float) -> int:
    """`channels` rounded to a multiple of 8 (half of it up), but not by more than 10 % down."""
    rounded = max(8, math.floor(channels / 8 + 0.5) * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def reduce_strides(strides: Sequence[int], output_stride: int) -> list[int]:
    """`strides` with the first ones set to 1 until their product is `output_stride`.

    How networks made for large images are used on small ones: output stride 8 for CIFAR's 32×32.
    """
    reduced, product = list(strides), math.prod(strides)
    for i, stride in enumerate(reduced):
        if product <= output_stride:
            break
        reduced[i], product = 1, product // stride
    if product != output_stride:
        raise ValueError(
            f"strides with the product {math.prod(strides)} cannot be reduced to {output_stride}: halve it"
        )
    return reduced
