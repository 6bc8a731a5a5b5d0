"""DCGAN: convolutions that make a GAN stable, and its noise a space one can walk in.

Paper: Alec Radford, Luke Metz and Soumith Chintala, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", ICLR 2016, arXiv:1511.06434 (2015).

The idea. The adversarial game is played by networks of convolutions alone. Strides in place of pooling
let each network learn its own way of making grids smaller or larger; batch norm keeps both players'
signals in range, so that the generator does not collapse onto one picture at the start; nothing is fully
connected. What comes out is sharp, and a straight line in the noise is a smooth change of the picture.

    G   z → s×s (transposed convolution) → [double: transposed 4×4, stride 2] … → tanh
    D   picture → [halve: 4×4, stride 2, leaky ReLU 0.2] … → one s×s filter → logit
    batch norm everywhere but at G's last and D's first and last layer; widths double as grids halve

    dcgan         64×64 colour, grids from 4×4; widths 64, 128, 256, 512 (the paper's figure 1: twice that)
    dcgan_mnist   28×28 grey, grids from 7×7; widths 64, 128
    dcgan_digits  8×8 grey, grids from 4×4; width 64

The counts of the first, 3,576,704 and 2,765,568, are those of the example that comes with PyTorch.
Weights start as N(0, 0.02²), Adam has β₁ = ½ and in the paper the rate 2e-4 (section 4). The games are
those of `parts/gan/losses.py`; `wgan_gp` needs a critic without batch norm, `hinge` is mostly played
so too: `critic_norm` is layer (one group of all), spectral (`parts/gan/spectral_norm.py`) or none.

What differs from the paper. Noise is N(0, 1), not uniform, and the first layer is a transposed convolution
where the paper projects and reshapes, both as in the code that its authors' successors published. Scales
of batch norm start as N(1, 0.02²) there and here. Samples are drawn from a moving average of the
generator, and are measured by a classifier of the same set (`metrics/classifier_features.py`).
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
from torchstone.parts.gan.spectral_norm import spectral
from torchstone.plots.sample_grid import centred
from torchstone.systems import Variant
from torchstone.systems.convolutional import lenet5
from torchstone.systems.generative.gan import lively
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.inference import sample
from torchstone.tasks.gan.train import adversarial

# fmt: off
__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "reference", "sample"]
# fmt: on

MARGIN = ("times_nearer", 1.0)
evaluate = partial(inference.evaluate, classifier=lenet5)


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "dcgan_mnist"  # dcgan_mnist (28×28, grey) or dcgan (64×64, colour)
    loss: Literal["non_saturating", "minimax", "hinge", "wgan_gp"] = "non_saturating"  # the game
    width: int = 64  # filters on the finest grid
    critic_norm: Literal["batch", "layer", "spectral", "none"] = "batch"  # of the critic
    penalty: float = 10.0  # of the critic's slope, in wgan_gp
    critic_steps: int = 1  # steps of the critic for one of the generator
    samples: int = 1000  # judged at each evaluation; at the end five times as many
    steps: int = 2200  # updates
    batch_size: int = 64  # pictures a step
    optim: OptimConfig = OptimConfig(
        lr=5e-4, beta1=0.5, lr_schedule="constant", ema_decay=0.995
    )  # optimizer, schedule, precision
    critic_lr: float | None = None  # the critic's, none for the same
    augment: str = "none"  # of real pictures; what is learnt is made so too
    seed: int = 0  # of weights, order and noise
    device: str = "auto"  # auto, cpu, cuda, mps


RECIPES = {
    # torchstone train dcgan                      568 s of a core       12.8 times nearer than untrained
    "mnist5k": Recipe(),
    # torchstone train dcgan/mnist --data FOLDER   24 minutes of a core  19.7 times, each digit 6 % or more
    "mnist": Recipe(data="hf:ylecun/mnist", steps=10_000),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="dcgan_digits",
        width=32,
        samples=200,
        steps=150,
        batch_size=32,
        optim=replace(Recipe.optim, lr=2e-3, ema_decay=0.9),
    ),
}


def grids(size: int) -> list[int]:
    """Sides from the smallest, 4 to 7, by doubling up to `size`.

    Raises:
        BadInput: there is no such way.
    """
    sides = [size]
    while sides[0] > 7 and sides[0] % 2 == 0:
        sides.insert(0, sides[0] // 2)
    if not 4 <= sides[0] <= 7 or len(sides) < 2:
        raise BadInput(f"a side of {size} is not 4, 5, 6 or 7 doubled once or more: try 28, 32 or 64")
    return sides


class Generator(nn.Module):
    """Noise to pictures on −1..1."""

    def __init__(self, latent: int = 100, width: int = 64, channels: int = 3, size: int = 64):
        super().__init__()
        if min(latent, width) < 1:
            raise BadInput(f"latent and width must be at least 1, not {latent} and {width}")
        self.latent, sides = latent, grids(size)
        widths = [width * 2**i for i in range(len(sides) - 1)][::-1]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], sides[0], bias=False)]
        for wide, narrow in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        initialise(self)

    def forward(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b c size size"]:
        return self.layers(z[:, :, None, None])


class Critic(nn.Module):
    """Pictures to the logit of being real."""

    def __init__(self, width: int = 64, channels: int = 3, size: int = 64, norm: str = "batch"):
        super().__init__()
        if norm not in NORMS:
            raise BadInput(f"unknown critic_norm {norm!r}: {did_you_mean(norm, NORMS)}")
        sides, bias = grids(size), NORMS[norm] is None
        widths = [channels, *(width * 2**i for i in range(len(sides) - 1))]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers.append(nn.Conv2d(narrow, wide, 4, 2, 1, bias=bias))
            if len(layers) > 1 and NORMS[norm] is not None:
                layers.append(NORMS[norm](wide))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        layers.append(nn.Conv2d(widths[-1], 1, sides[0], bias=bias))
        self.layers = nn.Sequential(*layers)
        initialise(self)
        if norm == "spectral":
            spectral(self)

    def forward(self, pictures: Float[Tensor, "b c size size"]) -> Float[Tensor, " b"]:
        return self.layers(pictures)[:, 0, 0, 0]


NORMS: dict[str, Any] = {
    "batch": nn.BatchNorm2d,
    "layer": partial(nn.GroupNorm, 1),
    "spectral": None,  # the weights are normalised, not what comes out
    "none": None,
}


def initialise(network: nn.Module) -> None:
    """Weights N(0, 0.02²), scales N(1, 0.02²), all else zero (section 4, and the code published)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.02)
        if (bias := getattr(module, "bias", None)) is not None:
            nn.init.zeros_(bias)


