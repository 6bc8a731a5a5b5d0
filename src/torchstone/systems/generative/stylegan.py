"""StyleGAN2: a style sets the scale of every feature map, and images can be mixed and edited by their styles.

Paper: Tero Karras, Samuli Laine and Timo Aila, "A Style-Based Generator Architecture for Generative
Adversarial Networks", CVPR 2019, arXiv:1812.04948. Karras, Laine, Aittala, Hellsten, Lehtinen and Aila,
"Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, arXiv:1912.04958. Karras, Aittala,
Hellsten, Laine, Lehtinen and Aila, "Training Generative Adversarial Networks with Limited Data", NeurIPS
2020, arXiv:2006.06676 (ADA).

The idea. A mapping network turns noise z into a style w, whose distribution need not be that of z. The image
grows from a learned constant of 4 × 4. In each layer an affine function of w scales the channels of the
convolution's input; its outputs are normalized by their expected deviation, and noise adds detail that the
style does not decide. Coarse layers decide pose and shape, fine ones color; so that w of two images can be
mixed layer by layer, and drawn towards their mean ŵ for fewer odd images (truncation).

    z → normalize → [linear, μ = 0.01] × 8 → w;    w' = ŵ + ψ (w − ŵ)
    layer    s = A w;   x ← √2 · leaky ReLU(demod(conv(s ⊙ x)) + noise · strength + b)
    G, skip      4 × 4 constant, [upsampled layer, layer] …; each size adds to the color image, upsampled
    D, residual  color → [conv, conv and halve; + 1 × 1 and halve] … → minibatch deviation → 4 × 4 → logit

    L_D = E softplus(D(G(z))) + E softplus(−D(x))  + γ/2 E ‖∇D(x)‖²         every 16th update, times 16
    L_G = E softplus(−D(G(z)))                     + 2 E (‖Jᵀy‖ − a)²       every 4th, times 4
    lazy regularization: a step of its own; Adam's lr · c, β₁^c, β₂^c with c = interval / (interval + 1)

The layers are in `parts/gan/`: `modulated_conv.py`, `equalized.py`, `resample.py`, `minibatch_std.py`; the
regularizers in `losses.py` and `path_length.py`, ADA in `adaptive_augment.py`.

    stylegan2_emoji     32 × 32 in color, at most 64 channels;   stylegan2_digits   8 × 8 gray, for tests
    stylegan2_cifar10   ADA's configuration for CIFAR-10; D is a plain stack, the mapping has two layers
    stylegan2_cifar10_cond   with a class: embedded beside z; D's output is projected on a mapped class
    stylegan2_ffhq      1024 × 1024 (configuration F);           stylegan2_paper256   256 × 256, half as wide

What differs from the paper, and the published code. Demodulation's factor d > 0 is not multiplied at once:
leaky ReLU lets it pass, so that it goes into the next layer's s, which saves a copy of each activation. R1's
gradient is taken at the augmented image. ADA interpolates linearly, without the wavelet filter around it.
Convolutions are not clamped at ±256, which is for half precision. Crossover layers are drawn for each image.
Strengths of noise learn a hundred times more slowly than all else (`slow_noise`).
"""

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.data.vision.gan_batches import StyleBatch, StyleDraws, StyleGanBatches
from torchstone.engine import parallel, rng
from torchstone.engine.console import notify
from torchstone.engine.device import select_device
from torchstone.engine.run import FORWARDS, Run
from torchstone.engine.update import GradientUpdate, OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.stylegan import read_stylegan_weights
from torchstone.parts.facts import Fact, count_on_meta
from torchstone.parts.gan.adaptive_augment import AugmentStrength, augment
from torchstone.parts.gan.equalized import ACT_GAIN, SLOPE, EqualizedConv2d, EqualizedLinear
from torchstone.parts.gan.losses import r1_penalty
from torchstone.parts.gan.minibatch_std import minibatch_std
from torchstone.parts.gan.modulated_conv import demodulation, modulated_pointwise, scaled_conv2d
from torchstone.parts.gan.path_length import path_lengths
from torchstone.parts.gan.resample import fir_filter, upsample2d
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.plots.sample_grid import symmetric_range
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.styles import predict, sample
from torchstone.tasks.gan.train import GanTraining, check_neighbors, gan_run, image_work
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.transfer import load_weights
from torchstone.tasks.vision.feature_classifier import train_or_load_classifier
from torchstone.tasks.vision.stream import image_batches

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "predict",
    "published_metadata",
    "read_tensors",
    "reference",
    "sample",
]

