"""BigGAN: a class-conditional GAN whose parts scale, and whose latents can be truncated after training.

Paper: Andrew Brock, Jeff Donahue and Karen Simonyan, "Large Scale GAN Training for High Fidelity Natural
Image Synthesis", ICLR 2019, arXiv:1809.11096 (2018).

The idea. A large residual GAN in which every layer knows the class. One embedding of the class is shared by
all layers. Each block of the generator also gets a chunk of the latent vector of its own, so that noise acts
at every resolution. Spectral norm keeps both networks smooth, self-attention relates distant positions, and
the discriminator scores an image by its inner product with the class. After training, truncated latents
trade diversity for fidelity; a generator whose filters are orthogonal bears that well.

    z = [z₀ … z_B];  c_i = [E(y), z_i];  h₀ = linear(z₀) as a 4 × 4 grid                            (3, B)
    G block   h → cBN(c) ReLU up×2 conv, cBN(c) ReLU conv;  skip up×2, conv 1×1                 (figure 15)
    cBN       (x − μ) / σ · (1 + W_s c) + W_b c
    D block   h → ReLU conv, ReLU conv, mean 2×2;  skip conv 1×1, mean 2×2
    D(x, y) = v · φ(x) + E_D(y) · φ(x),  φ the sum over positions of ReLU(h)
    hinge loss; G minimizes −E D(G(z, y), y) + β ‖W Wᵀ ⊙ (1 − I)‖²_F, β = 1e-4                  (equation 3)
    sampling: z normal, numbers beyond ±2 drawn again, times the truncation 0..1                       (3.1)

    biggan128, biggan256        hierarchical latents, shared embedding, attention at 64 × 64; the form of the
                                authors' PyTorch code, with its counts
    biggan_cifar10              of the same code: a table of scales for each class and layer, no hierarchy
    biggan_deep128 … 512        BigGAN-deep: bottleneck blocks, whose skips drop channels; all of z everywhere
    biggan_mnist                32 × 32 for a core of a CPU;   biggan_digits, biggan_deep_digits  8 × 8

The generator's third argument is the truncation, for the running statistics: BigGAN-deep's published weights
have 51 rows of them (`parts/gan/conditional_batch_norm.py`). Weights for evaluation are an exponential moving
average; their statistics are measured by forward passes wherever they are sampled (standing statistics).

Spectral norm is torch's form (`parts/gan/spectral_norm.py`): one step of power iteration at each training
pass, both vectors stored. The authors' PyTorch code stores one, and in evaluation takes a step from it
without storing; a file is given that step when it is loaded, and is computed the same from then on.

What differs from the paper. Its batches of 2048 images, which a CPU has not, are its largest gain. Both
players' steps see labels in the frequency of the data. The penalty is of the weights before spectral norm, as
in the authors' code. The class embedding starts as N(0, 1), like latents. BigGAN-deep's last convolution has
as many outputs as inputs, of which three are used, as in its published weights.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.biggan import from_authors, from_hugging_face
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.gan.conditional_batch_norm import (
    AffineBatchNorm,
    ConditionalBatchNorm,
    standing_statistics,
)
from torchstone.parts.gan.losses import GanLoss
from torchstone.parts.gan.orthogonal_penalty import orthogonal_penalty
from torchstone.parts.gan.self_attention import SelfAttention2d
from torchstone.parts.gan.spectral_norm import WARMUP_ITERATIONS, SpectralNorm, apply_spectral_norm
from torchstone.parts.gan.truncated_normal import check_truncation, truncated_normal
from torchstone.plots.sample_grid import save_image_grid, symmetric_range
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.systems.generative.cgan import Labels, class_weights
from torchstone.systems.generative.gan import discriminator_loss
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.train import train_gan
from torchstone.tasks.inference import class_index

__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "reference", "sample"]

MARGIN = ("frechet_distance", -300.0)
evaluate = partial(inference.evaluate, classifier=CLASSIFIER, sampling_context=lambda model: measured(model))

PAPER_WIDTHS = (16, 16, 8, 4, 2, 1)  # of the grids of a generator at 128 × 128, in channels of the last
FIRST_SIDE = 4  # of the coarsest grid
STANDING_BATCHES, STANDING_SIZE = 10, 100  # forward passes that statistics are measured by, and their images
STANDING_SEED = 1
PATH_COLUMNS = 9  # of a sheet from one class to another

Grid = Float[Tensor, "b c h w"]
NewGrid = Float[Tensor, "b d i j"]
Condition = Float[Tensor, "b numbers"]


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "biggan_mnist"  # network variant
    loss: Literal["hinge", "non_saturating", "minimax", "wgan_gp"] = "hinge"  # GAN loss
    ortho_weight: float = 1e-4  # orthogonal regularization weight β of the generator
    gp_weight: float = 10.0  # gradient penalty weight λ of wgan_gp
    discriminator_steps: int = 2  # discriminator steps per generator step
    eval_samples: int = 1000  # samples per evaluation; five times as many at the end
    steps: int = 1000  # number of updates
    batch_size: int = 32  # images per step
    optim: OptimConfig = OptimConfig(
        lr=6e-4, beta1=0.0, lr_schedule="linear", ema_decay=0.99
    )  # optimizer, schedule, precision
    discriminator_lr: float | None = None  # learning rate of the discriminator (none: that of the generator)
    augment: str = "none"  # augmentation of real images; samples then look augmented too
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train biggan   455 s of a core   98.7 % of samples show their class, Fréchet distance 15.3
    "mnist5k": Recipe(),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="biggan_digits",
        eval_samples=200,
        steps=40,
        optim=replace(Recipe.optim, lr=4e-3, lr_schedule="constant", ema_decay=0.9),
    ),
}


def spectral_conv(inputs: int, outputs: int, side: int = 3, bias: bool = True) -> nn.Module:
    """A convolution that keeps the grid, with spectral norm."""
    return apply_spectral_norm(nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias))


def spectral_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    return apply_spectral_norm(nn.Linear(inputs, outputs, bias=bias))


def spectral_embedding(num_classes: int, width: int) -> nn.Module:
    """A table of rows by class, as a linear map of distributions over classes, with spectral norm."""
    layer = nn.Linear(num_classes, width, bias=False)
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight, dim=1))
    return layer


def conditional_norm(channels: int, condition_dim: int, tables: int, eps: float) -> ConditionalBatchNorm:
    scale, shift = (spectral_linear(condition_dim, channels, bias=False) for _ in range(2))
    return ConditionalBatchNorm(channels, scale, shift, tables, eps)


def attention(channels: int) -> SelfAttention2d:
    return SelfAttention2d(channels, partial(spectral_conv, side=1, bias=False))


def upsample(x: Grid) -> NewGrid:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def halves(x: Grid, is_halved: bool) -> NewGrid:
    """Means of 2 × 2 positions, if wanted."""
    return F.avg_pool2d(x, 2) if is_halved else x


def init_weights(network: nn.Module, std: float | None = None, shared: nn.Linear | None = None) -> None:
    """Orthogonal weights (section 3), or N(0, std²); biases zero; the shared embedding N(0, 1).
    Spectral norm begins anew."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            norms: Any = getattr(module, "parametrizations", None)
            weight = module.weight if norms is None else norms.weight.original
            if weight.is_meta:  # no numbers, which orthogonal ones take minutes for
                continue
            nn.init.orthogonal_(weight) if std is None else nn.init.normal_(weight, 0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if norms is not None:
                (norm,) = norms.weight
                norm.power_iteration(norm.matrix(weight.detach()), WARMUP_ITERATIONS)
    if shared is not None and not shared.weight.is_meta:
        nn.init.normal_(shared.weight)


class GeneratorBlock(nn.Module):
    """Figure 15b: twice as many positions."""

    def __init__(self, inputs: int, outputs: int, make_norm: Any):
        super().__init__()
        self.norm1, self.norm2 = make_norm(inputs), make_norm(outputs)
        self.conv1, self.conv2 = spectral_conv(inputs, outputs), spectral_conv(outputs, outputs)
        self.skip = spectral_conv(inputs, outputs, 1)

    def forward(self, x: Grid, condition: Condition, truncation: float) -> NewGrid:
        h = self.conv1(upsample(F.relu(self.norm1(x, condition, truncation))))
        h = self.conv2(F.relu(self.norm2(h, condition, truncation)))
        return h + upsample(self.skip(x))  # a 1 × 1 convolution before or after: the same numbers


class Generator(nn.Module):
    """Latents and classes to images on −1..1, of side 4 · 2^blocks.

    Args:
        widths: channels of the first grid and after each block, in units of `base_channels`.
        chunk_dim: numbers of z for the first layer, and again for each block.
        shared_dim: of the class embedding; 0 for a table of each layer's scales by class, and no hierarchy.
        attention_block: the block that attention follows; None for no attention.
        init_std: of normal initial weights; None for orthogonal ones.
    """

    def __init__(
        self,
        widths: Sequence[int] = PAPER_WIDTHS,
        base_channels: int = 96,
        channels: int = 3,
        num_classes: int = 1000,
        chunk_dim: int = 20,
        shared_dim: int = 128,
        attention_block: int | None = 3,
        init_std: float | None = None,
    ):
        super().__init__()
        first, *outputs = [base_channels * width for width in widths]
        self.num_classes, self.attention_block = num_classes, attention_block
        self.chunk_dim, self.is_shared = chunk_dim, shared_dim > 0
        self.latent_dim = chunk_dim * len(widths) if self.is_shared else chunk_dim
        if self.is_shared:
            self.shared = nn.Linear(num_classes, shared_dim, bias=False)
            make_norm = partial(conditional_norm, condition_dim=shared_dim + chunk_dim, tables=1, eps=1e-5)
        else:
            table = lambda width: nn.Linear(num_classes, width, bias=False)  # noqa: E731
            make_norm = lambda width: ConditionalBatchNorm(width, table(width), table(width))  # noqa: E731
        self.first = spectral_linear(chunk_dim, first * FIRST_SIDE**2)
        pairs = zip([first, *outputs], outputs, strict=False)
        self.blocks = nn.ModuleList(GeneratorBlock(a, b, make_norm) for a, b in pairs)
        if attention_block is not None:
            self.attention = attention(outputs[attention_block])
        self.norm, self.to_image = AffineBatchNorm(outputs[-1]), spectral_conv(outputs[-1], channels)
        init_weights(self, init_std, self.shared if self.is_shared else None)

    def forward(
        self, z: Float[Tensor, "b latent"], labels: Labels = None, truncation: float = 1.0
    ) -> Float[Tensor, "b c size size"]:
        y = class_weights(labels, self.num_classes, z)
        if self.is_shared:
            z, *chunks = z.split(self.chunk_dim, 1)
            embedded = self.shared(y)
            conditions = [torch.cat([embedded, chunk], 1) for chunk in chunks]
        else:
            conditions = [y] * len(self.blocks)
        h = self.first(z).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))
        for index, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            h = block(h, condition, truncation)
            if index == self.attention_block:
                h = self.attention(h)
        return torch.tanh(self.to_image(F.relu(self.norm(h, truncation))))


