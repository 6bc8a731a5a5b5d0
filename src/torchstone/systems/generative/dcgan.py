"""DCGAN: convolutional networks that make GAN training stable, and a latent space one can interpolate in.

Paper: Alec Radford, Luke Metz and Soumith Chintala, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", ICLR 2016, arXiv:1511.06434 (2015).

The idea. Both networks of a GAN consist of convolutions alone. Strides replace pooling, so that each network
learns its own up- and downsampling. Batch norm keeps activations in range, so that the generator does not
collapse onto one image at the start. There are no fully connected layers. Samples are sharp, and a straight
line in latent space is a smooth change of the image.

    G   z → s×s (transposed convolution) → [upsample: transposed 4×4, stride 2] … → tanh
    D   image → [downsample: 4×4, stride 2, leaky ReLU 0.2] … → one s×s filter → logit
    batch norm everywhere but at G's last and D's first and last layer; channels double as grids halve

    dcgan         64×64 color, grids from 4×4; channels 64, 128, 256, 512 (the paper's figure 1: twice that)
    dcgan_mnist   28×28 gray, grids from 7×7; channels 64, 128
    dcgan_digits  8×8 gray, grids from 4×4; channels 64

The counts of the first, 3,576,704 and 2,765,568, are those of the example that comes with PyTorch.
Weights start as N(0, 0.02²); Adam has β₁ = ½ and in the paper the learning rate 2e-4 (section 4). The losses
are those of `parts/gan/losses.py`. `wgan_gp` needs a discriminator without batch norm, and `hinge` is mostly
used without it too: `discriminator_norm` is layer (one group of all), spectral
(`parts/gan/spectral_norm.py`) or none.

What differs from the paper. Noise is N(0, 1), not uniform, and the first layer is a transposed convolution
where the paper projects and reshapes, both as in the code that its authors' successors published. Scales
of batch norm start as N(1, 0.02²) there and here. Samples come from an exponential moving average of the
generator, and are compared in the features of a classifier (`metrics/classifier_features.py`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput, did_you_mean
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.gan.spectral_norm import apply_spectral_norm
from torchstone.plots.sample_grid import symmetric_range
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.systems.generative.gan import train
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.inference import sample

__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "reference", "sample"]

MARGIN = ("fd_ratio_vs_untrained", 1.0)
evaluate = partial(inference.evaluate, classifier=CLASSIFIER)


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "dcgan_mnist"  # network variant: dcgan_mnist (28×28, gray) or dcgan (64×64, color)
    loss: Literal["non_saturating", "minimax", "hinge", "wgan_gp"] = "non_saturating"  # GAN loss
    base_channels: int = 64  # channels on the finest grid
    discriminator_norm: Literal["batch", "layer", "spectral", "none"] = (
        "batch"  # normalization in the discriminator
    )
    gp_weight: float = 10.0  # gradient penalty weight λ of wgan_gp
    discriminator_steps: int = 1  # discriminator steps per generator step
    eval_samples: int = 1000  # samples per evaluation; five times as many at the end
    steps: int = 2200  # number of updates
    batch_size: int = 64  # images per step
    optim: OptimConfig = OptimConfig(
        lr=5e-4, beta1=0.5, lr_schedule="constant", ema_decay=0.995
    )  # optimizer, schedule, precision
    discriminator_lr: float | None = None  # learning rate of the discriminator (none: that of the generator)
    augment: str = "none"  # augmentation of real images; samples then look augmented too
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train dcgan       568 s of a core   Fréchet distance 12.8 times below untrained
    "mnist5k": Recipe(),
    # torchstone train dcgan/mnist --data FOLDER     24 min of a core   19.7 times, each digit 6 % or more
    "mnist": Recipe(data="hf:ylecun/mnist", steps=10_000),
    # torchstone train dcgan/emoji32   what StyleGAN is compared with
    "emoji32": Recipe(data="openmoji", variant="dcgan_emoji", steps=1050, augment="flip"),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="dcgan_digits",
        base_channels=32,
        eval_samples=200,
        steps=150,
        batch_size=32,
        optim=replace(Recipe.optim, lr=2e-3, ema_decay=0.9),
    ),
}


def grid_sizes(size: int) -> list[int]:
    """Sides of the grids, from the coarsest, 4 to 7, by doubling up to `size`.

    Raises:
        BadInput: there is no such sequence.
    """
    sides = [size]
    while sides[0] > 7 and sides[0] % 2 == 0:
        sides.insert(0, sides[0] // 2)
    if not 4 <= sides[0] <= 7 or len(sides) < 2:
        raise BadInput(f"a side of {size} is not 4, 5, 6 or 7 doubled once or more: try 28, 32 or 64")
    return sides


class Generator(nn.Module):
    """Noise to images on −1..1."""

    def __init__(self, latent_dim: int = 100, base_channels: int = 64, channels: int = 3, size: int = 64):
        super().__init__()
        if min(latent_dim, base_channels) < 1:
            raise BadInput(
                f"latent_dim and base_channels must be at least 1, not {latent_dim} and {base_channels}"
            )
        self.latent_dim, sides = latent_dim, grid_sizes(size)
        widths = [base_channels * 2**i for i in range(len(sides) - 1)][::-1]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[0], sides[0], bias=False)]
        for wide, narrow in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        init_weights(self)

    def forward(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b c size size"]:
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """Images to the logit of being real."""

    def __init__(self, base_channels: int = 64, channels: int = 3, size: int = 64, norm: str = "batch"):
        super().__init__()
        if norm not in NORMS:
            raise BadInput(f"unknown discriminator_norm {norm!r}: {did_you_mean(norm, NORMS)}")
        sides, bias = grid_sizes(size), NORMS[norm] is None
        widths = [channels, *(base_channels * 2**i for i in range(len(sides) - 1))]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers.append(nn.Conv2d(narrow, wide, 4, 2, 1, bias=bias))
            if len(layers) > 1 and NORMS[norm] is not None:
                layers.append(NORMS[norm](wide))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        layers.append(nn.Conv2d(widths[-1], 1, sides[0], bias=bias))
        self.layers = nn.Sequential(*layers)
        init_weights(self)
        if norm == "spectral":
            apply_spectral_norm(self)

    def forward(self, images: Float[Tensor, "b c size size"]) -> Float[Tensor, " b"]:
        return self.layers(images)[:, 0, 0, 0]


NORMS: dict[str, Any] = {
    "batch": nn.BatchNorm2d,
    "layer": partial(nn.GroupNorm, 1),
    "spectral": None,  # the weights are normalized, not the activations
    "none": None,
}


def init_weights(network: nn.Module) -> None:
    """Weights N(0, 0.02²), scales N(1, 0.02²), all else zero (section 4, and the code published)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.02)
        if (bias := getattr(module, "bias", None)) is not None:
            nn.init.zeros_(bias)