MARGIN = ("frechet_distance", -150.0)
evaluate = partial(inference.evaluate, classifier=CLASSIFIER)

NUM_MEAN = 10_000  # styles whose mean is taken where a file holds none

Images = Float[Tensor, "b channels size size"]
Labels = Int64[Tensor, " b"] | None
Styles = Float[Tensor, "b layers style"]


class Mapping(nn.Module):
    """z and a class to w; `average` is ŵ.

    Args:
        latent_dim: numbers of z; 0 for a network of the class alone.
        num_classes: classes; 0 for none.
    """

    average: Float[Tensor, " style"]

    def __init__(self, latent_dim: int, style_dim: int, num_layers: int, num_classes: int = 0):
        super().__init__()
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.embedding = EqualizedLinear(num_classes, style_dim) if num_classes else None
        widths = [latent_dim + style_dim * bool(num_classes), *[style_dim] * num_layers]
        self.layers = nn.ModuleList(
            EqualizedLinear(a, b, lr_multiplier=0.01, is_activated=True)
            for a, b in itertools.pairwise(widths)
        )
        self.register_buffer("average", torch.zeros(style_dim))

    def forward(self, z: Float[Tensor, "b latent"], labels: Labels = None) -> Float[Tensor, "b style"]:
        parts = [normalize(z)] if self.latent_dim else []
        if self.embedding is not None:
            parts.append(normalize(self.embedding(class_weights(labels, self.num_classes, z))))
        w = torch.cat(parts, 1)
        for layer in self.layers:
            w = layer(w)
        return w

    @torch.no_grad()
    def track_average(self, w: Float[Tensor, "b style"]) -> None:
        """ŵ ← 0.995 ŵ + 0.005 E w."""
        self.average.lerp_(w.mean(0).to(self.average.dtype), 0.005)


