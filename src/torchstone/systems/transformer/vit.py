"""ViT: an image is cut into patches, and a standard transformer encoder reads them like the words of a text.

Paper: Alexey Dosovitskiy, Lucas Beyer, Alexander Kolesnikov, Dirk Weissenborn, Xiaohua Zhai et al.,
"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2020, arXiv:2010.11929.

The idea. A convolution has locality built in; a transformer has to learn it. Cut the image into patches, map
each to an embedding by the same linear layer, add a learned position embedding, and put a class token in
front: from there on it is a sequence like any other. With enough images it learns more than a convolution.

    z₀ = [x_class; x₁E; …; x_NE] + E_pos                   (equation 1; E is a convolution, stride P)
    z′ = MSA(LN(z)) + z,    z = MLP(LN(z′)) + z′            (2, 3; L blocks)
    y  = LN(z_class),       logits = W y                    (4)

    Ti/16  width 192, 12 blocks, 3 heads    B/16, B/32  width  768, 12 blocks, 12 heads    P = 16, 32
    S/16   width 384, 12 blocks, 6 heads    L/16, L/32  width 1024, 24 blocks, 16 heads
                                            H/14        width 1280, 32 blocks, 16 heads

Images of another size than the network was built for have other positions: the learned embeddings are
interpolated (section 3.2, "Fine-tuning and Higher Resolution"). `vit_cifar` and `vit_mnist` are for small
images, with patches of 4 × 4. Attention rollout (`--explain`) shows which patches a prediction rests on.

What differs from the paper. Ti and S are of Touvron et al. 2020 (arXiv:2012.12877), without
distillation. The head is one linear layer in training from scratch too, as in the published weights.
Small images are trained on with AdamW and strong augmentation, without pre-training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.vit import from_config, match_weights, published, to_config, unpublished
from torchstone.interpret import attention_rollout
from torchstone.interpret.attention_rollout import explain
from torchstone.parts.facts import ParityCase, parameter_facts
from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.transformer.attention import MultiHeadAttention, attention_weights
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import interpolate_positions
from torchstone.systems import Variant
from torchstone.tasks.vision.classify import classify, evaluate, predict

__all__ = [
    "FACTS",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "explain",
    "from_config",
    "match_weights",
    "predict",
    "published",
    "reference",
    "to_config",
    "unpublished",
]

HEAD = ("head.",)

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("Block", "ViT")


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, a folder (class folders or IDX) or its zip
    size: int = 28  # image size, pixels per side
    channels: int = 1  # image channels: 1 grayscale, 3 color
    variant: str = "vit_mnist"  # network
    patch_size: int = 4  # patch size, pixels per side
    dropout: float = 0.0  # dropout probability after every dense layer
    steps: int = 800  # number of training steps
    batch_size: int = 64  # batch size, in images
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=2e-3, weight_decay=0.05, warmup_ratio=0.1, max_grad_norm=1.0
    )  # optimizer, schedule, precision
    augment: str = "affine"  # augmentation: none, affine, or operations: flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    seed: int = 0  # random seed of weights, order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda, mps


CIFAR = Recipe(
    "hf:uoft-cs/cifar10",
    size=32,
    channels=3,
    variant="vit_cifar",
    dropout=0.1,
    steps=20_000,
    optim=replace(Recipe.optim, lr=1e-3),
    augment="flip+affine15-0.2-0.12+jitter0.4-0+erase0.5",
)
RECIPES = {
    # torchstone train vit                      3 min on 1 busy core    test accuracy 0.962 (linear: 0.90)
    "mnist5k": Recipe(),
    # torchstone train vit/cifar10 --data DIR   for a GPU; target: 0.80 (public networks with patch 4)
    "cifar10": replace(CIFAR, batch_size=512, optim=replace(CIFAR.optim, precision="bf16", compile=True)),
    # for tests: seconds
    "smoke": Recipe(data="digits", size=8, patch_size=2, steps=60, batch_size=32, augment="none"),
}


@dataclass(frozen=True)
class ViTConfig:
    """The architecture of a ViT.

    Args:
        mlp_dim: width of the feed-forward layers, by default four times `width`.
        image_size, patch_size: pixels: a side, or height and width.
        num_classes: 0 for no head: then `forward` gives all tokens, (batch, 1 + patches, width).
        pooler_dim: width of a layer with tanh on the class token, for networks without a head (`pool`).
        dropout: dropout probability after every dense layer and the position embeddings;
            `attention_dropout` of attention weights, `mlp_dropout` inside the feed-forward layers (by
            default `dropout`).
        position_std: initial standard deviation of the position embeddings. With few images the network
            learns nothing about positions unless they are initialized at the scale of the patches.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int | None = None
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    channels: int = 3
    num_classes: int = 1000
    pooler_dim: int = 0
    activation: str = "gelu"
    qkv_bias: bool = True
    eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float | None = None
    position_std: float = 0.02