class DiscriminatorBlock(nn.Module):
    """Figure 15c: half as many positions if `is_halved`. The first block has no ReLU before it."""

    def __init__(self, inputs: int, outputs: int, is_halved: bool, is_first: bool):
        super().__init__()
        self.is_halved, self.is_first = is_halved, is_first
        self.conv1, self.conv2 = spectral_conv(inputs, outputs), spectral_conv(outputs, outputs)
        self.skip = spectral_conv(inputs, outputs, 1) if inputs != outputs or is_halved else nn.Identity()

    def forward(self, x: Grid) -> NewGrid:
        h = self.conv1(x if self.is_first else F.relu(x))
        h = halves(self.conv2(F.relu(h)), self.is_halved)
        return h + self.skip(halves(x, self.is_halved))


class Discriminator(nn.Module):
    """Images and classes to the logit of being real (Miyato and Koyama 2018, arXiv:1802.05637).

    Args:
        widths: channels after each block, in units of `base_channels`.
        downsamples: how many blocks, from the first, halve the grid.
    """

    def __init__(
        self,
        widths: Sequence[int] = PAPER_WIDTHS[::-1],
        downsamples: int = 5,
        base_channels: int = 96,
        channels: int = 3,
        num_classes: int = 1000,
        attention_block: int | None = 0,
        init_std: float | None = None,
    ):
        super().__init__()
        outputs = [base_channels * width for width in widths]
        self.num_classes, self.attention_block = num_classes, attention_block
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(a, b, index < downsamples, index == 0)
            for index, (a, b) in enumerate(zip([channels, *outputs], outputs, strict=False))
        )
        if attention_block is not None:
            self.attention = attention(outputs[attention_block])
        self.output = spectral_linear(outputs[-1], 1)
        self.embedding = spectral_embedding(num_classes, outputs[-1])
        init_weights(self, init_std)

    def forward(self, images: Float[Tensor, "b c size size"], labels: Labels = None) -> Float[Tensor, " b"]:
        h = images
        for index, block in enumerate(self.blocks):
            h = block(h)
            if index == self.attention_block:
                h = self.attention(h)
        return project(self, h, class_weights(labels, self.num_classes, images))


