"""StyleGAN's networks from their equations, with our weights: plain sums, each operation by itself."""

import copy
import math
import random
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.references import OutputAdapter, randomize_weights

CASES = 8


class ReferenceGenerator(nn.Module):
    """The same parameters as a `Generator`'s."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = copy.deepcopy(net)

    def forward(self, z: Tensor, noise: Tensor, lod: float) -> Tensor:
        net: Any = self.net
        w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for layer in net.mapping.layers:
            w = activate(dense(layer, w, gain=math.sqrt(2), lr_multiplier=0.01))
        x, images, start = net.constant[None].repeat(len(z), 1, 1, 1), [], 0
        for i, layer in enumerate(net.layers):
            if layer.conv is not None:
                x = repeat(x) if i % 2 == 0 else x
                x = convolve(x, layer.conv.weight, gain=math.sqrt(2))
                x = smooth(x) if i % 2 == 0 else x
            side = 4 * 2 ** (i // 2)
            plane = noise[:, start : start + side**2].reshape(len(z), 1, side, side)
            start += side**2
            x = x + layer.noise_strength.view(1, -1, 1, 1) * plane + layer.bias.view(1, -1, 1, 1)
            x = activate(x)
            x = x - x.mean((2, 3), keepdim=True)
            x = x / (x.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
            style = dense(layer.affine, w).view(len(z), 2, -1, 1, 1)
            x = x * (style[:, 0] + 1) + style[:, 1]
            if i % 2:
                color = net.to_colors[i // 2]
                images.append(convolve(x, color.weight) + color.bias.view(1, -1, 1, 1))
        # the image of each size, enlarged to the full one, by its share
        result = torch.zeros_like(images[-1])
        for level, image in enumerate(reversed(images)):
            result = result + max(0.0, 1 - abs(level - lod)) * repeat(image, level)
        return result


class ReferenceDiscriminator(nn.Module):
    """The same parameters as a `Discriminator`'s."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = copy.deepcopy(net)

    def forward(self, images: Tensor, lod: float) -> Tensor:
        net: Any = self.net
        count = len(net.from_colors)
        x: Any = None
        for level in range(count):  # from the full size on
            own = images
            for _ in range(level):
                own = halve(own)
            color = net.from_colors[count - 1 - level]
            own = activate(convolve(own, color.weight, math.sqrt(2)) + color.bias.view(1, -1, 1, 1))
            alpha = min(
                max(lod - level + 1, 0.0), 1.0
            )  # how much of it replaces what comes from finer levels
            x = own if x is None else (1 - alpha) * x + alpha * own
            if level < count - 1:
                block = net.blocks[count - 2 - level]
                x = activate(self.biased(block.conv1, x))
                x = halve(convolve(smooth(x), block.conv2.weight, math.sqrt(2)))
                x = activate(x + block.conv2.bias.view(1, -1, 1, 1))
        size = max(n for n in range(1, net.group_size + 1) if len(x) % n == 0)
        groups, rows = len(x) // size, []
        for i in range(len(x)):
            group = torch.stack([x[j] for j in range(len(x)) if j % groups == i % groups])
            rows.append((group.var(0, correction=0) + 1e-8).sqrt().mean() * torch.ones_like(x[:1, :1]))
        x = activate(self.biased(net.conv, torch.cat([x, torch.cat(rows)], 1)))
        x = activate(dense(net.linear, x.flatten(1), gain=math.sqrt(2)))
        return dense(net.output, x)[:, 0]

    def biased(self, layer: Any, x: Tensor) -> Tensor:
        return convolve(x, layer.weight, math.sqrt(2)) + layer.bias.view(1, -1, 1, 1)


