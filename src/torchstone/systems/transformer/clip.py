"""CLIP: one encoder for pictures and one for texts, trained so that a picture lies beside its own caption.

Paper: Alec Radford, Jong Wook Kim, Chris Hallacy, Aditya Ramesh, Gabriel Goh, Sandhini Agarwal et al., "Learning
Transferable Visual Models From Natural Language Supervision", 2021, arXiv:2103.00020.

The idea. A classifier knows the classes that it was trained on. Captions name anything: let two encoders map
pictures and texts into one space, and train them on one question only: of all the captions of this batch,
which belongs to this picture, and of all the pictures, which to this caption? A new class then needs no
training, only its name ("zero-shot"); and a text finds pictures that nobody has labeled.

    I = W_i LN(vision(image)_class) / ‖·‖     T = W_t LN(text(tokens)_end) / ‖·‖        (section 2.3, figure 3)
    s_ij = exp(t) Iᵢ·Tⱼ                        t is learned; exp(t) ≤ 100, at first 1/0.07  (sections 2.4, 2.5)
    L = ½ (CE(s, i → i) + CE(sᵀ, j → j))       over the N × N pairs of a batch

    vision: ViT with a norm before its first block     text: causal transformer, read at the end-of-text token

    B/32, B/16  vision 768 wide, 12 blocks, 12 heads; text 512, 12, 8        512 shared numbers
    L/14        vision 1024, 24, 16; text 768, 12, 12                        768 shared numbers

Shapes: images (images, channels, height, width) and tokens (texts, time) -> logits (images, texts).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import interpolate_positions

MAX_LOGIT_SCALE = math.log(100)
OLD_EOS_ID = 2  # of configs that mean the largest token id


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
    eos_id: int = (
        49_407  # end of text, whose hidden state is read; 2: the largest token id, as old configs mean it
    )
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
    """Two 3×3 convolutions, each with group norm and ReLU, and the maximum of 2×2 pixels."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(math.gcd(8, width), width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(math.gcd(8, width), width)

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
        self.stem = nn.Sequential(*(ConvStage(*each) for each in zip(channels, channels[1:], strict=False)))
        patch = config.patch_size // stride
        self.patch_embedding = nn.Conv2d(channels[-1], width, patch, patch, bias=False)
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
        x = (
            self.patch_embedding(self.stem(images)).flatten(2).transpose(1, 2)
        )  # (B, W, H/P, W/P) -> (B, N, W)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1) + positions  # (B, 1 + N, W)
        x = self.pre_norm(x)
        for block in self.layers[: len(self.layers) + 1 + layer]:
            x = block(x)
        return x

    def pool(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width"]:
        """The class token after the final norm."""
        return self.post_norm(hidden[:, 0])

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
        self, tokens: Int64[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time width"]:
        """Hidden states after the final norm.

        Args:
            mask: True where there is a token. Padding after the end needs none: no token sees what follows.

        Raises:
            BadInput: more tokens than the network has positions.
        """
        time, max_length = tokens.shape[1], self.config.max_length
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        x = self.token_embedding(tokens) + self.position_embedding.weight[:time]
        keys = None if mask is None else mask[:, None, None]
        for block in self.layers:
            x = block(x, keys, causal=True)
        return self.final_norm(x)

    def pool(
        self, hidden: Float[Tensor, "batch time width"], tokens: Int64[Tensor, "batch time"]
    ) -> Float[Tensor, "batch width"]:
        """The state of the end-of-text token: of the first one, or, where a config says 2, of the largest
        id."""
        eos_id = self.config.eos_id
        is_end = tokens if eos_id == OLD_EOS_ID else (tokens == eos_id).int()
        return hidden[torch.arange(len(tokens), device=tokens.device), is_end.argmax(1)]


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
        """Deviations by width and depth, as in the authors' code: what each block adds shrinks with the number
        of blocks. Biases are zero."""
        for tower in (self.vision, self.text):
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
        nn.init.normal_(self.text.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text.position_embedding.weight, std=0.01)
        for embedding in (self.vision.class_token, self.vision.position_embedding):
            nn.init.normal_(embedding, std=self.config.vision.width**-0.5)
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


def make_clip(vision: Mapping[str, Any] = {}, text: Mapping[str, Any] = {}, **model_config: Any) -> CLIP:
    """A network by the fields of `CLIPVisionConfig`, `CLIPTextConfig` and `CLIPConfig`."""
    return CLIP(CLIPConfig(CLIPVisionConfig(**vision), CLIPTextConfig(**text), **model_config))
