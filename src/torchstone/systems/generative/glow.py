"""Glow: a normalizing flow that learns to mix channels, and whose latent space has directions for attributes.

Paper: Diederik P. Kingma and Prafulla Dhariwal, "Glow: Generative Flow with Invertible 1×1 Convolutions",
NeurIPS 2018, arXiv:1807.03039.

The idea. Real NVP alternates fixed masks, so that each number is transformed in its turn. Glow couples the
two halves of the channels instead, and before each coupling multiplies the channels of a pixel by a learned
invertible matrix. A scale and shift of each channel, set by the first batch, replaces batch norm. Images are
encoded without loss, so that the difference between the mean latents of two classes is a direction in which
any image can be moved.

    a step of flow:  actnorm (x + b) ⊙ exp(l)  →  1 × 1 convolution W x  →  coupling [x_a, s ⊙ x_b + t]   (3)
    coupling network: 3 × 3, ReLU, 1 × 1, ReLU, 3 × 3 from zero; actnorm after the first two         (3.3)
    a scale:  squeeze  →  K steps  →  half of the channels leave;  L scales                     (figure 2)
    what leaves has the density N(μ, σ²), μ and σ by a convolution of what stays: z = (x − μ) / σ
    x ← logit(α + (1 − 2 α) (pixel + u) / levels),  u uniform;   bits per dimension as in Real NVP
    direction of an attribute = mean z of the images with it − mean z of those without                 (5)

`forward(x) -> (z, log_det)`, `inverse(z) -> (x, log_det)`, `log_prob(x)` in nats, `sample(n)`; x is (batch,
channel, height, width) after the logit, z (batch, numbers), of which each is N(0, 1) under the model. The
layers are in `parts/flow/coupling.py` and `parts/flow/invertible_conv.py`, dequantization and bits per
dimension in `parts/flow/likelihood.py`.

    glow_digits    8 × 8: two scales of 8 steps;   glow_mnist   28 × 28: two scales of 8 steps
    glow_tiny      8 × 8: two scales of 2 steps, for tests
    glow_cifar10   32 × 32 in color: three scales of 32 steps, 512 channels, affine (section 5)
    glow_cifar10_additive   the same with additive couplings and plain W

What differs from the paper. Pixels go through the logit of Real NVP, whose bits can therefore be compared
with ours; the paper's are only centered. In actnorm the shift comes before the scale, and the scale of a
coupling is sigmoid(raw + 2), as in the code published with the paper. That code marks the border of an image
in a channel of its own wherever it pads; here padding is zero. The learned prior of the top is that code's
convolution of a constant: there zeros and that channel, here ones divided by their number, so that each of
its weights has an effect. All likelihoods are those of averaged weights. The model is class-free.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.data.vision.dequantized_batches import LikelihoodBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.flow.coupling import (
    ActNorm,
    ChannelCoupling,
    ComposeFlow,
    MultiScaleFlow,
    Squeeze,
    initialize_actnorm,
    standard_normal_log_prob,
)
from torchstone.parts.flow.invertible_conv import InvertibleConv1x1
from torchstone.parts.flow.likelihood import bits_per_dim, dequantize, logit
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.anomaly import check_finite
from torchstone.tasks.flow import inference
from torchstone.tasks.flow.inference import predict, sample
from torchstone.tasks.flow.train import train_image_flow

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "predict",
    "reference",
    "sample",
]

evaluate = partial(inference.evaluate, classifier=CLASSIFIER)
MARGIN = ("bits_per_dimension", -0.3)  # untrained, actnorm has already seen a batch

INIT_BATCH = 256  # images that actnorm is initialized with, as in the published code
INIT_STD = 0.05  # of the weights of coupling networks
LOG_SCALE_FACTOR = 3.0  # by which a zero-initialized convolution multiplies its learned log-scale

Images = Float[Tensor, "batch channel height width"]
ForAll = Float[Tensor, "1 channel height width"]
Noise = Float[Tensor, "batch numbers"]
LogProb = Float[Tensor, " batch"]


@dataclass(frozen=True)
class Recipe:
    data: str = "digits"  # data set: digits, mnist5k, hf:NAME, a folder
    variant: str = "glow_digits"  # network variant
    pixel_levels: int = 256  # number of pixel values (digits: 17)
    eval_samples: int = 2000  # samples evaluated at the end (0: none)
    steps: int = 2000  # number of updates
    batch_size: int = 64  # images per update
    augment: str = "none"  # augmentation of images; samples then look augmented too
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        lr=4e-3,
        beta2=0.99,
        weight_decay=0.7,
        warmup_ratio=0.05,
        max_grad_norm=1.0,
        ema_decay=0.99,
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train glow                     62 s of a core           2.016 bits; Real NVP 2.021 in 97 s
    "digits": Recipe(pixel_levels=17, steps=700),
    # torchstone train glow/mnist5k
    "mnist5k": Recipe(data="mnist5k", variant="glow_mnist", optim=replace(Recipe.optim, lr=1e-3)),
    # torchstone train glow/cifar10 --data FOLDER   the paper's network
    "cifar10": Recipe(
        data="cifar10",
        variant="glow_cifar10",
        augment="flip",
        steps=400_000,
        optim=replace(
            Recipe.optim,
            optimizer="adam",
            lr=1e-3,
            beta2=0.999,
            weight_decay=0.0,
            lr_schedule="constant",
            ema_decay=0.999,
            compile=True,
        ),
    ),
    # for tests: seconds
    "smoke": Recipe(variant="glow_tiny", pixel_levels=17, steps=100, batch_size=32, eval_samples=0),
}


class ZeroConv2d(nn.Module):
    """A 3 × 3 convolution that starts at zero, with a learned scale of each output: y ⊙ exp(3 l).

    The factor lets l move faster (in the published code; not in the paper).
    """

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, 3, padding=1)
        self.log_scale = nn.Parameter(torch.zeros(outputs, 1, 1))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # ty: ignore[invalid-argument-type]

    def forward(self, x: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b outputs h w"]:
        return self.conv(x) * (LOG_SCALE_FACTOR * self.log_scale).exp()


class CouplingNet(nn.Module):
    """3 × 3, 1 × 1 and 3 × 3 convolutions; actnorm in place of biases after the first two."""

    def __init__(self, channels: int, width: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = ActNorm(width)
        self.conv2 = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = ActNorm(width)
        self.last = ZeroConv2d(width, outputs)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=INIT_STD)

    def forward(self, x: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b outputs h w"]:
        h = F.relu(self.norm1(self.conv1(x))[0])
        h = F.relu(self.norm2(self.conv2(h))[0])
        return self.last(h)


class SplitPrior(nn.Module):
    """z = (x_a − μ) / σ of the half of the channels that leaves; μ and log σ from the half that stays."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = ZeroConv2d(channels // 2, channels)

    def forward(self, x: Images) -> tuple[Images, LogProb]:
        leaving, rest = x.chunk(2, 1)
        mean, log_std = self.conv(rest).chunk(2, 1)
        return torch.cat([(leaving - mean) * (-log_std).exp(), rest], 1), -log_std.flatten(1).sum(1)

    def inverse(self, z: Images) -> tuple[Images, LogProb]:
        leaving, rest = z.chunk(2, 1)
        mean, log_std = self.conv(rest).chunk(2, 1)
        return torch.cat([leaving * log_std.exp() + mean, rest], 1), log_std.flatten(1).sum(1)


