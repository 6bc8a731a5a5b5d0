"""Invertible layers of normalizing flows: couplings built from arbitrary networks.

Dinh, Sohl-Dickstein and Bengio 2016 (Real NVP, arXiv:1605.08803), sections 3.2 to 3.6. One part of the
input stays as it is and determines how the other part is scaled and shifted. The Jacobian is therefore
triangular, and its determinant is the product of its diagonal:

    z = b ⊙ x + (1 − b) ⊙ (x ⊙ exp(s) + t),   s, t from b ⊙ x,   log |det ∂z/∂x| = Σ (1 − b) ⊙ s

Every layer has `forward(x) -> (z, log_det)` and `inverse(z) -> (x, log_det)`. Each returns the log
determinant of its own direction, one value for each row of the batch, in nats.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.parts.flow.logistic_mixture import LogisticMixture

Batch = Float[Tensor, "batch *shape"]
Images = Float[Tensor, "batch channel height width"]
LogDet = Float[Tensor, " batch"]

STD_FLOOR = 1e-6  # added to standard deviations that are divided by
MIN_LOG_SCALE = -7.0  # of the components of a mixture of logistics


def checkerboard(height: int, width: int, *, odd: bool = False) -> Float[Tensor, "1 height width"]:
    """1 where row and column add up to an even number (or an odd one), else 0 (figure 3, left)."""
    parity = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    return (parity == int(odd)).float()[None]


def channel_mask(channels: int, *, second: bool = False) -> Float[Tensor, "channels 1 1"]:
    """1 for the first half of the channels (or the second), else 0 (figure 3, right)."""
    return ((torch.arange(channels) >= channels // 2) == second).float()[:, None, None]


def alternating_mask(width: int, *, odd: bool = False) -> Float[Tensor, " width"]:
    """1 for every other feature of a row."""
    return (torch.arange(width) % 2 == int(odd)).float()


class AffineCoupling(nn.Module):
    """The affine coupling (equation 9) with scale s = limit ⊙ tanh(…), `limit` learned for each channel.

    Args:
        net: from b ⊙ x (zero where x is transformed) to s and t, concatenated along the channels.
        mask: b, 1 for what stays unchanged: (channels or 1, height, width) of images, (features,) of rows.
        channels: of x; of rows, the number of features.
    """

    mask: Tensor

    def __init__(self, net: nn.Module, mask: Float[Tensor, "*shape"], channels: int):
        super().__init__()
        self.net = net
        self.limit = nn.Parameter(torch.ones(channels, *[1] * (mask.ndim - 1)))
        self.register_buffer("mask", mask, persistent=False)

    def scale_and_shift(self, x: Batch) -> tuple[Batch, Batch]:
        """s and t, zero under the mask. The masked part is the same in x and in z."""
        s, t = self.net(self.mask * x).chunk(2, 1)
        free = 1 - self.mask
        return free * self.limit * torch.tanh(s), free * t

    def forward(self, x: Batch) -> tuple[Batch, LogDet]:
        s, t = self.scale_and_shift(x)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, z: Batch) -> tuple[Batch, LogDet]:
        s, t = self.scale_and_shift(z)
        return (z - t) * (-s).exp(), -s.flatten(1).sum(1)


class ChannelCoupling(nn.Module):
    """A coupling of the two halves of the channels (Kingma and Dhariwal 2018, arXiv:1807.03039, 3.3):

        z = [x_a, s ⊙ x_b + t],    s = sigmoid(raw + 2),    t and raw from x_a alone

    The network sees half of the channels, not all of them with a mask. A scale between 0 and 1 is that of the
    code published with the paper, whose equation is s = exp(raw). Where the network gives zeros, as it does
    before training, s is 0.88.

    Args:
        net: from the first half of the channels to t and raw, concatenated along the channels.
        is_affine: if not, the coupling is additive (Dinh et al. 2014, arXiv:1410.8516): s = 1, `net` gives t.
    """

    def __init__(self, net: nn.Module, is_affine: bool = True):
        super().__init__()
        self.net, self.is_affine = net, is_affine

    def log_scale_and_shift(self, a: Images) -> tuple[Images, Images]:
        output = self.net(a)
        if not self.is_affine:
            return torch.zeros_like(output), output
        shift, raw = output.chunk(2, 1)
        return F.logsigmoid(raw + 2), shift

    def forward(self, x: Images) -> tuple[Images, LogDet]:
        a, b = x.chunk(2, 1)
        log_scale, shift = self.log_scale_and_shift(a)
        return torch.cat([a, b * log_scale.exp() + shift], 1), log_scale.flatten(1).sum(1)

    def inverse(self, z: Images) -> tuple[Images, LogDet]:
        a, b = z.chunk(2, 1)
        log_scale, shift = self.log_scale_and_shift(a)
        return torch.cat([a, (b - shift) * (-log_scale).exp()], 1), -log_scale.flatten(1).sum(1)


class MixtureCoupling(nn.Module):
    """A coupling of the two halves of the channels, by a `LogisticMixture` and then an affine map (Ho et al.
    2019, arXiv:1902.00275, section 3.2):

        z = [x_a, σ⁻¹(F(x_b; π, μ, s)) ⊙ exp(a) + b],    log |det| = Σ log dσ⁻¹(F)/dx + a

    π, μ, s, a and b of each number come from x_a alone. As in the published code, a = tanh(raw)
    and log s is at least −7.

    Args:
        net: from the first half of the channels (and a context) to 2 + 3 · components numbers for each of the
            second half: (batch, height, width, channel, numbers).
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def coefficients(self, a: Images, *context: Tensor) -> tuple[Images, Images, LogisticMixture]:
        """log of the factor, shift, and mixtures, in the dtype of x whatever that of the network."""
        raw = self.net(a, *context).to(a.dtype).permute(0, 3, 1, 2, 4)
        log_factor, shift = torch.tanh(raw[..., 0]), raw[..., 1]
        logits, mean, log_scale = raw[..., 2:].chunk(3, -1)
        return log_factor, shift, LogisticMixture(logits, mean, log_scale.clamp(min=MIN_LOG_SCALE))

    def forward(self, x: Images, *context: Tensor) -> tuple[Images, LogDet]:
        a, b = x.chunk(2, 1)
        log_factor, shift, mixture = self.coefficients(a, *context)
        y, log_slope = mixture.logit_cdf(b)
        z = y * log_factor.exp() + shift
        return torch.cat([a, z], 1), (log_slope + log_factor).flatten(1).sum(1)

    def inverse(self, z: Images, *context: Tensor) -> tuple[Images, LogDet]:
        a, b = z.chunk(2, 1)
        log_factor, shift, mixture = self.coefficients(a, *context)
        x = mixture.inverse_logit_cdf((b - shift) * (-log_factor).exp())
        log_slope = mixture.logit_cdf(x)[1]
        return torch.cat([a, x], 1), -(log_slope + log_factor).flatten(1).sum(1)