def activate(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def dense(layer: Any, x: Tensor, *, gain: float = 1.0, lr_multiplier: float = 1.0) -> Tensor:
    weight = layer.weight * (gain / math.sqrt(layer.weight.shape[1]) * lr_multiplier)
    return (x[:, None, :] * weight).sum(2) + layer.bias * lr_multiplier


def convolve(x: Tensor, weight: Tensor, gain: float = 1.0) -> Tensor:
    outputs, inputs, k, _ = weight.shape
    patches = F.unfold(x, k, padding=k // 2)
    y = (weight.flatten(1) * (gain / math.sqrt(inputs * k * k))) @ patches
    return y.view(len(x), outputs, *x.shape[2:])


def repeat(x: Tensor, times: int = 1) -> Tensor:
    return x.repeat_interleave(2**times, 2).repeat_interleave(2**times, 3)


def halve(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def smooth(x: Tensor) -> Tensor:
    """[1, 2, 1] / 4 in both directions, tap by tap."""
    side, padded = x.shape[-1], F.pad(x, (1, 1, 1, 1))
    taps = (0.25, 0.5, 0.25)
    return sum(
        (taps[i] * taps[j] * padded[..., i : i + side, j : j + side] for i in range(3) for j in range(3)),
        start=torch.zeros_like(x),
    )


def levels(choice: random.Random, size: int) -> tuple[float, ...]:
    """Every integer level of detail, and one between each and the next: so each parameter is in use."""
    last = int(math.log2(size)) - 2
    between = (i + choice.uniform(0.1, 0.9) for i in range(last))
    return tuple(sorted([*map(float, range(last + 1)), *between]))


def generator_cases(
    make: Callable[..., Any], numbers: Collection[int] = range(CASES)
) -> Iterator[Callable[[], ParityCase]]:
    """Generators of random configurations with a fixed seed, at all levels of detail; the last two in
    single precision.

    Args:
        make: `Generator`, with its arguments.
        numbers: of the configurations, of which there are `CASES`.
    """
    choice = random.Random(0)
    for number in range(CASES):
        config = {
            "size": 8 if number >= CASES - 2 else (8, 16, 32)[number % 3],
            "channels": choice.choice((1, 3)),
            "latent_dim": choice.randint(2, 6),
            "style_dim": choice.randint(2, 6),
            "mapping_layers": choice.randint(1, 8),
            "channel_max": choice.randint(2, 6),
            "channel_base": 64,
        }
        lods = levels(choice, config["size"])
        if number in numbers:
            yield partial(generator_case, make, number, config, lods)


def generator_case(
    make: Callable[..., Any], number: int, config: dict[str, int], lods: tuple[float, ...]
) -> ParityCase:
    torch.manual_seed(number)
    dtype = torch.float64 if number < CASES - 2 else torch.float32
    ours: Any = randomize_weights(make(**config), 1.0).to(dtype)
    z = torch.randn(3, config["latent_dim"], dtype=dtype)
    noise = torch.randn(3, ours.noise_size, dtype=dtype)
    return ParityCase(
        OutputAdapter(ours, lambda net, z, noise: tuple(net(z, None, noise, lod) for lod in lods)),
        OutputAdapter(
            ReferenceGenerator(ours), lambda net, z, noise: tuple(net(z, noise, lod) for lod in lods)
        ),
        (z, noise),
        None,
        torch.optim.AdamW,
        ", ".join(f"{name} {value}" for name, value in config.items()),
    )


def discriminator_cases(
    make: Callable[..., Any], numbers: Collection[int] = range(CASES)
) -> Iterator[Callable[[], ParityCase]]:
    """Discriminators of random configurations with a fixed seed, at all levels of detail; the last two in
    single precision.

    Args:
        make: `Discriminator`, with its arguments.
        numbers: of the configurations, of which there are `CASES`.
    """
    choice = random.Random(1)
    for number in range(CASES):
        config = {
            "size": 8 if number >= CASES - 2 else (8, 16, 32)[number % 3],
            "channels": choice.choice((1, 3)),
            "channel_max": choice.randint(2, 6),
            "channel_base": 64,
            "group_size": choice.choice((2, 3, 4)),
        }
        lods = levels(choice, config["size"])
        if number in numbers:
            yield partial(discriminator_case, make, number, config, lods)


def discriminator_case(
    make: Callable[..., Any], number: int, config: dict[str, int], lods: tuple[float, ...]
) -> ParityCase:
    torch.manual_seed(number)
    dtype = torch.float64 if number < CASES - 2 else torch.float32
    ours: Any = randomize_weights(make(**config), 1.0).to(dtype)
    images = torch.randn(4, config["channels"], config["size"], config["size"], dtype=dtype)

    def at_levels(net: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(net(images, lod) for lod in lods)

    label = ", ".join(f"{name} {value}" for name, value in config.items())
    pair = OutputAdapter(ours, at_levels), OutputAdapter(ReferenceDiscriminator(ours), at_levels)
    return ParityCase(*pair, (images,), None, torch.optim.AdamW, label)
