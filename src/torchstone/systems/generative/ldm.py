"""Latent diffusion: images are generated in the small latent space of an autoencoder, from a text.

Paper: Robin Rombach, Andreas Blattmann, Dominik Lorenz, Patrick Esser and Björn Ommer, "High-Resolution Image
Synthesis with Latent Diffusion Models", CVPR 2022, arXiv:2112.10752. Its published networks are Stable
Diffusion 1 and 2. Image to image: Meng et al., SDEdit, 2021, arXiv:2108.01073.

The idea. Most of an image's numbers are detail that the eye hardly sees. An autoencoder first learns to drop
it: a patch of 4 × 4 or 8 × 8 pixels becomes four numbers. Diffusion then works on the small grid that is
left, at a fraction of the cost. A text enters by attention: each location of the U-Net attends to all words.

    z = s · E(x),   s = 1 / std of the first latents     kept in the checkpoint      (section 3.1, appendix G)
    L = E ‖ε − ε_θ(z_t, t, τ(y))‖²                        `training_loss`                         (equation 3)
    attention(Q, K, V),  Q = W_q φ(z_t),  K, V = W_k τ(y), W_v τ(y)                              (section 3.3)
    ε̃ = ε_∅ + s (ε_c − ε_∅)                               `guided_output`     (Ho and Salimans 2022)
    x = D(z / s)                                          `generate`
    z_t = √ᾱ_t z + √(1 − ᾱ_t) ε from an image, t < T      `strength`                                (SDEdit)
    after each step the known part is replaced by the image's, noised as much         in-painting

    sd1, sd2         Stable Diffusion 1 and 2, whose folders load: 64 × 64 latents of 512 × 512 pixels
    sd_inpaint       the same with nine channels: noise, mask, latents of the masked image
    ldm_emoji        64 × 64 in color, 16 × 16 latents, small text encoder;   ldm_shapes   16 × 16, for tests

A run has two stages: the autoencoder, with a weight on its KL divergence so small that it hardly matters, and
text encoder and U-Net together (section 3.3). Samplers are in `parts/diffusion/solvers.py`.

What differs from the paper. The autoencoder of the recipes has no adversarial loss. Latents are computed
once; noise of their distribution is added anew at each step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from torchstone.data.vision.diffusion_batches import DiffusionBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub import hf_folder, stable_diffusion
from torchstone.parts.diffusion.process import DiffusionProcess, NoiseSchedule
from torchstone.parts.diffusion.solvers import Solver
from torchstone.parts.diffusion.spatial_transformer import SpatialTransformer, TransformerBlock
from torchstone.parts.diffusion.text_encoder import PAD, START, UNKNOWN
from torchstone.parts.diffusion.unet_blocks import ResnetBlock, build_down, build_up, timestep_embedding
from torchstone.parts.facts import Fact, ParityCase, on_meta
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.parts.vae.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.systems.generative.ddpm import p_sample
from torchstone.systems.transformer.clip import CLIPTextConfig, CLIPTextTower, init_blocks
from torchstone.tasks.diffusion import inference
from torchstone.tasks.diffusion import latent as task
from torchstone.tasks.diffusion.autoencoder import train_autoencoder
from torchstone.tasks.diffusion.train import train_diffusion

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "LatentDiffusion",
    "LatentUNet",
    "LatentUNetConfig",
    "Recipe",
    "build",
    "evaluate",
    "generate",
    "latent_diffusion",
    "read_tensors",
    "reference",
    "sample",
    "training_loss",
]

MARGIN = ("loss", -0.1)

Latents = Float[Tensor, "batch channel height width"]
Text = Float[Tensor, "batch tokens context"]
Tokens = Int64[Tensor, "batch tokens"]


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set of captioned images: openmoji, shapes, or a folder
    variant: str = "ldm_emoji"  # network variant
    autoencoder_steps: int = 1000  # number of updates of the autoencoder
    autoencoder_lr: float = 2e-3  # learning rate of the autoencoder
    kl_weight: float = 1e-6  # weight of the KL divergence of the latents from a standard normal
    cond_drop_prob: float = 0.1  # probability of dropping the caption (classifier-free guidance)
    steps: int = 1500  # number of updates of text encoder and U-Net
    batch_size: int = 16  # images per update
    augment: str = "none"  # augmentation of the autoencoder's images, such as flip or shift2
    optim: OptimConfig = OptimConfig(
        lr=1e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.995, precision="auto"
    )  # optimizer, schedule, precision
    sampling_steps: int = 25  # number of sampling steps
    guidance_scale: float = 2.0  # guidance scale s of samples, 1 for no guidance
    eval_samples: int = 48  # number of samples evaluated at the end
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train ldm
    "emoji_text": Recipe(),
    # for tests: seconds
    "smoke": Recipe(
        data="shapes",
        variant="ldm_shapes",
        autoencoder_steps=25,
        autoencoder_lr=5e-3,
        steps=35,
        optim=replace(Recipe.optim, lr=3e-3, ema_decay=0.9, precision="fp32"),
        sampling_steps=3,
        eval_samples=12,  # the whole test split, as `eval` samples it
    ),
}


# ----------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class LatentUNetConfig:
    """The architecture of a `LatentUNet`; the defaults are Stable Diffusion 1's.

    Args:
        widths: channels at each resolution, the finest first.
        attention: whether there are transformers at each; `up_attention`, if other on the way up.
        depth: residual blocks per resolution on the way down; one more on the way up.
        channels, out_channels: of the latents that it is given, and of its output.
        size: latents a side.
        context: width of the text's hidden states.
        heads: heads of attention, at every resolution or at each.
        transformer_depth: blocks of each transformer.
        linear: its projections are linear layers, not convolutions.
        groups, eps, activation, dropout, padding: of the residual blocks and of downsampling.
        freq_shift, flip_sin_to_cos: of the timestep embedding.
        center_input: latents are mapped from 0..1 to −1..1 first.
    """

    widths: Sequence[int] = (320, 640, 1280, 1280)
    attention: Sequence[bool] = (True, True, True, False)
    up_attention: Sequence[bool] | None = None
    depth: int = 2
    channels: int = 4
    out_channels: int = 4
    size: int = 64
    context: int = 768
    heads: int | Sequence[int] = 8
    transformer_depth: int = 1
    linear: bool = False
    groups: int = 32
    eps: float = 1e-5
    activation: str = "silu"
    dropout: float = 0.0
    padding: int = 1
    freq_shift: float = 0.0
    flip_sin_to_cos: bool = True
    center_input: bool = False

    def heads_of(self) -> dict[int, int]:
        """The number of heads by the number of channels.

        Raises:
            BadInput: resolutions of the same channels differ.
        """
        heads = [self.heads] * len(self.widths) if isinstance(self.heads, int) else list(self.heads)
        found = dict(zip(self.widths, heads, strict=True))
        if any(found[width] != count for width, count in zip(self.widths, heads, strict=True)):
            raise BadInput(f"heads {heads} differ between resolutions of as many channels, {self.widths}")
        return found


class LatentUNet(nn.Module):
    """Residual blocks and transformers down to low resolution, and up again with skip connections.

    Raises:
        BadInput, ValueError: numbers that do not go together.
    """

    def __init__(self, config: LatentUNetConfig = LatentUNetConfig()):
        super().__init__()
        self.config = config
        widths, heads, width, last = config.widths, config.heads_of(), config.widths[0], config.widths[-1]
        embed_dim = 4 * width
        make_block = partial(
            ResnetBlock,
            embed_dim=embed_dim,
            groups=config.groups,
            eps=config.eps,
            activation=config.activation,
            dropout=config.dropout,
        )

        def make_transformer(channels: int) -> SpatialTransformer:
            return SpatialTransformer(
                channels,
                heads[channels],
                config.context,
                depth=config.transformer_depth,
                groups=config.groups,
                linear=config.linear,
                dropout=config.dropout,
            )

        self.activation = ACTIVATIONS[config.activation]
        self.time = nn.ModuleList([nn.Linear(width, embed_dim), nn.Linear(embed_dim, embed_dim)])
        self.conv_in = nn.Conv2d(config.channels, width, 3, padding=1)
        convolve = [True] * len(widths)
        self.down, skips = build_down(
            widths, config.attention, convolve, config.depth, make_block, make_transformer, config.padding
        )
        self.middle_before = make_block(last, last)
        self.middle_attention = make_transformer(last)
        self.middle_after = make_block(last, last)
        up_attention = config.up_attention or config.attention[::-1]
        self.up = build_up(
            widths[::-1], up_attention, convolve, skips, config.depth, make_block, make_transformer
        )
        self.norm = nn.GroupNorm(config.groups, width, config.eps)
        self.conv_out = nn.Conv2d(width, config.out_channels, 3, padding=1)

    @torch.no_grad()
    def init_weights(self) -> None:
        """For training: the last layer of each residual, and of the network, is zero (Ho et al.'s code)."""
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, SpatialTransformer):
                nn.init.zeros_(module.proj_out.weight)
        nn.init.zeros_(self.conv_out.weight)

    def set_attention_slices(self, slices: int) -> None:
        """The number of parts that each self-attention is computed in: more take less memory."""
        for module in self.modules():
            if isinstance(module, TransformerBlock):
                module.attention_slices = min(slices, module.attention.heads)

    def forward(
        self, x: Latents, t: Shaped[Tensor, " batch"], text: Text
    ) -> Float[Tensor, "batch out_channel height width"]:
        config = self.config
        x = 2 * x - 1 if config.center_input else x
        shift, flip = config.freq_shift, config.flip_sin_to_cos
        embedding = timestep_embedding(t, config.widths[0], freq_shift=shift, flip_sin_to_cos=flip)
        e = embedding.to(x.dtype)
        for layer in self.time:
            e = self.activation(layer(e))
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down:
            x = stage(x, e, skips, text)
        x = self.middle_after(self.middle_attention(self.middle_before(x, e), text), e)
        for stage in self.up:
            x = stage(x, e, skips, text)
        return self.conv_out(self.activation(self.norm(x)))


