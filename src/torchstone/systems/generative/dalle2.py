"""DALL-E 2: a text becomes the embedding of a picture, and that embedding becomes a picture.

Paper: Aditya Ramesh, Prafulla Dhariwal, Alex Nichol, Casey Chu and Mark Chen, "Hierarchical Text-Conditional
Image Generation with CLIP Latents", 2022, arXiv:2204.06125 (unCLIP).

The idea. CLIP puts a picture and its caption into one space, and an embedding in it keeps what a picture is
about, not its pixels. So generate in two steps: a prior draws an image embedding for the caption, a decoder
draws a picture for the embedding. Captions say less than pictures; that gap is the prior's, and the decoder
needs no captions. And since the decoder inverts CLIP's image encoder, a picture has variations, two pictures
have a path between them, and a picture can follow the difference of two captions.

    z_i, z_t   CLIP's embeddings of image and text, of length 1
    prior      x₀ = √d z_i;   L = E ‖f(x_t, t, z_t, text) − x₀‖²         it predicts x₀, not ε           (2.2)
               f is a causal transformer over: text, z_t, t, x_t, a query; read at the query
               of two samples the one with the larger z · z_t                                  (2.2)
    decoder    e = time(t) + W z_i + V z_t;   cross-attention to [4 tokens out of z_i, text]    (2.1)
               z_i is dropped 10 % of the time, the text 50 %:  ε̃ = ε_∅ + s (ε_c − ε_∅)
    variations x_T by inverting DDIM, then DDIM with η > 0 and the image's own z_i              (3.1)
    path       slerp(z_1, z_2, θ), x_T likewise, θ from 0 to 1                                  (3.2)
    difference slerp(z_i, (z_t − z_t') / ‖·‖, θ), x_T of the image, η = 0                       (3.3)

x̂₀ is clamped in the decoder, whose pixels have bounds, and not in the prior, whose embeddings have none.

    dalle2_emoji   32 × 32 in color: `clip_emoji`, a prior 128 wide, a U-Net of `ddpm`
    dalle2_prior   a prior as it is published: 2,048 wide, 20 blocks, for CLIP ViT-L/14; without a decoder
    dalle2_tiny    for tests

A run has three stages: CLIP (or `--clip RUN`, one that is there), the prior, the decoder. CLIP and the U-Net
are those of `clip` and `ddpm`; the process of both diffusions is in `parts/diffusion/process.py`.

What differs from the paper. There are no upsamplers, and no autoregressive prior. Prior and decoder read
CLIP's hidden states of the text, as the published reproduction does, not those of encoders of their own. The
decoder predicts v. A text that is dropped is the empty text, an image embedding that is dropped is zero.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.vision.image_texts import load_image_texts
from torchstone.data.vision.unclip_batches import UnclipBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput, did_you_mean
from torchstone.hub.unclip import from_config, published, unpublished
from torchstone.parts.diffusion.process import (
    DenoiseFn,
    DiffusersCompat,
    DiffusionProcess,
    NoiseSchedule,
    randn_like,
)
from torchstone.parts.diffusion.unet_blocks import timestep_embedding
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import ACTIVATIONS, FeedForward
from torchstone.systems import Variant
from torchstone.systems.generative import ddpm
from torchstone.systems.transformer import clip
from torchstone.tasks.diffusion import unclip
from torchstone.tasks.diffusion.sampler import SamplingConfig, ddim_invert, generate
from torchstone.tasks.diffusion.unclip import TextStates
from torchstone.tasks.transfer import load_weights
from torchstone.tasks.vision.image_text import Start, load_start

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "from_config",
    "published",
    "reference",
    "sample",
    "unpublished",
]

MARGIN = ("loss", -0.2)  # of the decoder
STORY = ("prior_loss", "decoder_loss", "sample_embeddings", "sample_images", "guided")

Images = Float[Tensor, "batch channel height width"]
Embeddings = Float[Tensor, "batch embed_dim"]


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set: openmoji, emoji, shapes, or a folder of pictures with captions.tsv
    variant: str = "dalle2_emoji"  # network variant
    clip: str | None = None  # run of clip, or a Hugging Face folder of one (default: CLIP is trained first)
    clip_recipe: str = "openmoji"  # recipe of clip that is trained first
    clip_steps: int | None = None  # number of updates of CLIP (default: its recipe's)
    prior_steps: int = 500  # number of updates of the prior
    prior_batch_size: int = 64  # pairs per update of the prior
    prior_lr: float = 1e-3  # peak learning rate of the prior
    prior_ema_decay: float = 0.99  # EMA decay of the prior's weights
    prior_augment: str = "affine8-0.15-0.1"  # augmentation of the images that the prior learns to embed
    prior_dropout: float = 0.1  # dropout probability in the prior
    prior_drop_prob: float = 0.1  # probability of dropping the text from the prior
    prior_sampling_steps: int = 25  # number of sampling steps of the prior
    prior_guidance_scale: float = 1.0  # guidance scale s of the prior, 1 for no guidance
    prior_samples: int = 2  # embeddings drawn for a text, of which the nearest to it is kept
    steps: int = 900  # number of updates of the decoder
    batch_size: int = 32  # pairs per update of the decoder
    augment: str = "none"  # augmentation of the decoder's images; samples then look augmented too
    embedding_drop_prob: float = (
        0.1  # probability of dropping the image embedding from the decoder; 1: no use
    )
    text_drop_prob: float = 0.5  # probability of dropping the text from the decoder
    optim: OptimConfig = OptimConfig(
        lr=2e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.99, precision="auto"
    )  # optimizer, schedule, precision of the decoder
    sampling_steps: int = 25  # number of sampling steps of the decoder
    guidance_scale: float = 2.0  # guidance scale s of the decoder, 1 for no guidance
    eval_samples: int = 300  # captions that are painted at the end (0: none)
    seed: int = 0  # random seed of weights, data order, captions, noise and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    "openmoji": Recipe(),
    # what it is compared with: the same decoder, given the text and never an embedding; it has no prior
    "text_only": Recipe(embedding_drop_prob=1.0, text_drop_prob=0.1, prior_steps=1),
    # for tests: seconds
    "smoke": Recipe(
        data="shapes",
        variant="dalle2_tiny",
        clip_recipe="smoke",
        clip_steps=20,
        prior_steps=30,
        prior_batch_size=32,
        prior_lr=3e-3,
        prior_ema_decay=0.9,
        prior_augment="none",
        prior_dropout=0.0,
        prior_sampling_steps=4,
        steps=30,
        batch_size=16,
        optim=replace(Recipe.optim, ema_decay=0.9, precision="fp32"),
        sampling_steps=4,
        eval_samples=12,
    ),
}

# of the prior; `linspace` visits the timesteps as the published reproduction does
PRIOR_PROCESS = DiffusionProcess(
    beta_schedule="cosine",
    prediction_type="x0",
    clip_sample_range=None,
    sampler="ddpm",
    compat=DiffusersCompat(timestep_spacing="linspace"),
)
DECODER_PROCESS = DiffusionProcess(beta_schedule="cosine", prediction_type="v", sampler="ddim")


# ------------------------------------------------------------------------------------------- prior


@dataclass(frozen=True)
class PriorConfig:
    """The architecture of a `Prior`."""

    embed_dim: int = 768  # of CLIP's embeddings
    text_width: int = 768  # of CLIP's hidden states
    max_length: int = 77  # number of tokens of a text
    layers: int = 20
    heads: int = 32
    head_dim: int = 64
    dropout: float = 0.0  # of what attention adds, and of the hidden units
    time_embed_dim: int | None = None  # hidden units of the timestep's embedding; by default the width
    activation: str = "silu"  # of these
    input_norm: bool = False  # a norm before the first block
    text_norm: bool = False  # a norm of the text's embedding

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


class PriorBlock(nn.Module):
    """Pre-norm: x + attention(LN(x)), then x + feed-forward(LN(x))."""

    def __init__(self, config: PriorConfig):
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, config.heads)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(width, 4 * width, "gelu", dropout=config.dropout)

    def forward(
        self, x: Float[Tensor, "batch time width"], mask: Bool[Tensor, "batch 1 1 time"] | None
    ) -> Float[Tensor, "batch time width"]:
        x = x + self.dropout(self.attention(self.norm1(x), mask=mask, causal=True))
        return x + self.feed_forward(self.norm2(x))


NUM_EXTRA = 4  # of the sequence: text embedding, timestep, noised image embedding, query


class Prior(nn.Module):
    """f(x_t, t, z_t, text): predicts x₀, the image embedding at the scale of its noise.

    `mean` and `std` are of image embeddings: z = mean + std x. As created, x = √d z.
    """

    process = PRIOR_PROCESS

    def __init__(self, config: PriorConfig):
        super().__init__()
        width, dim = config.width, config.embed_dim
        hidden = config.time_embed_dim or width
        self.config = config
        self.time = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, width)])
        self.activation = ACTIVATIONS[config.activation]
        self.embedding_in = nn.Linear(dim, width)
        self.text_norm = nn.LayerNorm(dim) if config.text_norm else nn.Identity()
        self.text_embedding_in = nn.Linear(dim, width)
        self.text_in = nn.Linear(config.text_width, width)
        self.position_embedding = nn.Parameter(torch.empty(1, config.max_length + NUM_EXTRA, width))
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.input_norm = nn.LayerNorm(width) if config.input_norm else nn.Identity()
        self.layers = nn.ModuleList(PriorBlock(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dim)
        self.mean = nn.Parameter(torch.zeros(1, dim))
        self.std = nn.Parameter(torch.full((1, dim), dim**-0.5))
        for embedding in (self.position_embedding, self.query):
            nn.init.normal_(embedding, std=width**-0.5)

    def forward(
        self,
        x: Embeddings,
        t: Shaped[Tensor, " batch"],
        text_embedding: Embeddings,
        text: Float[Tensor, "batch tokens text_width"] | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Embeddings:
        """x̂₀ of noised embeddings at that scale.

        Args:
            text: hidden states of the text, in front; without it the sequence has four tokens.
            mask: True where there is a token.
        """
        first, second = self.time
        time = second(self.activation(first(timestep_embedding(t, self.config.width).to(x.dtype))))
        own = [self.text_embedding_in(self.text_norm(text_embedding)), time, self.embedding_in(x)]
        h = torch.cat([torch.stack(own, 1), self.query.expand(len(x), 1, -1)], 1)  # (B, 4, C)
        if text is not None:
            h = torch.cat([self.text_in(text), h], 1)  # (B, N + 4, C)
        h = self.input_norm(h + self.position_embedding[:, -h.shape[1] :])
        keys = None if mask is None else F.pad(mask, (0, NUM_EXTRA), value=True)[:, None, None]
        for block in self.layers:
            h = block(h, keys)
        return self.out(self.final_norm(h)[:, -1])

    def normalize(self, embedding: Embeddings) -> Embeddings:
        """x₀ = (z − mean) / std: √d z."""
        return (embedding - self.mean) / self.std

    def denormalize(self, x: Embeddings) -> Embeddings:
        """z = mean + std x."""
        return self.mean + self.std * x


# ----------------------------------------------------------------------------------------- decoder


class Decoder(nn.Module):
    """A U-Net whose timestep embedding and cross-attention have the image embedding and the text.

    Args:
        unet: arguments of `ddpm.UNetConfig`; the width of its cross-attention is `context_width`.
        embed_dim, text_width: of CLIP's embeddings and hidden states.
        extra_tokens: how many tokens are made of an image embedding.
    """

    process = DECODER_PROCESS

    def __init__(self, unet: Mapping[str, Any], embed_dim: int, text_width: int, extra_tokens: int = 4):
        super().__init__()
        self.unet = ddpm.unet(**unet, process=self.process)
        config = self.unet.config
        e, context = config.time_embed_dim or 4 * config.widths[0], config.context_width
        self.shape, self.num_extra = self.unet.shape, extra_tokens
        self.image_projection = nn.Linear(embed_dim, e)
        self.text_projection = nn.Linear(embed_dim, e)
        self.extra_tokens = nn.Linear(embed_dim, extra_tokens * context)
        self.text_in = nn.Linear(text_width, context)
        self.text_norm = nn.LayerNorm(context)

    def forward(
        self,
        x: Images,
        t: Shaped[Tensor, " batch"],
        image_embedding: Embeddings,
        text_embedding: Embeddings,
        text: Float[Tensor, "batch tokens text_width"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Images:
        """The output for pictures x_t. An image embedding that is zero is none, and an empty text no text.

        Args:
            mask: True where there is a token.
        """
        # both embeddings are added to the timestep's
        e = self.unet.embed_timestep(t, x.dtype)
        e = e + self.image_projection(image_embedding) + self.text_projection(text_embedding)
        # a few tokens out of the image embedding stand before those of the text
        extra = self.extra_tokens(image_embedding).unflatten(1, (self.num_extra, -1))
        tokens = torch.cat([extra, self.text_norm(self.text_in(text))], 1)
        return self.unet.denoise(x, e, tokens, F.pad(mask, (self.num_extra, 0), value=True))


class DALLE2(nn.Module):
    """CLIP, the prior and the decoder.

    Args:
        clip: arguments of `clip.make_clip`.
        prior: fields of `PriorConfig`; what has to be as CLIP's is taken from there.
        unet: of the decoder.
        statistics: `mean` and `std` of each channel, by which CLIP's images are normalized.
    """

    statistics: Tensor

    def __init__(
        self,
        clip: Mapping[str, Any],
        prior: Mapping[str, Any],
        unet: Mapping[str, Any],
        statistics: Mapping[str, Sequence[float]] = {"mean": (0.5,) * 3, "std": (0.5,) * 3},
    ):
        super().__init__()
        self.clip = make_clip(**clip)
        table = torch.tensor([list(statistics["mean"]), list(statistics["std"])])[..., None, None]
        self.register_buffer("statistics", table, persistent=False)
        dim, text = self.clip.config.embed_dim, self.clip.config.text
        own = {"embed_dim": dim, "text_width": text.width, "max_length": text.max_length}
        self.prior = make_prior(**{**prior, **own})
        self.decoder = Decoder(unet, dim, text.width)
        self.shape = self.decoder.shape

    def embed_texts(self, tokens: Int64[Tensor, "batch time"]) -> TextStates:
        """z_t and the hidden states of texts."""
        clip = self.clip
        hidden = clip.text(tokens)
        embedding = F.normalize(clip.text_projection(clip.text.pool(hidden, tokens)), dim=1)
        return TextStates(embedding, hidden, clip.text.up_to_end(tokens))

    def embed_images(self, images: Images) -> Embeddings:
        """z_i of images from −1 to 1."""
        mean, std = self.statistics
        return self.clip.encode_images(((images + 1) / 2 - mean) / std)

    def forward(
        self, images: Images, tokens: Int64[Tensor, "batch time"], t: Shaped[Tensor, " batch"]
    ) -> tuple[Tensor, ...]:
        """CLIP's logits; what prior and decoder make of the images without noise; the embedding that the
        prior's stands for."""
        text, embedding = self.embed_texts(tokens), self.embed_images(images)
        predicted = self.prior(self.prior.normalize(embedding), t, *text)
        picture = self.decoder(images, t, embedding, *text)
        return self.clip(images, tokens), predicted, picture, self.prior.denormalize(predicted)