SIZES: dict[str, dict[str, Any]] = {
    "dcgan": {"width": 64, "channels": 3, "size": 64},
    "dcgan_mnist": {"width": 64, "channels": 1, "size": 28},
    "dcgan_digits": {"width": 64, "channels": 1, "size": 8},
}
VARIANTS = {name: Variant(partial(Generator, **each), (100,)) for name, each in SIZES.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    model_config = SIZES[recipe.variant] | {"width": recipe.width}
    size, channels = model_config["size"], model_config["channels"]
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    rng.seed(recipe.seed)
    model = Generator(**model_config).to(device)
    critic = Critic(**model_config, norm=recipe.critic_norm).to(device)
    metadata = centred(data.metadata)
    yield adversarial(
        model, critic, recipe, data, model_config=model_config, picture=metadata, classifier=lenet5
    )


FACTS = [
    Fact("dcgan generator's parameters", lambda: count_parameters(Generator()), 3_576_704),
    Fact("dcgan critic's parameters", lambda: count_parameters(Critic()), 2_765_568),
    Fact("grids of 64×64 (the paper's figure 1)", lambda: grids(64), [4, 8, 16, 32, 64]),
]


def reference() -> Iterator[ParityCase]:
    """Both networks beside their definition: a transposed convolution spreads its input out between
    zeros and convolves with the kernel turned round; batch norm from its formula."""
    torch.manual_seed(0)
    z = torch.randn(3, 6, dtype=torch.float64)
    for size, width in ((16, 3), (28, 2)):
        model = Generator(6, width, 2, size).double()
        yield ParityCase(lively(model), Slow(model), z, label=f"{size}×{size}")
        for norm in NORMS:
            critic = Critic(width, 2, size, norm).double()
            pictures = torch.rand(3, 2, size, size, dtype=torch.float64)
            critic = lively(critic).train(norm != "spectral")  # whose iterations are no output
            yield ParityCase(critic, Slow(critic), pictures, label=f"{size}×{size}, {norm}")


class Slow(nn.Module):
    """The same parameters, the layers' definitions."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.net
        generates = isinstance(net, Generator)
        x = x[:, :, None, None] if generates else x
        for layer in net.layers:
            x = self.one(layer, x)
        return x if generates else x.flatten()

    def one(self, layer: Any, x: Tensor) -> Tensor:
        if isinstance(layer, nn.ConvTranspose2d):
            (k, _), (s, _), (p, _) = layer.kernel_size, layer.stride, layer.padding
            b, c, h, w = x.shape
            wide = x.new_zeros(b, c, (h - 1) * s + 1, (w - 1) * s + 1)
            wide[:, :, ::s, ::s] = x
            wide = F.pad(wide, [k - 1 - p] * 4)
            return patches(wide, layer.weight.transpose(0, 1).flip(2, 3), 1, None)
        if isinstance(layer, nn.Conv2d):
            return patches(F.pad(x, [layer.padding[0]] * 4), layer.weight, layer.stride[0], layer.bias)
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            over = (0, 2, 3) if isinstance(layer, nn.BatchNorm2d) else (1, 2, 3)
            mean = x.mean(over, keepdim=True)
            spread = (x - mean).square().mean(over, keepdim=True)
            scale, shift = (each[:, None, None] for each in (layer.weight, layer.bias))
            return (x - mean) / (spread + layer.eps).sqrt() * scale + shift
        if isinstance(layer, nn.Tanh):
            return (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())
        slope = getattr(layer, "negative_slope", 0.0)
        return torch.where(x > 0, x, slope * x)


def patches(x: Tensor, weight: Tensor, stride: int, bias: Tensor | None) -> Tensor:
    """A convolution, place by place."""
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
    made = torch.stack(rows, -2)
    return made if bias is None else made + bias[:, None, None]