class LatentDiffusion(nn.Module):
    """Autoencoder, text encoder and U-Net.

    Args:
        process: what the U-Net is trained for.
        text_layer: the text encoder's states that the U-Net attends to: −1 those after its last block (Stable
            Diffusion 1), −2 those after the one before it; the final norm follows in both cases.
    """

    def __init__(
        self,
        unet: LatentUNetConfig,
        autoencoder: KLAutoencoderConfig,
        text: CLIPTextConfig,
        process: DiffusionProcess,
        text_layer: int = -1,
    ):
        super().__init__()
        if unet.context != text.width:
            raise BadInput(f"the U-Net reads texts {unet.context} wide, but the encoder's are {text.width}")
        if unet.out_channels != autoencoder.latent_channels:
            raise BadInput(
                f"the U-Net has {unet.out_channels} channels, but latents have {autoencoder.latent_channels}"
            )
        self.process, self.text_layer = process, text_layer
        self.autoencoder = KLAutoencoder(autoencoder).requires_grad_(False)  # frozen but in its own stage
        self.text = CLIPTextTower(text)
        self.unet = LatentUNet(unet)
        self.shape = (autoencoder.latent_channels, unet.size, unet.size)  # of latents

    def init_weights(self) -> None:
        """For training, as the CLIP system's text tower and as `LatentUNet.init_weights`."""
        init_blocks(self.text)
        nn.init.normal_(self.text.token_embedding.weight, std=self.text.config.embedding_std)
        nn.init.normal_(self.text.position_embedding.weight, std=0.01)
        self.unet.init_weights()

    def encode_text(self, tokens: Tokens) -> Text:
        """τ(y): the hidden states that the U-Net attends to, those of the tokens that fill it up too."""
        return self.text(tokens, layer=self.text_layer)

    def forward(self, z: Latents, t: Shaped[Tensor, " batch"], tokens: Tokens | None = None) -> Latents:
        """The network's output for noisy latents; without tokens, for the empty text."""
        return self.unet(z, t, self.encode_text(self.null_context(len(z)) if tokens is None else tokens))

    def null_context(self, count: int) -> Tokens:
        """The tokens of `count` empty texts, of a text encoder that was trained here."""
        device = self.text.token_embedding.weight.device
        tokens = torch.full((count, self.text.config.max_length), PAD, device=device)
        tokens[:, 0] = START
        return tokens