class Squeeze(nn.Module):
    """Space to depth: 2 × 2 pixels become 4 times as many channels at half the side (section 3.6), log_det 0.

    The first half of the channels are the pixels of one color of the checkerboard.
    """

    ORDER, INVERSE_ORDER = (0, 3, 1, 2), (0, 2, 3, 1)  # of the four pixels: one diagonal, then the other

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch wide low narrow"], LogDet]:
        pixels = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))
        return pixels[:, :, self.ORDER].transpose(1, 2).flatten(1, 2), x.new_zeros(len(x))

    def inverse(
        self, z: Float[Tensor, "batch wide low narrow"]
    ) -> tuple[Float[Tensor, "batch channel height width"], LogDet]:
        pixels = z.unflatten(1, (4, -1)).transpose(1, 2)[:, :, self.INVERSE_ORDER]
        return F.pixel_shuffle(pixels.flatten(1, 2), 2), z.new_zeros(len(z))


class CheckerboardHalves(nn.Module):
    """The two colors of a checkerboard as two halves of the channels, at half the width; log_det 0.

    Of each two pixels side by side, the first half has the left one in even rows and the right one in odd
    rows. A coupling of channels after it is one with a checkerboard mask, whose network sees only the half
    that it is given.
    """

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch halves height narrow"], LogDet]:
        first, second = self.swap_odd_rows(*x.unflatten(3, (-1, 2)).unbind(4))
        return torch.cat([first, second], 1), x.new_zeros(len(x))

    def inverse(
        self, z: Float[Tensor, "batch halves height narrow"]
    ) -> tuple[Float[Tensor, "batch channel height width"], LogDet]:
        pairs = self.swap_odd_rows(*z.chunk(2, 1))
        return torch.stack(pairs, 4).flatten(3), z.new_zeros(len(z))

    def swap_odd_rows(self, a: Images, b: Images) -> tuple[Images, Images]:
        is_odd = (torch.arange(a.shape[2], device=a.device) % 2 == 1)[:, None]
        return torch.where(is_odd, b, a), torch.where(is_odd, a, b)


class SwapHalves(nn.Module):
    """The two halves of the channels in each other's place, log_det 0."""

    def forward(self, x: Images) -> tuple[Images, LogDet]:
        a, b = x.chunk(2, 1)
        return torch.cat([b, a], 1), x.new_zeros(len(x))

    def inverse(self, z: Images) -> tuple[Images, LogDet]:
        return self(z)


class InverseFlow(nn.Module):
    """A layer run backwards."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer: Any = layer

    def forward(self, x: Batch) -> tuple[Float[Tensor, "batch *out"], LogDet]:
        return self.layer.inverse(x)

    def inverse(self, z: Batch) -> tuple[Float[Tensor, "batch *out"], LogDet]:
        return self.layer(z)


class Standardize(nn.Module):
    """z = (x − mean) / std, with given statistics, so that the units of the data make no difference."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, x: Batch) -> tuple[Batch, LogDet]:
        return (x - self.mean) / self.std, -self.std.log().sum().expand(len(x))

    def inverse(self, z: Batch) -> tuple[Batch, LogDet]:
        return z * self.std + self.mean, self.std.log().sum().expand(len(z))


