"""DDPM: a network predicts the noise in an image, and generates images by removing it step by step.

Paper: Jonathan Ho, Ajay Jain and Pieter Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020,
arXiv:2006.11239. With it: Song, Meng and Ermon, DDIM, 2020, arXiv:2010.02502 (fewer, deterministic
steps); Nichol and Dhariwal, 2021, arXiv:2102.09672 (cosine schedule); Dhariwal and Nichol, 2021,
arXiv:2105.05233 (classifier guidance); Ho and Salimans, 2022, arXiv:2207.12598 (classifier-free guidance).

The idea. Noise is added to an image in a thousand small steps until nothing else is left. Each step is so
small that its reverse is a Gaussian too, and a network can predict its mean from the noisy image. Trained
at all timesteps at once, it turns pure noise into new images, step by step.

    q(x_t | x₀) = N(√ᾱ_t x₀, (1 − ᾱ_t) I),  ᾱ_t = Π (1 − β_s)             `q_sample`       (equation 4)
    L = E ‖ε − ε_θ(√ᾱ_t x₀ + √(1 − ᾱ_t) ε, t)‖²                           `training_loss`  (14)
    x_{t−1} = (x_t − β_t / √(1 − ᾱ_t) ε_θ) / √(1 − β_t) + σ_t z           `p_sample`       (algorithm 2)
    x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s − σ²) ε_θ + σ z,  σ from η                  DDIM             (its 12, 16)
    ε̃ = (1 + w) ε_c − w ε_∅ = ε_∅ + s (ε_c − ε_∅),  s = 1 + w             guidance

Guidance scales are counted both ways in the literature: Ho and Salimans' w is 0 for no guidance, the s of
diffusers and Stable Diffusion is 1. Here it is s, `--guidance-scale`. The condition of an image (its label,
its caption) is dropped now and then in training, so that one network learns ε_c and ε_∅.

The U-Net goes down to lower resolutions through residual blocks (`parts/diffusion/unet_blocks.py`), and up
again with skip connections. Self-attention stands at a middle resolution; the timestep embedding is added
in every block. Captions are encoded by a small transformer, to whose tokens the attention blocks attend
too. An auxiliary head predicts a coarse image from the caption, which the U-Net gets as extra input
channels; as in Grad-TTS (Popov et al. 2021, arXiv:2105.06337) it has a squared error of its own in the loss.

    ddpm_cifar10, ddpm_lsun256   Ho et al.'s two networks, as published (appendix B)
    ddpm_mnist, ddpm_digits      small ones for 28 × 28 and 8 × 8
    ddpm_emoji, ddpm_emoji64     for 32 × 32 and 64 × 64 in color, with a text encoder

What differs from the paper. The small networks fold 2 × 2 pixels into channels first (`patch`), a quarter
of the cost, and predict v (Salimans and Ho 2022, arXiv:2202.00512) with the cosine schedule, which suits
short training better than ε. They sample by DDIM, with guidance. Validation loss and variational bound are
those of the EMA weights; samples are evaluated as those of the other families
(`metrics/classifier_features.py`).
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from torchstone.data.vision.diffusion_batches import DiffusionBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.diffusers import from_config, published, unpublished
from torchstone.parts.diffusion.process import (
    DenoiseFn,
    DiffusionProcess,
    NoiseSchedule,
    make_betas,
    randn_like,
)
from torchstone.parts.diffusion.text_encoder import CoarseImageHead, TextEncoder, masked_mean
from torchstone.parts.diffusion.unet_blocks import (
    AttentionBlock,
    ResnetBlock,
    build_down,
    build_up,
    timestep_embedding,
)
from torchstone.parts.facts import Fact, ParityCase, count_parameters, macs
from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.diffusion import inference
from torchstone.tasks.diffusion.train import load_conditioned_data, train_diffusion

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "TextConditioning",
    "UNet",
    "UNetConfig",
    "build",
    "evaluate",
    "from_config",
    "p_sample",
    "published",
    "q_sample",
    "reference",
    "sample",
    "training_loss",
    "unet",
    "unpublished",
]

MARGIN = ("loss", -0.3)


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, a folder, hf:NAME; captioned: openmoji, a folder
    variant: str = "ddpm_mnist"  # network variant
    condition: Literal["none", "label", "text"] = "label"  # condition of the network: none, label or text
    cond_drop_prob: float = 0.1  # probability of dropping the condition (classifier-free guidance)
    beta_schedule: Literal["linear", "cosine", "scaled_linear"] = "cosine"  # noise schedule
    timesteps: int = 1000  # number of timesteps T
    prediction_type: Literal["epsilon", "x0", "v"] = "v"  # prediction target: epsilon, x0 or v
    dropout: float = 0.0  # dropout probability
    augment: str = "none"  # augmentation, such as flip or crop4
    steps: int = 1000  # number of updates
    batch_size: int = 32  # images per update
    optim: OptimConfig = OptimConfig(
        lr=2e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    sampler: Literal["ddpm", "ddim"] = "ddim"  # sampler: ddpm (ancestral) or ddim
    sampling_steps: int = 25  # number of sampling steps
    guidance_scale: float = 2.0  # guidance scale s of samples, 1 for no guidance
    eval_samples: int = 200  # number of samples evaluated at the end
    guidance_sweep_samples: int = 0  # samples per guidance scale and sampler in the final sweep (0: skip it)
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train ddpm            11 min of a slow core   confident_rate 0.93 (data 0.97)
    "mnist5k": Recipe(),
    # torchstone train ddpm/half_hour  2,012 s of a core       confident_rate 0.996; then the guidance sweep
    "half_hour": Recipe(
        steps=2000,
        batch_size=64,
        optim=replace(Recipe.optim, ema_decay=0.995),
        eval_samples=500,
        guidance_sweep_samples=200,
    ),
    # torchstone train ddpm/mnist
    "mnist": Recipe(
        data="hf:ylecun/mnist",
        steps=10_000,
        batch_size=128,
        optim=replace(Recipe.optim, ema_decay=0.999),
        eval_samples=2000,
    ),
    # torchstone train ddpm/emoji_text 43 min of 2 cores       match 1.00, of new captions 0.58 (chance 0.5);
    #                                  100 min of 2 cores without bfloat16
    "emoji_text": Recipe(
        data="openmoji",
        variant="ddpm_emoji",
        condition="text",
        steps=5600,
        optim=replace(Recipe.optim, ema_decay=0.999, precision="auto"),
    ),
    # torchstone train ddpm/cifar10 --data FOLDER   the paper's setting
    "cifar10": Recipe(
        data="cifar10",
        variant="ddpm_cifar10",
        condition="none",
        beta_schedule="linear",
        prediction_type="epsilon",
        dropout=0.1,
        augment="flip",
        steps=800_000,
        batch_size=128,
        optim=replace(
            Recipe.optim,
            lr=2e-4,
            beta2=0.999,
            lr_schedule="constant",
            warmup_ratio=0.00625,
            ema_decay=0.9999,
            precision="bf16",
            compile=True,
        ),
        sampler="ddpm",
        sampling_steps=1000,
        guidance_scale=1.0,
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="ddpm_digits",
        timesteps=100,
        steps=60,
        optim=replace(Recipe.optim, ema_decay=0.9),
        sampling_steps=5,
        eval_samples=60,
    ),
}


# --------------------------------------------------------------------------------------- algorithm


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
    """The forward process: x_t, the image with the noise of timestep t.

    q(x_t | x₀) = N(√ᾱ_t x₀, (1 − ᾱ_t) I)                                               (equation 4)
    """
    alpha_bar = schedule.alpha_bar(t, x0)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * epsilon


def training_loss(
    net: Callable[..., Tensor], process: DiffusionProcess, schedule: NoiseSchedule, batch: DiffusionBatch
) -> Tensor:
    """The mean squared error of the prediction, here of ε; v and x₀ by `prediction_type`.

    L = E ‖ε − ε_θ(√ᾱ_t x₀ + √(1 − ᾱ_t) ε, t)‖²                                         (equation 14)
    """
    x0, t, epsilon, context = batch
    output = net(q_sample(schedule, x0, t, epsilon), t, context)
    return F.mse_loss(output, schedule.training_target(process.prediction_type, x0, epsilon, t))


@torch.no_grad()
def p_sample(
    denoise_fn: DenoiseFn,
    process: DiffusionProcess,
    schedule: NoiseSchedule,
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    generator: torch.Generator,
    eta: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One reverse step: x_s at the next timestep s < t, and the x̂₀ that it was computed from.

    x_{t−1} = (x_t − β_t / √(1 − ᾱ_t) ε_θ) / √(1 − β_t) + σ_t z     DDPM                (algorithm 2)
    x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s − σ²) ε_θ + σ z,  σ from η            DDIM                (its 12, 16)
    """
    x0, epsilon = process.predict_x0(schedule, denoise_fn(x_t, t), x_t, t)
    mean, sigma = process.step(schedule, x0, epsilon, x_t, t, s, eta)
    if not process.is_stochastic(eta):
        return mean, x0
    return mean + sigma * randn_like(x_t, generator), x0