def make_clip(**config: Any) -> clip.CLIP:
    return clip.make_clip(**config)


def make_prior(**config: Any) -> Prior:
    return Prior(PriorConfig(**config))


UNET = {"groups": 8, "scale_shift": True, "channels": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "dalle2_emoji": {
        "clip": clip.CONFIGS["clip_emoji"],
        "prior": {"layers": 2, "heads": 4, "head_dim": 32},
        "unet": {
            **UNET,
            "size": 32,
            "patch": 2,
            "widths": (32, 64),
            "attention": (False, True),
            "depth": 1,
            "head_width": 32,
            "context_width": 64,
        },
    },
    "dalle2_tiny": {
        "clip": clip.CONFIGS["clip_tiny"],
        "prior": {"layers": 1, "heads": 2, "head_dim": 16},
        "unet": {
            **UNET,
            "size": 32,
            "patch": 8,
            "widths": (16, 32),
            "attention": (False, True),
            "depth": 1,
            "context_width": 16,
        },
    },
}
VARIANTS = {
    "dalle2_emoji": Variant(partial(DALLE2, **CONFIGS["dalle2_emoji"]), (3, 32, 32)),
    "dalle2_tiny": Variant(partial(DALLE2, **CONFIGS["dalle2_tiny"]), (3, 32, 32)),
    "dalle2_prior": Variant(make_prior, (768,)),
}


