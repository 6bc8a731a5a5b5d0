"""Flow++: a flow with mixtures of logistics and attention in its couplings, and learned dequantization noise.

Paper: Jonathan Ho, Xi Chen, Aravind Srinivas, Yan Duan and Pieter Abbeel, "Flow++: Improving Flow-Based
Generative Models with Variational Dequantization and Architecture Design", ICML 2019, arXiv:1902.00275.

The idea. Earlier flows lose likelihood in three places. Uniform dequantization noise makes the model fill
each hypercube of values evenly; here a second, conditional flow q(u | k) learns which noise is easy to model.
An affine coupling maps a number by a line; here by the cumulative distribution of a mixture of logistics. The
networks in couplings were convolutions only; here gated convolutions alternate with self-attention.

    log P(k) ≥ E_{u ~ q(u | k)} [log p(y) − log q(u | k)] − D log levels,   y = (k + u) / levels     (3.1)
    u = σ(g(ε; k)),  ε ~ N(0, I),  log q(u | k) = log N(ε) − log |det ∂u/∂ε|
    coupling: z = [x_a, σ⁻¹(MixLogCDF(x_b; π, μ, s)) ⊙ exp(a) + b],  π, μ, s, a, b from x_a       (3.2.1)
    block: gated convolution → layer norm → gated attention → layer norm                            (3.2.2)
    gated convolution: h ← conv(elu[x, −x]) + context;  x + v ⊙ σ(w),  [v, w] = conv(dropout(elu[h, −h]))
    p: logit → 4 couplings with a checkerboard → squeeze → 2 of channels → 3 with a checkerboard

A likelihood is a bound, like that under uniform noise: `bits_per_dimension` is of one sample of u for each
image, `importance_bound` of several: log 1/M Σ p(y_m) / q(u_m | k), which is closer (Burda et al. 2015).

`forward(images, epsilon) -> (z, log_det)`, where log N(z; 0, I) + log_det is the bound for y; for x after the
logit `flow(x) -> (z, log_det)`, `inverse(z) -> (x, log_det)`, `log_prob(x)` in nats, `sample(n)`. The
couplings are in `parts/flow/coupling.py`, the mixture and its inverse by bisection in
`parts/flow/logistic_mixture.py`.

    flowpp_digits, flowpp_digits_large   8 × 8;   flowpp_mnist   28 × 28
    flowpp_tiny      8 × 8, for tests
    flowpp_cifar10   32 × 32 in color: 10 blocks of 96 channels, 32 components, 31,443,440 parameters

What differs from the paper. Nothing in the count: the network is that of the published code, with a scale and
shift of each number, and a 1 × 1 convolution of either half, before each coupling. The scale is exp(l),
after the shift; the code has s ⊙ x + b. Its checkerboard splits columns; ours is one, like the paper's. Its
mixture rounds to 1 in the upper tail, where ours does not, and it inverts to a bracket of 200 scales, ours to
the components' quantiles. The squeeze orders channels as Real NVP's does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

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
    STD_FLOOR,
    ActNorm,
    CheckerboardHalves,
    ComposeFlow,
    InverseFlow,
    MixtureCoupling,
    MultiScaleFlow,
    Squeeze,
    SwapHalves,
    initialize_actnorm,
    standard_normal_log_prob,
)
from torchstone.parts.flow.invertible_conv import HalvesConv1x1
from torchstone.parts.flow.likelihood import bits_per_dim, dequantize, logit, quantize
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.parts.transformer.attention import attention
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
MARGIN = ("bits_per_dimension", -0.3)  # untrained, its layers have already been scaled by a batch

INIT_BATCH = 128  # images that layers are scaled by, as in the published code
INIT_STD = 0.05  # of weights, before that
POSITION_STD = 0.01  # of position embeddings
SMALL_GAIN = 0.1  # standard deviation of what gates and couplings begin with
MIXING_STD = 0.001  # by which 1 × 1 convolutions differ from the identity at first

Images = Float[Tensor, "batch channel height width"]
Rows = Float[Tensor, "batch height width channel"]
Outputs = Float[Tensor, "batch height width outputs"]
Context = Float[Tensor, "batch height narrow features"]  # of an image, whose halves are as narrow
Noise = Float[Tensor, "batch numbers"]
LogProb = Float[Tensor, " batch"]


@dataclass(frozen=True)
class Recipe:
    data: str = "digits"  # data set: digits, mnist5k, hf:NAME, a folder
    variant: str = "flowpp_digits"  # network variant
    pixel_levels: int = 256  # number of pixel values (digits: 17)
    dequantization: Literal["variational", "uniform"] = "variational"  # dequantization noise
    dropout: float = 0.2  # dropout probability in coupling networks
    importance_samples: int = 16  # importance samples of the closer bound of the test (0: none)
    eval_samples: int = 2000  # samples evaluated at the end (0: none)
    steps: int = 700  # number of updates
    batch_size: int = 64  # images per update
    augment: str = "none"  # augmentation of images; samples then look augmented too
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        lr=2.5e-3,
        beta2=0.99,
        weight_decay=1.0,
        warmup_ratio=0.05,
        max_grad_norm=1.0,
        ema_decay=0.99,
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train flowpp                   63 s of a core          1.984 bits; Glow 2.016
    "digits": Recipe(pixel_levels=17, batch_size=32),
    # torchstone train flowpp/large             212 s of a core          1.87 bits, one trial
    "large": Recipe(
        variant="flowpp_digits_large", pixel_levels=17, optim=replace(Recipe.optim, lr=4e-3, weight_decay=0.7)
    ),
    # torchstone train flowpp/mnist5k           not trained in earnest
    "mnist5k": Recipe(data="mnist5k", variant="flowpp_mnist", steps=2000),
    # torchstone train flowpp/cifar10 --data FOLDER   the paper's network
    "cifar10": Recipe(
        data="cifar10",
        variant="flowpp_cifar10",
        augment="flip",
        steps=400_000,
        optim=replace(
            Recipe.optim,
            optimizer="adam",
            lr=3e-4,
            beta2=0.999,
            weight_decay=0.0,
            warmup_ratio=0.005,
            lr_schedule="constant",
            ema_decay=0.999,
            compile=True,
        ),
    ),
    # for tests: seconds
    "smoke": Recipe(
        variant="flowpp_tiny",
        pixel_levels=17,
        importance_samples=2,
        eval_samples=0,
        steps=40,
        batch_size=32,
        optim=replace(Recipe.optim, lr=1e-2, weight_decay=0.0, ema_decay=0.9),
    ),
}


def concat_elu(x: Rows) -> Float[Tensor, "batch height width twice"]:
    """elu of x and of −x, one after the other along the channels."""
    return F.elu(torch.cat([x, -x], -1))


def gate(x: Float[Tensor, "batch height width twice"]) -> Rows:
    v, w = x.chunk(2, -1)
    return v * w.sigmoid()


def standardize_output(layer: Any, x: Rows) -> None:
    """Scale weights and bias so that each output has mean 0 and the layer's `gain` as standard deviation on a
    batch (Salimans and Kingma 2016, arXiv:1602.07868, section 3)."""
    std, mean = torch.std_mean(layer.forward(x) - layer.bias, [0, 1, 2], correction=0)
    scale = layer.gain / (std + STD_FLOOR)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(-mean * scale)


class Conv3x3(nn.Conv2d):
    """3 × 3, zero-padded, channels last."""

    def __init__(self, channels: int, outputs: int, gain: float = 1.0):
        super().__init__(channels, outputs, 3, padding=1)
        self.gain = gain
        init_weights(self, gain)

    initialize = standardize_output

    def forward(self, input: Rows) -> Outputs:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Conv1x1(nn.Linear):
    """The same matrix at each pixel, channels last."""

    def __init__(self, channels: int, outputs: int, gain: float = 1.0):
        super().__init__(channels, outputs)
        self.gain = gain
        init_weights(self, gain)

    initialize = standardize_output


def init_weights(layer: Any, gain: float) -> None:
    nn.init.normal_(layer.weight, std=INIT_STD * gain)
    nn.init.zeros_(layer.bias)


class GatedConv(nn.Module):
    """x + v ⊙ σ(w): two convolutions with concatenated ELUs before them.

    Args:
        context: channels of the context that the first one's output is shifted by, 0 for none.
        kernel: of the second one, 1 or 3.
    """

    def __init__(self, width: int, dropout: float, context: int = 0, kernel: int = 1):
        super().__init__()
        self.conv1 = Conv3x3(2 * width, width)
        self.context = Conv1x1(2 * context, width) if context else None
        self.dropout = nn.Dropout(dropout)
        self.conv2 = (Conv1x1 if kernel == 1 else Conv3x3)(2 * width, 2 * width, SMALL_GAIN)

    def forward(self, x: Rows, context: Float[Tensor, "batch height width features"] | None = None) -> Rows:
        h = self.conv1(concat_elu(x))
        if self.context is not None and context is not None:
            h = h + self.context(concat_elu(context))
        return x + gate(self.conv2(self.dropout(concat_elu(h))))


class GatedAttention(nn.Module):
    """x + v ⊙ σ(w) of self-attention between all pixels, to which position embeddings are added."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = Conv1x1(width, 3 * width)
        self.dropout = nn.Dropout(dropout)
        self.out = Conv1x1(width, 2 * width, SMALL_GAIN)

    def forward(self, x: Rows, positions: Float[Tensor, "height width channel"]) -> Rows:
        # (batch, pixels, 3, heads, head_dim) to three of (batch, heads, pixels, head_dim)
        qkv = self.qkv(x + positions).flatten(1, 2).unflatten(2, (3, self.heads, -1))
        h = attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        h = self.dropout(h.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3]))
        return x + gate(self.out(h))


