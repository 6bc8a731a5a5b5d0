"""StyleGAN: a style normalizes and scales every feature map, in networks that grow with the resolution.

Paper: Tero Karras, Samuli Laine and Timo Aila, "A Style-Based Generator Architecture for Generative
Adversarial Networks", CVPR 2019 (arXiv:1812.04948, 2018). Progressive growing: Karras, Aila, Laine and
Lehtinen, "Progressive Growing of GANs for Improved Quality, Stability, and Variation", ICLR 2018,
arXiv:1710.10196, section 2.

The idea. Training begins with small images, of which only coarse layers are needed, and goes to twice the
resolution again and again. A new layer is faded in, so that it does not shock those that are trained
already. A mapping network turns noise z into a style w. In each layer every channel of an image is
normalized by itself (adaptive instance normalization, AdaIN), and gets the scale and the offset that an
affine function of w gives; noise adds detail that the style does not decide. StyleGAN2 (`stylegan`) later
replaced AdaIN, which leaves droplets, and growing, by which details stick to positions.

    z → normalize → [linear, leaky ReLU, μ = 0.01] × 8 → w;    w' = ŵ + ψ (w − ŵ)
    G   4 × 4 constant, conv; then per size: [upsample, conv, blur], conv; after each
        x ← x + strength ⊙ noise + b;   x ← leaky ReLU(x);   x ← (1 + s) (x − mean) / std + t,   (s, t) = A w
    D   per size: conv, [blur, conv, halve]; 4 × 4: minibatch deviation, conv, linear, linear → logit

    level of detail l: 0 for full size, 1 for half of it, …; it falls with the images that were shown:
    as many at each integer l as between two of them. Between two, with α = l − ⌊l⌋ and y = x at half size,
        G      (1 − α) to_color(x) + α · upsampled to_color(y)
        D      (1 − α) block(from_color(x)) + α · from_color(halved x)
        data   (1 − α) x + α · (x halved and upsampled)

    L_D = E softplus(D(G(z))) + E softplus(−D(x)) + γ/2 E ‖∇D(x)‖²       R1, at every update
    L_G = E softplus(−D(G(z)))

A layer that is not in use has no gradient, and Adam does not touch it. Adam's moments are forgotten when a
resolution begins to be faded in, and when it is there in full.

    stylegan1_emoji   32 × 32 in color, at most 64 channels, from 8 × 8 on;   stylegan1_digits   8 × 8, tests
    stylegan1_ffhq    1024 × 1024, the paper's

What differs from the paper: its batches are the larger the smaller the images, and its learning rate rises
with the resolution; here both are the same at all of them. The recipe for 32 × 32 has γ = 1 where the paper
has 10, and a probability of style mixing of 0.1 instead of 0.9; its learning rate of 6e-3 instead of 1e-3
decays, and strengths of noise learn a hundred times more slowly (as in `stylegan`). Truncation is that of
the paper's code: of the first eight layers only, which at 32 × 32 are all. Crossover layers of style mixing
are drawn for each image, not for each batch. FFHQ is not here: `--variant stylegan1_ffhq --data FOLDER`.
"""

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.data.vision.gan_batches import StyleBatch, StyleDraws, StyleGanBatches
from torchstone.engine import parallel, rng
from torchstone.engine.console import notify
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, count_on_meta
from torchstone.parts.gan.equalized import ACT_GAIN, SLOPE, EqualizedConv2d, EqualizedLinear
from torchstone.parts.gan.fused_scale import conv_downsample2d, upsample_conv2d
from torchstone.parts.gan.losses import r1_penalty
from torchstone.parts.gan.minibatch_std import minibatch_std
from torchstone.parts.gan.resample import Filter, fir_filter, upfirdn2d
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.plots.sample_grid import symmetric_range
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.systems.generative.stylegan import channels_by_size, mixed_styles, normalize, slow_noise
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.styles import predict, sample
from torchstone.tasks.gan.train import GanTraining, check_neighbors, gan_run, image_work
from torchstone.tasks.optimization import gradient_update
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
    "reference",
    "sample",
]