class TopPrior(nn.Module):
    """z = (x − μ) / σ of what is left at the end; μ and log σ are the same for all images."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = ZeroConv2d(2 * channels, 2 * channels)

    def mean_and_log_std(self, x: Images) -> tuple[ForAll, ForAll]:
        channels = 2 * x.shape[1]
        constant = x.new_full((1, channels, *x.shape[2:]), 1 / channels)
        mean, log_std = self.conv(constant).chunk(2, 1)
        return mean, log_std

    def forward(self, x: Images) -> tuple[Images, LogProb]:
        mean, log_std = self.mean_and_log_std(x)
        return (x - mean) * (-log_std).exp(), -log_std.sum().expand(len(x))

    def inverse(self, z: Images) -> tuple[Images, LogProb]:
        mean, log_std = self.mean_and_log_std(z)
        return z * log_std.exp() + mean, log_std.sum().expand(len(z))


class Glow(nn.Module):
    """Steps of flow in several scales.

    Args:
        shape: (channel, height, width) of x; the sides must be divisible by 2 ** scales.
        width: channels within the coupling networks.
        depth: K, the steps of each scale.
        scales: L.
        is_affine: whether couplings scale, or only shift.
        use_lu: the form of the 1 × 1 convolutions.
        learn_top: whether the prior of the last scale is learned, or N(0, I).

    Raises:
        BadInput: a side that cannot be halved that often.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 8, 8),
        width: int = 64,
        depth: int = 8,
        scales: int = 2,
        is_affine: bool = True,
        use_lu: bool = True,
        learn_top: bool = True,
    ):
        super().__init__()
        self.shape = tuple(shape)
        if any(side % 2**scales for side in shape[1:]):
            raise BadInput(f"{self.shape[1:]} cannot be halved {scales} times: use fewer scales")
        self.width, self.depth, self.is_affine, self.use_lu = width, depth, is_affine, use_lu
        self.flow: Any = MultiScaleFlow(self.stages(scales, learn_top), shape, squeezes_last=True)

    def stages(self, scales: int, learn_top: bool) -> Iterator[ComposeFlow]:
        """Figure 2b; each scale has half of the channels that the one before has, times four."""
        channels = self.shape[0]
        for scale in range(1, scales + 1):
            channels *= 4
            layers: list[nn.Module] = [Squeeze()]
            for _ in range(self.depth):
                layers += self.step(channels)
            if scale < scales:
                layers.append(SplitPrior(channels))
            elif learn_top:
                layers.append(TopPrior(channels))
            yield ComposeFlow(layers)
            channels //= 2

    def step(self, channels: int) -> list[nn.Module]:
        """A step of flow (figure 2a, table 1)."""
        half = channels // 2
        net = CouplingNet(half, self.width, 2 * half if self.is_affine else half)
        return [
            ActNorm(channels),
            InvertibleConv1x1(channels, self.use_lu),
            ChannelCoupling(net, self.is_affine),
        ]

    def forward(self, x: Images) -> tuple[Noise, LogProb]:
        return self.flow(x)

    def inverse(self, z: Noise) -> tuple[Images, LogProb]:
        return self.flow.inverse(z)

    def log_prob(self, x: Images) -> LogProb:
        """log p(x) in nats (equation 4)."""
        z, log_det = self(x)
        return standard_normal_log_prob(z) + log_det

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Images:
        """`count` samples x = f⁻¹(z), from the noise of `seed`, the same on every device but for rounding.

        Args:
            temperature: by which standard deviations are multiplied; below 1 samples are likelier and less
                diverse (section 5).

        Raises:
            NotFinite: one of them has a number that is NaN or infinite.
        """
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        z = temperature * torch.randn(count, math.prod(self.shape), generator=generator)
        samples = [self.inverse(rows)[0] for rows in z.to(device).split(500)]
        return check_finite(torch.cat(samples), "samples")