CONFIGS: dict[str, dict[str, Any]] = {
    "dcgan": {"base_channels": 64, "channels": 3, "size": 64},
    "dcgan_mnist": {"base_channels": 64, "channels": 1, "size": 28},
    "dcgan_emoji": {"base_channels": 64, "channels": 3, "size": 32},
    "dcgan_digits": {"base_channels": 64, "channels": 1, "size": 8},
}
VARIANTS = {name: Variant(partial(Generator, **each), (100,)) for name, each in CONFIGS.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    model_config = CONFIGS[recipe.variant] | {"base_channels": recipe.base_channels}
    size, channels = model_config["size"], model_config["channels"]
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    rng.seed(recipe.seed)
    model = Generator(**model_config).to(device)
    discriminator = Discriminator(**model_config, norm=recipe.discriminator_norm).to(device)
    metadata = symmetric_range(data.metadata)
    yield train(model, discriminator, recipe, data, model_config=model_config, metadata=metadata)


FACTS = [
    Fact("dcgan generator's parameters", lambda: count_parameters(Generator()), 3_576_704),
    Fact("dcgan discriminator's parameters", lambda: count_parameters(Discriminator()), 2_765_568),
    Fact("grids of 64×64 (the paper's figure 1)", lambda: grid_sizes(64), [4, 8, 16, 32, 64]),
]


def reference() -> Iterator[ParityCase]:
    """Both networks against their definition: a transposed convolution inserts zeros between its inputs and
    convolves with the flipped kernel; batch norm from its formula."""
    from torchstone.references import randomize_weights

    torch.manual_seed(0)
    z = torch.randn(3, 6, dtype=torch.float64)
    for size, width in ((16, 3), (28, 2)):
        model = Generator(6, width, 2, size).double()
        yield ParityCase(randomize_weights(model), ReferenceNetwork(model), z, label=f"{size}×{size}")
        for norm in NORMS:
            discriminator = Discriminator(width, 2, size, norm).double()
            images = torch.rand(3, 2, size, size, dtype=torch.float64)
            # spectral: its power iteration is not part of the output
            discriminator = randomize_weights(discriminator).train(norm != "spectral")
            label = f"{size}×{size}, {norm}"
            yield ParityCase(discriminator, ReferenceNetwork(discriminator), images, label=label)


class ReferenceNetwork(nn.Module):
    """The same parameters, the layers' definitions."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.net
        is_generator = isinstance(net, Generator)
        x = x[:, :, None, None] if is_generator else x
        for layer in net.layers:
            x = self.forward_layer(layer, x)
        return x if is_generator else x.flatten()

    def forward_layer(self, layer: Any, x: Tensor) -> Tensor:
        if isinstance(layer, nn.ConvTranspose2d):
            (k, _), (s, _), (p, _) = layer.kernel_size, layer.stride, layer.padding
            b, c, h, w = x.shape
            stuffed = x.new_zeros(b, c, (h - 1) * s + 1, (w - 1) * s + 1)
            stuffed[:, :, ::s, ::s] = x
            stuffed = F.pad(stuffed, [k - 1 - p] * 4)
            return reference_conv(stuffed, layer.weight.transpose(0, 1).flip(2, 3), 1, None)
        if isinstance(layer, nn.Conv2d):
            x = F.pad(x, [layer.padding[0]] * 4)
            return reference_conv(x, layer.weight, layer.stride[0], layer.bias)
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            axes = (0, 2, 3) if isinstance(layer, nn.BatchNorm2d) else (1, 2, 3)
            mean = x.mean(axes, keepdim=True)
            variance = (x - mean).square().mean(axes, keepdim=True)
            scale, shift = (each[:, None, None] for each in (layer.weight, layer.bias))
            return (x - mean) / (variance + layer.eps).sqrt() * scale + shift
        if isinstance(layer, nn.Tanh):
            return (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())
        slope = getattr(layer, "negative_slope", 0.0)
        return torch.where(x > 0, x, slope * x)


def reference_conv(x: Tensor, weight: Tensor, stride: int, bias: Tensor | None) -> Tensor:
    """A convolution, position by position."""
    k = weight.shape[-1]
    rows = [
        torch.stack(
            [
                torch.einsum("bcij,ocij->bo", x[:, :, i : i + k, j : j + k], weight)
                for j in range(0, x.shape[3] - k + 1, stride)
            ],
            -1,
        )
        for i in range(0, x.shape[2] - k + 1, stride)
    ]
    output = torch.stack(rows, -2)
    return output if bias is None else output + bias[:, None, None]