sample = inference.make_sample(p_sample, CLASSIFIER)
evaluate = partial(inference.evaluate, p_sample=p_sample, classifier=CLASSIFIER)


# ----------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class UNetConfig:
    """The architecture of a `UNet`.

    Args:
        widths: channels at each resolution, the finest first.
        attention: whether there is attention at each; `up_attention`, if other on the way up.
        depth: residual blocks per resolution on the way down; one more on the way up.
        channels, out_channels: of the image, and of the output if they differ.
        size: pixels a side, or (height, width).
        patch: pixels a side that are folded into channels first, and unfolded at the end.
        head_width: of attention; by default one head.
        groups, eps, activation, dropout, scale_shift, divisor: of the blocks.
        time_embed_dim: width of the embedding of timestep and condition, by default 4 × the first width.
        padding: of the convolutions that downsample.
        convolve, up_convolve: whether each resolution is resampled by a convolution, or by a block.
        mid_attention: whether there is attention in the middle.
        mid_norm_groups: of its norm; 0 for `groups`, None for no norm.
        freq_shift, flip_sin_to_cos: of the timestep embedding.
        center_input: images are 0..1, and are mapped to −1..1 here.
        num_classes: classes of a label given as `context`.
        null_label: one more label, for no condition.
        context_width: of hidden states that `denoise` is given, without a text encoder; 0 for none.
    """

    widths: Sequence[int]
    attention: Sequence[bool]
    depth: int = 2
    channels: int = 3
    out_channels: int | None = None
    size: int | Sequence[int] = 32
    patch: int = 1
    head_width: int | None = None
    groups: int = 32
    eps: float = 1e-6
    activation: str = "silu"
    dropout: float = 0.0
    time_embed_dim: int | None = None
    padding: int = 0
    scale_shift: bool = False
    convolve: Sequence[bool] | None = None
    up_attention: Sequence[bool] | None = None
    up_convolve: Sequence[bool] | None = None
    divisor: float = 1.0
    mid_attention: bool = True
    mid_norm_groups: int | None = 0
    freq_shift: float = 1.0
    flip_sin_to_cos: bool = False
    center_input: bool = False
    num_classes: int = 0
    null_label: bool = False
    context_width: int = 0


