"""spandrel's StyleGAN2 generator, with the weights of ours; and a discriminator from the equations.

Its activation is a CUDA operator, and is replaced by its formula, √2 · leaky ReLU(x + b, 0.2). Its files are
read without the package around them, which imports every architecture that it has.
"""

import copy
import importlib
import importlib.util
import math
import random
import re
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.hub.stylegan import from_port
from torchstone.parts.facts import ParityCase
from torchstone.references import OutputAdapter, randomize_weights

Tensors = dict[str, Tensor]

CASES = 8
PACKAGE = "_spandrel_stylegan2"  # the name under which its files are imported
RULES = (  # its names, and those of the port that it follows
    ("style_mlp.", "style."),
    ("constant_input.weight", "input.input"),
    ("style_conv1.", "conv1."),
    ("style_convs.", "convs."),
    ("modulated_conv.", "conv."),
)
NOISE = re.compile(r"conv(1|s\.\d+)\.weight$")  # its strength


def spandrel_module() -> ModuleType:
    """The file of its StyleGAN2.

    Raises:
        BadInput: the package is not there.
    """
    if f"{PACKAGE}.stylegan2_arch" not in sys.modules:
        spec = importlib.util.find_spec("spandrel")
        if spec is None or spec.origin is None:
            raise BadInput("the reference is spandrel, which is not installed: pip install spandrel")
        package = ModuleType(PACKAGE)
        package.__path__ = [str(Path(spec.origin).parent / "architectures" / "GFPGAN" / "__arch")]
        sys.modules[PACKAGE] = package
        activation = importlib.import_module(f"{PACKAGE}.fused_act")
        vars(activation)["fused_leaky_relu"] = fused_leaky_relu
        vars(importlib.import_module(f"{PACKAGE}.stylegan2_arch"))["fused_leaky_relu"] = fused_leaky_relu
    return sys.modules[f"{PACKAGE}.stylegan2_arch"]


def fused_leaky_relu(x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    return scale * F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), negative_slope)


def spandrel_generator(
    size: int, style_dim: int, mapping_layers: int, channel_base: int, channel_max: int
) -> nn.Module:
    """Its generator of so many channels: narrow · 512 to 32 × 32, then 16384 · multiplier · narrow / side."""
    narrow = channel_max / 512
    multiplier = channel_base / narrow / 16384
    return spandrel_module().StyleGAN2Generator(
        size, style_dim, mapping_layers, channel_multiplier=multiplier, narrow=narrow
    )