# --------------------------------------------------------------------------------------- algorithm


def prior_loss(
    net: Any,
    prior: Prior,
    schedule: NoiseSchedule,
    embedding: Embeddings,
    text: TextStates,
    batch: UnclipBatch,
) -> dict[str, Tensor]:
    """L = E ‖f(√ᾱ_t x₀ + √(1 − ᾱ_t) ε, t, z_t, text) − x₀‖², the mean over dimensions; x₀ = √d z_i.

    Args:
        net: `prior`, or what shares its work among devices.
    """
    x0 = prior.normalize(embedding)
    predicted = net(ddpm.q_sample(schedule, x0, batch.t, batch.epsilon), batch.t, *text)
    target = schedule.training_target(prior.process.prediction_type, x0, batch.epsilon, batch.t)
    cosine = F.cosine_similarity(prior.denormalize(predicted), embedding).mean()
    return {"loss": F.mse_loss(predicted, target), "cosine": cosine}


def decoder_loss(
    net: Any,
    process: DiffusionProcess,
    schedule: NoiseSchedule,
    embedding: Embeddings,
    text: TextStates,
    batch: UnclipBatch,
) -> Tensor:
    """The mean squared error of the prediction. Where it is dropped, the embedding is zero."""
    x_t = ddpm.q_sample(schedule, batch.images, batch.t, batch.epsilon)
    output = net(x_t, batch.t, embedding * batch.keeps_embedding[:, None], *text)
    target = schedule.training_target(process.prediction_type, batch.images, batch.epsilon, batch.t)
    return F.mse_loss(output, target)