def project(net: Any, h: Grid, y: Float[Tensor, "b classes"]) -> Float[Tensor, " b"]:
    """v · φ + E(y) · φ, φ the sum of ReLU(h) over positions."""
    features = F.relu(h).sum((2, 3))
    return net.output(features)[:, 0] + (net.embedding(y) * features).sum(1)


class DeepGeneratorBlock(nn.Module):
    """Figure 16b: a bottleneck of a quarter of the channels; the skip keeps the first of them."""

    def __init__(self, inputs: int, outputs: int, is_doubled: bool, make_norm: Any):
        super().__init__()
        self.outputs, self.is_doubled, inner = outputs, is_doubled, inputs // 4
        self.norms = nn.ModuleList(make_norm(width) for width in (inputs, inner, inner, inner))
        shapes = ((inputs, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, outputs, 1))
        self.convs = nn.ModuleList(spectral_conv(*shape) for shape in shapes)

    def forward(self, x: Grid, condition: Condition, truncation: float) -> NewGrid:
        h = x
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = F.relu(norm(h, condition, truncation))
            h = conv(upsample(h) if self.is_doubled and index == 1 else h)
        x = x[:, : self.outputs]
        return h + (upsample(x) if self.is_doubled else x)


class DeepGenerator(nn.Module):
    """BigGAN-deep (appendix B): latents and classes to images on −1..1.

    Args:
        widths: channels of the first grid, then after each second block, which doubles the grid, in units of
            `base_channels`; the block before it keeps both.
        latent_dim: of z and of the class embedding.
        attention_block: the block that attention stands before; None for no attention.
        tables: rows of running statistics, by truncation.
    """

    def __init__(
        self,
        widths: Sequence[int] = PAPER_WIDTHS,
        base_channels: int = 128,
        channels: int = 3,
        num_classes: int = 1000,
        latent_dim: int = 128,
        attention_block: int | None = 8,
        tables: int = 1,
    ):
        super().__init__()
        outputs = [base_channels * width for width in widths]
        self.channels, self.num_classes, self.latent_dim = channels, num_classes, latent_dim
        self.attention_block, self.tables = attention_block, tables
        make_norm = partial(conditional_norm, condition_dim=2 * latent_dim, tables=tables, eps=1e-4)
        self.shared = nn.Linear(num_classes, latent_dim, bias=False)
        self.first = spectral_linear(2 * latent_dim, outputs[0] * FIRST_SIDE**2)
        pairs = [pair for a, b in itertools.pairwise(outputs) for pair in ((a, a), (a, b))]
        self.blocks = nn.ModuleList(
            DeepGeneratorBlock(a, b, index % 2 == 1, make_norm) for index, (a, b) in enumerate(pairs)
        )
        if attention_block is not None:
            self.attention = attention(pairs[attention_block][0])
        last = outputs[-1]
        self.norm, self.to_image = AffineBatchNorm(last, tables, 1e-4), spectral_conv(last, last)
        init_weights(self, shared=self.shared)

    def forward(
        self, z: Float[Tensor, "b latent"], labels: Labels = None, truncation: float = 1.0
    ) -> Float[Tensor, "b c size size"]:
        condition = torch.cat([z, self.shared(class_weights(labels, self.num_classes, z))], 1)
        h = self.first(condition).unflatten(1, (-1, FIRST_SIDE, FIRST_SIDE))
        for index, block in enumerate(self.blocks):
            if index == self.attention_block:
                h = self.attention(h)
            h = block(h, condition, truncation)
        return torch.tanh(self.to_image(F.relu(self.norm(h, truncation)))[:, : self.channels])


