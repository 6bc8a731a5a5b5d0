"""CLIP: one encoder for pictures and one for texts, trained so that a picture lies beside its own caption.

Paper: Alec Radford, Jong Wook Kim, Chris Hallacy, Aditya Ramesh, Gabriel Goh, Sandhini Agarwal et al.,
"Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv:2103.00020.

The idea. A classifier knows the classes that it was trained on. Captions name anything: let two encoders map
pictures and texts into one space, and train them on one question only: of all the captions of this batch,
which belongs to this picture, and of all the pictures, which to this caption? A new class then needs no
training, only its name ("zero-shot"); and a text finds pictures that nobody has labeled.

    I = W_i LN(vision(image)_class) / ‖·‖    T = W_t LN(text(tokens)_end) / ‖·‖     (section 2.3, figure 3)
    s_ij = exp(t) Iᵢ·Tⱼ                      t is learned; exp(t) ≤ 100, at first 1/0.07        (2.4, 2.5)
    L = ½ (CE(s, i → i) + CE(sᵀ, j → j))     over the N × N pairs of a batch

    vision: ViT with a norm before its first block     text: causal transformer, read at the end-of-text token

    B/32, B/16  vision 768 wide, 12 blocks, 12 heads; text 512, 12, 8        512 shared numbers
    L/14        vision 1024, 24, 16; text 768, 12, 12                        768 shared numbers

Shapes: images (images, channels, height, width) and tokens (texts, time) -> logits (images, texts).

Processes that share a batch exchange their embeddings, gradients included, so that the loss is that of all
pairs of the whole batch.

What differs from the paper. A small set of pictures has captions that are alike: where two pairs of a batch
have their text or their picture in common, both are right answers (several positives). A picture has several
captions, one of which is drawn for each batch. `clip_emoji` is for small pictures and short training: its
patches come from convolutions, and the mean of the patches is read. Its word pieces are learned from the
captions, and it reads the mean of these, with no block in between: longer texts than names want `--variant
clip_emoji_vit`. The rest of the chapter's variants are the published ones, whose folders load.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.image_text_batches import OLD_END_ID, ImageTextBatch, positive_pairs
from torchstone.data.vision.image_texts import load_image_texts
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.parallel import gather_rows
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.clip import from_config, preprocessor_config, published, to_config, unpublished
from torchstone.parts.contrastive_loss import contrastive_loss
from torchstone.parts.facts import Fact, ParityCase, count_parameters, on_meta
from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import interpolate_positions
from torchstone.systems import Variant
from torchstone.tasks.transfer import load_weights
from torchstone.tasks.vision.image_text import (
    END,
    evaluate,
    learn_tokenizer,
    load_start,
    parse_languages,
    predict,
    train_image_text,
)

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "from_config",
    "predict",
    "preprocessor_config",
    "published",
    "reference",
    "to_config",
    "unpublished",
]

MARGIN = ("mean_reciprocal_rank", 0.05)


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set: openmoji, emoji, shapes, or a folder of pictures with captions.tsv
    variant: str = "clip_emoji"  # network variant, where there are no weights
    weights: str | None = None  # weights to start from: a run of clip or a Hugging Face folder
    languages: str = "en"  # languages of OpenMoji's names: en,de,… or all; the first is searched in
    translation_prob: float = 0.5  # probability of a caption in another language than the first
    keyword_prob: float = 0.3  # probability of keywords as the caption, where the data have some
    vocab_size: int = 900  # vocabulary size of the word-piece tokenizer
    max_length: int = 20  # maximum number of tokens of a caption, start and end included
    dropout: float = 0.2  # dropout probability in the blocks
    token_dropout: float = 0.15  # probability of reading a token as unknown in training
    augment: str = "affine8-0.15-0.1"  # augmentation, such as shift2, affine or jitter
    steps: int = 300  # number of updates
    batch_size: int = 128  # batch size (pairs)
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        lr=2e-3,
        beta2=0.98,
        weight_decay=0.2,
        warmup_ratio=0.05,
        max_grad_norm=1.0,
        ema_decay=0.97,
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, order, captions, augmentation and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    "openmoji": Recipe(),
    # the same emoji, each as Twemoji draws it too, and by keywords
    "emoji": Recipe(
        data="emoji",
        vocab_size=2000,
        steps=1200,
        optim=replace(Recipe.optim, ema_decay=0.98, precision="auto"),
    ),
    # captions in 14 languages, a text tower for all of them
    "languages": Recipe(languages="all", vocab_size=4000, translation_prob=0.5, steps=1200),
    # the paper's (section 2.5) on a folder of your own, of millions of pictures, for GPUs:
    # torchrun --nproc-per-node 8 -m torchstone train clip/paper --data DIR
    "paper": Recipe(
        variant="clip_b_32",
        vocab_size=49_408,
        max_length=77,
        dropout=0.0,
        token_dropout=0.0,
        augment="crop8",
        steps=390_000,
        batch_size=32_768,
        optim=replace(
            Recipe.optim,
            lr=5e-4,
            eps=1e-6,
            weight_decay=0.2,
            warmup_ratio=0.005,
            max_grad_norm=None,
            ema_decay=0.0,
            precision="bf16",
        ),
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="shapes",
        variant="clip_tiny",
        vocab_size=400,
        max_length=8,
        augment="none",
        steps=80,
        batch_size=32,
        dropout=0.0,
        token_dropout=0.0,
        optim=replace(Recipe.optim, lr=3e-3, ema_decay=0.0),
    ),
}

MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class CLIPVisionConfig:
    """Architecture of the vision tower."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    d_ff: int = 3072  # width of the feed-forward layers
    image_size: int = 224  # pixels per side
    patch_size: int = 32  # pixels per side
    channels: int = 3
    stem: Sequence[int] = ()  # widths of convolutional stages before the patches; each halves the image
    pooling: Literal["class", "mean"] = (
        "class"  # what `pool` reads: the class token, or the mean of the patches
    )
    activation: str = "quick_gelu"
    eps: float = 1e-5  # of the norms
    attention_dropout: float = 0.0
    dropout: float = 0.0  # of what each half of a block adds