def normalize(x: Float[Tensor, "b numbers"]) -> Float[Tensor, "b numbers"]:
    """Each row divided by its root mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def class_weights(labels: Labels, num_classes: int, like: Tensor) -> Float[Tensor, "b classes"]:
    """One-hot; the mean over all classes where no label is given."""
    if labels is None:
        return like.new_full((len(like), num_classes), 1 / num_classes)
    return F.one_hot(labels, num_classes).to(like.dtype)


class Features(NamedTuple):
    """Feature maps `x` that have yet to be multiplied by `scale`, one number for each image and channel."""

    x: Float[Tensor, "b channel height width"]
    scale: Float[Tensor, "b channel"]


class StyledConv(nn.Module):
    """Modulated convolution, demodulation, noise, bias, leaky ReLU; with twice the sides if `doubles`."""

    fir: Float[Tensor, "taps taps"]
    noise: Float[Tensor, "size size"]

    def __init__(self, inputs: int, outputs: int, style_dim: int, size: int, *, doubles: bool = False):
        super().__init__()
        self.size, self.doubles, self.gain = size, doubles, 1 / math.sqrt(9 * inputs)
        self.affine = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(size, size))
        self.register_buffer("fir", fir_filter(), persistent=False)

    def forward(
        self, h: Features, w: Float[Tensor, "b style"], noise: Float[Tensor, "b size size"] | None
    ) -> Features:
        styles = self.affine(w)
        weight = self.weight * self.gain
        d = demodulation(weight, styles)
        # √2 · leaky ReLU(d y + shift) = d · leaky ReLU(√2 (y + shift / d)), because d > 0
        y = scaled_conv2d(h.x, weight, styles * h.scale * ACT_GAIN, self.fir if self.doubles else None)
        inverse = ACT_GAIN / d
        noise = self.noise.expand(len(y), -1, -1) if noise is None else noise
        y = y + (inverse * self.bias)[:, :, None, None]
        y = y.addcmul_(noise[:, None], (inverse * self.noise_strength)[:, :, None, None])
        return Features(F.leaky_relu(y, SLOPE, inplace=True), d)


class ToColor(nn.Module):
    """A modulated 1 × 1 convolution to colors, without demodulation."""

    def __init__(self, inputs: int, channels: int, style_dim: int):
        super().__init__()
        self.gain = 1 / math.sqrt(inputs)
        self.affine = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Features, w: Float[Tensor, "b style"]) -> Images:
        scales = self.affine(w) * h.scale * self.gain
        return modulated_pointwise(h.x, self.weight, scales) + self.bias[:, None, None]


class Generator(nn.Module):
    """Noise to images on −1..1.

    Args:
        size: side of the images, a power of 2 from 8 on.
        channel_base: channels × side, as long as they are not more than `channel_max`.
        num_classes: 0 for a generator without labels.
    """

    fir: Float[Tensor, "taps taps"]

    def __init__(
        self,
        size: int = 1024,
        channels: int = 3,
        latent_dim: int = 512,
        style_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_classes: int = 0,
    ):
        super().__init__()
        widths = channels_by_size(size, channel_base, channel_max)
        self.size, self.channels, self.latent_dim, self.num_classes = size, channels, latent_dim, num_classes
        self.mapping = Mapping(latent_dim, style_dim, mapping_layers, num_classes)
        self.constant = nn.Parameter(torch.randn(widths[4], 4, 4))
        self.convs, self.to_colors = nn.ModuleList(), nn.ModuleList()
        inputs = widths[4]
        for side, width in widths.items():
            if side > 4:
                self.convs.append(StyledConv(inputs, width, style_dim, side, doubles=True))
            self.convs.append(StyledConv(width, width, style_dim, side))
            self.to_colors.append(ToColor(width, channels, style_dim))
            inputs = width
        self.noise_sizes = [conv.size**2 for conv in self.convs]  # ty: ignore[unsupported-operator]
        self.num_styles = len(self.convs) + 1
        self.register_buffer("fir", fir_filter(), persistent=False)

    @property
    def noise_size(self) -> int:
        """Numbers of noise that an image takes."""
        return sum(self.noise_sizes)

    def forward(
        self,
        z: Float[Tensor, "b latent"],
        labels: Labels = None,
        noise: Float[Tensor, "b numbers"] | None = None,
    ) -> Images:
        """Images of unmixed styles; see `synthesize`."""
        return self.synthesize(self.styles(z, labels), noise)

    def styles(self, z: Float[Tensor, "b latent"], labels: Labels = None, truncation: float = 1.0) -> Styles:
        """A copy of ŵ + ψ (w − ŵ) for each layer; ψ is `truncation`."""
        w = self.mapping(z, labels)
        if truncation != 1:
            w = self.mapping.average.lerp(w, truncation)
        return w[:, None].expand(-1, self.num_styles, -1)

    def synthesize(self, styles: Styles, noise: Float[Tensor, "b numbers"] | None = None) -> Images:
        """Images of styles.

        Args:
            noise: N(0, 1) for all layers; without it the noise is that of the network, the same for all
                images.
        """
        parts: Any = [None] * len(self.convs)
        if noise is not None:
            parts = [
                flat.unflatten(1, (conv.size, conv.size))
                for flat, conv in zip(noise.split(self.noise_sizes, 1), self.convs, strict=True)
            ]
        ws = styles.unbind(1)
        x = self.constant.expand(len(styles), -1, -1, -1)
        h = self.convs[0](Features(x, torch.ones_like(x[:, :, 0, 0])), ws[0], parts[0])
        image = self.to_colors[0](h, ws[1])
        for i, to_color in enumerate(self.to_colors[1:], 1):
            for layer in (2 * i - 1, 2 * i):
                h = self.convs[layer](h, ws[layer], parts[layer])
            image = upsample2d(image, self.fir) + to_color(h, ws[2 * i + 1])
        return image


def channels_by_size(size: int, channel_base: int, channel_max: int) -> dict[int, int]:
    """The channels of each grid from 4 × 4 to `size`.

    Raises:
        BadInput: a size that is no power of 2 from 8 on.
    """
    if size < 8 or size & (size - 1):
        raise BadInput(f"a side of {size} is not 4 doubled once or more: try 8, 32, 64 or 256")
    if min(channel_base // size, channel_max) < 1:
        raise BadInput(f"channel_base must be at least the side, {size}, and channel_max at least 1")
    return {2**i: min(channel_base >> i, channel_max) for i in range(2, size.bit_length())}


class DiscriminatorBlock(nn.Module):
    """Two convolutions, of which the second halves the sides; with a halved 1 × 1 convolution beside them
    if residual, both divided by √2."""

    def __init__(self, inputs: int, outputs: int, is_residual: bool):
        super().__init__()
        self.conv1 = EqualizedConv2d(inputs, inputs, 3)
        self.conv2 = EqualizedConv2d(inputs, outputs, 3, halves=True)
        self.skip = None
        if is_residual:
            self.skip = EqualizedConv2d(inputs, outputs, 1, halves=True, has_bias=False, is_activated=False)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs half_h half_w"]:
        y = self.conv2(self.conv1(x))
        return y if self.skip is None else (y + self.skip(x)) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """Images to the logit of being real; with classes, Σ φ(x) m(class) / √dim.

    Args:
        group_size: images whose standard deviation it sees.
        is_residual: with residual blocks, or a plain stack.
    """

    def __init__(
        self,
        size: int = 1024,
        channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_classes: int = 0,
        group_size: int = 4,
        is_residual: bool = True,
    ):
        super().__init__()
        widths = channels_by_size(size, channel_base, channel_max)
        self.num_classes, self.group_size, coarse = num_classes, group_size, widths[4]
        self.from_color = EqualizedConv2d(channels, widths[size], 1)
        sides = [*widths][::-1]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(widths[a], widths[b], is_residual) for a, b in itertools.pairwise(sides)
        )
        self.conv = EqualizedConv2d(coarse + 1, coarse, 3)
        self.linear = EqualizedLinear(16 * coarse, coarse, is_activated=True)
        self.output = EqualizedLinear(coarse, coarse if num_classes else 1)
        self.mapping = Mapping(0, coarse, 8, num_classes) if num_classes else None

    def forward(self, images: Images, labels: Labels = None) -> Float[Tensor, " b"]:
        x = self.from_color(images)
        for block in self.blocks:
            x = block(x)
        x = self.conv(minibatch_std(x, self.group_size))
        x = self.output(self.linear(x.flatten(1)))
        if self.mapping is None:
            return x[:, 0]
        return (x * self.mapping(x[:, :0], labels)).sum(1) / math.sqrt(x.shape[1])


# of generator and discriminator
EMOJI: dict[str, Any] = {"size": 32, "channels": 3, "channel_base": 512, "channel_max": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "stylegan2_emoji": EMOJI | {"latent_dim": 64, "style_dim": 64, "mapping_layers": 2},
    "stylegan2_mnist": EMOJI
    | {"channels": 1, "latent_dim": 64, "style_dim": 64, "mapping_layers": 2, "channel_base": 1024},
    "stylegan2_digits": {"size": 8, "channels": 1, "latent_dim": 16, "style_dim": 16, "mapping_layers": 2}
    | {"channel_base": 256, "channel_max": 32},
    "stylegan2_cifar10": {"size": 32, "mapping_layers": 2},
    "stylegan2_cifar10_cond": {"size": 32, "mapping_layers": 2, "num_classes": 10},
    "stylegan2_ffhq": {"size": 1024},
    "stylegan2_paper256": {"size": 256, "channel_base": 16384},
}
SHARED = ("size", "channels", "channel_base", "channel_max", "num_classes")
PLAIN = {"group_size": 32, "is_residual": False}
DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "stylegan2_cifar10": PLAIN,
    "stylegan2_cifar10_cond": PLAIN,
    "stylegan2_paper256": {"group_size": 8},
}


def discriminator_config(variant: str) -> dict[str, Any]:
    shared = {name: value for name, value in CONFIGS[variant].items() if name in SHARED}
    return shared | DISCRIMINATORS.get(variant, {})


VARIANTS = {
    name: Variant(partial(Generator, **each), (each.get("latent_dim", 512),))
    for name, each in CONFIGS.items()
}


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set: openmoji, mnist5k, digits, hf:NAME, or a folder
    variant: str = "stylegan2_emoji"  # network variant
    r1_weight: float = 0.3  # R1 regularization γ: the penalty is γ/2 times the squared gradient
    r1_interval: int = 16  # updates between two steps of R1 (lazy regularization)
    path_weight: float = 2.0  # path length regularization: its weight, 0 for none
    path_interval: int = 4  # updates between two steps of path length regularization
    style_mixing: float = 0.1  # style mixing: probability that a second style rules from some layer on
    ada_images: float = 500_000  # ADA: images within which the augmentation's p could rise to 1, 0 for none
    eval_samples: int = 1000  # samples per evaluation; five times as many at the end
    steps: int = 6000  # number of updates
    batch_size: int = 32  # images per step
    optim: OptimConfig = OptimConfig(
        lr=2.5e-3, beta1=0.0, beta2=0.99, lr_schedule="constant", ema_decay=0.995
    )  # optimizer, schedule, precision
    augment: str = "flip"  # augmentation of real images; samples then look augmented too
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train stylegan   2 min of a core   Fréchet distance 11 times below untrained
    "digits": Recipe(
        data="digits",
        variant="stylegan2_digits",
        r1_weight=1.0,
        ada_images=20_000,
        steps=2500,
        optim=replace(Recipe.optim, lr=1e-2, lr_schedule="linear", ema_decay=0.99),
        augment="none",
    ),
    # torchstone train stylegan/emoji   half an hour of a core; not measured yet
    "emoji": Recipe(),
    # torchstone train stylegan/mnist5k   half an hour of a core; not measured yet
    "mnist5k": Recipe(
        data="mnist5k",
        variant="stylegan2_mnist",
        r1_weight=0.1,
        path_weight=0.0,
        style_mixing=0.0,
        steps=11_000,
        augment="none",
    ),
    # ADA's configuration for CIFAR-10
    "cifar10": Recipe(
        data="hf:uoft-cs/cifar10",
        variant="stylegan2_cifar10",
        r1_weight=0.01,
        path_weight=0.0,
        style_mixing=0.0,
        eval_samples=10_000,
        steps=1_562_500,
        batch_size=64,
        optim=replace(Recipe.optim, ema_decay=0.99991),
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="stylegan2_digits",
        r1_weight=1.0,
        ada_images=20_000,
        eval_samples=100,
        steps=80,
        batch_size=16,
        optim=replace(Recipe.optim, lr=4e-2, lr_schedule="linear", ema_decay=0.9),
        augment="none",
    ),
}


def mixed_styles(
    model: Any, draws: StyleDraws, labels: Labels, probability: float, num_layers: int | None = None
) -> Styles:
    """Styles of the first latent, from some layer on those of the second one (2019, section 3.1).

    Args:
        num_layers: layers that are in use; by default all.
    """
    first, second = (model.mapping(z, labels) for z in draws.z.unbind(1))
    if torch.is_grad_enabled():
        model.mapping.track_average(first.detach())
    is_mixed, position = draws.crossover.unbind(1)
    crossover = 1 + (position * ((num_layers or model.num_styles) - 1)).floor()
    crossover = torch.where(is_mixed < probability, crossover, model.num_styles)
    layer = torch.arange(model.num_styles, device=crossover.device)
    rules = layer >= crossover[:, None]
    return torch.where(rules[:, :, None], second[:, None], first[:, None])


class MixingGenerator(nn.Module):
    """Images of mixed styles, as in training."""

    def __init__(self, model: Any, probability: float):
        super().__init__()
        self.model, self.probability = model, probability

    def forward(self, draws: StyleDraws, labels: Labels) -> Images:
        styles = mixed_styles(self.model, draws, labels, self.probability)
        return self.model.synthesize(styles, draws.noise)


class PathLengths(nn.Module):
    """‖Jᵀy‖ of each image, of mixed styles."""

    def __init__(self, model: Any, probability: float):
        super().__init__()
        self.model, self.probability = model, probability

    def forward(self, draws: StyleDraws, labels: Labels, noise: Images) -> Float[Tensor, " b"]:
        with torch.enable_grad():
            styles = mixed_styles(self.model, draws, labels, self.probability)
            return path_lengths(self.model.synthesize(styles, draws.noise), styles, noise)


class R1(nn.Module):
    """‖∇D(x)‖² of each image."""

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: Images, labels: Labels) -> Float[Tensor, " b"]:
        return r1_penalty(lambda x: self.discriminator(x, labels), real)


class PathLengthMean:
    """a ← a + 0.01 (E ‖Jᵀy‖ − a), from 0 on."""

    def __init__(self, device: torch.device):
        self.value = torch.zeros((), device=device)

    def update(self, lengths: Float[Tensor, " b"]) -> Tensor:
        self.value = self.value.lerp(lengths.detach().mean(), 0.01)
        return self.value

    def state_dict(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.value = state["value"].to(self.value.device)


def lazy_optimizer(optim: OptimConfig, interval: int, is_regularized: bool = True) -> OptimConfig:
    """Adam for a loss with a regularizer every `interval` updates, which then is a step of its own: as far in
    interval + 1 steps as otherwise in `interval` (2020, appendix B)."""
    if not is_regularized:
        return optim
    c = interval / (interval + 1)
    return replace(optim, lr=optim.lr * c, beta1=optim.beta1**c, beta2=optim.beta2**c)


def slow_noise(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameter groups: strengths of noise learn a hundred times more slowly, as the mapping does.

    Each is one number, which Adam moves by the learning rate at each step: at first dots of noise are the
    fastest way to dark lines, and within some hundred updates the images were nothing else.
    """
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        groups[name.endswith("noise_strength")].append(parameter)
    return [{"params": groups[False]}, {"params": groups[True], "lr": 0.01 * optim.lr}]


