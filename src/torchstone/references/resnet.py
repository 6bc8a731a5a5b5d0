"""Reference for residual networks: their equations on bare tensors, and randomized norms."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase


class NaiveResNet(nn.Module):
    """The network of the same parameters, computed without any layer of torch.

    Convolution is a matrix product over extracted windows, batch norm its definition, shortcut A a copy
    into zeros. It handles networks of `conv1 bn1 layer1 … fc` with blocks of `conv1 bn1 conv2 bn2 …`.

    Args:
        gate: (output of the branch, the block) -> what is added to the shortcut.
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
        padded = torch.zeros_like(y)  # each channel of x in its position, every second pixel of it
        first = (y.shape[1] - x.shape[1]) // 2
        for channel in range(x.shape[1]):
            for row in range(y.shape[2]):
                padded[:, first + channel, row] = x[:, channel, 2 * row, ::2]
        return padded


def convolve(x: Tensor, layer: Any) -> Tensor:
    """Windows times weights."""
    weight, (stride, _), (padding, _) = layer.weight, layer.stride, layer.padding
    kernel = weight.shape[-1]
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding)
    padded[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]] = x
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride)
    return torch.einsum("bchwij,ocij->bohw", windows, weight)


def batch_norm(x: Tensor, layer: Any) -> Tensor:
    """γ (x − mean) / √(variance + ε) + β; the batch's statistics in training, else the running ones."""
    if layer.training:
        mean = x.mean((0, 2, 3))
        variance = (x - mean[:, None, None]).square().mean((0, 2, 3))
    else:
        mean, variance = layer.running_mean, layer.running_var
    scale = layer.weight / (variance + layer.eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]


def max_pool(x: Tensor) -> Tensor:
    """3×3 max pooling with stride 2 and padding 1."""
    padded = x.new_full((*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2), -torch.inf)
    padded[:, :, 1:-1, 1:-1] = x
    return padded.unfold(2, 3, 2).unfold(3, 3, 2).flatten(4).amax(4)


@torch.no_grad()
def randomize_norms(network: nn.Module, inputs: Tensor) -> nn.Module:
    """`network` with norms that are neither one nor zero, and running statistics that fit `inputs`.

    As initialized they would hide a branch that starts at zero, or a misplaced norm.
    """
    norms = {m: m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    for layer in norms:
        layer.weight.uniform_(0.5, 1.0)
        layer.bias.normal_(0, 0.1)
        layer.momentum = 1.0
    blocks: list[Any] = [m for m in network.modules() if hasattr(m, "conv2")]
    for block in blocks:
        # small residuals, or steps of gradient descent would diverge
        getattr(block, "bn3", block.bn2).weight.mul_(0.2)
    network.train()(inputs)
    for layer, momentum in norms.items():
        layer.momentum = momentum
    return network


def resnet_cases(
    variant: str,
    make: Callable[..., nn.Module],
    make_theirs: Callable[[], nn.Module] | None,
    published: Callable[[str, Mapping[str, Tensor]], dict[str, Tensor]],
    *,
    side: int = 40,
    dtype: torch.dtype = torch.float64,
    gate: Callable[..., Tensor] = lambda y, block: y,
) -> Iterator[Callable[[], ParityCase]]:
    """Ours and theirs in evaluation and in training mode, with ten classes and the same weights.

    Without a class of theirs, ours is compared with `NaiveResNet`.
    """

    @cache
    def pair() -> tuple[nn.Module, nn.Module, Tensor]:
        torch.manual_seed(0)
        images = torch.randn(2, 3, side, side, dtype=dtype)
        ours = make(num_classes=10).to(dtype)
        if make_theirs is None:
            return ours, NaiveResNet(randomize_norms(ours, images), gate), images
        theirs = randomize_norms(make_theirs().to(dtype), images)
        ours.load_state_dict(published(variant, theirs.state_dict()))
        return ours, theirs, images

    def case(training: bool) -> ParityCase:
        ours, theirs, images = pair()
        case = ParityCase(ours.train(training), theirs.train(training), images)
        return case if training else case._replace(optimizer=None)  # nobody trains in evaluation mode

    yield partial(case, False)
    yield partial(case, True)