def latent_diffusion(
    *,
    unet: Mapping[str, Any] | None = None,
    autoencoder: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    process: DiffusionProcess | Mapping[str, Any] | None = None,
    text_layer: int = -1,
    init: bool = False,
) -> LatentDiffusion:
    """A `LatentDiffusion` from the fields of its configs, as a checkpoint's `model_config` holds them.

    Args:
        init: weights to begin training with.
    """
    if not isinstance(process, DiffusionProcess):
        process = DiffusionProcess.from_kwargs(process or {})
    model = LatentDiffusion(
        LatentUNetConfig(**(unet or {})),
        KLAutoencoderConfig(**(autoencoder or {})),
        CLIPTextConfig(**(text or {})),
        process,
        text_layer,
    )
    if init:
        model.init_weights()
    return model


# --------------------------------------------------------------------------------------- algorithm


def training_loss(
    net: Any, process: DiffusionProcess, schedule: NoiseSchedule, batch: DiffusionBatch
) -> Float[Tensor, ""]:
    """The mean squared error of the prediction, here of ε; v and x₀ by `prediction_type`.

    L = E ‖ε − ε_θ(z_t, t, τ(y))‖²                                                       (equation 3)
    """
    z, t, epsilon, tokens = batch
    output = net(schedule.add_noise(z, epsilon, t), t, tokens)
    return F.mse_loss(output, schedule.training_target(process.prediction_type, z, epsilon, t))