def train(
    model: Any, discriminator: Any, recipe: Recipe, data: ImageDataset, metadata: dict[str, Any]
) -> GanTraining:
    """Both networks' updates: each takes a step by its loss, and at intervals one by its regularizer."""
    device = data.train.labels.device
    untrained = copy.deepcopy(model)
    strength = AugmentStrength(recipe.batch_size, recipe.ada_images, device=device)
    mean_length = PathLengthMean(device)
    has_labels = bool(model.num_classes)

    def labels_of(batch: StyleBatch) -> Labels:
        return batch.labels if has_labels else None

    def generator_objective(net: Any, batch: StyleBatch) -> Tensor:
        fake = augment(net(batch.generator, labels_of(batch)), strength.p, batch.generator.augment)
        return F.softplus(-discriminator(fake, labels_of(batch))).mean()

    def path_objective(net: Any, batch: StyleBatch) -> dict[str, Tensor]:
        half = first_half(batch)
        lengths = net(half.path, labels_of(half), half.path_noise)
        a = mean_length.update(lengths)
        loss = recipe.path_interval * recipe.path_weight * (lengths - a).square().mean()
        return {"loss": loss, "path_length": lengths.mean()}

    def discriminator_objective(net: Any, batch: StyleBatch) -> dict[str, Tensor]:
        labels = labels_of(batch)
        with torch.no_grad():
            styles = mixed_styles(model, batch.discriminator, labels, recipe.style_mixing)
            fake = model.synthesize(styles, batch.discriminator.noise)
            fake = augment(fake, strength.p, batch.discriminator.augment)
            real = augment(batch.real, strength.p, batch.augment)
        fake_logits, real_logits = net(fake, labels), net(real, labels)
        loss = F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
        sign = real_logits.detach().sign().mean()
        return {"loss": loss, "real": real_logits.mean(), "fake": fake_logits.mean(), "sign": sign}

    def r1_objective(net: Any, batch: StyleBatch) -> dict[str, Tensor]:
        penalty = net(augment(batch.real, strength.p, batch.r1_augment), labels_of(batch)).mean()
        return {"loss": recipe.r1_interval * recipe.r1_weight / 2 * penalty, "r1": penalty}

    generator_optim = lazy_optimizer(recipe.optim, recipe.path_interval, recipe.path_weight > 0)
    generator_step, state, eval_model = gradient_update(
        model,
        generator_optim,
        generator_objective,
        steps=recipe.steps,
        parameters=slow_noise(model, generator_optim),
        forward_module=MixingGenerator(model, recipe.style_mixing),
    )
    discriminator_optim = lazy_optimizer(recipe.optim, recipe.r1_interval, recipe.r1_weight > 0)
    discriminator_step, discriminator_state, _ = gradient_update(
        discriminator,
        replace(discriminator_optim, ema_decay=0.0),
        discriminator_objective,
        steps=recipe.steps,
    )
    state |= {f"discriminator_{name}": item for name, item in discriminator_state.items()}
    state["discriminator"] = state.pop("discriminator_model")
    regularize = partial(
        GradientUpdate, precision=recipe.optim.precision, grad_accum_steps=recipe.optim.grad_accum_steps
    )
    path_net = parallel.replicate(PathLengths(model, recipe.style_mixing))
    path_step = regularize(lambda b: path_objective(path_net, b), state["optimizer"], replica=path_net)
    r1_net = parallel.replicate(R1(discriminator))
    r1_step = regularize(lambda b: r1_objective(r1_net, b), state["discriminator_optimizer"], replica=r1_net)
    state |= {"path_update": path_step, "r1_update": r1_step}
    state |= {"augment_strength": strength, "path_length_mean": mean_length}
    batches = image_batches(recipe, data.train, metadata)
    stream = state["stream"] = StyleGanBatches(batches, model.latent_dim, model.noise_size)

    def update(batch: StyleBatch) -> dict[str, Any]:
        step = state["lr_schedule"].last_epoch
        metrics: dict[str, Any] = {}
        if recipe.path_weight and step % recipe.path_interval == 0:
            metrics["path_length"] = path_step(batch)["path_length"]
            metrics["path_length_mean"] = mean_length.value
        if recipe.r1_weight and step % recipe.r1_interval == 0:
            metrics["r1"] = r1_step(batch)["r1"]
        outcome = discriminator_step(batch)
        strength.update(outcome["sign"])
        metrics |= {
            "loss": generator_step(batch)["loss"],
            "discriminator_loss": outcome["loss"],
            "real_logit": outcome["real"],
            "fake_logit": outcome["fake"],
            "real_sign": outcome["sign"],
        }
        return metrics | ({"augment_p": strength.p.clone()} if recipe.ada_images else {})

    return GanTraining(stream, update, state, eval_model, untrained, work(recipe))