class Block(nn.Module):
    """Gated convolution, layer norm, gated attention, layer norm."""

    def __init__(self, width: int, heads: int, dropout: float, context: int = 0):
        super().__init__()
        self.conv = GatedConv(width, dropout, context)
        self.norm1 = nn.LayerNorm(width)
        self.attention = GatedAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self,
        x: Rows,
        positions: Float[Tensor, "height width channel"],
        context: Float[Tensor, "batch height width features"] | None = None,
    ) -> Rows:
        x = self.norm1(self.conv(x, context))
        return self.norm2(self.attention(x, positions))


@dataclass(frozen=True)
class NetConfig:
    """Of the network in a coupling."""

    width: int  # channels
    blocks: int
    components: int  # of each mixture of logistics
    heads: int  # of attention
    dropout: float
    context: int = 0  # channels of the context, 0 for none


class CouplingNet(nn.Module):
    """From one half of an image to the coefficients of each number of the other half."""

    def __init__(self, shape: Sequence[int], config: NetConfig):
        super().__init__()
        channels, height, width = shape
        self.positions = nn.Parameter(POSITION_STD * torch.randn(height, width, config.width))
        self.first = Conv3x3(channels, config.width)
        blocks = (
            Block(config.width, config.heads, config.dropout, config.context) for _ in range(config.blocks)
        )
        self.blocks = nn.ModuleList(blocks)
        self.last = Conv3x3(config.width, channels * (2 + 3 * config.components), SMALL_GAIN)

    def forward(
        self, a: Images, context: Float[Tensor, "batch height width features"] | None = None
    ) -> Float[Tensor, "batch height width channel numbers"]:
        x = self.first(a.permute(0, 2, 3, 1))
        for block in self.blocks:
            x = block(x, self.positions, context)
        return self.last(x).unflatten(3, (a.shape[1], -1))