def guided(net: Any, condition: Sequence[Tensor], null: Sequence[Tensor], guidance_scale: float) -> DenoiseFn:
    """ε̃ = ε_∅ + s (ε_c − ε_∅), of what `net` predicts with either condition; s = 1 is none."""
    if guidance_scale == 1:
        return lambda x, t: net(x, t, *condition)
    both = [torch.cat(pair) for pair in zip(condition, null, strict=True)]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = net(torch.cat([x, x]), torch.cat([t, t]), *both).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return denoise


@torch.no_grad()
def sample_embeddings(
    prior: Prior, text: TextStates, empty: TextStates, config: SamplingConfig, generator: torch.Generator
) -> Embeddings:
    """Image embeddings of texts, one each.

    Args:
        empty: of the empty text, for guidance.
    """
    x_T = randn_like(text.embedding, generator)
    denoise_fn = guided(prior, text, empty.expand(len(x_T)), config.guidance_scale)
    return prior.denormalize(
        generate(ddpm.p_sample, prior, x_T, config, denoise_fn=denoise_fn, generator=generator)
    )


def keep_nearest(
    candidates: Float[Tensor, "candidates batch embed_dim"], text_embedding: Embeddings
) -> Embeddings:
    """Of several embeddings of each text the one with the largest z · z_t, a dot product, not a cosine."""
    best = (candidates * text_embedding).sum(2).argmax(0)
    return candidates[best, torch.arange(len(best), device=best.device)]


