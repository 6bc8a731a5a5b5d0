"""EfficientNet: depth, width and resolution grown together.

Paper: Mingxing Tan and Quoc V. Le, "EfficientNet: Rethinking model scaling for convolutional neural
networks", ICML 2019, arXiv:1905.11946.

The idea. More layers, wider layers or larger images each improve a network, with quickly diminishing
returns. Scaled together by one number φ (compound scaling) they keep paying off:

    depth d = α^φ     width w = β^φ     resolution r = γ^φ     with α·β²·γ² ≈ 2

so that each step of φ doubles the cost; a search found α = 1.2, β = 1.1, γ = 1.15. The base network is
B0, found by a search too: inverted residuals (MobileNetV2) with squeeze-and-excitation and SiLU, x·σ(x):

    y = x + N(g ⊙ D(E(x)))      g = σ(W₂·SiLU(W₁·mean D(E(x))))

    E: 1×1, c → tc      D: 3×3 or 5×5 depthwise      N: 1×1, tc → c, no activation

`scaled_stages(width, depth)` computes every variant's layers from B0's: widths times w to multiples of 8,
repeats times d, rounded up. `efficientnet_lite0` is the authors' B0 for mobile phones (2020): no gates,
ReLU6 for SiLU, and in its published weights TensorFlow's asymmetric padding.

What differs from the paper. Its coefficients are those of the authors' code, which are not α^φ to
the digit (B1's width is 1.0, not 1.1). Stochastic depth has rates growing to 0.2, and batch norm has
torch's defaults up to B4, both as in torchvision. AutoAugment and RMSProp's settings: see RECIPES.
"""

import math
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.weight_files import Statistics, WeightFile
from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.conv.convolution import SamePadding, conv_norm_act, make_divisible, reduce_strides
from torchstone.parts.conv.stochastic_depth import StochasticDepth, linear_drop_rates
from torchstone.parts.facts import parameter_facts
from torchstone.systems import Variant
from torchstone.tasks.transfer import IMAGENET
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

HEAD, LITE = ("classifier.1.",), "efficientnet_lite0"

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("scaled_stages", "Block", "EfficientNet")


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders, IDX files) or zip
    variant: str = "efficientnet_b0"  # network variant: efficientnet_b0 to _b7, efficientnet_lite0
    width: float | None = None  # width multiplier relative to B0; none for the variant's own
    depth: float | None = None  # depth multiplier relative to B0; none for the variant's own
    size: int = 32  # image side length in pixels
    channels: Literal[1, 3] = 1  # image channels: 1 grayscale, 3 color
    output_stride: Literal[32, 16, 8, 4] = 16  # output stride: image side over side of the last feature maps
    dropout: float = 0.2  # dropout probability before the last layer
    drop_path_rate: float = 0.1  # stochastic depth rate of the last block
    steps: int = 400  # number of training steps
    batch_size: int = 64  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=5e-3, weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # augmentation: none, affine, or steps such as flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    weights: str | None = None  # initial weights: a published file or a run folder
    freeze: Literal["none", "backbone"] = "none"  # frozen part: none, or the backbone (trains the head alone)
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train efficientnet   1.6 min on 1 core   test accuracy 0.968 (a linear classifier: 0.90)
    "mnist5k": Recipe(width=0.5, depth=0.25, drop_path_rate=0.0),
    # torchstone train efficientnet/imagenet --data DIR   the paper's 350 epochs: days on several GPUs
    # the paper: 0.771, with AutoAugment, random crops and stepwise decay, left out here
    "imagenet": Recipe(
        data="hf:ILSVRC/imagenet-1k",
        size=224,
        channels=3,
        output_stride=32,
        drop_path_rate=0.2,
        steps=109_000,
        batch_size=4096,
        optim=replace(
            Recipe.optim,
            optimizer="rmsprop",
            lr=0.256,
            weight_decay=1e-5,
            warmup_ratio=5 / 350,
            grad_accum_steps=16,
            ema_decay=0.9999,
            precision="bf16",
        ),
        augment="flip-crop4",
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        width=0.25,
        depth=0.25,
        size=16,
        output_stride=4,
        dropout=0.0,
        drop_path_rate=0.0,
        steps=60,
        batch_size=32,
        augment="shift2",
    ),
}