@dataclass(frozen=True)
class CLIPTextConfig:
    """Architecture of the text tower."""

    vocab_size: int = 49_408
    width: int = 512
    layers: int = 12
    heads: int = 8
    d_ff: int = 2048  # width of the feed-forward layers
    max_length: int = 77  # maximum number of tokens, start and end included
    eos_id: int = 49_407  # end of text, whose state is read; 2 stands for the largest id, as in old configs
    token_dropout: float = 0.0  # probability that training reads a token as the unknown one
    unknown_id: int = 0  # for which `token_dropout` stands in
    embedding_std: float = 0.02  # initial standard deviation of the token embeddings
    pooling: Literal["end", "mean"] = "end"  # what `pool` reads: the end, or the mean, and all tokens see all
    activation: str = "quick_gelu"
    eps: float = 1e-5
    attention_dropout: float = 0.0
    dropout: float = 0.0


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers, and the width of the space that they share."""

    vision: CLIPVisionConfig = CLIPVisionConfig()
    text: CLIPTextConfig = CLIPTextConfig()
    embed_dim: int = 512
    logit_scale: float = math.log(1 / 0.07)  # initial log of the factor of the cosines


class CLIPBlock(nn.Module):
    """Pre-norm: x + attention(LN(x)), then x + feed-forward(LN(x))."""

    def __init__(self, config: CLIPVisionConfig | CLIPTextConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.eps)
        self.attention = MultiHeadAttention(config.width, config.heads, dropout=config.attention_dropout)
        self.norm2 = nn.LayerNorm(config.width, config.eps)
        self.feed_forward = FeedForward(config.width, config.d_ff, config.activation)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch #heads #time time"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch time width"]:
        x = x + self.dropout(self.attention(self.norm1(x), mask=mask, causal=causal))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class ConvStage(nn.Module):
    """Two 3×3 convolutions, each with batch norm and ReLU, and the maximum of 2×2 pixels."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch width h2 w2"]:
        x = F.relu(self.norm1(self.conv1(x)))
        return F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)


