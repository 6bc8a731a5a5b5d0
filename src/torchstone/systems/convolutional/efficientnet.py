"""EfficientNet: depth, width and resolution grown together.

Paper: Mingxing Tan and Quoc V. Le, "EfficientNet: Rethinking model scaling for convolutional neural
networks", ICML 2019, arXiv:1905.11946.

The idea. A network can be made better by more layers, wider ones or larger pictures, and each alone
soon stops paying. Grown together by one number φ they go on paying:

    depth d = α^φ     width w = β^φ     resolution r = γ^φ     with α·β²·γ² ≈ 2

so that each step of φ doubles the cost; a search found α = 1.2, β = 1.1, γ = 1.15. What is grown is
B0, found by a search too: inverted residuals (MobileNetV2) with a gate on each channel
(squeeze and excitation) and SiLU, x·σ(x):

    y = x + N(g ⊙ D(E(x)))      g = σ(W₂·SiLU(W₁·mean D(E(x))))

    E: 1×1, c → tc      D: 3×3 or 5×5 depthwise      N: 1×1, tc → c, no activation

`table(width, depth)` computes every variant's layers from B0's: widths times w to multiples of 8,
repeats times d, rounded up. `efficientnet_lite0` is the authors' B0 for telephones (2020): no gates,
ReLU6 for SiLU, and in its published weights TensorFlow's uneven padding.

What differs from the paper. Its coefficients are those of the authors' code, which are not α^φ to
the digit (B1's width is 1.0, not 1.1). Branches are dropped at a rate growing to 0.2, and batch norm
has torch's settings up to B4, both as torchvision's. AutoAugment and RMSProp's settings: see RECIPES.
"""

import math
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.conv.convolution import SamePadding, conv_norm_act, make_divisible, reduce_strides
from torchstone.parts.conv.stochastic_depth import StochasticDepth, linear_drop_rates
from torchstone.parts.facts import Fact, ParityCase, count_parameters, macs
from torchstone.systems import Variant
from torchstone.tasks.vision.classify import classify, evaluate, predict

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

HEAD, LITE = ("classifier.1.",), "efficientnet_lite0"


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "efficientnet_b0"  # efficientnet_b0 to _b7, efficientnet_lite0
    width: float | None = None  # channels, as a multiple of B0's; none for the variant's own
    depth: float | None = None  # layers, as a multiple of B0's; none for the variant's own
    size: int = 32  # side of a picture in pixels
    channels: Literal[1, 3] = 1  # 1 grey, 3 colour
    stride: Literal[32, 16, 8, 4] = 16  # side of a picture over side of the last maps
    dropout: float = 0.2  # share of features forgotten before the last layer
    drop_branches: float = 0.1  # rate at which the last residual branches are left out
    steps: int = 400  # updates
    batch_size: int = 64  # pictures an update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=5e-3, weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # none, affine, or steps: flip+crop4+randaugment2-9
    weights: str | None = None  # start from a published file's or a run's
    freeze: Literal["none", "backbone"] = "none"  # what stays as those weights are
    seed: int = 0  # of weights, order and augmentation
    device: str = "auto"  # auto, cpu, cuda, mps


# fmt: off
RECIPES = {
    # torchstone train efficientnet   1.6 min on 1 core   test accuracy 0.968 (a linear classifier: 0.90)
    "mnist5k": Recipe(width=0.5, depth=0.25, drop_branches=0.0),
    # torchstone train efficientnet/imagenet --data DIR   the paper's 350 epochs: days of several GPUs
    # the paper: 0.771, with AutoAugment, random crops and a rate falling in steps, left out here
    "imagenet": Recipe(
        data="hf:ILSVRC/imagenet-1k", size=224, channels=3, stride=32, drop_branches=0.2,
        steps=109_000, batch_size=4096, optim=replace(Recipe.optim, optimizer="rmsprop", lr=0.256, weight_decay=1e-5, warmup_ratio=5 / 350, grad_accum_steps=16, ema_decay=0.9999, precision="bf16"), augment="flip-crop4"),
    # for tests: seconds
    "smoke": Recipe(
        data="digits", width=0.25, depth=0.25, size=16, stride=4, dropout=0.0, drop_branches=0.0,
        steps=60, batch_size=32, augment="shift2",
    ),
}
# fmt: on


# Blocks of one kind in a row, of which the first strides.
Stage = namedtuple("Stage", "expansion kernel stride inputs outputs repeats")

