"""StyleGAN2: a style sets the scale of every feature map, and images can be mixed and edited by their styles.

Papers: Tero Karras, Samuli Laine and Timo Aila, "A Style-Based Generator Architecture for Generative
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

What differs from the published code. Demodulation's factor d > 0 is not multiplied at once: leaky ReLU lets
it pass, so that it goes into the next layer's s, which saves a copy of each activation. R1's gradient is taken
at the augmented image. ADA interpolates linearly, without the wavelet filter around it. Convolutions are not
clamped at ±256, which is for half precision. Crossover layers of style mixing are drawn for each image.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.gan.equalized import ACT_GAIN, SLOPE, EqualizedConv2d, EqualizedLinear
from torchstone.parts.gan.minibatch_std import minibatch_std
from torchstone.parts.gan.modulated_conv import demodulation, modulated_pointwise, scaled_conv2d
from torchstone.parts.gan.resample import fir_filter, upsample2d
from torchstone.plots.sample_grid import symmetric_range
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER

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
            for a, b in zip(widths, widths[1:], strict=False)
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
        y = scaled_conv2d(
            h.x, weight, styles * h.scale * ACT_GAIN, self.fir if self.doubles else None
        )
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
        self.noise_sizes = [conv.size**2 for conv in self.convs]
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

    def styles(
        self, z: Float[Tensor, "b latent"], labels: Labels = None, truncation: float = 1.0
    ) -> Styles:
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
            DiscriminatorBlock(widths[a], widths[b], is_residual)
            for a, b in zip(sides, sides[1:], strict=False)
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
EMOJI: dict[str, Any] = {"size": 32, "channels": 3, "channel_base": 1024, "channel_max": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "stylegan2_emoji": EMOJI | {"latent_dim": 64, "style_dim": 64, "mapping_layers": 2},
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