@torch.no_grad()
def sample_images(
    decoder: Decoder,
    embedding: Embeddings,
    text: TextStates,
    empty: TextStates,
    x_T: Images,
    config: SamplingConfig,
    generator: torch.Generator,
) -> Images:
    """Pictures of embeddings, and of texts, from −1 to 1. For a picture's own embedding the text is empty."""
    condition = (embedding, *text)
    null = (torch.zeros_like(embedding), *empty.expand(len(embedding)))
    denoise_fn = guided(decoder, condition, null, config.guidance_scale)
    return generate(ddpm.p_sample, decoder, x_T, config, denoise_fn=denoise_fn, generator=generator)


@torch.no_grad()
def invert(decoder: Decoder, images: Images, embedding: Embeddings, empty: TextStates, steps: int) -> Images:
    """x_T from which DDIM gives the image back, for its own embedding, about."""
    condition = (embedding, *empty.expand(len(embedding)))
    return ddim_invert(decoder, images, steps=steps, denoise_fn=guided(decoder, condition, condition, 1.0))


ALGORITHM = unclip.Algorithm(sample_embeddings, keep_nearest, sample_images, invert)
sample = unclip.make_sample(ALGORITHM)
evaluate = partial(unclip.evaluate, ALGORITHM)


# ------------------------------------------------------------------------------------------- build


