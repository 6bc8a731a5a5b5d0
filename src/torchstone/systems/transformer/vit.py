"""ViT: a picture cut into patches is read like a sentence, by an unchanged transformer.

Paper: Alexey Dosovitskiy, Lucas Beyer, Alexander Kolesnikov, Dirk Weissenborn, Xiaohua Zhai et al.,
"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2020, arXiv:2010.11929.

The idea. A convolution knows that near pixels belong together; a transformer has to learn it. Cut the
picture into patches, map each by the same linear layer to a vector, put a learned vector for its place
on top and a class token in front: from there on it is text. With enough pictures it learns it better.

    z₀ = [x_class; x₁E; …; x_NE] + E_pos                   (equation 1; E is a convolution, stride P)
    z′ = MSA(LN(z)) + z,    z = MLP(LN(z′)) + z′            (2, 3; L layers)
    y  = LN(z_class),       logits = W y                    (4)

    Ti/16  192 wide, 12 layers, 3 heads     B/16, B/32   768 wide, 12 layers, 12 heads     P = 16, 32
    S/16   384 wide, 12 layers, 6 heads     L/16, L/32  1024 wide, 24 layers, 16 heads
                                            H/14        1280 wide, 32 layers, 16 heads

Pictures of another size than the network was made for have other places: the learned ones are
interpolated (section 3.2, "Fine-tuning and Higher Resolution"). `vit_cifar` and `vit_mnist` are for
small pictures, with patches of 4 × 4. Attention rollout (`--explain`) shows what an answer rests on.

What differs from the paper. Ti and S are of Touvron et al. 2020 (arXiv:2012.12877), without
distillation. The head is one linear layer in training from scratch too, as in the published weights.
Small pictures are trained on by AdamW with strong augmentation and no pre-training.
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

from torchstone import references
from torchstone.data.vision.dataset import load_pictures
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.vit import from_config, published, match_weights, to_config, unpublished
from torchstone.interpret import attention_rollout
from torchstone.interpret.attention_rollout import explain
from torchstone.parts.facts import ParityCase
from torchstone.parts.transformer.attention import MultiHeadAttention, attention_weights
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import interpolate_positions
from torchstone.systems import Variant
from torchstone.systems.convolutional.resnet import counted
from torchstone.tasks.vision.classify import classify, evaluate, predict

# fmt: off
__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "from_config", "predict", "published", "reference", "match_weights", "to_config", "unpublished"]
# fmt: on

HEAD = ("head.",)


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, a folder (class folders or IDX) or its zip
    size: int = 28  # pixels a side
    channels: int = 1  # 1 grey, 3 colour
    variant: str = "vit_mnist"  # which network
    patch: int = 4  # pixels a side of a patch
    dropout: float = 0.0  # share dropped after every dense layer
    steps: int = 800  # updates
    batch_size: int = 64  # pictures an update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=2e-3, weight_decay=0.05, warmup_ratio=0.1, max_grad_norm=1.0
    )  # optimizer, schedule, precision
    augment: str = "affine"  # none, affine, or steps: flip+crop4+randaugment2-9
    seed: int = 0  # of weights, order and augmentation
    device: str = "auto"  # auto, cpu, cuda, mps


# fmt: off
CIFAR = Recipe("hf:uoft-cs/cifar10", 32, 3, "vit_cifar", dropout=0.1, steps=20_000, optim=replace(Recipe.optim, lr=1e-3), augment="flip+affine15-0.2-0.12+jitter0.4-0+erase0.5")
# fmt: on
RECIPES = {
    # torchstone train vit                      3 min on 1 busy core    test accuracy 0.962 (linear: 0.90)
    "mnist5k": Recipe(),
    # torchstone train vit/cifar10 --data DIR   for a GPU; target: 0.80 (public networks with patch 4)
    "cifar10": replace(CIFAR, batch_size=512, optim=replace(CIFAR.optim, precision="bf16", compile=True)),
    # for tests: seconds
    "smoke": Recipe(data="digits", size=8, patch=2, steps=60, batch_size=32, augment="none"),
}


class Layer(nn.Module):
    """One layer of the encoder, equations 2 and 3: it adds to what it is given."""

    def __init__(
        self, width: int, heads: int, inner: int, *, activation: str, qkv_bias: bool, eps: float,
        dropout: float, attention_dropout: float, inner_dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps)
        self.attention = MultiHeadAttention(
            width, heads, bias=qkv_bias, out_bias=True, dropout=attention_dropout
        )
        self.feed_norm = nn.LayerNorm(width, eps)
        self.feed = FeedForward(width, inner, activation, dropout=inner_dropout)
        self.dropout = dropout

    def forward(self, z: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        z = z + F.dropout(self.attention(self.attention_norm(z)), self.dropout, self.training)
        return z + F.dropout(self.feed(self.feed_norm(z)), self.dropout, self.training)


class ViT(nn.Module):
    """Patches, layers, and what is asked of the class token.

    Args:
        size, patch: pixels of the pictures it is made for, and of a patch: a side, or height and width.
        inner: width of the feed-forward layers, by default four times `width`.
        dropout: after every dense layer and the positions; `attention_dropout` of attention weights,
            `inner_dropout` inside the feed-forward layers (by default `dropout`).
        num_classes: 0 for none: then `forward` gives all tokens, (batch, 1 + patches, width).
        pooler: width of a layer with tanh on the class token, for networks without classes (`pool`).
        place: standard deviation of the positions at the start. With few pictures nothing is learnt
            of where patches are unless it is of the patches' own order of size.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        inner: int | None = None,
        size: int | tuple[int, int] = 224,
        patch: int | tuple[int, int] = 16,
        channels: int = 3,
        num_classes: int = 1000,
        pooler: int = 0,
        activation: str = "gelu",
        qkv_bias: bool = True,
        eps: float = 1e-6,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        inner_dropout: float | None = None,
        place: float = 0.02,
    ):
        super().__init__()
        self.patch, self.dropout = _pair(patch), dropout
        self.made_for = self.grid(*_pair(size))
        inner_dropout = dropout if inner_dropout is None else inner_dropout
        self.patches = nn.Conv2d(channels, width, self.patch, self.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = 1 + self.made_for[0] * self.made_for[1]
        self.positions = nn.Parameter(torch.empty(1, tokens, width))
        layer = partial(
            Layer, width, heads, inner or 4 * width, activation=activation, qkv_bias=qkv_bias, eps=eps,
            dropout=dropout, attention_dropout=attention_dropout, inner_dropout=inner_dropout,
        )  # fmt: skip
        self.layers = nn.ModuleList([layer() for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps)
        self.head = nn.Linear(width, num_classes) if num_classes else None
        self.pooler = nn.Linear(width, pooler) if pooler else None
        self.initialise(place)

    def initialise(self, place: float) -> None:
        """Glorot & Bengio 2010 for the layers, var w = 1 / fan in for the patches; a head
        that starts at zero prefers no class."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                thirds = layer.weight.chunk(3) if name.endswith("qkv") else (layer.weight,)
                for weight in thirds:
                    nn.init.xavier_uniform_(weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.patches.weight, std=self.patches.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.patches.bias)  # ty: ignore[invalid-argument-type]
        nn.init.normal_(self.positions, std=place)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, images: Float[Tensor, "batch channels h w"]) -> Tensor:
        """Logits (batch, classes); without a head the tokens, as `encode`."""
        z = self.encode(images)
        return z if self.head is None else self.head(z[:, 0])

    def encode(self, images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch tokens width"]:
        """Class token and patches row by row, after the last norm.

        Raises:
            BadInput: the patches do not divide the picture.
        """
        z = self.embed(images)
        for layer in self.layers:
            z = layer(z)
        return self.norm(z)

    def pool(self, z: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch pooled"]:
        """The class token through the pooler."""
        if self.pooler is None:
            raise BadInput("this network has no pooler: make it with pooler=WIDTH")
        return self.pooler(z[:, 0]).tanh()

    def embed(self, images: Tensor) -> Float[Tensor, "batch tokens width"]:
        places = interpolate_positions(self.positions, self.made_for, self.grid(*images.shape[2:]))
        z = self.patches(images).flatten(2).transpose(1, 2)
        z = torch.cat([self.class_token.expand(z.shape[0], -1, -1), z], 1) + places
        return F.dropout(z, self.dropout, self.training)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across."""
        high, wide = self.patch
        if height % high or width % wide or not height * width:
            raise BadInput(
                f"a picture of {height}×{width} pixels cannot be cut into patches of {high}×{wide}"
            )
        return height // high, width // wide

    def attention_maps(self, images: Tensor) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Each layer's attention weights, first layer first."""
        layers: Any = self.layers
        z, maps = self.embed(images), []
        for layer in layers:
            q, k, _ = layer.attention.project(layer.attention_norm(z))
            maps.append(attention_weights(q, k))
            z = layer(z)
        return maps


def _pair(side: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def sized(width: int, depth: int, heads: int, **model_config: Any) -> partial:
    return partial(ViT, width=width, depth=depth, heads=heads, **model_config)


PICTURE = (3, 224, 224)
VARIANTS = {
    "vit_b_16": Variant(sized(768, 12, 12), PICTURE),
    "vit_ti_16": Variant(sized(192, 12, 3), PICTURE),
    "vit_s_16": Variant(sized(384, 12, 6), PICTURE),
    "vit_b_32": Variant(sized(768, 12, 12, patch=32), PICTURE),
    "vit_l_16": Variant(sized(1024, 24, 16), PICTURE),
    "vit_l_32": Variant(sized(1024, 24, 16, patch=32), PICTURE),
    "vit_h_14": Variant(sized(1280, 32, 16, patch=14), PICTURE),
    "vit_cifar": Variant(
        sized(256, 8, 8, inner=512, size=32, patch=4, num_classes=10, place=0.5), (3, 32, 32)
    ),
    "vit_mnist": Variant(
        sized(96, 4, 4, inner=192, size=28, patch=4, channels=1, num_classes=10, place=0.5),
        (1, 28, 28),
    ),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = load_pictures(recipe.data, size=recipe.size, channels=recipe.channels, device=device)
    make: Any = VARIANTS[recipe.variant].make
    model_config = {
        **make.keywords,
        "num_classes": len(data.classes),
        "channels": recipe.channels,
        "size": recipe.size,
        "patch": recipe.patch,
        "dropout": recipe.dropout,
    }
    rng.seed(recipe.seed)
    model = make(**model_config).to(device)
    run = classify(model, recipe, data, model_config=model_config)
    judged, draw = getattr(run.state.get("ema"), "module", model), run.report

    def report(folder: Path) -> None:
        if draw is not None:
            draw(folder)
        attention_rollout.report(judged, data, folder)

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
FACTS = counted(VARIANTS, COUNTS)


def reference() -> Iterator[ParityCase]:
    """torchvision's, timm's and transformers' classes, in configurations drawn with a fixed seed."""
    torch.manual_seed(0)
    names = references.unwrap_names(published)
    for number, (net, said) in enumerate(references.vits(12)):
        model_config = (
            match_weights(from_config(said)[1], net.state_dict()) if "hidden_size" in said else said
        )
        theirs = references.OutputAdapter(net, answer).double()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.normal_(std=0.2)
        ours = ViT(**model_config).double()
        ours.load_state_dict(names(theirs.state_dict()))
        images = torch.randn(3, 3, model_config["size"], model_config["size"], dtype=torch.float64)
        if number >= 8:
            ours, theirs, images = ours.float(), theirs.float(), images.float()
        label = f"{type(net).__module__.split('.')[0]} {list(model_config.values())}"
        yield ParityCase(ours, theirs, images, names, torch.optim.AdamW, label)


def answer(net: nn.Module, images: Tensor) -> Tensor:
    said = net(images)
    return said if isinstance(said, Tensor) else said[0]