def guided_output(
    unet: Any, z: Latents, t: Tensor, text: Text, empty: Text | None, guidance_scale: float
) -> Float[Tensor, "batch out_channel height width"]:
    """ε̃ = ε_∅ + s (ε_c − ε_∅), the U-Net's output with classifier-free guidance.

    Args:
        empty: hidden states of the empty text, or of the negative prompt; None for no guidance.
    """
    if empty is None:
        return unet(z, t, text)
    both = unet(torch.cat([z, z]), torch.cat([t, t]), torch.cat([empty, text]))
    unconditional, conditional = both.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


@dataclass(frozen=True)
class Known:
    """What an image gives to `generate`.

    Args:
        latents: of the image, scaled.
        noise: that they are noised with.
        start: the step that begins, 0 for the noisiest.
        mask: in-painting: 1 where it is generated anew, 0 where it is kept; on the latents' grid.
        masked: of a U-Net that is given it: latents of the image, gray where the mask is 1.
    """

    latents: Latents
    noise: Latents
    start: int = 0
    mask: Float[Tensor, "#batch 1 height width"] | None = None
    masked: Latents | None = None


@torch.no_grad()
def generate(
    model: LatentDiffusion,
    solver: Solver,
    z: Latents,
    text: Text,
    empty: Text | None = None,
    guidance_scale: float = 1.0,
    known: Known | None = None,
) -> Iterator[Latents]:
    """The latents after each step; the last ones are decoded: x = D(z / s).

    Args:
        z: the noise to begin with, of unit variance.
        text, empty, guidance_scale: of `guided_output`.
        known: an image to begin with, or to complete.
    """
    extra: tuple[Tensor, ...] = ()
    dtype = model.unet.conv_in.weight.dtype  # the latents themselves stay in single precision
    start, mask = (0, None) if known is None else (known.start, known.mask)
    if known is not None and known.masked is not None and mask is not None:
        extra = (mask.expand(len(z), -1, -1, -1), known.masked)
    if known is None or (start == 0 and mask is not None):  # in-painting from the first step on: noise alone
        z = z * solver.initial_std
    else:
        z = solver.add_noise(known.latents, known.noise, start)
    for index in range(start, len(solver.timesteps)):
        t = torch.full((len(z),), solver.timesteps[index], device=z.device)
        inputs = torch.cat([solver.scale_input(z, index), *extra], 1).to(dtype)
        output = guided_output(model.unet, inputs, t, text, empty, guidance_scale)
        z = solver.step(output.to(z.dtype), z, index)
        if known is not None and mask is not None and known.masked is None:
            noised = solver.add_noise(known.latents, known.noise, index + 1)
            z = (1 - mask) * noised + mask * z
        yield z


# ----------------------------------------------------------------------------------------- variants

SD2_TEXT = {"width": 1024, "layers": 23, "heads": 16, "d_ff": 4096, "activation": "gelu"}
SD1_TEXT = {"width": 768, "layers": 12, "heads": 12, "d_ff": 3072}
STABLE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample_range": None,
}


def make_variant(**config: Any) -> Variant:
    """The shape is that of the latents which the U-Net is given."""
    unet = LatentUNetConfig(**config.get("unet", {}))
    return Variant(partial(latent_diffusion, **config), (unet.channels, unet.size, unet.size))