class Block(nn.Module):
    """One block of the encoder, equations 2 and 3: self-attention and MLP with residual connections."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        width, eps = config.width, config.eps
        mlp_dropout = config.dropout if config.mlp_dropout is None else config.mlp_dropout
        self.attention_norm = nn.LayerNorm(width, eps)
        self.attention = MultiHeadAttention(
            width, config.heads, bias=config.qkv_bias, out_bias=True, dropout=config.attention_dropout
        )
        self.mlp_norm = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, config.mlp_dim or 4 * width, config.activation, dropout=mlp_dropout)
        self.dropout = config.dropout
        accept_old_keys(self, {"feed.": "mlp.", "feed_norm.": "mlp_norm."})

    def forward(self, z: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        z = z + F.dropout(self.attention(self.attention_norm(z)), self.dropout, self.training)
        return z + F.dropout(self.mlp(self.mlp_norm(z)), self.dropout, self.training)


class ViT(nn.Module):
    """Patch embedding, transformer blocks, and a linear head on the class token."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.patch_size, self.dropout = _pair(config.patch_size), config.dropout
        self.grid_size = self.patch_grid(*_pair(config.image_size))
        self.patch_embedding = nn.Conv2d(config.channels, config.width, self.patch_size, self.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        tokens = 1 + self.grid_size[0] * self.grid_size[1]
        self.position_embedding = nn.Parameter(torch.empty(1, tokens, config.width))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.final_norm = nn.LayerNorm(config.width, config.eps)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else None
        self.pooler = nn.Linear(config.width, config.pooler_dim) if config.pooler_dim else None
        self.init_weights(config.position_std)
        accept_old_keys(
            self,
            {
                "patches.": "patch_embedding.",
                "positions": "position_embedding",
                "layers.": "blocks.",
                "norm.": "final_norm.",
            },
        )

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> "ViT":
        """A ViT from the fields of `ViTConfig`."""
        return cls(ViTConfig(**kwargs))

    def init_weights(self, position_std: float) -> None:
        """Glorot & Bengio 2010 for the blocks, var w = 1 / fan in for the patch embedding; a head of
        zeros, which prefers no class."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                weights = layer.weight.chunk(3) if name.endswith("qkv") else (layer.weight,)
                for weight in weights:
                    nn.init.xavier_uniform_(weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        kernel = self.patch_embedding.weight
        nn.init.normal_(kernel, std=kernel[0].numel() ** -0.5)
        nn.init.zeros_(self.patch_embedding.bias)  # ty: ignore[invalid-argument-type]
        nn.init.normal_(self.position_embedding, std=position_std)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, images: Float[Tensor, "batch channels h w"]) -> Tensor:
        """Logits (batch, classes); without a head the tokens, as `encode`."""
        z = self.encode(images)  # (B, 1 + N, D)
        return z if self.head is None else self.head(z[:, 0])  # (B, classes)

    def encode(self, images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch tokens width"]:
        """Class token and patches, row by row, after the final norm.

        Raises:
            BadInput: the image size is not a multiple of the patch size.
        """
        z = self.embed(images)
        for block in self.blocks:
            z = block(z)  # (B, 1 + N, D)
        return self.final_norm(z)

    def pool(self, z: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch pooled"]:
        """The class token through the pooler."""
        if self.pooler is None:
            raise BadInput("this network has no pooler: build it with pooler_dim=WIDTH")
        return self.pooler(z[:, 0]).tanh()

    def embed(self, images: Tensor) -> Float[Tensor, "batch tokens width"]:
        """Equation 1: class token and patch embeddings, plus position embeddings."""
        grid = self.patch_grid(*images.shape[2:])
        positions = interpolate_positions(self.position_embedding, self.grid_size, grid)  # (1, 1 + N, D)
        z = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, D, H/P, W/P) -> (B, N, D)
        z = torch.cat([self.class_token.expand(z.shape[0], -1, -1), z], 1) + positions  # (B, 1 + N, D)
        return F.dropout(z, self.dropout, self.training)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Number of patches (rows, columns) of an image."""
        patch_height, patch_width = self.patch_size
        if height % patch_height or width % patch_width or not height * width:
            raise BadInput(
                f"an image of {height}×{width} pixels cannot be cut into patches of "
                f"{patch_height}×{patch_width}"
            )
        return height // patch_height, width // patch_width

    def attention_maps(self, images: Tensor) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Each block's attention weights, first block first."""
        blocks: Any = self.blocks
        z, maps = self.embed(images), []
        for block in blocks:
            q, k, _ = block.attention.project(block.attention_norm(z))
            maps.append(attention_weights(q, k))
            z = block(z)
        return maps


def _pair(side: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def variant(width: int, depth: int, heads: int, **config: Any) -> Variant:
    make = partial(ViT.from_kwargs, width=width, depth=depth, heads=heads, **config)
    size = config.get("image_size", ViTConfig.image_size)
    return Variant(make, (config.get("channels", ViTConfig.channels), size, size))


CIFAR_SIZES = {"image_size": 32, "patch_size": 4, "num_classes": 10}
MNIST_SIZES = {"image_size": 28, "patch_size": 4, "num_classes": 10, "channels": 1}
VARIANTS = {
    "vit_b_16": variant(768, 12, 12),
    "vit_ti_16": variant(192, 12, 3),
    "vit_s_16": variant(384, 12, 6),
    "vit_b_32": variant(768, 12, 12, patch_size=32),
    "vit_l_16": variant(1024, 24, 16),
    "vit_l_32": variant(1024, 24, 16, patch_size=32),
    "vit_h_14": variant(1280, 32, 16, patch_size=14),
    "vit_cifar": variant(256, 8, 8, mlp_dim=512, position_std=0.5, **CIFAR_SIZES),
    "vit_mnist": variant(96, 4, 4, mlp_dim=192, position_std=0.5, **MNIST_SIZES),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = load_images(recipe.data, size=recipe.size, channels=recipe.channels, device=device)
    make: Any = VARIANTS[recipe.variant].make
    model_config = {
        **make.keywords,
        "num_classes": len(data.classes),
        "channels": recipe.channels,
        "image_size": recipe.size,
        "patch_size": recipe.patch_size,
        "dropout": recipe.dropout,
    }
    rng.seed(recipe.seed)
    model = make(**model_config).to(device)
    run = classify(model, recipe, data, model_config=model_config)
    eval_model, save_report = getattr(run.state.get("ema"), "module", model), run.report

    def report(folder: Path) -> None:
        if save_report is not None:
            save_report(folder)
        attention_rollout.report(eval_model, data, folder)

    run.report = report
    yield run


# parameters, multiply-accumulates
COUNTS = {
    "vit_b_16": (86_567_656, 17_563_828_224),
    "vit_ti_16": (5_717_416, 1_253_683_200),
    "vit_s_16": (22_050_664, 4_598_882_304),
    "vit_b_32": (88_224_232, 4_409_186_304),
    "vit_l_16": (304_326_632, 61_554_712_576),
    "vit_l_32": (306_535_400, 15_377_539_072),
    "vit_h_14": (632_045_800, 167_295_109_120),
}
FACTS = parameter_facts(VARIANTS, COUNTS)


def reference() -> Iterator[ParityCase]:
    """torchvision's, timm's and transformers' classes, in random configurations from a fixed seed."""
    from torchstone.references import OutputAdapter, randomize_weights, unwrap_names
    from torchstone.references.transformers import random_vits

    torch.manual_seed(0)
    names = unwrap_names(published)
    for number, (net, config) in enumerate(random_vits(12)):
        model_config = config
        if "hidden_size" in config:  # transformers'
            model_config = match_weights(from_config(config)[1], net.state_dict())
        theirs = OutputAdapter(net, first_output).double()
        randomize_weights(theirs, 0.2)
        ours = ViT.from_kwargs(**model_config).double()
        ours.load_state_dict(names(theirs.state_dict()))
        size = model_config["image_size"]
        images = torch.randn(3, 3, size, size, dtype=torch.float64)
        if number >= 8:
            ours, theirs, images = ours.float(), theirs.float(), images.float()
        label = f"{type(net).__module__.split('.')[0]} {list(model_config.values())}"
        yield ParityCase(ours, theirs, images, names, torch.optim.AdamW, label)


def first_output(net: nn.Module, images: Tensor) -> Tensor:
    """The output of a library's network; the first of several."""
    output = net(images)
    return output if isinstance(output, Tensor) else output[0]
