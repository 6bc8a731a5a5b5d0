"""DiT: a transformer in the U-Net's place, which denoises patches of latents.

Paper: William Peebles and Saining Xie, "Scalable Diffusion Models with Transformers", ICCV 2023,
arXiv:2212.09748 (2022). With it: Rombach et al. 2021, arXiv:2112.10752 (the autoencoder and its latents);
Nichol and Dhariwal 2021, arXiv:2102.09672 (learned variance); Ho and Salimans 2022, arXiv:2207.12598
(guidance).

The idea. A U-Net's resolutions and skips are not what makes diffusion work. Cut the latents into patches, as
a ViT cuts an image, and let a plain transformer denoise the sequence: quality then follows the number of
multiplications, whether they come from depth, from width or from smaller patches. Timestep and class enter
by the layer norms alone, whose scale and shift are computed from them.

    c = W₂ silu(W₁ [cos ωt, sin ωt]) + E_y                                         (figure 3)
    (β₁, γ₁, α₁, β₂, γ₂, α₂) = W silu(c)                       in each block        adaLN
    h = h + α₁ ⊙ attention((1 + γ₁) ⊙ norm(h) + β₁)                                 adaLN-Zero: α = 0 at first
    h = h + α₂ ⊙ mlp((1 + γ₂) ⊙ norm(h) + β₂)
    L = E ‖ε − ε_θ‖² + L_vlb(σ_θ, stop-gradient of ε_θ)                             `training_loss`
    log σ² = f log β_t + (1 − f) log β̃_t,  f = (v + 1) / 2                          `log_variance`
    ε̃ = ε_∅ + s (ε_c − ε_∅)                                                         guidance

Positions are fixed sines of a grid. A class more than there are stands for no condition. With
`learned_sigma` the network has twice as many output channels, v beside ε, and ancestral sampling takes its
variance; DDIM does without. The sizes, each with patches of 2, 4 or 8 latents a side:

    dit_s  12 blocks, width 384    dit_b  12 blocks, 768    dit_l  24 blocks, 1024    dit_xl  28 blocks, 1152

    dit_mnist     28 × 28 pixels to 7 × 7 latents, by an autoencoder of its own;   dit_digits   8 × 8 to 4 × 4

A run has two stages, the autoencoder (`tasks/diffusion/autoencoder.py`) and the transformer. Without an
autoencoder a variant denoises pixels.

What differs from the paper. The recipes train an autoencoder of their own, in place of Stable Diffusion's.
They predict v with the cosine schedule and a fixed variance, and sample by DDIM with guidance, as those of
`ddpm` do, which they are compared with. Latents are computed once, so that only the autoencoder sees
augmentation.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.diffusion_batches import DiffusionBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.dit import from_config, published
from torchstone.parts.diffusion.process import (
    DenoiseFn,
    DiffusionProcess,
    NoiseSchedule,
    discretized_log_likelihood,
    randn_like,
)
from torchstone.parts.diffusion.unet_blocks import timestep_embedding
from torchstone.parts.facts import Fact, ParityCase, count_parameters, macs, on_meta
from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import sinusoidal_grid
from torchstone.parts.vae.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.diffusion import inference
from torchstone.tasks.diffusion.autoencoder import train_autoencoder
from torchstone.tasks.diffusion.train import (
    ConditionedData,
    label_context,
    run_metadata,
    sampling_metadata,
    train_diffusion,
)

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "DiT",
    "DiTConfig",
    "Recipe",
    "build",
    "dit",
    "evaluate",
    "from_config",
    "p_sample",
    "published",
    "reference",
    "sample",
    "training_loss",
]

MARGIN = ("loss", -0.2)

Latents = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, a folder, hf:NAME
    variant: str = "dit_mnist"  # network variant
    condition: Literal["none", "label"] = "label"  # condition of the network: none or label
    cond_drop_prob: float = 0.1  # probability of dropping the condition (classifier-free guidance)
    beta_schedule: Literal["linear", "cosine", "scaled_linear"] = "cosine"  # noise schedule
    timesteps: int = 1000  # number of timesteps T
    prediction_type: Literal["epsilon", "x0", "v"] = "v"  # prediction target: epsilon, x0 or v
    learned_sigma: bool = False  # learned variance: needs prediction_type epsilon
    autoencoder_steps: int = 500  # number of updates of the autoencoder
    autoencoder_lr: float = 2e-3  # learning rate of the autoencoder
    kl_weight: float = 1e-6  # weight of the latents' KL divergence, beside the absolute error of an image
    augment: str = "none"  # augmentation of the autoencoder's images, such as flip or crop4
    steps: int = 1200  # number of updates of the transformer
    batch_size: int = 32  # images per update
    optim: OptimConfig = OptimConfig(
        lr=1e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    sampler: Literal["ddpm", "ddim"] = "ddim"  # sampler: ddpm (ancestral) or ddim
    sampling_steps: int = 25  # number of sampling steps
    guidance_scale: float = 2.0  # guidance scale s of samples, 1 for no guidance
    eval_samples: int = 200  # number of samples evaluated at the end
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train dit    8 min of a core   reconstructions 24.5 dB; 78 % of samples as asked
    "mnist5k": Recipe(),
    # torchstone train dit/imagenet --data FOLDER    the paper's setting, with an autoencoder of one's own
    "imagenet": Recipe(
        data="imagenet",
        variant="dit_xl_2",
        beta_schedule="linear",
        prediction_type="epsilon",
        learned_sigma=True,
        autoencoder_steps=250_000,
        autoencoder_lr=1e-4,
        augment="flip",
        steps=7_000_000,
        batch_size=256,
        optim=replace(
            Recipe.optim,
            optimizer="adamw",
            lr=1e-4,
            beta2=0.999,
            lr_schedule="constant",
            warmup_ratio=0.0,
            max_grad_norm=None,
            ema_decay=0.9999,
            precision="bf16",
            compile=True,
        ),
        sampler="ddpm",
        sampling_steps=250,
        guidance_scale=1.5,
        eval_samples=50_000,
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="dit_digits",
        timesteps=100,
        autoencoder_steps=60,
        autoencoder_lr=4e-3,
        steps=60,
        optim=replace(Recipe.optim, lr=3e-3, ema_decay=0.9),
        sampling_steps=5,
        eval_samples=60,
    ),
}


# --------------------------------------------------------------------------------------- algorithm


def log_variance(
    schedule: NoiseSchedule, v: Latents, t: Int64[Tensor, " batch"], s: Int64[Tensor, " batch"]
) -> Latents:
    """log σ² of the step from t to s < t: f log β + (1 − f) log β̃, f = (v + 1) / 2 (Nichol and Dhariwal,
    equation 15). The last step's β̃ is zero; that of the step before serves."""
    beta = 1 - schedule.alpha_bar(t, v) / schedule.alpha_bar(s, v)
    first = schedule.posterior_variance(torch.ones_like(t), torch.zeros_like(t), v)
    posterior = torch.where((s < 0).view(beta.shape), first, schedule.posterior_variance(t, s, v))
    fraction = (v + 1) / 2
    return fraction * beta.log() + (1 - fraction) * posterior.log()