def loss(net: Any, batch: LikelihoodBatch, levels: int) -> Tensor:
    """−log p of dequantized images after the logit (equation 2), in bits per dimension."""
    x, logit_log_det = logit(dequantize(batch.images, batch.u, levels))
    z, log_det = net(x)
    log_prob = standard_normal_log_prob(z) + log_det + logit_log_det
    return bits_per_dim(log_prob, math.prod(x.shape[1:]), levels).mean()


def initialize(model: Glow, data: ImageDataset, levels: int, seed: int) -> None:
    """Actnorm by a first batch (section 3.1), which the seed draws; all processes draw the same one."""
    generator = derive_generator(seed, SeedStream.ACTNORM_INIT, 0)
    index = torch.randperm(len(data.train), generator=generator)[:INIT_BATCH]
    images = data.train.take(index)
    u = torch.rand(images.shape, generator=generator).to(images.device)
    initialize_actnorm(model, logit(dequantize(images, u, levels))[0])


def shape_variant(*shape: int, **model_config: Any) -> Variant:
    return Variant(partial(Glow, shape=shape, **model_config), shape)


PAPER = {"width": 512, "depth": 32, "scales": 3}
VARIANTS = {
    "glow_digits": shape_variant(1, 8, 8, width=64, depth=8, scales=2),
    "glow_tiny": shape_variant(1, 8, 8, width=16, depth=2, scales=2),
    "glow_mnist": shape_variant(1, 28, 28, width=64, depth=8, scales=2),
    "glow_cifar10": shape_variant(3, 32, 32, **PAPER),
    "glow_cifar10_additive": shape_variant(3, 32, 32, **PAPER, is_affine=False, use_lu=False),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make, shape = VARIANTS[recipe.variant]
    data = load_images(recipe.data, size=shape[1], channels=shape[0], device=device)
    rng.seed(recipe.seed)
    model = make().to(device)
    if 2 <= recipe.pixel_levels <= 256:
        initialize(model, data, recipe.pixel_levels, recipe.seed)
    yield train_image_flow(
        model, recipe, data, loss=loss, model_config={}, classifier=CLASSIFIER, keeps_class_latents=True
    )


def paper_parameters(**model_config: Any) -> int:
    return count_on_meta(Glow, (3, 32, 32), **{**PAPER, **model_config})


def top_parameters() -> int:
    return paper_parameters(depth=1) - paper_parameters(depth=1, learn_top=False)


FACTS = [
    Fact("affine parameters", lambda: paper_parameters(learn_top=False), 44_052_720),
    Fact("additive parameters", lambda: paper_parameters(learn_top=False, is_affine=False), 37_856_880),
    Fact("parameters of the learned prior of the top", top_parameters, 83_136),
    Fact("bits per dimension of a uniform density", lambda: bits_per_dim(torch.zeros(1), 9).item(), 8.0),
]


def reference() -> Iterator[ParityCase]:
    """The blocks of nflows, put together to the same map with the same weights."""
    from torchstone.references.glow import glow_cases

    yield from glow_cases(Glow)