# of a text encoder that is trained here: words of the captions, filled up with PAD, which ends them too
OWN_WORDS = {
    "layers": 1,
    "vocab_size": 2000,
    "max_length": 10,
    "eos_id": PAD,
    "unknown_id": UNKNOWN,
    "activation": "gelu",
}
VARIANTS = {
    "sd1": make_variant(text=SD1_TEXT, process=STABLE),
    "sd2": make_variant(
        text=SD2_TEXT, unet={"context": 1024, "heads": (5, 10, 20, 20), "linear": True}, process=STABLE
    ),
    "sd_inpaint": make_variant(text=SD1_TEXT, unet={"channels": 9}, process=STABLE),
    "ldm_emoji": make_variant(
        autoencoder={"widths": (16, 32, 64), "depth": 1, "groups": 8, "mid_attention": False},
        unet={
            "widths": (64, 128),
            "attention": (False, True),
            "depth": 1,
            "size": 16,
            "context": 128,
            "heads": 4,
            "groups": 8,
        },
        text={"width": 128, "heads": 4, "d_ff": 512, "token_dropout": 0.2, **OWN_WORDS},
        process=STABLE | {"prediction_type": "v"},
        init=True,
    ),
    "ldm_shapes": make_variant(
        autoencoder={"widths": (8, 16), "depth": 1, "groups": 4},
        unet={
            "widths": (16, 32),
            "attention": (False, True),
            "depth": 1,
            "size": 8,
            "context": 16,
            "heads": 2,
            "groups": 4,
        },
        text={"width": 16, "heads": 2, "d_ff": 32, **OWN_WORDS},
        process=STABLE | {"prediction_type": "v"},
        init=True,
    ),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    conditioned = task.load_captions(recipe, make.keywords, device)
    rng.seed(recipe.seed)
    model = make(**conditioned.model_config).to(device)
    yield train_autoencoder(model, recipe, conditioned.data, task.metadata_of(recipe, conditioned))
    yield train_diffusion(model, recipe, conditioned, training_loss, p_sample, CLASSIFIER)


def read_tensors(weights: str | Path, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a Stable Diffusion folder, for `ts.create("sd1", weights=FOLDER)`."""
    folder = hf_folder.fetch(str(weights)) if str(weights).startswith("hf:") else Path(weights)
    if not stable_diffusion.holds(folder):
        raise BadInput(
            f"{weights} is no folder of Stable Diffusion: unet, vae, text_encoder, tokenizer, scheduler"
        )
    stable_diffusion.read(folder)
    return stable_diffusion.whole_state(folder)


evaluate = partial(inference.evaluate, p_sample=p_sample, classifier=CLASSIFIER)
sample = task.make_sample(generate, Known)


def count_part(variant: str, part: str) -> int:
    """All of them, whether they are trained: the autoencoder is frozen."""
    return sum(p.numel() for p in getattr(on_meta(VARIANTS[variant].make), part).parameters())


SCHEDULE = DiffusionProcess.from_kwargs(STABLE)


def noise_ratio(timestep: int) -> float:
    """σ/α of a timestep of Stable Diffusion's schedule."""
    alpha_bar = SCHEDULE.noise_schedule().alphas_cumprod.double()[timestep]
    return float(((1 - alpha_bar) / alpha_bar) ** 0.5)


FACTS = [
    Fact("Stable Diffusion 1, U-Net parameters", partial(count_part, "sd1", "unet"), 859_520_964),
    Fact("Stable Diffusion 1, autoencoder parameters", partial(count_part, "sd1", "autoencoder"), 83_653_863),
    Fact("Stable Diffusion 1, text encoder parameters", partial(count_part, "sd1", "text"), 123_060_480),
    Fact("Stable Diffusion 2, U-Net parameters", partial(count_part, "sd2", "unet"), 865_910_724),
    Fact("largest σ/α of the schedule", partial(noise_ratio, 999), 14.6146, 1e-4),
    Fact("smallest σ/α of the schedule", partial(noise_ratio, 0), 0.0291672, 1e-6),
]


def reference() -> Iterator[ParityCase]:
    """diffusers' conditional U-Net, in random configurations of a fixed seed."""
    import json

    from torchstone import references
    from torchstone.references.diffusers import random_conditional_unets

    torch.manual_seed(0)
    names = references.unwrap_names(lambda variant, tensors: stable_diffusion.published_unet(tensors))
    for number, net in enumerate(random_conditional_unets(8)):
        theirs = references.OutputAdapter(net, lambda net, *inputs: net(*inputs).sample).eval()
        references.randomize_weights(theirs, 0.2)
        config = LatentUNetConfig(**stable_diffusion.unet_from_config(json.loads(net.to_json_string())))
        ours = LatentUNet(config).eval()
        ours.load_state_dict(names(theirs.state_dict()))
        dtype = torch.float32 if number >= 6 else torch.float64
        size = (2, config.channels, config.size, config.size)
        inputs = (
            torch.randn(size).to(dtype),
            torch.tensor([7, 800]),
            torch.randn(2, 5, config.context).to(dtype),
        )
        yield ParityCase(ours.to(dtype), theirs.to(dtype), inputs, names, torch.optim.AdamW, f"{number}")