def variance_loss(
    schedule: NoiseSchedule, x0: Latents, x_t: Latents, predicted: Latents, v: Latents, t: Tensor
) -> Float[Tensor, ""]:
    """L_vlb of the variance alone, in bits per dimension: KL(q(x_{t−1} | x_t, x₀) ‖ N(μ_θ, σ_θ²)), and
    −log p(x₀ | x₁) at t = 0 (Nichol and Dhariwal, section 3.1).

    Args:
        predicted: x̂₀, from which no gradient is taken.
    """
    mean, _ = schedule.posterior(x0, x_t, t, t - 1)
    predicted_mean, _ = schedule.posterior(predicted, x_t, t, t - 1)
    log_sigma2 = log_variance(schedule, v, t, t - 1)
    true_log = log_variance(schedule, torch.full_like(v, -1.0), t, t - 1)
    squared = (mean - predicted_mean).square() * (-log_sigma2).exp()
    kl = 0.5 * (log_sigma2 - true_log - 1 + (true_log - log_sigma2).exp() + squared)
    nll = -discretized_log_likelihood(x0, predicted_mean, (0.5 * log_sigma2).exp())
    nats = torch.where((t == 0).view(-1, *[1] * (x0.ndim - 1)), nll, kl)
    return nats.mean() / math.log(2)