class CLIPVisionTower(nn.Module):
    """A ViT with a norm before its first block; its patches may come from a convolutional stem.

    Raises:
        BadInput: the image size is not a multiple of the patch size, or the patch size not of the stem's.
    """

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config, width, stride = config, config.width, 2 ** len(config.stem)
        if config.patch_size % stride:
            raise BadInput(
                f"a stem of {len(config.stem)} stages needs patches of a multiple of {stride} pixels"
            )
        channels = (config.channels, *config.stem)
        self.stem = nn.Sequential(*(ConvStage(*each) for each in itertools.pairwise(channels)))
        patch = config.patch_size // stride
        self.patch_embedding = nn.Conv2d(channels[-1], width, patch, patch, bias=False)
        # without it all pictures begin with nearly one embedding: what the stem gives is positive
        self.patch_norm = nn.BatchNorm2d(width) if config.stem else nn.Identity()
        self.class_token = nn.Parameter(torch.empty(width))
        self.grid_size = self.patch_grid(config.image_size, config.image_size)
        self.position_embedding = nn.Parameter(torch.empty(1 + math.prod(self.grid_size), width))
        self.pre_norm = nn.LayerNorm(width, config.eps)
        self.layers = nn.ModuleList(CLIPBlock(config) for _ in range(config.layers))
        self.post_norm = nn.LayerNorm(width, config.eps)

    def forward(
        self, images: Float[Tensor, "batch channels h w"], layer: int = -1
    ) -> Float[Tensor, "batch tokens width"]:
        """Hidden states of the class token and the patches, row by row, without the norm of `pool`.

        Args:
            layer: −1 gives the states after the last block, −2 after the one before it, and so on.

        Raises:
            BadInput: the image size is not a multiple of the patch size.
        """
        positions = self.position_embedding[None]
        positions = interpolate_positions(positions, self.grid_size, self.patch_grid(*images.shape[2:]))
        x = self.patch_norm(self.patch_embedding(self.stem(images)))  # (B, W, H/P, W/P)
        x = x.flatten(2).transpose(1, 2)  # (B, N, W)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1) + positions  # (B, 1 + N, W)
        x = self.pre_norm(x)
        for block in self.layers[: len(self.layers) + 1 + layer]:
            x = block(x)
        return x

    def pool(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width"]:
        """The class token, or the mean of the patches, after the final norm."""
        mean = self.config.pooling == "mean"
        return self.post_norm(hidden[:, 1:].mean(1) if mean else hidden[:, 0])

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Number of patches (rows, columns) of an image."""
        patch = self.config.patch_size
        if height % patch or width % patch or not height * width:
            raise BadInput(
                f"an image of {height}×{width} pixels cannot be cut into patches of {patch}×{patch}"
            )
        return height // patch, width // patch


class CLIPTextTower(nn.Module):
    """A causal transformer over tokens, read where the text ends."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.max_length, config.width)
        self.layers = nn.ModuleList(CLIPBlock(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width, config.eps)

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        layer: int = -1,
    ) -> Float[Tensor, "batch time width"]:
        """Hidden states after the final norm.

        Args:
            mask: True where there is a token. Padding after the end needs none: no token sees what follows.
            layer: −1 gives the states after the last block, −2 after the one before it, and so on.

        Raises:
            BadInput: more tokens than the network has positions.
        """
        time, max_length = tokens.shape[1], self.config.max_length
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        words = tokens
        if self.training and self.config.token_dropout:
            is_dropped = torch.rand(tokens.shape, device=tokens.device) < self.config.token_dropout
            words = torch.where(is_dropped & (tokens != self.config.eos_id), self.config.unknown_id, tokens)
        x = self.token_embedding(words) + self.position_embedding.weight[:time]
        if self.config.pooling == "mean":
            mask = self.up_to_end(tokens) if mask is None else mask & self.up_to_end(tokens)
        keys = None if mask is None else mask[:, None, None]
        for block in self.layers[: len(self.layers) + 1 + layer]:
            x = block(x, keys, causal=self.config.pooling == "end")
        return self.final_norm(x)

    def up_to_end(self, tokens: Int64[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
        """True up to the first end of text, itself included."""
        is_end = (tokens == self.config.eos_id).int()
        return is_end.cumsum(1) - is_end == 0

    def pool(
        self, hidden: Float[Tensor, "batch time width"], tokens: Int64[Tensor, "batch time"]
    ) -> Float[Tensor, "batch width"]:
        """The state of the end-of-text token: of the first one, or, where a config says 2, of the largest id.
        Or the mean of the states up to there."""
        eos_id = self.config.eos_id
        if self.config.pooling == "mean":
            mask = self.up_to_end(tokens)
            return (hidden * (mask[..., None] / mask.sum(1)[:, None, None])).sum(1)
        is_end = tokens if eos_id == OLD_END_ID else (tokens == eos_id).int()
        return hidden[torch.arange(len(tokens), device=tokens.device), is_end.argmax(1)]


@torch.no_grad()
def init_blocks(tower: CLIPVisionTower | CLIPTextTower) -> None:
    """Deviations by width and depth, as in the authors' code: what each block adds shrinks with their number.
    Biases are zero."""
    width, depth = tower.config.width, tower.config.layers
    for name, weight in tower.named_parameters():
        if name.endswith(".bias"):
            nn.init.zeros_(weight)
        elif name.endswith(("attention.out.weight", "feed_forward.down.weight")):
            nn.init.normal_(weight, std=(2 * depth * width) ** -0.5)
        elif name.endswith("attention.qkv.weight"):
            nn.init.normal_(weight, std=width**-0.5)
        elif name.endswith("feed_forward.up.weight"):
            nn.init.normal_(weight, std=(2 * width) ** -0.5)


def init_vision_embeddings(tower: CLIPVisionTower) -> None:
    """Class token and positions of a deviation of 1/√width, as in the authors' code."""
    for embedding in (tower.class_token, tower.position_embedding):
        nn.init.normal_(embedding, std=tower.config.width**-0.5)


class CLIP(nn.Module):
    """Both towers, their projections into one space, and the temperature."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.config = config
        self.vision = CLIPVisionTower(config.vision)
        self.text = CLIPTextTower(config.text)
        self.image_projection = nn.Linear(config.vision.width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(config.text.width, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale)))  # a logarithm
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Those of the towers, and deviations as in the authors' code for embeddings and projections."""
        for tower in (self.vision, self.text):
            init_blocks(tower)
        nn.init.normal_(self.text.token_embedding.weight, std=self.config.text.embedding_std)
        nn.init.normal_(self.text.position_embedding.weight, std=0.01)
        init_vision_embeddings(self.vision)
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)

    def forward(
        self,
        images: Float[Tensor, "images channels h w"],
        tokens: Int64[Tensor, "texts time"],
        mask: Bool[Tensor, "texts time"] | None = None,
    ) -> Float[Tensor, "images texts"]:
        """Logits of every pair: their cosine times exp(`logit_scale`).

        Args:
            mask: True where there is a token.
        """
        # s_ij = exp(t) Iᵢ·Tⱼ
        return self.logit_scale.exp() * self.encode_images(images) @ self.encode_texts(tokens, mask).T

    def encode_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images embed_dim"]:
        """I: embeddings of length 1."""
        return F.normalize(self.image_projection(self.vision.pool(self.vision(images))), dim=1)

    def encode_texts(
        self, tokens: Int64[Tensor, "texts time"], mask: Bool[Tensor, "texts time"] | None = None
    ) -> Float[Tensor, "texts embed_dim"]:
        """T: embeddings of length 1."""
        return F.normalize(self.text_projection(self.text.pool(self.text(tokens, mask), tokens)), dim=1)


class PairEmbeddings(nn.Module):
    """What the loss asks of the network, as one call, which `parallel.replicate` can wrap."""

    def __init__(self, model: CLIP):
        super().__init__()
        self.model = model

    def forward(
        self, images: Float[Tensor, "batch channels h w"], tokens: Int64[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch embed_dim"], Float[Tensor, "batch embed_dim"], Float[Tensor, ""]]:
        """I, T and exp(t)."""
        model = self.model
        return model.encode_images(images), model.encode_texts(tokens), model.logit_scale.exp()


def pair_loss(net: Any, batch: ImageTextBatch) -> dict[str, Tensor]:
    """L over all pairs of the batch, however many processes share it; its mean is over this process's pairs.

    Args:
        net: `PairEmbeddings`.
    """
    images, texts, scale = net(batch.images, batch.tokens)
    # this process's rows against the columns of all
    pictures, captions = ((own, gather_rows(own)) for own in (batch.pictures, batch.texts))
    positive = positive_pairs(pictures, captions)
    # L = ½ (CE(s, i → i) + CE(sᵀ, j → j)); in bfloat16 two cosines that are 0.004 apart would be one
    with torch.autocast(images.device.type, enabled=False):
        images, texts = images.to(scale.dtype), texts.to(scale.dtype)
        image_loss = contrastive_loss(scale * images @ gather_rows(texts).T, positive)
        text_loss = contrastive_loss(scale * texts @ gather_rows(images).T, positive)
    return {"loss": (image_loss + text_loss) / 2, "logit_scale": scale}


def make_clip(vision: Mapping[str, Any] = {}, text: Mapping[str, Any] = {}, **model_config: Any) -> CLIP:
    """A network by the fields of `CLIPVisionConfig`, `CLIPTextConfig` and `CLIPConfig`."""
    return CLIP(CLIPConfig(CLIPVisionConfig(**vision), CLIPTextConfig(**text), **model_config))


def tower(width: int, layers: int, heads: int, times: int = 4, **fields: Any) -> dict[str, Any]:
    return {"width": width, "layers": layers, "heads": heads, "d_ff": times * width, **fields}


SMALL = {"image_size": 32, "activation": "gelu"}
SMALL_TEXT = {"activation": "gelu", "eos_id": 1, "embedding_std": 0.3}  # of few words, each has to count
CONFIGS: dict[str, dict[str, Any]] = {
    "clip_emoji": {
        "vision": tower(128, 1, 4, 2, **SMALL, patch_size=16, stem=[16, 32, 64, 128], pooling="mean"),
        "text": tower(128, 0, 4, 2, **SMALL_TEXT, vocab_size=900, max_length=20, pooling="mean"),
        "embed_dim": 128,
    },
    "clip_b_32": {},
    "clip_b_16": {"vision": {"patch_size": 16}},
    "clip_l_14": {"vision": tower(1024, 24, 16, patch_size=14), "text": tower(768, 12, 12), "embed_dim": 768},
    # without a stem, and read at the class token and the end of the text: as transformers' CLIP
    "clip_emoji_vit": {
        "vision": tower(128, 4, 4, 2, **SMALL, patch_size=4),
        "text": tower(128, 2, 4, 2, **SMALL_TEXT, vocab_size=900, max_length=20),
        "embed_dim": 128,
    },
    "clip_tiny": {
        "vision": tower(32, 1, 2, 2, **SMALL, patch_size=8, stem=[8, 16], pooling="mean"),
        "text": tower(32, 1, 2, 2, **SMALL_TEXT, vocab_size=400, max_length=8, pooling="mean"),
        "embed_dim": 32,
    },
}
VARIANTS = {
    name: Variant(partial(make_clip, **config), (3, *[config.get("vision", {}).get("image_size", 224)] * 2))
    for name, config in CONFIGS.items()
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    start = None if recipe.weights is None else load_start(recipe.weights, "clip", from_config, published)
    config = CONFIGS[recipe.variant] if start is None else start.model_config
    size = config.get("vision", {}).get("image_size", CLIPVisionConfig.image_size)
    languages = parse_languages(recipe.languages)
    data = load_image_texts(recipe.data, size=size, languages=languages, device=device)
    if start is not None:
        data = replace(data, metadata=data.metadata | start.statistics)
    tokenizer = learn_tokenizer(data, recipe.vocab_size) if start is None else start.tokenizer
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_length": recipe.max_length,
        "eos_id": tokenizer.token_to_id(END),
        "dropout": recipe.dropout,
        "token_dropout": recipe.token_dropout,
        "unknown_id": tokenizer.token_to_id("[UNK]"),
    }
    if start is not None:  # published vocabularies may have no unknown token, and end texts by another rule
        own = {"dropout": recipe.dropout}
        if text["unknown_id"] is not None:
            own |= {"token_dropout": recipe.token_dropout, "unknown_id": text["unknown_id"]}
        text = {**config["text"], **own}
    model_config = {
        **config,
        "vision": {**config.get("vision", {}), "dropout": recipe.dropout},
        "text": {**config.get("text", {}), **text},
    }
    rng.seed(recipe.seed)
    model = make_clip(**model_config).to(device)
    if start is not None:
        load_weights(model, start.tensors, f"the weights in {recipe.weights} do not fit its settings")
    yield train_image_text(
        model,
        recipe,
        data,
        tokenizer,
        pair_loss,
        forward_module=PairEmbeddings(model),
        max_logit_scale=MAX_LOGIT_SCALE,
        model_config=model_config,
    )


# number of parameters: of all, of the vision tower and of the text tower, without projections
COUNTS = {
    "clip_b_32": (151_277_313, 87_456_000, 63_165_952),
    "clip_b_16": (149_620_737, None, None),
    "clip_l_14": (427_616_513, 303_179_776, 123_060_480),
}


def count_parameters_of(variant: str, part: str) -> int:
    model = on_meta(VARIANTS[variant].make)
    return count_parameters({"network": model, "vision": model.vision, "text": model.text}[part])


FACTS = [
    Fact(f"{variant} {part} parameters", partial(count_parameters_of, variant, part), count)
    for variant, counts in COUNTS.items()
    for part, count in zip(("network", "vision", "text"), counts, strict=True)
    if count is not None
]


def reference() -> Iterator[ParityCase]:
    """transformers' CLIPModel with random settings, in both precisions, with padding on either side and both
    rules of where a text ends; the loss as in training, alone in its batch."""
    from torchstone.references import convert_inside
    from torchstone.references.clip import PairsWithLoss, TransformersPairs, random_clips
    from torchstone.references.transformers import import_transformers

    for label, config, theirs, inputs in random_clips(import_transformers()):
        ours = make_clip(**from_config(config)[1]).to(theirs.dtype).train()
        ours.load_state_dict(published("", theirs.state_dict()))
        pair = PairsWithLoss(ours), TransformersPairs(theirs)
        names = convert_inside(partial(published, ""))
        yield ParityCase(*pair, inputs, names, torch.optim.AdamW, label)
