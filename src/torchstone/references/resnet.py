"""What residual networks are held against: their equations on bare tensors, and shaken weights."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase


class NaiveResNet(nn.Module):
    """The network of the same parameters; no layer of torch does the work.

    Convolution is a matrix product over cut-out windows, batch norm its definition, shortcut A a copy
    into zeros. It knows networks of `conv1 bn1 layer1 … fc` with blocks of `conv1 bn1 conv2 bn2 …`.

    Args:
        gate: (what the branch says, the block) -> what is added to the shortcut.
    """

    def __init__(self, network: nn.Module, gate: Callable[..., Tensor] = lambda y, block: y):
        super().__init__()
        self.net: Any = network
        self.gate = gate

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        x = batch_norm(convolve(images, net.conv1), net.bn1).clamp(min=0)
        if not isinstance(net.maxpool, nn.Identity):
            x = max_pool(x)
        for stage in net.stages:
            for block in getattr(net, stage):
                x = self.block(x, block)
        return torch.stack([net.fc.weight @ each.flatten(1).mean(1) + net.fc.bias for each in x])

    def block(self, x: Tensor, block) -> Tensor:
        y, count = x, int(block.last[-1])
        for i in range(1, count + 1):
            y = batch_norm(convolve(y, getattr(block, f"conv{i}")), getattr(block, f"bn{i}"))
            y = y.clamp(min=0) if i < count else y
        return (self.gate(y, block) + self.shortcut(x, y, block)).clamp(min=0)

    def shortcut(self, x: Tensor, y: Tensor, block) -> Tensor:
        if x.shape == y.shape:
            return x
        if isinstance(block.downsample, nn.Sequential):
            return batch_norm(convolve(x, block.downsample[0]), block.downsample[1])
        padded = torch.zeros_like(y)  # each channel of x to its place, every second pixel of it
        first = (y.shape[1] - x.shape[1]) // 2
        for channel in range(x.shape[1]):
            for row in range(y.shape[2]):
                padded[:, first + channel, row] = x[:, channel, 2 * row, ::2]
        return padded


def convolve(x: Tensor, layer: Any) -> Tensor:
    """Windows times weights."""
    weight, (stride, _), (edge, _) = layer.weight, layer.stride, layer.padding
    kernel = weight.shape[-1]
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * edge, x.shape[3] + 2 * edge)
    padded[:, :, edge : edge + x.shape[2], edge : edge + x.shape[3]] = x
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)
    return torch.einsum("bchwij,ocij->bohw", windows, weight)


def batch_norm(x: Tensor, layer: Any) -> Tensor:
    """γ (x − mean) / √(variance + ε) + β, over batch and places in training, else as running."""
    if layer.training:
        mean = x.mean((0, 2, 3))
        variance = (x - mean[:, None, None]).square().mean((0, 2, 3))
    else:
        mean, variance = layer.running_mean, layer.running_var
    scale = layer.weight / (variance + layer.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]


def max_pool(x: Tensor) -> Tensor:
    """The largest of 3×3 every second place, the edge padded by one."""
    edged = x.new_full((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2), -torch.inf)
    edged[:, :, 1:-1, 1:-1] = x
    return edged.unfold(2, 3, 2).unfold(3, 3, 2).flatten(4).amax(4)


@torch.no_grad()
def randomize_norms(network: nn.Module, inputs: Tensor) -> nn.Module:
    """`network` with norms that are neither one nor zero, and running statistics that fit `inputs`.

    As created they would hide a branch that starts at zero, or a norm at the wrong place.
    """
    norms = {m: m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    for layer in norms:
        layer.weight.uniform_(0.5, 1.0)
        layer.bias.normal_(0, 0.1)
        layer.momentum = 1.0
    blocks: list[Any] = [m for m in network.modules() if hasattr(m, "conv2")]
    for block in blocks:
        # corrections small, or steps of descent would run away
        getattr(block, "bn3", block.bn2).weight.mul_(0.2)
    network.train()(inputs)
    for layer, momentum in norms.items():
        layer.momentum = momentum
    return network


def resnet_cases(
    variant: str,
    make: Callable[..., nn.Module],
    theirs: Callable[[], nn.Module] | None,
    published: Callable[[str, Mapping[str, Tensor]], dict[str, Tensor]],
    *,
    side: int = 40,
    dtype: torch.dtype = torch.float64,
    gate: Callable[..., Tensor] = lambda y, block: y,
) -> Iterator[ParityCase]:
    """Ours and theirs in evaluation and in training mode, ten classes.

    Theirs gives its weights to ours by its published names; without a class of theirs, ours are
    written out.
    """
    torch.manual_seed(0)
    images = torch.randn(2, 3, side, side, dtype=dtype)
    ours = make(num_classes=10).to(dtype)
    if theirs is None:
        other: nn.Module = NaiveResNet(randomize_norms(ours, images), gate)
    else:
        other = randomize_norms(theirs().to(dtype), images)
        ours.load_state_dict(published(variant, other.state_dict()))
    yield ParityCase(ours.eval(), other.eval(), images, optimizer=None)  # nobody trains it that way
    yield ParityCase(ours.train(), other.train(), images)