class DeepDiscriminatorBlock(nn.Module):
    """Figure 16c: a bottleneck; the skip gets the channels that it lacks from a 1 × 1 convolution."""

    def __init__(self, inputs: int, outputs: int, is_halved: bool):
        super().__init__()
        self.is_halved, inner = is_halved, outputs // 4
        shapes = ((inputs, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, outputs, 1))
        self.convs = nn.ModuleList(spectral_conv(*shape) for shape in shapes)
        self.skip = spectral_conv(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x: Grid) -> NewGrid:
        h = x
        for index, conv in enumerate(self.convs):
            h = F.relu(h)
            h = conv(halves(h, self.is_halved) if index == 3 else h)
        x = halves(x, self.is_halved)
        return h + (x if self.skip is None else torch.cat([x, self.skip(x)], 1))


class DeepDiscriminator(nn.Module):
    """BigGAN-deep's: a convolution, then pairs of blocks, of which the first halves the grid."""

    def __init__(
        self,
        widths: Sequence[int] = PAPER_WIDTHS[::-1],
        base_channels: int = 128,
        channels: int = 3,
        num_classes: int = 1000,
        attention_block: int | None = 2,
    ):
        super().__init__()
        outputs = [base_channels * width for width in widths]
        self.num_classes, self.attention_block = num_classes, attention_block
        self.first = spectral_conv(channels, outputs[0])
        pairs = [pair for a, b in itertools.pairwise(outputs) for pair in ((a, b), (b, b))]
        self.blocks = nn.ModuleList(
            DeepDiscriminatorBlock(a, b, index % 2 == 0) for index, (a, b) in enumerate(pairs)
        )
        if attention_block is not None:
            self.attention = attention(pairs[attention_block][0])
        self.output = spectral_linear(outputs[-1], 1)
        self.embedding = spectral_embedding(num_classes, outputs[-1])
        init_weights(self)

    def forward(self, images: Float[Tensor, "b c size size"], labels: Labels = None) -> Float[Tensor, " b"]:
        h = self.first(images)
        for index, block in enumerate(self.blocks):
            if index == self.attention_block:
                h = self.attention(h)
            h = block(h)
        return project(self, h, class_weights(labels, self.num_classes, images))