class ActNorm(nn.Module):
    """z = exp(scale) ⊙ (x + shift), with a learned scale and shift for each channel (or feature of a row).

    It replaces batch norm, under which the likelihood of one row would depend on the others (Kingma and
    Dhariwal 2018, arXiv:1807.03039, 3.1). The order, shift before scale, is that of the code published with
    the paper; its table 1 has s ⊙ x + b. It starts as the identity, until `initialize_actnorm`.

    Args:
        axes: number of spatial axes of x, after the channels.
        sides: of these axes, where each position has a scale and shift of its own (as in Flow++).
    """

    def __init__(self, channels: int, axes: int = 2, sides: Sequence[int] | None = None):
        super().__init__()
        sides = [1] * axes if sides is None else sides
        self.scale = nn.Parameter(torch.zeros(channels, *sides))
        self.shift = nn.Parameter(torch.zeros(channels, *sides))

    def forward(self, x: Batch) -> tuple[Batch, LogDet]:
        return (x + self.shift) * self.scale.exp(), self.log_det(x)

    def inverse(self, z: Batch) -> tuple[Batch, LogDet]:
        return z * (-self.scale).exp() - self.shift, -self.log_det(z)

    def log_det(self, x: Batch) -> LogDet:
        positions = math.prod(x.shape[1:]) // self.scale.numel()  # that share a scale
        return (self.scale.sum() * positions).expand(len(x))

    def initialize(self, x: Batch) -> None:
        """From the input: each output then has mean 0 and standard deviation 1."""
        shared = [axis for axis in range(2, x.ndim) if self.scale.shape[axis - 1] == 1]
        std, mean = torch.std_mean(x, [0, *shared], correction=0, keepdim=True)
        self.shift.copy_(-mean[0])
        self.scale.copy_(-(std[0] + STD_FLOOR).log())


@torch.no_grad()
def initialize_actnorm(network: nn.Module, *inputs: Any) -> None:
    """Set every `ActNorm` in `network`, one after the other in one call of it, so that on a first batch each
    channel of its output has mean 0 and standard deviation 1 (Kingma and Dhariwal 2018, 3.1). Other layers
    that have a method `initialize`, of their input, are set likewise.

    The layers have no memory of it: it is part of making a network, like drawing its weights, never of a
    forward pass. A network whose weights are loaded keeps those.
    """

    def initialize(layer: Any, inputs: tuple[Tensor]) -> None:
        layer.initialize(inputs[0])

    layers = [layer for layer in network.modules() if hasattr(layer, "initialize")]
    hooks = [layer.register_forward_pre_hook(initialize) for layer in layers]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


class ComposeFlow(nn.Module):
    """A sequence of layers, whose log-determinants add up (equations 6 and 7)."""

    def __init__(self, layers: Iterable[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Batch) -> tuple[Float[Tensor, "batch *out"], LogDet]:
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, z: Batch) -> tuple[Float[Tensor, "batch *out"], LogDet]:
        total = z.new_zeros(len(z))
        layers: list[Any] = list(self.layers)
        for layer in reversed(layers):
            z, log_det = layer.inverse(z)
            total = total + log_det
        return z, total


class MultiScaleFlow(nn.Module):
    """Multi-scale architecture: after each stage but the last, half of the channels go to z (section 3.6).

    Args:
        stages: flows of images, each but the last with one `Squeeze`.
        shape: (channel, height, width) of the input.
        squeezes_last: the last stage has one too (as in Glow; not in Real NVP).
    """

    def __init__(self, stages: Iterable[nn.Module], shape: Sequence[int], *, squeezes_last: bool = False):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        channel, height, width = shape
        self.split_shapes = []  # of what goes to z after each stage
        for _ in itertools.islice(self.stages, len(self.stages) - 1):
            channel, height, width = 2 * channel, height // 2, width // 2
            self.split_shapes.append((channel, height, width))
        if squeezes_last:
            channel, height, width = 4 * channel, height // 2, width // 2
        self.split_shapes.append((channel, height, width))

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch numbers"], LogDet]:
        """What is split off first comes first in z (equation 15)."""
        total, outputs = x.new_zeros(len(x)), []
        for number, stage in enumerate(self.stages, 1):
            x, log_det = stage(x)
            total = total + log_det
            if number < len(self.stages):
                split, x = x.chunk(2, 1)
                outputs.append(split.flatten(1))
        return torch.cat([*outputs, x.flatten(1)], 1), total

    def inverse(
        self, z: Float[Tensor, "batch numbers"]
    ) -> tuple[Float[Tensor, "batch channel height width"], LogDet]:
        parts = z.split([math.prod(shape) for shape in self.split_shapes], 1)
        x, total = parts[-1].unflatten(1, self.split_shapes[-1]), z.new_zeros(len(z))
        for number in range(len(self.stages), 0, -1):
            if number < len(self.stages):
                split = parts[number - 1].unflatten(1, self.split_shapes[number - 1])
                x = torch.cat([split, x], 1)
            stage: Any = self.stages[number - 1]
            x, log_det = stage.inverse(x)
            total = total + log_det
        return x, total


def standard_normal_log_prob(z: Float[Tensor, "batch numbers"]) -> LogDet:
    """log N(z; 0, I), in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