def coupling_step(shape: Sequence[int], config: NetConfig) -> list[nn.Module]:
    """Scale and shift of each number, 1 × 1 convolution of either half, coupling, swap of the halves.

    Args:
        shape: of both halves together.
    """
    channels, *sides = shape
    return [
        ActNorm(channels, sides=sides),
        HalvesConv1x1(channels, MIXING_STD),
        MixtureCoupling(CouplingNet((channels // 2, *sides), config)),
        SwapHalves(),
    ]


class VariationalDequantization(nn.Module):
    """q(u | k) of section 3.1: noise on 0..1 from standard normal noise, by a flow that sees the image.

    Args:
        shape: of the image.
        config: of the couplings' networks.
    """

    def __init__(self, shape: Sequence[int], levels: int, couplings: int, config: NetConfig):
        super().__init__()
        channels, height, width = shape
        self.levels, self.halves = levels, CheckerboardHalves()
        self.first = Conv3x3(2 * channels, config.context)
        self.convs = nn.ModuleList(GatedConv(config.context, config.dropout, kernel=3) for _ in range(3))
        self.layers = nn.ModuleList(
            layer
            for _ in range(couplings)
            for layer in coupling_step((2 * channels, height, width // 2), config)
        )

    def context(self, images: Images) -> Context:
        centered = quantize(images, self.levels).to(images.dtype) / self.levels - 0.5
        x = self.first(self.halves(centered)[0].permute(0, 2, 3, 1))
        for conv in self.convs:
            x = conv(x)
        return x

    def forward(self, images: Images, epsilon: Images) -> tuple[Images, LogProb]:
        """u, and log q(u | k) in nats.

        Args:
            images: integers from 0 to 255.
            epsilon: N(0, 1).
        """
        context, (x, total) = self.context(images), self.halves(epsilon)
        for layer in self.layers:
            inputs = (x, context) if isinstance(layer, MixtureCoupling) else (x,)
            x, log_det = layer(*inputs)
            total = total + log_det
        x, _ = self.halves.inverse(x)
        total = total + (F.logsigmoid(x) + F.logsigmoid(-x)).flatten(1).sum(1)
        return x.sigmoid(), standard_normal_log_prob(epsilon.flatten(1)) - total


class UniformDequantization(nn.Module):
    """Uniform u from the same standard normal noise, by its cumulative distribution; log q = 0."""

    def forward(self, images: Images, epsilon: Images) -> tuple[Images, LogProb]:
        return torch.special.ndtr(epsilon), epsilon.new_zeros(len(epsilon))


class FlowPP(nn.Module):
    """The flow of images, and that of their dequantization noise.

    Args:
        shape: (channel, height, width) of an image; the height must be even, the width divisible by 4.
        width, blocks, components, heads, dropout: of the networks in couplings.
        couplings: with a checkerboard before the squeeze, of channels after it, with a checkerboard.
        levels: number of pixel values.
        dequantization_couplings: of q(u | k); 0 for uniform noise.
        dequantization_blocks: of the networks in these.
        context: channels of what they know of the image.

    Raises:
        BadInput: sides that cannot be halved so often, or a width that cannot be shared among the heads.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 8, 8),
        width: int = 32,
        blocks: int = 2,
        components: int = 8,
        heads: int = 4,
        dropout: float = 0.2,
        couplings: Sequence[int] = (4, 2, 3),
        levels: int = 256,
        dequantization_couplings: int = 4,
        dequantization_blocks: int = 2,
        context: int = 32,
    ):
        super().__init__()
        self.shape, self.levels = tuple(shape), levels
        if shape[1] % 2 or shape[2] % 4:
            raise BadInput(f"a height of {shape[1]} must be even and a width of {shape[2]} divisible by 4")
        if width % heads:
            raise BadInput(f"a width of {width} cannot be divided among {heads} heads")
        config = NetConfig(width, blocks, components, heads, dropout)
        self.flow: Any = MultiScaleFlow([self.stage(couplings, config)], shape, squeezes_last=True)
        if dequantization_couplings:
            config = replace(config, blocks=dequantization_blocks, context=context)
            self.dequantization: Any = VariationalDequantization(
                shape, levels, dequantization_couplings, config
            )
        else:
            self.dequantization = UniformDequantization()

    def stage(self, couplings: Sequence[int], config: NetConfig) -> ComposeFlow:
        """Section 4: nothing leaves early, so that all latents are of half the side."""
        c, h, w = self.shape
        fine, of_channels, coarse = couplings
        layers: list[nn.Module] = [CheckerboardHalves()]
        for _ in range(fine):
            layers += coupling_step((2 * c, h, w // 2), config)
        layers += [InverseFlow(CheckerboardHalves()), Squeeze()]
        c, h, w = 4 * c, h // 2, w // 2
        for _ in range(of_channels):
            layers += coupling_step((c, h, w), config)
        layers.append(CheckerboardHalves())
        for _ in range(coarse):
            layers += coupling_step((2 * c, h, w // 2), config)
        layers.append(InverseFlow(CheckerboardHalves()))
        return ComposeFlow(layers)

    def forward(self, images: Images, epsilon: Images) -> tuple[Noise, LogProb]:
        """z, and what log N(z; 0, I) lacks to log p(y) − log q(u | k), with y from 0 to 1.

        Args:
            images: from 0 to 255.
            epsilon: N(0, 1).
        """
        u, log_q = self.dequantization(images, epsilon)
        x, logit_log_det = logit(dequantize(images, u, self.levels))
        z, log_det = self.flow(x)
        return z, log_det + logit_log_det - log_q

    def inverse(self, z: Noise) -> tuple[Images, LogProb]:
        return self.flow.inverse(z)

    def log_prob(self, x: Images) -> LogProb:
        """log p(x) in nats, of x after the logit."""
        z, log_det = self.flow(x)
        return standard_normal_log_prob(z) + log_det

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Images:
        """`count` samples x = f⁻¹(z), from the noise of `seed`, the same on every device but for rounding.

        Raises:
            NotFinite: one of them has a number that is NaN or infinite.
        """
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        z = temperature * torch.randn(count, math.prod(self.shape), generator=generator)
        samples = [self.inverse(rows)[0] for rows in z.to(device).split(500)]
        return check_finite(torch.cat(samples), "samples")


def loss(net: Any, batch: LikelihoodBatch, levels: int) -> Tensor:
    """−(log p − log q) of section 3.1, for one sample of u, in bits per dimension."""
    z, log_det = net(batch.images, batch.epsilon)
    dimensions = math.prod(batch.images.shape[1:])
    return bits_per_dim(standard_normal_log_prob(z) + log_det, dimensions, levels).mean()


def initialize(model: FlowPP, data: ImageDataset, seed: int) -> None:
    """Layers scaled by a first batch, which the seed draws; all processes draw the same one."""
    generator = derive_generator(seed, SeedStream.ACTNORM_INIT, 0)
    index = torch.randperm(len(data.train), generator=generator)[:INIT_BATCH]
    images = data.train.take(index).float()
    initialize_actnorm(model, images, torch.randn(images.shape, generator=generator).to(images.device))


def shape_variant(*shape: int, **model_config: Any) -> Variant:
    return Variant(partial(FlowPP, shape=shape, **model_config), shape)


PAPER = {"width": 96, "blocks": 10, "components": 32}
TINY = {"width": 8, "blocks": 1, "components": 2, "heads": 2, "couplings": (1, 1, 1), "context": 4}
VARIANTS = {
    "flowpp_digits": shape_variant(
        *(1, 8, 8),
        width=16,
        blocks=1,
        components=6,
        heads=2,
        couplings=(2, 2, 2),
        dequantization_couplings=1,
        dequantization_blocks=1,
        context=8,
    ),
    "flowpp_digits_large": shape_variant(
        1, 8, 8, width=32, blocks=1, components=8, dequantization_couplings=2, dequantization_blocks=1
    ),
    "flowpp_tiny": shape_variant(1, 8, 8, **TINY, dequantization_couplings=1, dequantization_blocks=1),
    # attention between the 392 pixels of half an image costs more than all else: one coupling of noise has it
    "flowpp_mnist": shape_variant(
        *(1, 28, 28),
        width=24,
        blocks=1,
        heads=1,
        couplings=(0, 3, 3),
        dequantization_couplings=1,
        dequantization_blocks=1,
        context=8,
    ),
    "flowpp_cifar10": shape_variant(3, 32, 32, **PAPER),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make, shape = VARIANTS[recipe.variant]
    data = load_images(recipe.data, size=shape[1], channels=shape[0], device=device)
    model_config: dict[str, Any] = {"levels": recipe.pixel_levels, "dropout": recipe.dropout}
    if recipe.dequantization == "uniform":
        model_config["dequantization_couplings"] = 0
    rng.seed(recipe.seed)
    model = make(**model_config).to(device)
    if 2 <= recipe.pixel_levels <= 256:
        initialize(model, data, recipe.seed)
    yield train_image_flow(
        model,
        recipe,
        data,
        loss=loss,
        model_config=model_config,
        classifier=CLASSIFIER,
        keeps_class_latents=True,
        noise_shape=shape,
        importance_samples=recipe.importance_samples,
    )


def paper_parameters(**model_config: Any) -> int:
    return count_on_meta(FlowPP, (3, 32, 32), **{**PAPER, **model_config})


# counts stated in the code published with the paper: of the network, and of its ablation
FACTS = [
    Fact("parameters", paper_parameters, 31_443_440),
    Fact(
        "parameters with uniform noise and 104 channels",
        lambda: paper_parameters(width=104, dequantization_couplings=0),
        32_324_408,
    ),
    Fact("bits per dimension of a uniform density", lambda: bits_per_dim(torch.zeros(1), 9).item(), 8.0),
]


def reference() -> Iterator[ParityCase]:
    """The paper's equations in loops, with the same weights."""
    from torchstone.references.flowpp import flowpp_cases

    yield from flowpp_cases(FlowPP)
