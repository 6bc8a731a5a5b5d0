"""Convolution with what usually follows it, its separable and dilated forms, and their arithmetic."""

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

    An odd kernel keeps height and width, divided by `stride` and rounded up. `act=None` leaves the
    activation out.
    """
    if not kernel % 2:
        raise ValueError(f"a kernel of {kernel} has no middle: take an odd one")
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
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **settings
) -> nn.Sequential:
    """One filter a channel, then 1×1 across channels; norm and activation after each.

    Howard et al. 2017, arXiv:1704.04861, section 3.1. `settings` are those of `conv_norm_act`.
    """
    return nn.Sequential(
        conv_norm_act(inputs, inputs, kernel, stride, groups=inputs, **settings),
        conv_norm_act(inputs, outputs, 1, **settings),
    )


def separable_cost(outputs: int, kernel: int) -> float:
    """What depthwise and 1×1 cost of a full convolution at the same stride: 1/N + 1/k² (ibid.)."""
    return 1 / outputs + 1 / kernel**2


class SamePadding(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME": so much that the output is ⌈side / stride⌉, and
    the odd pixel at the bottom and right. Weights trained there with stride 2 expect it."""

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


def effective_kernel(kernel: int, rate: int) -> int:
    """Pixels that a kernel dilated by `rate` reaches over: k + (k − 1)(r − 1)."""
    return kernel + (kernel - 1) * (rate - 1)


def zero_stuff(weight: Float[Tensor, "outputs inputs k k2"], rate: int) -> Tensor:
    """The kernel with `rate` − 1 zeros between its weights: a plain convolution with it is the dilated
    one with `weight` (Yu and Koltun 2015, arXiv:1511.07122)."""
    height, width = (effective_kernel(k, rate) for k in weight.shape[2:])
    zeros = torch.zeros(*weight.shape[:2], height, width, dtype=weight.dtype, device=weight.device)
    zeros[:, :, ::rate, ::rate] = weight
    return zeros


def make_divisible(channels: float) -> int:
    """`channels` rounded to a multiple of 8 (half of it up), but not by more than 10 % down."""
    rounded = max(8, math.floor(channels / 8 + 0.5) * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def reduce_strides(strides: Sequence[int], overall: int) -> list[int]:
    """`strides` with the first halvings left out, until their product is `overall`.

    How networks made for large pictures are given small ones: stride 8 for CIFAR's 32×32.
    """
    kept, product = list(strides), math.prod(strides)
    for place, stride in enumerate(kept):
        if product <= overall:
            break
        kept[place], product = 1, product // stride
    if product != overall:
        raise ValueError(f"strides of {math.prod(strides)} cannot be made {overall}: halve it")
    return kept