@dataclass(frozen=True)
class TextConditioning:
    """The text encoder of captions given as `context`: the arguments of `TextEncoder`, in their order.

    Args:
        coarse_head: hidden units of the `CoarseImageHead`, whose output is concatenated with the noisy
            image; 0 for none.
    """

    vocab_size: int
    max_length: int
    width: int
    depth: int
    heads: int
    dropout: float = 0.0
    word_dropout: float = 0.0
    coarse_head: int = 0


class UNet(nn.Module):
    """Residual blocks down to low resolution, and up again with skip connections.

    Args:
        process: what the network is trained for, if it is not Ho et al.'s.

    Raises:
        ValueError: numbers that do not go together.
    """

    def __init__(
        self,
        config: UNetConfig,
        text: TextConditioning | None = None,
        process: DiffusionProcess = DiffusionProcess(),  # noqa: B008
    ):
        super().__init__()
        channels, patch, size, groups = config.channels, config.patch, config.size, config.groups
        widths, width = config.widths, config.widths[0]
        self.config, self.process = config, process
        self.shape = (channels, *((size, size) if isinstance(size, int) else size))
        self.activation = ACTIVATIONS[config.activation]
        embed_dim = config.time_embed_dim or 4 * width
        context = config.context_width if text is None else text.width
        make_block = partial(
            ResnetBlock,
            embed_dim=embed_dim,
            groups=groups,
            eps=config.eps,
            activation=config.activation,
            dropout=config.dropout,
            scale_shift=config.scale_shift,
        )
        make_attention = partial(
            AttentionBlock, head_width=config.head_width, groups=groups, eps=config.eps, context=context
        )
        self.time = nn.Sequential(nn.Linear(width, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim))
        labels = config.num_classes + config.null_label
        self.labels = nn.Embedding(labels, embed_dim) if config.num_classes else None
        self.text_encoder = self.text_projection = self.coarse_head = None
        if text is not None:
            encoder = dataclasses.asdict(text)
            hidden = encoder.pop("coarse_head")
            self.text_encoder = TextEncoder(**encoder)
            self.text_projection = nn.Linear(context, embed_dim)
            if hidden:
                coarse_shape = (channels, *(side // patch for side in self.shape[1:]))
                self.coarse_head = CoarseImageHead(context, hidden, coarse_shape)
        inputs = channels * (patch**2 + (self.coarse_head is not None))
        self.conv_in = nn.Conv2d(inputs, width, 3, padding=1)

        convolve = config.convolve or [True] * len(widths)
        self.down, skip_channels = build_down(
            widths, config.attention, convolve, config.depth, make_block, make_attention, config.padding
        )
        last, divisor = widths[-1], config.divisor
        self.middle_before = make_block(last, last, divisor=divisor)
        self.middle_attention = None
        if config.mid_attention:
            norm_groups = groups if config.mid_norm_groups == 0 else config.mid_norm_groups
            self.middle_attention = make_attention(last, groups=norm_groups, divisor=divisor)
        self.middle_after = make_block(last, last, divisor=divisor)
        self.up = build_up(
            widths[::-1],
            config.up_attention or config.attention[::-1],
            config.up_convolve or convolve[::-1],
            skip_channels,
            config.depth,
            make_block,
            make_attention,
        )
        self.norm = nn.GroupNorm(groups, width, config.eps)
        outputs = channels if config.out_channels is None else config.out_channels
        self.conv_out = nn.Conv2d(width, outputs * patch**2, 3, padding=1)
        self.init_weights()
        old = {"reader.": "text_encoder.", "summary.": "text_projection.", "sketch.": "coarse_head."}
        accept_old_keys(self, old)

    def init_weights(self) -> None:
        """Uniform by fan-in and fan-out (Glorot and Bengio 2010); the last layer of each residual is zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, AttentionBlock):
                for attention in (module.attention, module.text):
                    if attention is not None:
                        nn.init.zeros_(attention.out.weight)
        nn.init.zeros_(self.conv_out.weight)

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        t: Shaped[Tensor, " batch"],
        context: Int64[Tensor, "batch *tokens"] | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        e = self.embed_timestep(t, x.dtype)
        tokens = mask = coarse = None
        if self.labels is not None:
            e = e + self.labels(self.null_context(len(x)) if context is None else context)
        elif self.text_encoder is not None and self.text_projection is not None:
            tokens, mask = self.text_encoder(self.null_context(len(x)) if context is None else context)
            text = masked_mean(tokens, mask)
            e = e + self.text_projection(text)
            coarse = None if self.coarse_head is None else self.coarse_head(text)
        return self.denoise(x, e, tokens, mask, coarse)

    def embed_timestep(
        self, t: Shaped[Tensor, " batch"], dtype: torch.dtype
    ) -> Float[Tensor, "batch embed_dim"]:
        config = self.config
        shift, flip = config.freq_shift, config.flip_sin_to_cos
        embedding = timestep_embedding(t, config.widths[0], freq_shift=shift, flip_sin_to_cos=flip)
        return self.time(embedding.to(dtype))

    def denoise(
        self,
        x: Float[Tensor, "batch channel height width"],
        e: Float[Tensor, "batch embed_dim"],
        tokens: Float[Tensor, "batch tokens context"] | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
        coarse: Float[Tensor, "batch channel coarse_height coarse_width"] | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """The output for an embedding of timestep and condition.

        Args:
            tokens, mask: hidden states that the attention blocks attend to, and where there are some.
            coarse: of the `CoarseImageHead`.
        """
        config = self.config
        x = 2 * x - 1 if config.center_input else x
        e = self.activation(e)
        x = F.pixel_unshuffle(x, config.patch) if config.patch > 1 else x
        x = self.conv_in(x if coarse is None else torch.cat([x, coarse], 1))
        skips = [x]
        for stage in self.down:
            x = stage(x, e, skips, tokens, mask)
        x = self.middle_before(x, e)
        if self.middle_attention is not None:
            x = self.middle_attention(x, tokens, mask)
        x = self.middle_after(x, e)
        for stage in self.up:
            x = stage(x, e, skips, tokens, mask)
        x = self.conv_out(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, config.patch) if config.patch > 1 else x

    def null_context(self, count: int) -> Int64[Tensor, "count *tokens"]:
        """The context of `count` images without a condition.

        Raises:
            BadInput: the network has no label for that.
        """
        device = self.conv_in.weight.device
        if self.text_encoder is not None:
            return self.text_encoder.empty(count, device)
        if not self.config.null_label:
            raise BadInput("this network needs a class for each image")
        return torch.full((count,), self.config.num_classes, device=device)


def unet(
    *,
    text_encoder: Mapping[str, Any] | Sequence[Any] | None = None,
    coarse_head: int = 0,
    process: DiffusionProcess | Mapping[str, Any] | None = None,
    **config: Any,
) -> UNet:
    """A `UNet` from flat keyword arguments, as a checkpoint's `model_config` holds them.

    Args:
        text_encoder, coarse_head: of `TextConditioning`; checkpoints of earlier versions list the values.
        process: fields of `DiffusionProcess`.
        config: fields of `UNetConfig`.
    """
    text = None
    if isinstance(text_encoder, Mapping):
        text = TextConditioning(**text_encoder, coarse_head=coarse_head)
    elif text_encoder is not None:
        text = TextConditioning(*text_encoder, coarse_head=coarse_head)
    if not isinstance(process, DiffusionProcess):
        process = DiffusionProcess.from_kwargs(process or {})
    return UNet(UNetConfig(**config), text, process)


def make_variant(*, channels: int = 3, size: int = 32, **config: Any) -> Variant:
    return Variant(partial(unet, channels=channels, size=size, **config), (channels, size, size))


# of two resolutions, the coarser one has attention
SMALL = {"attention": (False, True), "groups": 8}
EMOJI: dict[str, Any] = {
    "widths": (64, 128),
    "attention": (False, True),
    "patch": 2,
    "head_width": 32,
    "scale_shift": True,
    "text_encoder": {
        "vocab_size": 2000,
        "max_length": 10,
        "width": 128,
        "depth": 1,
        "heads": 4,
        "dropout": 0.1,
        "word_dropout": 0.2,
    },
    "coarse_head": 512,
}
VARIANTS = {
    "ddpm_cifar10": make_variant(
        widths=(128, 256, 256, 256), attention=(False, True, False, False), dropout=0.1
    ),
    "ddpm_lsun256": make_variant(
        widths=(128, 128, 256, 256, 512, 512), attention=(*[False] * 4, True, False), size=256
    ),
    "ddpm_mnist": make_variant(**SMALL, widths=(48, 96), depth=1, channels=1, size=28, patch=2),
    "ddpm_digits": make_variant(**SMALL, widths=(32, 64), depth=1, channels=1, size=8),
    "ddpm_emoji": make_variant(**EMOJI),
    "ddpm_emoji64": make_variant(**EMOJI, size=64),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    conditioned = load_conditioned_data(recipe, make.keywords, device)
    rng.seed(recipe.seed)
    model = make(**conditioned.model_config).to(device)
    yield train_diffusion(model, recipe, conditioned, training_loss, p_sample, CLASSIFIER)


def count_parameters(variant: str, count: Callable[[nn.Module], int] = count_parameters) -> int:
    with torch.device("meta"):  # without memory for the weights
        return count(VARIANTS[variant].make())


def linear_alpha_bar(timestep: int) -> float:
    """ᾱ of the linear schedule with 1000 timesteps, which the paper counts from 1."""
    return float(NoiseSchedule(make_betas("linear", 1000)).alphas_cumprod[timestep - 1])


FACTS = [
    Fact("ddpm_cifar10 parameters", lambda: count_parameters("ddpm_cifar10"), 35_746_307),
    Fact("ddpm_lsun256 parameters", lambda: count_parameters("ddpm_lsun256"), 113_673_219),
    Fact(
        "ddpm_cifar10 multiply-accumulates",
        lambda: count_parameters("ddpm_cifar10", partial(macs, shape=(1, 3, 32, 32))),
        6_221_856_768,
    ),
    Fact("ᾱ of timestep 500, linear", lambda: linear_alpha_bar(500), 0.0785872, 1e-7),
    Fact("ᾱ of timestep 1000, linear", lambda: linear_alpha_bar(1000), 4.03583e-5, 1e-9),
]


def reference() -> Iterator[ParityCase]:
    """diffusers' class, in random configurations of a fixed seed."""
    from torchstone import references
    from torchstone.references.diffusers import random_unets

    torch.manual_seed(0)
    names = references.unwrap_names(published)
    for number, net in enumerate(random_unets(8)):
        theirs = references.OutputAdapter(net, lambda net, *inputs: net(*inputs).sample).eval()
        references.randomize_weights(theirs, 0.2)
        _, model_config = from_config(json.loads(net.to_json_string()))
        ours = unet(**model_config).eval()
        ours.load_state_dict(names(theirs.state_dict()))
        dtype = torch.float32 if number >= 6 else torch.float64
        inputs: tuple[Tensor, ...] = (torch.randn(2, *ours.shape).to(dtype), torch.tensor([7, 800]))
        if classes := ours.config.num_classes:
            inputs += (torch.tensor([0, classes - 1]),)
        yield ParityCase(ours.to(dtype), theirs.to(dtype), inputs, names, torch.optim.AdamW, f"{number}")