def generator_loss(fake_logits: Tensor, loss: GanLoss, model: nn.Module, ortho_weight: float) -> Tensor:
    """−E D(G(z, y), y) + β R (equation 3), R of all filters but the class embedding's."""
    total = loss.generator(fake_logits)
    return total + ortho_weight * orthogonal_penalty(filters(model)) if ortho_weight else total


def filters(model: nn.Module) -> list[Tensor]:
    """The generator's weights that are matrices of filters, before spectral norm."""
    return [p for name, p in model.named_parameters() if p.ndim > 1 and not name.startswith("shared.")]


def measured(
    model: Any, metadata: Mapping[str, Any] | None = None, truncation: float | None = None
) -> contextlib.AbstractContextManager[None]:
    """Within, running statistics are those of such samples (appendix C): latents of a fixed seed, each class.

    Args:
        metadata: of a published generator the stored statistics count, and nothing is measured.
        truncation: of the latents; None for N(0, I).
    """
    if metadata is not None and not metadata.get("has_standing_statistics"):
        return contextlib.nullcontext()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(STANDING_SEED)
    labels = torch.arange(STANDING_SIZE, device=device)

    def batches() -> Iterator[tuple[Tensor, Tensor, float]]:
        for count in range(STANDING_BATCHES):
            z = latents(STANDING_SIZE, model.latent_dim, truncation, generator)
            classes = (labels + count * STANDING_SIZE) % model.num_classes
            yield z.to(device), classes, 1.0 if truncation is None else truncation

    return standing_statistics(model, batches())


def latents(count: int, latent_dim: int, truncation: float | None, generator: torch.Generator) -> Tensor:
    """N(0, I), or truncated (section 3.1)."""
    if truncation is None:
        return torch.randn(count, latent_dim, generator=generator)
    return truncated_normal((count, latent_dim), truncation, generator)