# Consecutive blocks of one kind, of which the first has the stride.
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

# Width and depth multipliers of a variant, its image side, and its dropout.
Scaling = namedtuple("Scaling", "width depth side dropout")

SCALES = {
    "efficientnet_b0": Scaling(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": Scaling(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": Scaling(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": Scaling(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": Scaling(1.4, 1.8, 380, 0.4),
    "efficientnet_b5": Scaling(1.6, 2.2, 456, 0.4),
    "efficientnet_b6": Scaling(1.8, 2.6, 528, 0.5),
    "efficientnet_b7": Scaling(2.0, 3.1, 600, 0.5),
}


def scaled_stages(width: float, depth: float) -> list[Stage]:
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
    """An inverted residual with squeeze-excitation to a quarter of the block's input channels."""

    def __init__(
        self, stage: Stage, layer: Callable[..., nn.Module], *, has_gate: bool, drop_path_rate: float
    ):
        super().__init__()
        hidden = make_divisible(stage.inputs * stage.expansion)
        layers: list[nn.Module] = []
        if stage.expansion != 1:
            layers.append(layer(stage.inputs, hidden, 1))
        layers.append(layer(hidden, hidden, stage.kernel, stage.stride, groups=hidden))
        if has_gate:
            layers.append(SqueezeExcitation(hidden, max(1, stage.inputs // 4), F.silu))
        layers.append(layer(hidden, stage.outputs, 1, act=None))
        self.block = nn.Sequential(*layers)
        self.is_residual = stage.stride == 1 and stage.inputs == stage.outputs
        self.drop = StochasticDepth(drop_path_rate)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return x + self.drop(self.block(x)) if self.is_residual else self.block(x)


# Batch norm's ε and momentum: torch's defaults, and the authors'.
TORCH_NORM, AUTHORS_NORM = (1e-5, 0.1), (1e-3, 0.01)


class EfficientNet(nn.Module):
    """The network that `scaled_stages(width, depth)` describes.

    Args:
        output_stride: image side over side of the last maps; below 32 the first strides are set to 1.
        drop_path_rate: the stochastic depth rate that the blocks grow towards.
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
        drop_path_rate: float = 0.2,
        output_stride: int = 32,
        norm: tuple[float, float] = TORCH_NORM,
        lite: bool = False,
    ):
        super().__init__()
        layer = partial(
            conv_norm_act,
            norm=partial(nn.BatchNorm2d, eps=norm[0], momentum=norm[1]),
            act=partial(nn.ReLU6 if lite else nn.SiLU, inplace=True),
            convolution=SamePadding if lite else nn.Conv2d,
        )
        stages = scaled_stages(width, depth)
        first, *strides = reduce_strides([2, *(stage.stride for stage in stages)], output_stride)
        rates = iter(linear_drop_rates(drop_path_rate, sum(stage.repeats for stage in stages)))
        layers: list[nn.Module] = [layer(channels, stages[0].inputs, 3, first)]
        for stage, first_stride in zip(stages, strides, strict=True):
            blocks = []
            for repeat in range(stage.repeats):
                inputs, stride = (stage.outputs, 1) if repeat else (stage.inputs, first_stride)
                row = stage._replace(inputs=inputs, stride=stride)
                blocks.append(Block(row, layer, has_gate=not lite, drop_path_rate=next(rates)))
            layers.append(nn.Sequential(*blocks))
        last = stages[-1].outputs
        layers.append(layer(last, 4 * last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * last, num_classes))
        initialize(self)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.classifier(self.features(images).mean((2, 3)))


def initialize(model: nn.Module) -> None:
    """As the authors: normal with variance 2/fan-out (of a depthwise filter, k²); the last layer uniform."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel() / module.groups
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -bound, bound)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


# Names of a block's layers in the port of Lite0's weights, and in timm.
PORTED = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
TIMM = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
TIMM_FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")


def published(variant: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """From a published file's names to ours: torchvision's are ours; Lite0's are its port's or timm's."""
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


def file_statistics(variant: str, file: WeightFile) -> Statistics:
    """Mean and std of a published file: torchvision's, or those of Lite0's port and of timm.

    timm has two networks with Lite0's names and shapes: `tf_efficientnet_lite0` is the authors';
    `efficientnet_lite0` pads symmetrically, and its batch norm has another ε.

    Raises:
        BadInput: the file is of the second, or does not say of which it is.
    """
    if variant != LITE:
        return IMAGENET
    if "conv_stem.weight" not in file.tensors:
        return (127 / 255,) * 3, (128 / 255,) * 3
    if file.architecture.startswith(f"tf_{LITE}"):
        return (0.5,) * 3, (0.5,) * 3
    if file.architecture.startswith(LITE):
        raise BadInput(
            f"the file is of timm's {LITE}, which pads symmetrically: here is its tf_{LITE}, of the authors"
        )
    raise BadInput(
        f"the file does not say of which network it is: timm's tf_{LITE}, which is here, and {LITE}, which "
        "pads otherwise, have the same names; name the file as timm does, or put its config.json beside it"
    )


VARIANTS = {
    name: Variant(
        # torchvision's batch norm changes at B5
        partial(
            EfficientNet, width=w, depth=d, dropout=p, norm=TORCH_NORM if name[-1] < "5" else AUTHORS_NORM
        ),
        (3, side, side),
    )
    for name, (w, d, side, p) in SCALES.items()
} | {LITE: Variant(partial(EfficientNet, norm=AUTHORS_NORM, lite=True), (3, 224, 224))}


def build(recipe: Recipe) -> Iterator[Run]:
    names = ("output_stride", "dropout", "drop_path_rate", "width", "depth")
    arguments = {name: value for name in names if (value := getattr(recipe, name)) is not None}
    yield train_classifier(
        recipe, VARIANTS, arguments, head=HEAD, published=published, statistics=file_statistics
    )


# parameters, multiply-accumulates
COUNTS = {
    LITE: (4_652_008,),  # the published file's
    "efficientnet_b0": (5_288_548, 385_814_752),
    "efficientnet_b1": (7_794_184, 686_802_832),
    "efficientnet_b2": (9_109_994, 993_561_872),
    "efficientnet_b3": (12_233_232, 1_827_141_392),
    "efficientnet_b4": (19_341_616, 4_393_771_024),
    "efficientnet_b5": (30_389_784, 10_266_384_752),
    "efficientnet_b6": (43_040_704, 19_067_593_536),
    "efficientnet_b7": (66_347_960, 37_745_884_192),
}

FACTS = parameter_facts(VARIANTS, COUNTS)


def reference():
    """B0 to B7 against torchvision's, Lite0 against timm's."""
    from torchstone.parts.optional_imports import import_torchvision
    from torchstone.references.torchvision_cases import torchvision_cases
    from torchstone.references.vision import import_timm

    for variant, (make, _) in VARIANTS.items():

        def theirs(variant=variant) -> nn.Module:
            if variant == LITE:
                return import_timm().create_model(f"tf_{variant}", drop_rate=0.2, drop_path_rate=0.2)
            return getattr(import_torchvision().models, variant)()

        # in float64 the largest take more than 3 GB, and twice the time
        dtype = torch.float32 if variant[-1] in "4567" else torch.float64
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        cases = partial(
            torchvision_cases,
            variant,
            make,
            theirs,
            convert=partial(published, variant),
            has_steps_in_eval=False,
        )
        if variant == "efficientnet_b0":
            yield from cases(images, modes=(False,))
        yield from cases(images.to(dtype))
