"""Batch, layer, group and instance normalization as their equations: which axes share a mean and a variance.

    y = γ·(x − μ)/√(σ² + ε) + β

               μ and σ² over                    Source
    batch      batch and space, for a channel   Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1
    layer      the last axes, for an example    Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 3
    group      a group of channels and space    Wu and He 2018, arXiv:1803.08494, equation 7
    instance   space, for example and channel   Ulyanov et al. 2016, arXiv:1607.08022, equation 3

σ² is the biased variance in all of them. Batch normalization evaluates with running statistics, whose
variance is the unbiased one. Networks here use torch's modules, whose parameters and buffers these have by
name.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def standardize(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """(x − μ)/√(σ² + ε) with mean and biased variance over `axes`."""
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    return (x - mean) / (variance + eps).sqrt()


def scale_channels(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """γ·x + β for each channel, the second axis."""
    if weight is None or bias is None:
        return x
    shape = (1, -1, *[1] * (x.ndim - 2))
    return x * weight.view(shape) + bias.view(shape)


class BatchNorm(nn.Module):
    """`nn.BatchNorm1d`, `2d` and `3d`: running statistics move by `momentum`, or are the mean of all batches
    where it is None."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float | None = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        axes = (0, *range(2, x.ndim))
        if self.training:
            self._track(x.detach(), axes)
            return scale_channels(standardize(x, axes, self.eps), self.weight, self.bias)
        shape = (1, -1, *[1] * (x.ndim - 2))
        deviation = (self.running_var + self.eps).sqrt()
        x = (x - self.running_mean.view(shape)) / deviation.view(shape)
        return scale_channels(x, self.weight, self.bias)

    def _track(self, x: Tensor, axes: tuple[int, ...]) -> None:
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(x.mean(axes), share)
        self.running_var.lerp_(x.var(axes, correction=1), share)


class LayerNorm(nn.Module):
    """`nn.LayerNorm` over the last axes, of shape `normalized`."""

    def __init__(self, *normalized: int, eps: float = 1e-5):
        super().__init__()
        self.eps, self.axes = eps, tuple(range(-len(normalized), 0))
        self.weight, self.bias = nn.Parameter(torch.ones(normalized)), nn.Parameter(torch.zeros(normalized))

    def forward(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.weight * standardize(x, self.axes, self.eps) + self.bias


class GroupNorm(nn.Module):
    """`nn.GroupNorm`: one group is layer normalization of channels and space, as many groups as channels are
    instance normalization."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        super().__init__()
        if channels % groups:
            raise ValueError(f"{channels} channels are no multiple of {groups} groups")
        self.groups, self.eps = groups, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        grouped = x.reshape(len(x), self.groups, x.shape[1] // self.groups * math.prod(x.shape[2:]))
        return scale_channels(standardize(grouped, (2,), self.eps).view(x.shape), self.weight, self.bias)


class InstanceNorm(nn.Module):
    """`nn.InstanceNorm1d`, `2d` and `3d`; as in torch without γ and β unless `affine`, and never with running
    statistics."""

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = False):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        return scale_channels(standardize(x, tuple(range(2, x.ndim)), self.eps), self.weight, self.bias)