class Networks(NamedTuple):
    """A pair of players, their arguments, and the side of their images."""

    generator: type[nn.Module]
    discriminator: type[nn.Module]
    arguments: dict[str, Any]
    discriminator_arguments: dict[str, Any]
    size: int


def networks(size: int, arguments: dict[str, Any], discriminator_arguments: dict[str, Any]) -> Networks:
    return Networks(Generator, Discriminator, arguments, discriminator_arguments, size)


def deep_networks(size: int, *widths: int) -> Networks:
    """As published; the discriminator mirrors the generator, with attention at 64 × 64 too."""
    arguments = {"widths": widths, "tables": 51}
    discriminator = {"widths": widths[::-1], "attention_block": 2 * (len(widths) - 5)}
    return Networks(DeepGenerator, DeepDiscriminator, arguments, discriminator, size)


MNIST = {"base_channels": 16, "channels": 1, "num_classes": 10}
TINY = {"channels": 1, "num_classes": 10, "attention_block": 0}
CIFAR10 = {"base_channels": 64, "num_classes": 10, "attention_block": None, "init_std": 0.02}
NETWORKS = {
    "biggan_mnist": networks(
        32,
        MNIST | {"widths": (4, 4, 2, 1), "chunk_dim": 16, "shared_dim": 32, "attention_block": 1},
        MNIST | {"widths": (1, 2, 4, 4), "downsamples": 3, "attention_block": 0},
    ),
    "biggan_digits": networks(
        8,
        TINY | {"widths": (1, 1), "base_channels": 16, "chunk_dim": 8, "shared_dim": 8},
        TINY | {"widths": (1, 1), "base_channels": 16, "downsamples": 1},
    ),
    "biggan_deep_digits": Networks(
        DeepGenerator,
        DeepDiscriminator,
        TINY | {"widths": (2, 1), "base_channels": 16, "latent_dim": 8, "tables": 3, "attention_block": 1},
        TINY | {"widths": (1, 2), "base_channels": 16},
        8,
    ),
    "biggan128": networks(128, {}, {}),
    "biggan256": networks(
        256,
        {"widths": (16, 16, 8, 8, 4, 2, 1)},
        {"widths": (1, 2, 4, 8, 8, 16, 16), "downsamples": 6, "attention_block": 1},
    ),
    "biggan_cifar10": networks(
        32,
        CIFAR10 | {"widths": (4, 4, 4, 4), "chunk_dim": 128, "shared_dim": 0},
        CIFAR10 | {"widths": (4, 4, 4, 4), "downsamples": 2},
    ),
    "biggan_deep128": deep_networks(128, 16, 16, 8, 4, 2, 1),
    "biggan_deep256": deep_networks(256, 16, 16, 8, 8, 4, 2, 1),
    "biggan_deep512": deep_networks(512, 16, 16, 8, 8, 4, 2, 1, 1),
}


def latent_dim(networks: Networks) -> int:
    """Numbers of z."""
    arguments = networks.arguments
    if networks.generator is DeepGenerator:
        return arguments.get("latent_dim", 128)
    chunks = len(arguments.get("widths", PAPER_WIDTHS)) if arguments.get("shared_dim", 128) else 1
    return arguments.get("chunk_dim", 20) * chunks