def training_loss(
    net: Callable[..., Tensor], process: DiffusionProcess, schedule: NoiseSchedule, batch: DiffusionBatch
) -> Float[Tensor, ""]:
    """The mean squared error of the prediction; with a learned variance also L_vlb, whose gradient reaches
    the variance alone.

    L = E ‖ε − ε_θ(z_t, t, y)‖² + L_vlb(σ_θ)                                            (section 3.1)
    """
    z, t, epsilon, labels = batch
    z_t = schedule.add_noise(z, epsilon, t)
    output = net(z_t, t, labels)
    prediction, v = output[:, : z.shape[1]], output[:, z.shape[1] :]
    error = F.mse_loss(prediction, schedule.training_target(process.prediction_type, z, epsilon, t))
    if not v.shape[1]:
        return error
    predicted, _ = schedule.predict_x0_and_epsilon(process.prediction_type, prediction.detach(), z_t, t)
    return error + variance_loss(schedule, z, z_t, predicted, v, t)


@torch.no_grad()
def p_sample(
    denoise_fn: DenoiseFn,
    process: DiffusionProcess,
    schedule: NoiseSchedule,
    x_t: Latents,
    t: Int64[Tensor, " batch"],
    s: Int64[Tensor, " batch"],
    generator: torch.Generator,
    eta: float = 0.0,
) -> tuple[Latents, Latents]:
    """One reverse step: the latents at the next timestep s < t, and the x̂₀ that they were computed from.
    Ancestral sampling takes the learned variance, if there is one."""
    output = denoise_fn(x_t, t)
    prediction, v = output[:, : x_t.shape[1]], output[:, x_t.shape[1] :]
    x0, epsilon = process.predict_x0(schedule, prediction, x_t, t)
    mean, sigma = process.step(schedule, x0, epsilon, x_t, t, s, eta)
    if not process.is_stochastic(eta):
        return mean, x0
    if v.shape[1] and process.sampler == "ddpm":
        sigma = (0.5 * log_variance(schedule, v, t, s)).exp() * (sigma > 0)
    return mean + sigma * randn_like(x_t, generator), x0


sample = inference.make_sample(p_sample, CLASSIFIER)
evaluate = partial(inference.evaluate, p_sample=p_sample, classifier=CLASSIFIER)


# ----------------------------------------------------------------------------------------- network

TIME_WIDTH = 256  # of the timestep's sines and cosines


@dataclass(frozen=True)
class DiTConfig:
    """The architecture of a `DiT`.

    Args:
        width, depth, heads: of the transformer; its feed-forward layer is `mlp_ratio` times as wide.
        patch: latents a side of a token.
        size, channels: of the latents.
        num_classes: 0 for no condition.
        null_label: one more label, for no condition.
        learned_sigma: as many channels more at the output, of the variance.
        freq_shift: of the timestep embedding: 0 in the paper's code, 1 in diffusers.
        eps, eps_feed_forward: of the norms before attention and at the end, and before feed-forward layers.
    """

    width: int = 1152
    depth: int = 28
    heads: int = 16
    patch: int = 2
    size: int = 32
    channels: int = 4
    num_classes: int = 1000
    null_label: bool = True
    learned_sigma: bool = True
    mlp_ratio: int = 4
    freq_shift: float = 0.0
    eps: float = 1e-6
    eps_feed_forward: float = 1e-6