# B0, table 1 of the paper.
B0 = (
    Stage(1, 3, 1, 32, 16, 1),
    Stage(6, 3, 2, 16, 24, 2),
    Stage(6, 5, 2, 24, 40, 2),
    Stage(6, 3, 2, 40, 80, 3),
    Stage(6, 5, 1, 80, 112, 3),
    Stage(6, 5, 2, 112, 192, 4),
    Stage(6, 3, 1, 192, 320, 1),
)


# How much of B0 a variant is, the side of its pictures, and its dropout.
Scale = namedtuple("Scale", "width depth side dropout")

SCALES = {
    "efficientnet_b0": Scale(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": Scale(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": Scale(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": Scale(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": Scale(1.4, 1.8, 380, 0.4),
    "efficientnet_b5": Scale(1.6, 2.2, 456, 0.4),
    "efficientnet_b6": Scale(1.8, 2.6, 528, 0.5),
    "efficientnet_b7": Scale(2.0, 3.1, 600, 0.5),
}


def table(width: float, depth: float) -> list[Stage]:
    """B0's stages, scaled."""
    return [
        stage._replace(
            inputs=make_divisible(stage.inputs * width),
            outputs=make_divisible(stage.outputs * width),
            repeats=math.ceil(stage.repeats * depth),
        )
        for stage in B0
    ]


class Block(nn.Module):
    """An inverted residual with a gate, which squeezes to a quarter of the block's input."""

    def __init__(self, stage: Stage, layer: Callable[..., nn.Module], *, gate: bool, drop: float):
        super().__init__()
        wide = make_divisible(stage.inputs * stage.expansion)
        layers: list[nn.Module] = []
        if stage.expansion != 1:
            layers.append(layer(stage.inputs, wide, 1))
        layers.append(layer(wide, wide, stage.kernel, stage.stride, groups=wide))
        if gate:
            layers.append(SqueezeExcitation(wide, max(1, stage.inputs // 4), F.silu))
        layers.append(layer(wide, stage.outputs, 1, act=None))
        self.block = nn.Sequential(*layers)
        self.residual = stage.stride == 1 and stage.inputs == stage.outputs
        self.drop = StochasticDepth(drop)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return x + self.drop(self.block(x)) if self.residual else self.block(x)


# Batch norm's eps, and the share of the new batch in its running mean: torch's, and the authors'.
TORCH, SLOW = (1e-5, 0.1), (1e-3, 0.01)


class EfficientNet(nn.Module):
    """The network that `table(width, depth)` describes.

    Args:
        stride: side of a picture over side of the last maps; below 32 the first halvings are left out.
        drop_branches: the rate of stochastic depth that the blocks grow towards.
        norm: batch norm's `eps` and `momentum`.
        lite: no gates, ReLU6, TensorFlow's padding.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        channels: int = 3,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        dropout: float = 0.2,
        drop_branches: float = 0.2,
        stride: int = 32,
        norm: tuple[float, float] = TORCH,
        lite: bool = False,
    ):
        super().__init__()
        layer = partial(
            conv_norm_act,
            norm=partial(nn.BatchNorm2d, eps=norm[0], momentum=norm[1]),
            act=partial(nn.ReLU6 if lite else nn.SiLU, inplace=True),
            convolution=SamePadding if lite else nn.Conv2d,
        )
        stages = table(width, depth)
        first, *strides = reduce_strides([2, *(stage.stride for stage in stages)], stride)
        rates = iter(linear_drop_rates(drop_branches, sum(stage.repeats for stage in stages)))
        layers: list[nn.Module] = [layer(channels, stages[0].inputs, 3, first)]
        for stage, step in zip(stages, strides, strict=True):
            blocks = []
            for repeat in range(stage.repeats):
                inputs, stride = (stage.outputs, 1) if repeat else (stage.inputs, step)
                own = stage._replace(inputs=inputs, stride=stride)
                blocks.append(Block(own, layer, gate=not lite, drop=next(rates)))
            layers.append(nn.Sequential(*blocks))
        last = stages[-1].outputs
        layers.append(layer(last, 4 * last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * last, num_classes))
        initialise(self)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.classifier(self.features(images).mean((2, 3)))


def initialise(model: nn.Module) -> None:
    """The authors': normal, variance 2/fan-out (of a depthwise filter, k²); the last layer uniform."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel() / module.groups
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -bound, bound)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


# What a block's layers are called by the porter of Lite0's weights, and by timm.
PORTED = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
TIMM = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
TIMM_FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")


def published(variant: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a published file's: torchvision's as they are; for Lite0 its porter's or timm's."""
    if variant != LITE:
        return dict(state)
    ours = {"_conv_stem": "0.0", "_bn0": "0.1", "_conv_head": "8.0", "_bn1": "8.1"}
    ours |= {"conv_stem": "0.0", "bn1": "0.1", "conv_head": "8.0", "bn2": "8.1"}
    blocks = [(i, j) for i, stage in enumerate(B0, 1) for j in range(stage.repeats)]
    for n, (i, j) in enumerate(blocks):
        ported, timm = (PORTED, TIMM) if i > 1 else (PORTED[2:], TIMM_FIRST)  # 1 does not expand
        for k, names in enumerate(zip(ported, timm, strict=True)):
            for block, name in zip((f"_blocks.{n}", f"blocks.{i - 1}.{j}"), names, strict=True):
                ours[f"{block}.{name}"] = f"{i}.{j}.block.{k // 2}.{k % 2}"
    ours = {theirs: f"features.{name}" for theirs, name in ours.items()}
    ours |= {"_fc": "classifier.1", "classifier": "classifier.1"}
    keys = {key: key.rpartition(".") for key in state}
    return {f"{ours.get(of, of)}.{what}": state[key] for key, (of, _, what) in keys.items()}


VARIANTS = {
    name: Variant(
        # torchvision's batch norm changes at B5
        partial(EfficientNet, width=w, depth=d, dropout=p, norm=TORCH if name[-1] < "5" else SLOW),
        (3, side, side),
    )
    for name, (w, d, side, p) in SCALES.items()
} | {LITE: Variant(partial(EfficientNet, norm=SLOW, lite=True), (3, 224, 224))}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = load_images(recipe.data, size=recipe.size, channels=recipe.channels, device=device)
    names = ("channels", "stride", "dropout", "drop_branches", "width", "depth")
    model_config = {n: value for n in names if (value := getattr(recipe, n)) is not None}
    model_config["num_classes"] = len(data.classes)
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    start: Any = {"head": HEAD, "published": published}
    if recipe.variant == LITE:
        start["statistics"] = ((127 / 255,) * 3, (128 / 255,) * 3)
    yield classify(model, recipe, data, model_config=model_config, **start)


def meta(variant: str) -> nn.Module:
    with torch.device("meta"):
        return VARIANTS[variant].make()


# fmt: off
COUNTS = {
    "efficientnet_b0": (5_288_548, 385_814_752), "efficientnet_b1": (7_794_184, 686_802_832),
    "efficientnet_b2": (9_109_994, 993_561_872), "efficientnet_b3": (12_233_232, 1_827_141_392),
    "efficientnet_b4": (19_341_616, 4_393_771_024), "efficientnet_b5": (30_389_784, 10_266_384_752),
    "efficientnet_b6": (43_040_704, 19_067_593_536), "efficientnet_b7": (66_347_960, 37_745_884_192),
}
# fmt: on

FACTS = [
    Fact(f"{LITE} parameters", lambda: count_parameters(meta(LITE)), 4_652_008),  # the published file's
    *(Fact(f"{v} parameters", lambda v=v: count_parameters(meta(v)), n) for v, (n, _) in COUNTS.items()),
    *(
        Fact(f"{v} multiply-accumulates", lambda v=v: macs(meta(v), (1, *VARIANTS[v].shape)), n)
        for v, (_, n) in COUNTS.items()
    ),
]


def reference():
    """B0 to B7 beside torchvision's, Lite0 beside timm's."""
    from torchstone.references import timm, torchvision

    for variant, (make, _) in VARIANTS.items():
        # in float64 the largest take more than 3 GB, and twice the time
        dtype = torch.float32 if variant[-1] in "4567" else torch.float64
        torch.manual_seed(0)
        if variant == LITE:
            theirs = timm().create_model(f"tf_{variant}", drop_rate=0.2, drop_path_rate=0.2)
        else:
            theirs = getattr(torchvision().models, variant)()
        ours = make()
        ours.load_state_dict(published(variant, theirs.state_dict()))
        images = torch.randn(2, 3, 64, 64)
        if variant == "efficientnet_b0":
            yield ParityCase(ours.eval(), theirs.eval(), images, optimizer=None)
        ours, theirs, images = ours.to(dtype), theirs.to(dtype), images.to(dtype)
        yield ParityCase(ours.eval(), theirs.eval(), images, optimizer=None)
        yield ParityCase(ours.train(), theirs.train(), images)