VARIANTS = {
    name: Variant(partial(each.generator, **each.arguments), (latent_dim(each),))
    for name, each in NETWORKS.items()
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    pair = NETWORKS[recipe.variant]
    channels = pair.arguments.get("channels", 3)
    data = load_images(recipe.data, size=pair.size, channels=channels, device=device)
    model_config = {"num_classes": len(data.classes)}
    rng.seed(recipe.seed)
    model = pair.generator(**pair.arguments | model_config).to(device)
    discriminator = pair.discriminator(**pair.discriminator_arguments | model_config).to(device)
    run = train_gan(
        model,
        discriminator,
        recipe,
        data,
        discriminator_loss=discriminator_loss,
        generator_loss=partial(generator_loss, model=model, ortho_weight=recipe.ortho_weight),
        model_config=model_config,
        metadata=symmetric_range(data.metadata),
        classifier=CLASSIFIER,
        sampling_context=measured,
        sampling_work=STANDING_BATCHES * STANDING_SIZE,
    )
    run.metadata["has_standing_statistics"] = True
    yield run


def sample(
    model: Any,
    metadata: dict[str, Any],
    *,
    num_samples: int | None = None,
    seed: int = 0,
    label: str | int | None = None,
    from_label: str | int | None = None,
    to_label: str | int | None = None,
    truncation: float | None = None,
    out: str | Path | None = None,
) -> list:
    """Images, uint8 (channel, height, width), or the name of the file that their grid was written to.

    Args:
        num_samples: by default 64; of paths between classes, 8 rows.
        label: name of a class; without one each class in turn, one a column.
        from_label, to_label: two classes: each row is one latent vector, of classes between them.
        truncation: 0 to 1, the scale of latents from a truncated normal; without one N(0, I). Statistics are
            measured for it, unless the generator is a published one.
        out: a `.png` for a grid of all of them.

    Raises:
        BadInput: a count below 1; an unknown label; one label of a path; a truncation outside 0..1.
    """
    if truncation is not None:
        check_truncation(truncation)
    is_path = from_label is not None or to_label is not None
    count = num_samples if num_samples is not None else 8 if is_path else 64
    if count < 1:
        raise BadInput(f"give a number of images of at least 1, not {count}")
    columns = inference.grid_columns(model)
    labels: Any = inference.cycle_labels(model, count)
    if is_path:
        if label is not None or from_label is None or to_label is None:
            raise BadInput("a path between classes takes from_label and to_label, and no label")
        ends = [class_index(each, metadata["classes"]) for each in (from_label, to_label)]
        labels, columns = class_path(ends, model.num_classes).repeat(count, 1), PATH_COLUMNS
    elif label is not None:
        labels, columns = torch.full((count,), class_index(label, metadata["classes"])), None
    z = latents(count, model.latent_dim, truncation, torch.Generator().manual_seed(seed))
    z = z.repeat_interleave(len(labels) // count, 0)
    options: Any = {} if truncation is None else {"truncation": truncation}
    with measured(model, metadata, truncation):
        images = inference.images_of_latents(model, z, metadata["picture"], labels=labels, **options)
    return list(images) if out is None else [str(save_image_grid(images, out, columns=columns))]


def class_path(ends: Sequence[int], num_classes: int) -> Float[Tensor, "columns classes"]:
    """Distributions over classes, from one to another, both ends included; embeddings are linear in them."""
    first, last = F.one_hot(torch.tensor(ends), num_classes).float()
    return torch.lerp(first, last, torch.linspace(0, 1, PATH_COLUMNS)[:, None])


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published generator's tensors by our names (`hub/biggan.py`)."""
    return (from_hugging_face if "embeddings.weight" in tensors else from_authors)(tensors)


def published_metadata(variant: str, model: Any) -> dict[str, Any]:
    """What `sample` needs of a published generator: images on −1..1, classes by number."""
    pair = NETWORKS[variant]
    channels = pair.arguments.get("channels", 3)
    picture = symmetric_range({"size": pair.size, "channels": channels, "ink": False, "native": pair.size})
    classes = [str(number) for number in range(model.num_classes)]
    return {"task": "adversarial", "variant": variant, "classes": classes, "picture": picture}


COUNTS = {
    "biggan128": (70_433_988, 87_982_370),
    "biggan256": (82_235_844, 99_225_890),
    "biggan_cifar10": (4_304_387, 4_207_361),
    "biggan_deep128": (50_388_609,),
    "biggan_deep256": (55_880_833,),
    "biggan_deep512": (56_163_905,),
}


def player_parameters(name: str, player: str) -> int:
    """Of the generator or the discriminator."""
    pair = NETWORKS[name]
    if player == "generator":
        return count_on_meta(pair.generator, **pair.arguments)
    return count_on_meta(pair.discriminator, **pair.discriminator_arguments)


FACTS = [
    Fact(f"{name} {player}'s parameters", partial(player_parameters, name, player), count)
    for name, counts in COUNTS.items()
    for player, count in zip(("generator", "discriminator"), counts, strict=False)
]


def reference() -> Iterator[ParityCase]:
    """The networks written plainly by the paper's equations, in random configurations."""
    from torchstone.references.biggan import biggan_cases

    yield from biggan_cases(Generator, Discriminator, DeepGenerator, published)