Tokens = Float[Tensor, "batch token width"]
Condition = Float[Tensor, "batch width"]


def modulate(x: Tokens, shift: Condition, scale: Condition) -> Tokens:
    return x * (1 + scale[:, None]) + shift[:, None]


class DiTBlock(nn.Module):
    """Attention and feed-forward layer; the condition scales and shifts their norms, and scales what they add
    (adaLN-Zero, section 3.2)."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, config.eps, elementwise_affine=False)
        self.attention = MultiHeadAttention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, config.eps_feed_forward, elementwise_affine=False)
        self.feed_forward = FeedForward(width, config.mlp_ratio * width, "gelu_pytorch_tanh")
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tokens, c: Condition) -> Tokens:
        """
        Args:
            c: the condition with the activation applied.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, 1)
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.feed_forward(modulate(self.norm2(x), shift2, scale2))


class DiT(nn.Module):
    """Latents to what they are denoised by.

    Raises:
        BadInput: numbers that do not go together.
    """

    positions: Tensor

    def __init__(self, config: DiTConfig = DiTConfig()):
        super().__init__()
        self.config = config
        width, patch, channels = config.width, config.patch, config.channels
        if config.size % patch:
            raise BadInput(f"latents of {config.size} a side cannot be cut into patches of {patch}")
        if width % config.heads or width % 4:
            raise BadInput(f"a width of {width} cannot be divided among {config.heads} heads, and by 4")
        self.patches = nn.Conv2d(channels, width, patch, patch)
        side = config.size // patch
        self.register_buffer("positions", sinusoidal_grid(side, side, width).float(), persistent=False)
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        labels = config.num_classes + config.null_label
        self.labels = nn.Embedding(labels, width) if config.num_classes else None
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, config.eps, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch**2 * channels * (1 + config.learned_sigma))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Uniform by fan-in and fan-out (Glorot and Bengio 2010), embeddings N(0, 0.02²); every block begins
        as the identity and the output as zero (section 3.2 and the paper's code)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))
        if self.patches.bias is not None:
            nn.init.zeros_(self.patches.bias)
        embedders: list[Any] = [self.time[0], self.time[2], *([] if self.labels is None else [self.labels])]
        for layer in embedders:
            nn.init.normal_(layer.weight, std=0.02)
        zero: list[Any] = [*(block.modulation for block in self.blocks), self.modulation, self.head]
        for layer in zero:
            nn.init.zeros_(layer.weight)

    def forward(
        self, x: Latents, t: Shaped[Tensor, " batch"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch out_channel height width"]:
        config = self.config
        embedding = timestep_embedding(t, TIME_WIDTH, freq_shift=config.freq_shift)
        c = self.time(embedding.to(x.dtype))
        if self.labels is not None:
            c = c + self.labels(self.null_context(len(x)) if labels is None else labels)
        c = F.silu(c)
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions.to(x.dtype)
        for block in self.blocks:
            h = block(h, c)
        h = self.head(modulate(self.norm(h), *self.modulation(c).chunk(2, 1)))
        side, patch = config.size // config.patch, config.patch
        h = h.unflatten(2, (patch, patch, -1)).unflatten(
            1, (side, side)
        )  # rows, columns, in a patch, channel
        return h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def null_context(self, count: int) -> Int64[Tensor, " count"]:
        """The labels of `count` images without a condition.

        Raises:
            BadInput: the network has no label for that.
        """
        if not self.config.null_label:
            raise BadInput("this network needs a class for each image")
        return torch.full((count,), self.config.num_classes, device=self.patches.weight.device)


class LatentDiT(nn.Module):
    """A `DiT`, and the autoencoder whose latents it denoises.

    Args:
        process: what the network is trained for.
    """

    def __init__(self, config: DiTConfig, autoencoder: KLAutoencoderConfig | None, process: DiffusionProcess):
        super().__init__()
        self.process = process
        # frozen but in its own stage
        self.autoencoder = None if autoencoder is None else KLAutoencoder(autoencoder).requires_grad_(False)
        self.denoiser = DiT(config)
        self.shape = (config.channels, config.size, config.size)

    def forward(
        self, x: Latents, t: Shaped[Tensor, " batch"], context: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch out_channel height width"]:
        """The transformer's output for noisy latents."""
        return self.denoiser(x, t, context)

    def null_context(self, count: int) -> Int64[Tensor, " count"]:
        return self.denoiser.null_context(count)


def dit(
    *,
    size: int,
    channels: int = 3,
    autoencoder: Mapping[str, Any] | None = None,
    process: DiffusionProcess | Mapping[str, Any] | None = None,
    **config: Any,
) -> LatentDiT:
    """A `LatentDiT` from flat keyword arguments, as a checkpoint's `model_config` holds them.

    Args:
        size, channels: of the images.
        autoencoder: fields of `KLAutoencoderConfig`; None to denoise pixels.
        process: fields of `DiffusionProcess`.
        config: fields of `DiTConfig`, but for its size and channels.

    Raises:
        BadInput: numbers that do not go together.
    """
    if not isinstance(process, DiffusionProcess):
        process = DiffusionProcess.from_kwargs(process or {})
    if autoencoder is None:
        return LatentDiT(DiTConfig(**config, size=size, channels=channels), None, process)
    fields: dict[str, Any] = {"channels": channels, **autoencoder}
    first = KLAutoencoderConfig(**fields)
    if first.channels != channels or size % first.downsampling:
        raise BadInput(
            f"the autoencoder takes {first.channels} channels and makes sides {first.downsampling} times "
            f"smaller: images of {channels} channels and {size} pixels a side do not fit"
        )
    latent = {"size": size // first.downsampling, "channels": first.latent_channels}
    return LatentDiT(DiTConfig(**config, **latent), first, process)


def make_variant(*, channels: int = 3, size: int, **config: Any) -> Variant:
    make = partial(dit, channels=channels, size=size, **config)
    latent = config["autoencoder"]
    factor = KLAutoencoderConfig(**latent).downsampling
    return Variant(make, (latent.get("latent_channels", 4), size // factor, size // factor))


SIZES = {
    "s": {"depth": 12, "width": 384, "heads": 6},
    "b": {"depth": 12, "width": 768, "heads": 12},
    "l": {"depth": 24, "width": 1024, "heads": 16},
    "xl": {"depth": 28, "width": 1152, "heads": 16},
}
LATENT = {"clip_sample_range": None}  # of the process: latents have no bounds
VARIANTS = {
    f"dit_{name}_{patch}": make_variant(size=256, autoencoder={}, process=LATENT, patch=patch, **sizes)
    for name, sizes in reversed(SIZES.items())
    for patch in (2, 4, 8)
} | {
    "dit_mnist": make_variant(
        size=28,
        channels=1,
        autoencoder={"widths": (16, 32, 32), "depth": 1, "groups": 8},
        process=LATENT,
        width=160,
        depth=4,
        heads=5,
        patch=1,
        num_classes=10,
        learned_sigma=False,
    ),
    "dit_digits": make_variant(
        size=8,
        channels=1,
        autoencoder={
            "widths": (16, 16),
            "depth": 1,
            "groups": 4,
            "latent_channels": 2,
            "mid_attention": False,
        },
        process=LATENT,
        width=64,
        depth=2,
        heads=2,
        patch=1,
        num_classes=10,
        learned_sigma=False,
    ),
}


def load_data(recipe: Recipe, model_config: dict[str, Any], device: torch.device) -> ConditionedData:
    """The recipe's images, fitted to the network of `model_config`, and its condition.

    Raises:
        BadInput: the data cannot be read; a variance cannot be learned beside this prediction.
    """
    if recipe.learned_sigma and recipe.prediction_type != "epsilon":
        raise BadInput(
            "learned_sigma needs --prediction-type epsilon: the variance is learned beside the noise"
        )
    data = load_images(
        recipe.data, size=model_config["size"], channels=model_config["channels"], device=device
    )
    process = {
        **model_config["process"],
        "beta_schedule": recipe.beta_schedule,
        "timesteps": recipe.timesteps,
        "prediction_type": recipe.prediction_type,
    }
    model_config = {**model_config, "process": process, "learned_sigma": recipe.learned_sigma}
    metadata = sampling_metadata(recipe)
    if recipe.condition == "none":
        return ConditionedData(data, model_config | {"num_classes": 0}, None, metadata)
    num_classes = len(data.classes)
    metadata |= {"classes": list(data.classes)}
    model_config |= {"num_classes": num_classes}
    return ConditionedData(data, model_config, label_context(num_classes), metadata)


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    conditioned = load_data(recipe, make.keywords, device)
    rng.seed(recipe.seed)
    model = make(**conditioned.model_config).to(device)
    classifier = CLASSIFIER if recipe.eval_samples else None
    metadata = run_metadata(recipe, conditioned)
    yield train_autoencoder(model, recipe, conditioned.data, metadata, classifier)
    yield train_diffusion(model, recipe, conditioned, training_loss, p_sample, CLASSIFIER)


def published_count(variant: str) -> int:
    """Numbers of the transformer, its fixed positions included, as the paper's code counts them."""
    denoiser = on_meta(VARIANTS[variant].make).denoiser
    return count_parameters(denoiser) + denoiser.positions.numel()


def diffusers_count(variant: str) -> int:
    """Numbers of diffusers' network: an embedder of timestep and class for each block, and no positions."""
    denoiser = on_meta(VARIANTS[variant].make).denoiser
    embedder = sum(count_parameters(each) for each in (denoiser.time, denoiser.labels))
    return count_parameters(denoiser) + (denoiser.config.depth - 1) * embedder


def billions(variant: str) -> float:
    """10⁹ multiply-accumulates of the transformer, for latents of 32 × 32."""
    denoiser = on_meta(VARIANTS[variant].make).denoiser
    return macs(denoiser, (1, 4, 32, 32)) / 1e9


FACTS = [
    Fact("dit_xl_2 parameters and positions", partial(published_count, "dit_xl_2"), 675_129_632),
    *(
        Fact(f"dit_{name}_2 parameters in diffusers", partial(diffusers_count, f"dit_{name}_2"), count)
        for name, count in zip(SIZES, (39_805_088, 147_439_904, 511_609_888, 749_826_464), strict=True)
    ),
    # the paper's table 4; its tool counts some element-wise operations too
    Fact("dit_xl_2, 10⁹ multiply-accumulates", partial(billions, "dit_xl_2"), 118.64, 0.03),
    Fact("dit_s_2, 10⁹ multiply-accumulates", partial(billions, "dit_s_2"), 6.06, 0.01),
]


def reference() -> Iterator[ParityCase]:
    """diffusers' class, in random configurations of a fixed seed; its blocks share one embedder, as the
    paper's do."""
    from torchstone import references
    from torchstone.hub.dit import denoiser_config, published_denoiser
    from torchstone.references.diffusers import random_dits

    torch.manual_seed(0)
    names = references.unwrap_names(lambda _, tensors: published_denoiser(tensors))
    for number, net in enumerate(random_dits(8)):
        training = number % 2 == 1
        theirs = references.OutputAdapter(net, lambda net, *inputs: net(*inputs).sample).train(training)
        references.randomize_weights(theirs, 0.2)
        config = DiTConfig(**denoiser_config(net.config))
        ours = DiT(config).train(training)
        ours.load_state_dict(names(theirs.state_dict()))
        dtype = torch.float32 if number >= 6 else torch.float64
        x = torch.randn(2, config.channels, config.size, config.size).to(dtype)
        inputs = (x, torch.tensor([7, 800]), torch.tensor([config.num_classes, 1]))
        label = f"{number}, {'train' if training else 'eval'}"
        yield ParityCase(ours.to(dtype), theirs.to(dtype), inputs, names, torch.optim.AdamW, label)