def train_clip(recipe: Recipe) -> Generator[Run, None, Start]:
    """Yields the run that trains a CLIP on the recipe's data, and returns its averaged weights at the end."""
    if recipe.clip_recipe not in clip.RECIPES:
        hint = did_you_mean(recipe.clip_recipe, clip.RECIPES)
        raise BadInput(f"clip has no recipe {recipe.clip_recipe!r}: {hint}")
    own: dict[str, Any] = {"data": recipe.data, "seed": recipe.seed, "device": recipe.device}
    if recipe.clip_steps is not None:
        own["steps"] = recipe.clip_steps
    run = next(clip.build(replace(clip.RECIPES[recipe.clip_recipe], **own)))
    yield run
    state, metadata = dict[str, Any](run.state), run.metadata
    trained = state["ema"].module if "ema" in state else state["model"]
    statistics = {name: list(metadata["picture"][name]) for name in ("mean", "std")}
    tokenizer = tokenizers.from_metadata(metadata["tokenizer"])
    return Start(metadata["model_config"], trained.state_dict(), tokenizer, statistics)


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.variant not in CONFIGS:
        raise BadInput(f"{recipe.variant} is a prior alone, without a decoder: choose {', '.join(CONFIGS)}")
    if recipe.prior_sampling_steps < 2:
        raise BadInput("the prior begins at pure noise and ends without: give it 2 sampling steps or more")
    device, config = select_device(recipe.device), CONFIGS[recipe.variant]
    if recipe.clip is None:
        start = yield from train_clip(recipe)
    else:
        start = load_start(recipe.clip, "clip", clip.from_config, clip.published)
    size = config["unet"]["size"]
    clip_size = start.model_config.get("vision", {}).get("image_size", clip.CLIPVisionConfig.image_size)
    if clip_size != size:
        raise BadInput(f"{recipe.variant} paints {size} × {size} pixels, and the CLIP sees {clip_size}")
    data = load_image_texts(recipe.data, size=size, device=device)
    model_config = {
        "clip": start.model_config,
        "prior": {**config["prior"], "dropout": recipe.prior_dropout},
        "unet": config["unet"],
        "statistics": start.statistics,
    }
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    load_weights(model.clip, start.tensors, "the weights of the CLIP do not fit its settings")
    setup = unclip.Setup(model, recipe, data, start.tokenizer, model_config)
    run = unclip.train_prior(setup, ALGORITHM, prior_loss)
    yield run
    if "ema" in (state := dict[str, Any](run.state)):
        model.prior.load_state_dict(state["ema"].module.prior.state_dict())
    yield unclip.train_decoder(setup, ALGORITHM, decoder_loss)


FACTS = [Fact("dalle2_prior parameters", lambda: count_on_meta(VARIANTS["dalle2_prior"].make), 1_022_030_080)]


def reference() -> Iterator[ParityCase]:
    """diffusers' PriorTransformer with random settings, in both precisions and modes, with padding on either
    side; its scheduler, step by step."""
    from torchstone.references import convert_inside
    from torchstone.references.dalle2 import DenormalizedPrior, TheirPrior, chains, random_priors

    for label, config, theirs, inputs in random_priors():
        ours = make_prior(**from_config(config)[1]).to(theirs.dtype)
        ours.load_state_dict(published("", theirs.state_dict()))
        pair = DenormalizedPrior(ours.train(theirs.training)), TheirPrior(theirs)
        yield ParityCase(*pair, inputs, convert_inside(partial(published, "")), torch.optim.AdamW, label)
    yield from chains(PRIOR_PROCESS, ddpm.p_sample)