# untrained, images are 4 × 4 enlarged, 925 away; untrained ones of full size 650
MARGIN = ("frechet_distance", -330.0)
evaluate = partial(inference.evaluate, classifier=CLASSIFIER)

EPS = 1e-8
BLUR = (1, 2, 1)
TRUNCATED_LAYERS = 8  # whose styles truncation draws towards the mean: to 32 × 32

Images = Float[Tensor, "b channels size size"]
Features = Float[Tensor, "b channel height width"]
Styles = Float[Tensor, "b layers style"]


class Mapping(nn.Module):
    """z to w; `average` is ŵ."""

    average: Float[Tensor, " style"]

    def __init__(self, latent_dim: int, style_dim: int, num_layers: int):
        super().__init__()
        self.layers = nn.ModuleList(
            EqualizedLinear(style_dim if i else latent_dim, style_dim, lr_multiplier=0.01, gain=ACT_GAIN)
            for i in range(num_layers)
        )
        self.register_buffer("average", torch.zeros(style_dim))

    def forward(self, z: Float[Tensor, "b latent"], labels: None = None) -> Float[Tensor, "b style"]:
        w = normalize(z)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), SLOPE)
        return w

    @torch.no_grad()
    def track_average(self, w: Float[Tensor, "b style"]) -> None:
        """ŵ ← 0.995 ŵ + 0.005 E w."""
        self.average.lerp_(w.mean(0).to(self.average.dtype), 0.005)


def adaptive_instance_norm(x: Features, scale: Float[Tensor, "b channel"], offset: Tensor) -> Features:
    """Each channel of each image normalized by its own mean and deviation, then scaled and shifted.

    It is batch norm of one image with all of these channels: one pass of a fused kernel.
    """
    rows = x.reshape(1, -1, *x.shape[2:])
    return F.batch_norm(rows, None, None, scale.flatten(), offset.flatten(), training=True, eps=EPS).view_as(
        x
    )


