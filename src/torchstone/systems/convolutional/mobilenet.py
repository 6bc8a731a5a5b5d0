"""MobileNet: convolution in two cheap steps, for mobile phones.

Paper: Andrew G. Howard, Menglong Zhu, Bo Chen, Dmitry Kalenichenko, Weijun Wang, Tobias Weyand,
Marco Andreetto and Hartwig Adam, "MobileNets: Efficient convolutional neural networks for mobile
vision applications", 2017, arXiv:1704.04861.

And: Mark Sandler, Andrew Howard, Menglong Zhu, Andrey Zhmoginov and Liang-Chieh Chen,
"MobileNetV2: Inverted residuals and linear bottlenecks", CVPR 2018, arXiv:1801.04381.

The idea. A convolution filters spatially and mixes channels at once, at D·D·k²·M·N multiplications for M
channels into N. Done one after the other (depthwise, then pointwise) it costs D·D·(k²·M + M·N): with
k = 3, eight or nine times less. MobileNet consists of such pairs, and one number α scales all widths.

V2 turns the pair into a residual block with narrow ends. 1×1 expands x by t = 6, a depthwise 3×3 filters,
1×1 projects back without activation, since ReLU destroys information in a narrow layer:

    y = x + N(D(E(x)))      E: 1×1, c → tc, ReLU6     D: 3×3 depthwise, ReLU6     N: 1×1, tc → c

Shapes, for an image of 224×224: both go from 112×112 after the first convolution down to 7×7;
`output_stride` = 8 sets the first two strides to 1, the usual form for CIFAR's 32×32 (4×4 at the end).

What differs from the paper. V1's activation is ReLU6, as in its authors' published weights; the
paper says ReLU. Weights are initialized normal, scaled by fan-in (He et al. 2015), the last layer's with
std 0.01; the papers do not say. Differences in ImageNet training are in RECIPES.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.hub.weight_files import Statistics, WeightFile
from torchstone.parts.conv.convolution import (
    conv_norm_act,
    depthwise_separable,
    make_divisible,
    reduce_strides,
    separable_cost,
)
from torchstone.parts.facts import Fact, on_meta, parameter_facts
from torchstone.parts.init import init_
from torchstone.systems import Variant
from torchstone.tasks.transfer import IMAGENET
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

HEAD = ("classifier.1.",)

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("MobileNetV1", "InvertedResidual", "MobileNetV2")


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders, IDX files) or zip
    variant: str = "mobilenet_v1_025"  # network variant: mobilenet_v1 (also _075, _050, _025) or mobilenet_v2
    size: int = 32  # image side length in pixels
    channels: Literal[1, 3] = 1  # image channels: 1 grayscale, 3 color
    output_stride: Literal[32, 16, 8, 4] = 16  # output stride: image side over side of the last feature maps
    dropout: float = 0.0  # dropout probability before the last layer
    steps: int = 800  # number of training steps
    batch_size: int = 64  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=2e-2, weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # augmentation: none, affine, or steps such as flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    weights: str | None = None  # initial weights: a published file or a run folder
    freeze: Literal["none", "backbone"] = "none"  # frozen part: none, or the backbone (trains the head alone)
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train mobilenet      69 s on 1 core   test accuracy 0.985 (a linear classifier: 0.90)
    "mnist5k": Recipe(),
    # torchstone train mobilenet/cifar10 --data DIR   200 epochs at 88 M multiply-accumulates per
    # image: hours on a GPU, weeks on 2 cores
    "cifar10": Recipe(
        data="hf:uoft-cs/cifar10",
        variant="mobilenet_v2",
        channels=3,
        output_stride=8,
        steps=78_000,
        batch_size=128,
        optim=replace(Recipe.optim, optimizer="sgd", lr=0.1, weight_decay=5e-4),
        augment="flip-crop4",
    ),
    # torchstone train mobilenet/imagenet --data DIR   V2's own optimizer and size, 300 epochs: days
    # on several GPUs; the paper: 0.720. Its learning rate decays by 2 % per epoch, here as a cosine; its
    # random-sized crops are left out
    "imagenet": Recipe(
        data="hf:ILSVRC/imagenet-1k",
        variant="mobilenet_v2",
        size=224,
        channels=3,
        output_stride=32,
        dropout=0.2,
        steps=4_000_000,
        batch_size=96,
        optim=replace(Recipe.optim, optimizer="rmsprop", lr=0.045, weight_decay=4e-5, warmup_ratio=0.0),
        augment="flip-crop4",
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        size=16,
        output_stride=8,
        steps=100,
        batch_size=32,
        optim=replace(Recipe.optim, lr=0.03),
        augment="none",
    ),
}

# The 3×3 layers after the first, as (outputs, stride); table 1 of V1.
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))

# (t, outputs, repeats, stride of the first); table 2 of V2.
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

relu6 = partial(nn.ReLU6, inplace=True)


class MobileNetV1(nn.Module):
    """Thirteen depthwise separable convolutions. `width` is the paper's α."""

    def __init__(
        self,
        num_classes: int = 1000,
        channels: int = 3,
        *,
        width: float = 1.0,
        output_stride: int = 32,
        dropout: float = 0.0,
    ):
        super().__init__()
        first, *strides = reduce_strides([2, *(stride for _, stride in V1)], output_stride)
        widths = [int(outputs * width) for outputs in (32, *(outputs for outputs, _ in V1))]
        self.features = nn.Sequential(
            conv_norm_act(channels, widths[0], 3, first, act=relu6),
            *(
                depthwise_separable(a, b, 3, s, act=relu6)
                for a, b, s in zip(widths, widths[1:], strides, strict=False)
            ),
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(widths[-1], num_classes))
        initialize(self)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.classifier(self.features(images).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Wide in the middle, narrow and linear at its ends; plus its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        expand = [conv_norm_act(inputs, hidden, 1, act=relu6)] if expansion != 1 else []
        depthwise = conv_norm_act(hidden, hidden, 3, stride, groups=hidden, act=relu6)
        self.conv = nn.Sequential(*expand, depthwise, *conv_norm_act(hidden, outputs, 1, act=None))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Seventeen inverted residuals. `width` scales all layers, but never shrinks the last one."""

    def __init__(
        self,
        num_classes: int = 1000,
        channels: int = 3,
        *,
        width: float = 1.0,
        output_stride: int = 32,
        dropout: float = 0.2,
    ):
        super().__init__()
        first, *strides = reduce_strides([2, *(row[3] for row in V2)], output_stride)
        inputs, last = make_divisible(32 * width), make_divisible(1280 * max(1.0, width))
        layers: list[nn.Module] = [conv_norm_act(channels, inputs, 3, first, act=relu6)]
        for (expansion, channels_of_stage, repeats, _), stride in zip(V2, strides, strict=True):
            outputs = make_divisible(channels_of_stage * width)
            for repeat in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, 1 if repeat else stride, expansion))
                inputs = outputs
        layers.append(conv_norm_act(inputs, last, 1, act=relu6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        initialize(self)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.classifier(self.features(images).mean((2, 3)))


def initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init_(module.weight, "he")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def published(variant: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """From a published file's names to ours: V1's are timm's; V2's are torchvision's, which are ours.

    timm has the thirteen layers in stages, blocks.STAGE.INDEX, one for each resolution.
    """
    if variant == "mobilenet_v2" or "conv_stem.weight" not in state:
        return dict(state)
    offsets = [1, *(n + 1 for n in accumulate((1, 2, 2, 6, 2)))]
    layers = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1.0", "bn2": "1.1"}

    def block(match: re.Match) -> str:
        stage, index, layer = int(match[1]), int(match[2]), match[3]
        return f"features.{offsets[stage] + index}.{layers[layer]}."

    def ours(key: str) -> str:
        key = re.sub(r"^blocks\.([0-4])\.(\d+)\.(conv_dw|bn1|conv_pw|bn2)\.", block, key)
        for theirs, name in {"conv_stem": "features.0.0", "bn1": "features.0.1"}.items():
            key = key.replace(f"{theirs}.", f"{name}.") if key.startswith(f"{theirs}.") else key
        return key.replace("classifier.", "classifier.1.")

    return {ours(key): value for key, value in state.items()}


def file_statistics(variant: str, file: WeightFile) -> Statistics:
    """Mean and std of a published file: V1's are timm's, V2's torchvision's."""
    return ((0.5,) * 3, (0.5,) * 3) if "conv_stem.weight" in file.tensors else IMAGENET


VARIANTS = {
    "mobilenet_v1": Variant(MobileNetV1, (3, 224, 224)),
    "mobilenet_v1_075": Variant(partial(MobileNetV1, width=0.75), (3, 224, 224)),
    "mobilenet_v1_050": Variant(partial(MobileNetV1, width=0.5), (3, 224, 224)),
    "mobilenet_v1_025": Variant(partial(MobileNetV1, width=0.25), (3, 224, 224)),
    "mobilenet_v2": Variant(MobileNetV2, (3, 224, 224)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    arguments = {"output_stride": recipe.output_stride, "dropout": recipe.dropout}
    yield train_classifier(
        recipe, VARIANTS, arguments, head=HEAD, published=published, statistics=file_statistics
    )


COUNTS = {
    "mobilenet_v1": (4_231_976, 568_740_352),
    "mobilenet_v1_075": (2_585_560, 325_400_448),
    "mobilenet_v1_050": (1_331_592, 149_497_088),
    "mobilenet_v1_025": (470_072, 41_030_272),
    "mobilenet_v2": (3_504_872, 300_774_272),
}

FACTS = [
    *parameter_facts(VARIANTS, COUNTS),
    # "between 8 to 9 times less computation than standard convolutions" (section 3.1)
    Fact(
        "cost of a full over a separable convolution, 3×3 to 512",
        lambda: 1 / separable_cost(512, 3),
        8.5,
        0.5,
    ),
]


def reference():
    """V1 against timm's, thinner ones against a plain list of their layers; V2 against torchvision's."""
    from torchstone.parts.optional_imports import import_torchvision
    from torchstone.references.torchvision_cases import torchvision_cases
    from torchstone.references.vision import import_timm

    makers = {
        "mobilenet_v1": lambda: import_timm().create_model("mobilenetv1_100"),
        **{f"mobilenet_v1_{a:03d}": partial(plain_mobilenet_v1, a / 100) for a in (75, 50, 25)},
        "mobilenet_v2": lambda: import_torchvision().models.mobilenet_v2(),
    }
    for variant, make_theirs in makers.items():
        make = VARIANTS[variant].make
        is_plain = isinstance(make_theirs, partial)

        def convert(state, variant=variant, make=make, is_plain=is_plain) -> dict[str, Tensor]:
            if is_plain:
                state = dict(zip(on_meta(make).state_dict(), state.values(), strict=True))
            return published(variant, state)

        for dtype in (torch.float64, torch.float32):
            if dtype == torch.float32 and variant != "mobilenet_v1_025":
                continue
            generator = torch.Generator().manual_seed(0)
            images = torch.randn(2, 3, 64, 64, dtype=dtype, generator=generator)
            # batch norm over two numbers magnifies float32's rounding: there only in evaluation mode
            modes = (False, True) if dtype == torch.float64 else (False,)
            yield from torchvision_cases(variant, make, make_theirs, images, convert=convert, modes=modes)


def plain_mobilenet_v1(width: float) -> nn.Sequential:
    """V1 as the lines of the paper's table 1, one layer after another."""
    sizes = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    sizes = [round(size * width) for size in sizes]
    layers: list[nn.Module] = [nn.Conv2d(3, sizes[0], 3, 2, 1, bias=False)]
    for i in range(13):
        stride, a, b = 2 if i in (1, 3, 5, 11) else 1, sizes[i], sizes[i + 1]
        layers += [nn.BatchNorm2d(a), nn.ReLU6()]
        layers += [nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False)]
        layers += [nn.BatchNorm2d(a), nn.ReLU6(), nn.Conv2d(a, b, 1, bias=False)]
    layers += [nn.BatchNorm2d(sizes[-1]), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1000))