def to_port(tensors: Tensors) -> Tensors:
    """Its parameters by the names of the port that it follows."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        for theirs, port in RULES:
            name = name.replace(theirs, port)
        if NOISE.match(name):
            name = name.replace(".weight", ".noise.weight")
        renamed[name] = tensor
    return renamed


def names_of(tensors: Tensors) -> Tensors:
    """From its named parameters (or their gradients) to ours, both in an `OutputAdapter`."""
    inner = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {f"model.{name}": tensor for name, tensor in from_port(to_port(inner)).items()}


def generator_cases(
    make: Callable[..., Any], numbers: Collection[int] = range(CASES)
) -> Iterator[Callable[[], ParityCase]]:
    """Generators of random configurations with a fixed seed; every fourth in single precision.

    Args:
        make: `Generator`, with its arguments.
        numbers: of the configurations, of which there are `CASES`.
    """
    choice = random.Random(0)
    for number in range(CASES):
        config = {
            "size": choice.choice((8, 16, 32)),
            "style_dim": choice.choice((4, 6, 8)),
            "mapping_layers": choice.randint(1, 4),
            "channel_max": choice.choice((4, 8)),
        }
        config["channel_base"] = choice.choice((32, 64)) * config["channel_max"]
        if number in numbers:
            yield partial(generator_case, make, number, config)


def generator_case(make: Callable[..., Any], number: int, config: dict[str, int]) -> ParityCase:
    torch.manual_seed(number)
    dtype = torch.float32 if number % 4 == 3 else torch.float64
    ours: Any = randomize_weights(make(latent_dim=config["style_dim"], **config), 1.0).to(dtype)
    theirs = spandrel_generator(**config).to(dtype)
    copied: Tensors = dict(theirs.named_parameters())
    with torch.no_grad():
        own = dict(ours.named_parameters())
        for name, view in from_port(to_port(copied)).items():
            view.copy_(own[name])
    z = torch.randn(3, config["style_dim"], dtype=dtype)
    noise = torch.randn(3, ours.noise_size, dtype=dtype)

    def run_theirs(net: Any, z: Tensor, noise: Tensor) -> Tensor:
        parts = noise.split(ours.noise_sizes, 1)
        maps = [part.view(len(z), 1, math.isqrt(part.shape[1]), -1) for part in parts]
        return net([z], noise=maps)[0]

    return ParityCase(
        OutputAdapter(ours, lambda net, z, noise: net(z, None, noise)),
        OutputAdapter(theirs, run_theirs),
        (z, noise),
        names_of,
        torch.optim.AdamW,
        ", ".join(f"{name} {value}" for name, value in config.items()),
    )


def discriminator_cases(
    make: Callable[..., Any], numbers: Collection[int] = range(CASES)
) -> Iterator[Callable[[], ParityCase]]:
    """Discriminators of random configurations with a fixed seed: residual or plain, with classes or without.

    Args:
        make: `Discriminator`, with its arguments.
        numbers: of the configurations, of which there are `CASES`.
    """
    choice = random.Random(1)
    for number in range(CASES):
        config = {
            "size": choice.choice((8, 16)),
            "channels": choice.choice((1, 3)),
            "channel_max": choice.choice((3, 6)),
            "channel_base": 64,
            "num_classes": 3 * (number % 2),
            "group_size": choice.choice((2, 3, 4)),
            "is_residual": number % 4 < 2,
        }
        if number in numbers:
            yield partial(discriminator_case, make, number, config)


def discriminator_case(make: Callable[..., Any], number: int, config: dict[str, Any]) -> ParityCase:
    torch.manual_seed(number)
    dtype = torch.float32 if number % 4 == 3 else torch.float64
    ours: Any = randomize_weights(make(**config), 1.0).to(dtype)
    images = torch.randn(4, config["channels"], config["size"], config["size"], dtype=dtype)
    inputs = (images, torch.tensor([0, 2, 1, 2])) if config["num_classes"] else (images,)
    label = ", ".join(f"{name} {value}" for name, value in config.items())
    return ParityCase(ours, ReferenceDiscriminator(ours), inputs, None, torch.optim.AdamW, label)


class ReferenceDiscriminator(nn.Module):
    """The same parameters, the equations in plain loops."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = copy.deepcopy(net)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        net: Any = self.net
        x = self.convolve(net.from_color, images, is_activated=True)
        for block in net.blocks:
            y = self.convolve(block.conv1, x, is_activated=True)
            y = self.convolve(block.conv2, reference_upfirdn(y, down=1, pad=2), 2, pad=0, is_activated=True)
            if block.skip is not None:
                y = (y + self.convolve(block.skip, reference_upfirdn(x, down=2, pad=1))) / math.sqrt(2)
            x = y
        x = torch.cat([x, self.deviations(x, net.group_size)], 1)
        x = self.convolve(net.conv, x, is_activated=True).flatten(1)
        x = reference_linear(net.linear, x, is_activated=True)
        x = reference_linear(net.output, x)
        if net.mapping is None:
            return x[:, 0]
        y = F.one_hot(labels, net.num_classes).to(x.dtype)  # ty: ignore[invalid-argument-type]
        y = reference_linear(net.mapping.embedding, y)
        y = y / (y.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for layer in net.mapping.layers:
            y = reference_linear(layer, y, lr_multiplier=0.01, is_activated=True)
        return (x * y).sum(1) / math.sqrt(x.shape[1])

    def deviations(self, x: Tensor, group_size: int) -> Tensor:
        """The standard deviation of each image's group, averaged, as a channel."""
        size = max(n for n in range(1, group_size + 1) if len(x) % n == 0)
        groups = len(x) // size
        rows = []
        for i in range(len(x)):
            group = torch.stack([x[j] for j in range(len(x)) if j % groups == i % groups])
            std = (group.var(0, correction=0) + 1e-8).sqrt().mean()
            rows.append(std * torch.ones_like(x[:1, :1]))
        return torch.cat(rows)

    def convolve(
        self, layer: Any, x: Tensor, stride: int = 1, pad: int | None = None, *, is_activated: bool = False
    ) -> Tensor:
        outputs, inputs, k, _ = layer.weight.shape
        x = F.pad(x, [k // 2 if pad is None else pad] * 4)
        patches = F.unfold(x, k, stride=stride)
        y = (layer.weight.flatten(1) / math.sqrt(inputs * k * k)) @ patches
        side = (x.shape[-1] - k) // stride + 1
        y = y.view(len(x), outputs, side, side)
        y = y if layer.bias is None else y + layer.bias[:, None, None]
        return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2) if is_activated else y


def reference_linear(
    layer: Any, x: Tensor, lr_multiplier: float = 1.0, *, is_activated: bool = False
) -> Tensor:
    y = lr_multiplier * (x @ layer.weight.T / math.sqrt(x.shape[1]) + layer.bias)
    return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2) if is_activated else y


def reference_upfirdn(x: Tensor, *, down: int, pad: int) -> Tensor:
    """[1, 3, 3, 1] in both directions, tap by tap, after `pad` zeros; then each `down`-th pixel."""
    x = F.pad(x, [pad] * 4)
    side = x.shape[-1] - 3
    taps = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    y = sum(
        (taps[i] * taps[j] * x[:, :, i : i + side, j : j + side] for i in range(4) for j in range(4)),
        start=torch.zeros_like(x[:, :, :side, :side]),
    )
    return y[:, :, ::down, ::down]