class StyledLayer(nn.Module):
    """[Upsampling,] convolution [and blur], noise, bias, leaky ReLU, AdaIN.

    Args:
        inputs: channels; 0 for a layer without a convolution, after the constant.
    """

    noise: Float[Tensor, "size size"]
    fir: Float[Tensor, "taps taps"]

    def __init__(self, inputs: int, outputs: int, style_dim: int, size: int, *, doubles: bool = False):
        super().__init__()
        self.size, self.doubles = size, doubles
        self.conv = None
        if inputs:
            self.conv = EqualizedConv2d(inputs, outputs, 3, has_bias=False, is_activated=False, gain=ACT_GAIN)
        self.noise_strength = nn.Parameter(torch.zeros(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = EqualizedLinear(style_dim, 2 * outputs)
        self.register_buffer("noise", torch.randn(size, size))
        self.register_buffer("fir", fir_filter(BLUR), persistent=False)

    def forward(
        self,
        x: Float[Tensor, "b inputs h w"],
        w: Float[Tensor, "b style"],
        noise: Float[Tensor, "b size size"] | None,
    ) -> Float[Tensor, "b outputs size size"]:
        if self.conv is not None and self.doubles:
            x = blur(upsample_conv2d(x, self.conv.weight * self.conv.gain), self.fir)
        elif self.conv is not None:
            x = self.conv(x)
        noise = self.noise.expand(len(x), -1, -1) if noise is None else noise
        x = torch.addcmul(x + self.bias[:, None, None], noise[:, None], self.noise_strength[:, None, None])
        scale, offset = self.affine(w).chunk(2, 1)
        return adaptive_instance_norm(F.leaky_relu(x, SLOPE, inplace=True), 1 + scale, offset)


def blur(x: Features, fir: Filter) -> Features:
    return upfirdn2d(x, fir, padding=(1, 1))


def upsample(x: Features) -> Float[Tensor, "b channel h w"]:
    """Each pixel 2 × 2 times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def split_level(lod: float) -> tuple[int, float]:
    """The coarser levels that are out of use, and how much of the next coarser one is left."""
    coarser = math.floor(lod)
    return coarser, lod - coarser


class Generator(nn.Module):
    """Noise to images on −1..1, of full size: at a level of detail above 0 they are enlarged.

    Args:
        size: side of the images, a power of 2 from 8 on.
        channel_base: channels × side, as long as they are not more than `channel_max`.
    """

    lod: Float[Tensor, ""]

    def __init__(
        self,
        size: int = 1024,
        channels: int = 3,
        latent_dim: int = 512,
        style_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 16384,
        channel_max: int = 512,
    ):
        super().__init__()
        widths = channels_by_size(size, channel_base, channel_max)
        self.size, self.channels, self.latent_dim, self.num_classes = size, channels, latent_dim, 0
        self.mapping = Mapping(latent_dim, style_dim, mapping_layers)
        self.constant = nn.Parameter(torch.ones(widths[4], 4, 4))
        self.layers, self.to_colors = nn.ModuleList(), nn.ModuleList()
        inputs = 0
        for side, width in widths.items():
            self.layers.append(StyledLayer(inputs, width, style_dim, side, doubles=side > 4))
            self.layers.append(StyledLayer(width, width, style_dim, side))
            self.to_colors.append(EqualizedConv2d(width, channels, 1, is_activated=False))
            inputs = width
        self.noise_sizes = [side**2 for side in widths for _ in range(2)]
        self.num_styles = len(self.layers)
        # to which the network has grown, so that a checkpoint from within training makes images
        self.register_buffer("lod", torch.zeros(()))

    @property
    def noise_size(self) -> int:
        """Numbers of noise that an image takes."""
        return sum(self.noise_sizes)

    @property
    def lods(self) -> range:
        """The levels of detail without a fade."""
        return range(len(self.to_colors))

    def forward(
        self,
        z: Float[Tensor, "b latent"],
        labels: None = None,
        noise: Float[Tensor, "b numbers"] | None = None,
        lod: float | None = None,
    ) -> Images:
        """Images of unmixed styles; see `synthesize`."""
        return self.synthesize(self.styles(z), noise, lod)

    def styles(self, z: Float[Tensor, "b latent"], labels: None = None, truncation: float = 1.0) -> Styles:
        """w for each layer, in the first ones ŵ + ψ (w − ŵ); ψ is `truncation`."""
        w = self.mapping(z)[:, None].expand(-1, self.num_styles, -1)
        if truncation == 1:
            return w
        is_truncated = torch.arange(self.num_styles, device=w.device) < TRUNCATED_LAYERS
        return self.mapping.average.lerp(w, torch.where(is_truncated, truncation, 1.0)[:, None].to(w.dtype))

    def synthesize(
        self, styles: Styles, noise: Float[Tensor, "b numbers"] | None = None, lod: float | None = None
    ) -> Images:
        """Images of styles.

        Args:
            noise: N(0, 1) for all layers; without it the noise is that of the network, the same for all
                images.
            lod: level of detail, 0 for full size; by default the one that the network has grown to.
        """
        coarser, fade = split_level(float(self.lod) if lod is None else lod)
        parts: Any = [None] * self.num_styles
        if noise is not None:
            parts = [
                flat.unflatten(1, (layer.size, layer.size))
                for flat, layer in zip(noise.split(self.noise_sizes, 1), self.layers, strict=True)
            ]
        ws, top = styles.unbind(1), len(self.to_colors) - 1 - coarser
        x = before = self.constant.expand(len(styles), -1, -1, -1)
        for i in range(2 * top + 2):
            before = x if i == 2 * top else before
            x = self.layers[i](x, ws[i], parts[i])
        image = self.to_colors[top](x)
        if fade:
            image = image.lerp(upsample(self.to_colors[top - 1](before)), fade)
        for _ in range(coarser):
            image = upsample(image)
        return image


class DiscriminatorBlock(nn.Module):
    """Convolution; blur, convolution and halving."""

    fir: Float[Tensor, "taps taps"]

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = EqualizedConv2d(inputs, inputs, 3, is_activated=False, gain=ACT_GAIN)
        self.conv2 = EqualizedConv2d(inputs, outputs, 3, is_activated=False, gain=ACT_GAIN)
        self.register_buffer("fir", fir_filter(BLUR), persistent=False)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs half_h half_w"]:
        x = blur(F.leaky_relu(self.conv1(x), SLOPE), self.fir)
        return F.leaky_relu(conv_downsample2d(x, self.conv2.weight * self.conv2.gain, self.conv2.bias), SLOPE)


class Discriminator(nn.Module):
    """Images of full size to the logit of being real; at a level of detail above 0 they are averaged first.

    Args:
        group_size: images whose standard deviation it sees.
    """

    def __init__(
        self,
        size: int = 1024,
        channels: int = 3,
        channel_base: int = 16384,
        channel_max: int = 512,
        group_size: int = 4,
    ):
        super().__init__()
        widths = [*channels_by_size(size, channel_base, channel_max).values()]
        convolution = partial(EqualizedConv2d, is_activated=False, gain=ACT_GAIN)
        self.group_size, coarse = group_size, widths[0]
        self.from_colors = nn.ModuleList(convolution(channels, width, 1) for width in widths)
        # block i halves the sides of 8 · 2ⁱ
        self.blocks = nn.ModuleList(DiscriminatorBlock(b, a) for a, b in itertools.pairwise(widths))
        self.conv = convolution(coarse + 1, coarse, 3)
        self.linear = EqualizedLinear(16 * coarse, coarse, gain=ACT_GAIN)
        self.output = EqualizedLinear(coarse, 1)

    def forward(self, images: Images, lod: float = 0.0) -> Float[Tensor, " b"]:
        coarser, fade = split_level(lod)
        top = len(self.blocks) - coarser
        images = F.avg_pool2d(images, 2**coarser) if coarser else images
        x = F.leaky_relu(self.from_colors[top](images), SLOPE)
        for i in range(top - 1, -1, -1):
            x = self.blocks[i](x)
            if fade and i == top - 1:
                half = self.from_colors[i](F.avg_pool2d(images, 2))
                x = x.lerp(F.leaky_relu(half, SLOPE), fade)
        x = F.leaky_relu(self.conv(minibatch_std(x, self.group_size)), SLOPE)
        return self.output(F.leaky_relu(self.linear(x.flatten(1)), SLOPE))[:, 0]


def fade_images(images: Images, lod: float) -> Images:
    """Real images with no more detail than the networks have at this level."""
    coarser, fade = split_level(lod)
    x = F.avg_pool2d(images, 2**coarser) if coarser else images
    if fade:
        x = x.lerp(upsample(F.avg_pool2d(x, 2)), fade)
    for _ in range(coarser):
        x = upsample(x)
    return x


EMOJI: dict[str, Any] = {"size": 32, "channels": 3, "channel_base": 512, "channel_max": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "stylegan1_emoji": EMOJI | {"latent_dim": 64, "style_dim": 64, "mapping_layers": 4},
    "stylegan1_digits": {"size": 8, "channels": 1, "latent_dim": 16, "style_dim": 16, "mapping_layers": 2}
    | {"channel_base": 256, "channel_max": 32},
    "stylegan1_ffhq": {},
}
SHARED = ("size", "channels", "channel_base", "channel_max")
VARIANTS = {
    name: Variant(partial(Generator, **each), (each.get("latent_dim", 512),))
    for name, each in CONFIGS.items()
}


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set: openmoji, mnist5k, digits, hf:NAME, or a folder
    variant: str = "stylegan1_emoji"  # network variant
    initial_size: int = 8  # progressive growing: side of the images that training begins with
    level_images: int = 6_400  # progressive growing: images at a resolution, and as many while one fades in
    r1_weight: float = 1.0  # R1 regularization γ: the penalty is γ/2 times the squared gradient
    style_mixing: float = 0.1  # style mixing: probability that a second style rules from some layer on
    eval_samples: int = 1000  # samples per evaluation; five times as many at the end
    steps: int = 1700  # number of updates
    batch_size: int = 32  # images per step
    optim: OptimConfig = OptimConfig(
        lr=6e-3, beta1=0.0, beta2=0.99, lr_schedule="linear", ema_decay=0.99
    )  # optimizer, schedule, precision
    augment: str = "flip"  # augmentation of real images; samples then look augmented too
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    "emoji": Recipe(),
    # for tests: seconds; all levels are passed
    "smoke": Recipe(
        data="digits",
        variant="stylegan1_digits",
        initial_size=4,
        level_images=240,
        eval_samples=100,
        steps=80,
        batch_size=16,
        optim=replace(Recipe.optim, lr=2e-2, ema_decay=0.9),
        augment="none",
    ),
}


def level_of_detail(images: float, size: int, initial_size: int, level_images: int) -> float:
    """The level after so many images: from log₂(size / initial size) down to 0."""
    phase, rest = divmod(images, 2 * level_images)
    fade = max(rest / level_images - 1, 0.0)
    return max(math.log2(size / initial_size) - phase - fade, 0.0)


def is_new_phase(before: float, lod: float) -> bool:
    """Whether a resolution begins to be faded in, or is there in full."""
    return (math.floor(before), math.ceil(before)) != (math.floor(lod), math.ceil(lod))


class LeveledBatch(NamedTuple):
    batch: StyleBatch
    lod: float


class MixingGenerator(nn.Module):
    """Images of mixed styles, as in training."""

    def __init__(self, model: Generator, probability: float):
        super().__init__()
        self.model, self.probability = model, probability

    def forward(self, draws: StyleDraws, lod: float) -> Images:
        num_layers = 2 * (len(self.model.to_colors) - split_level(lod)[0])
        styles = mixed_styles(self.model, draws, None, self.probability, num_layers)
        return self.model.synthesize(styles, draws.noise, lod)


class Scores(NamedTuple):
    """Logits, and ‖∇D(x)‖² of each real image x."""

    real: Float[Tensor, " b"]
    fake: Float[Tensor, " b"]
    penalty: Float[Tensor, " b"]


class DiscriminatorOnBoth(nn.Module):
    """The discriminator on real and on generated images, with R1's gradient."""

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: Images, fake: Images, lod: float) -> Scores:
        logits = []

        def scored(x: Images) -> Float[Tensor, " b"]:
            logits.append(self.discriminator(x, lod))
            return logits[0]

        penalty = r1_penalty(scored, real)
        return Scores(logits[0], self.discriminator(fake, lod), penalty)


def discriminator_loss(scores: Scores, r1_weight: float) -> Float[Tensor, ""]:
    """E softplus(D(G(z))) + E softplus(−D(x)) + γ/2 E ‖∇D(x)‖²."""
    loss = F.softplus(scores.fake).mean() + F.softplus(-scores.real).mean()
    return loss + r1_weight / 2 * scores.penalty.mean()


def train(
    model: Generator,
    discriminator: Discriminator,
    recipe: Recipe,
    data: ImageDataset,
    metadata: dict[str, Any],
) -> GanTraining:
    """Both networks' updates, at the level of detail that the images so far say."""
    untrained = copy.deepcopy(model)  # of full size

    def lod_at(step: int) -> float:
        images = step * recipe.batch_size
        return level_of_detail(images, model.size, recipe.initial_size, recipe.level_images)

    model.lod.fill_(lod_at(0))
    mixing = MixingGenerator(model, recipe.style_mixing)

    def generator_objective(net: Any, leveled: LeveledBatch) -> Tensor:
        fake = net(leveled.batch.generator, leveled.lod)
        return F.softplus(-discriminator(fake, leveled.lod)).mean()

    def discriminator_objective(net: Any, leveled: LeveledBatch) -> dict[str, Tensor]:
        batch, lod = leveled
        with torch.no_grad():
            fake = mixing(batch.discriminator, lod)
        scores = net(fade_images(batch.real, lod), fake, lod)
        return {
            "loss": discriminator_loss(scores, recipe.r1_weight),
            "real": scores.real.mean(),
            "fake": scores.fake.mean(),
            "r1": scores.penalty.mean(),
        }

    generator_step, state, eval_model = gradient_update(
        model,
        recipe.optim,
        generator_objective,
        steps=recipe.steps,
        parameters=slow_noise(model, recipe.optim),
        forward_module=mixing,
    )
    discriminator_step, discriminator_state, _ = gradient_update(
        discriminator,
        replace(recipe.optim, ema_decay=0.0, compile=False),  # torch compiles no gradient of a gradient
        discriminator_objective,
        steps=recipe.steps,
        forward_module=DiscriminatorOnBoth(discriminator),
    )
    state |= {f"discriminator_{name}": item for name, item in discriminator_state.items()}
    state["discriminator"] = state.pop("discriminator_model")
    batches = image_batches(recipe, data.train, metadata)
    stream = state["stream"] = StyleGanBatches(batches, model.latent_dim, model.noise_size)

    def update(batch: StyleBatch) -> dict[str, Any]:
        step = state["lr_schedule"].last_epoch
        lod = lod_at(step)
        if step and is_new_phase(lod_at(step - 1), lod):
            for name in ("optimizer", "discriminator_optimizer"):
                state[name].state.clear()
        model.lod.fill_(lod)
        leveled = LeveledBatch(batch, lod)
        outcome = discriminator_step(leveled)
        return {
            "loss": generator_step(leveled)["loss"],
            "discriminator_loss": outcome["loss"],
            "real_logit": outcome["real"],
            "fake_logit": outcome["fake"],
            "r1": outcome["r1"],
            "lod": lod,
        }

    return GanTraining(stream, update, state, eval_model, untrained, image_work(1, True))


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    model_config = CONFIGS[recipe.variant]
    size, channels = model_config.get("size", 1024), model_config.get("channels", 3)
    check(recipe, size)
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    check_neighbors(recipe, data)
    # a stream of its own: the first layer has the shape and the distribution of z (see `stylegan`)
    rng.seed(derive_seed(recipe.seed, SeedStream.GAUSSIAN_WEIGHTS, 0))
    model = Generator(**model_config).to(device)
    critic_config = {name: value for name, value in model_config.items() if name in SHARED}
    discriminator = Discriminator(**critic_config).to(device)
    metadata = symmetric_range(data.metadata)
    classifier = train_or_load_classifier(data, CLASSIFIER)
    training = train(model, discriminator, recipe, data, metadata)
    yield gan_run(training, recipe, data, model_config=model_config, metadata=metadata, classifier=classifier)


def check(recipe: Recipe, size: int) -> None:
    """
    Raises:
        BadInput: a weight or a probability out of range, a side to begin with that is none of the network's,
            or several processes.
    """
    if not 0 <= recipe.r1_weight < math.inf:
        raise BadInput(f"r1_weight must be a number of at least 0, not {recipe.r1_weight}")
    if not 0 <= recipe.style_mixing <= 1:
        raise BadInput(f"style_mixing is a probability, 0 to 1, not {recipe.style_mixing}")
    if recipe.level_images < 1:
        raise BadInput(f"level_images must be at least 1, not {recipe.level_images}")
    sides = [2**i for i in range(2, size.bit_length())]
    if recipe.initial_size not in sides:
        known = ", ".join(map(str, sides))
        raise BadInput(f"initial_size is a side of the network's images, {known}; not {recipe.initial_size}")
    if parallel.world_size() > 1:
        raise BadInput(
            "progressive growing trains layers one after the other, which processes do not average: use one"
        )
    shown = recipe.steps * recipe.batch_size
    if lod := level_of_detail(shown, size, recipe.initial_size, recipe.level_images):
        notify(
            f"{recipe.steps} steps end at a level of detail of {lod:.2f}, images of about "
            f"{round(size / 2**lod)} pixels: for {size} give more --steps, or fewer --level-images"
        )


FACTS = [
    Fact("mapping's parameters", partial(count_on_meta, Mapping, 512, 512, 8), 2_101_248),
    Fact("stylegan1_ffhq generator's parameters", partial(count_on_meta, Generator), 26_219_627),
    Fact("stylegan1_ffhq discriminator's parameters", partial(count_on_meta, Discriminator), 23_087_249),
]


def reference() -> Iterator[Any]:
    """The equations in plain loops, at all levels of detail; two configurations of each network."""
    from torchstone.references.stylegan1 import discriminator_cases, generator_cases

    yield from generator_cases(Generator, (1, 6))
    yield from discriminator_cases(Discriminator, (1, 6))
