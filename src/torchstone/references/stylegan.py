"""spandrel's StyleGAN2 generator, with the weights of ours; and a discriminator from the equations.

Its activation is a CUDA operator, and is replaced by its formula, √2 · leaky ReLU(x + b, 0.2). Its files are
read without the package around them, which imports every architecture that it has.
"""

import importlib
import importlib.machinery
import importlib.util
import math
import random
import re
import sys
from collections.abc import Callable, Iterator
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
    """Its generator of so many channels: narrow · 512 at most, 16384 · multiplier · narrow / side beyond 32."""
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


def generator_cases(make: Callable[..., Any]) -> Iterator[Callable[[], ParityCase]]:
    """Generators of random configurations with a fixed seed.

    Args:
        make: `Generator`, with its arguments.
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
        yield partial(generator_case, make, number, config)


def generator_case(make: Callable[..., Any], number: int, config: dict[str, int]) -> ParityCase:
    torch.manual_seed(number)
    dtype = torch.float64 if number < CASES - 2 else torch.float32
    ours = randomize_weights(make(latent_dim=config["style_dim"], **config), 1.0).to(dtype)
    theirs = spandrel_generator(**config).to(dtype)
    copied = {name: tensor for name, tensor in theirs.named_parameters()}
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