def first_half(batch: Any) -> Any:
    """Half of the rows: path lengths are estimated well enough by them (2020, appendix B)."""
    leaves, form = tree_flatten(batch)
    return tree_unflatten([leaf[: (len(leaf) + 1) // 2] for leaf in leaves], form)


def work(recipe: Recipe) -> float:
    """What an image of a batch costs an update, in forward passes of one network: as `image_work` says; a
    gradient of a gradient costs twice as much as a gradient."""
    penalties = 2 * FORWARDS / recipe.r1_interval if recipe.r1_weight else 0.0
    if recipe.path_weight:
        penalties += FORWARDS / recipe.path_interval
    return image_work(1, False) + penalties


def build(recipe: Recipe) -> Iterator[Run]:
    check(recipe)
    device = select_device(recipe.device)
    model_config = dict(CONFIGS[recipe.variant])
    size, channels = model_config["size"], model_config.get("channels", 3)
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    check_neighbors(recipe, data)
    critic_config = discriminator_config(recipe.variant)
    if model_config.get("num_classes"):
        model_config["num_classes"] = critic_config["num_classes"] = len(data.classes)
    # a stream of its own: of a Gaussian z from `sample`'s seed 0 and a first layer from the same numbers, 64
    # rows would be each other's, and their styles far from all others
    rng.seed(derive_seed(recipe.seed, SeedStream.GAUSSIAN_WEIGHTS, 0))
    layout = torch.contiguous_format if device.type == "mps" else torch.channels_last
    model, discriminator = (
        network.to(device).to(memory_format=layout)  # ty: ignore[no-matching-overload]
        for network in (Generator(**model_config), Discriminator(**critic_config))
    )
    metadata = symmetric_range(data.metadata)
    classifier = train_or_load_classifier(data, CLASSIFIER)
    training = train(model, discriminator, recipe, data, metadata)
    yield gan_run(training, recipe, data, model_config=model_config, metadata=metadata, classifier=classifier)


def check(recipe: Recipe) -> None:
    """
    Raises:
        BadInput: a weight, an interval or a probability out of range.
    """
    for name in ("r1_weight", "path_weight", "ada_images"):
        if not 0 <= getattr(recipe, name) < math.inf:
            raise BadInput(f"{name} must be a number of at least 0, not {getattr(recipe, name)}")
    for name in ("r1_interval", "path_interval"):
        if getattr(recipe, name) < 1:
            raise BadInput(f"{name} must be at least 1, not {getattr(recipe, name)}")
    if not 0 <= recipe.style_mixing <= 1:
        raise BadInput(f"style_mixing is a probability, 0 to 1, not {recipe.style_mixing}")


def read_tensors(source: str | Path, model: Generator) -> dict[str, Tensor]:
    """The tensors of a published generator by our names; without ŵ among them, the mean of 10,000 styles.

    Raises:
        BadInput: it is of another resolution, or as `read_stylegan_weights`.
    """
    tensors = read_stylegan_weights(source)
    layers = [int(name.split(".")[1]) for name in tensors if name.startswith("to_colors.")]
    if layers and 2 ** (max(layers) + 2) != model.size:
        raise BadInput(
            f"{source} makes images of {2 ** (max(layers) + 2)}×{2 ** (max(layers) + 2)}, but the network is "
            f"for {model.size}×{model.size}"
        )
    if "mapping.average" not in tensors:
        notify(f"{source} holds no mean style: that of {NUM_MEAN} random ones is taken")
        mapping = copy.deepcopy(model.mapping)
        own = {n.removeprefix("mapping."): t for n, t in tensors.items() if n.startswith("mapping.")}
        load_weights(mapping, own | {"average": mapping.average}, f"{source} does not fit")
        z = torch.randn(NUM_MEAN, model.latent_dim, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            tensors["mapping.average"] = mapping(z).mean(0)
    return tensors


def published_metadata(variant: str, model: Generator) -> dict[str, Any]:
    """What `sample` and `predict` use of a network with published weights."""
    picture = {
        "size": model.size,
        "channels": model.channels,
        "ink": False,
        "box": None,
        "native": model.size,
    }
    classes = [str(number) for number in range(model.num_classes)]
    return {
        "task": "adversarial",
        "variant": variant,
        "classes": classes,
        "picture": symmetric_range(picture),
    }


# NVIDIA's stylegan2-ada-pytorch, by its configurations stylegan2 (F), paper256 and cifar
COUNTS = {
    "stylegan2_ffhq": (30_370_060, 29_012_513),
    "stylegan2_paper256": (24_767_458, 24_001_089),
    "stylegan2_cifar10": (19_947_539, 20_720_641),
    "stylegan2_cifar10_cond": (20_215_315, 23_089_664),
}
FACTS = [
    Fact("mapping's parameters", lambda: count_on_meta(Mapping, 512, 512, 8), 2_101_248),
    *(
        Fact(f"{name} generator's parameters", partial(count_on_meta, Generator, **CONFIGS[name]), count)
        for name, (count, _) in COUNTS.items()
    ),
    *(
        Fact(
            f"{name} discriminator's parameters",
            partial(count_on_meta, Discriminator, **discriminator_config(name)),
            count,
        )
        for name, (_, count) in COUNTS.items()
    ),
]


def reference() -> Iterator[Any]:
    """spandrel's generator, and the discriminator's equations in plain loops."""
    from torchstone.references.stylegan import discriminator_cases, generator_cases

    yield from discriminator_cases(Discriminator, (1, 2))
    yield from generator_cases(Generator, (0, 3))
