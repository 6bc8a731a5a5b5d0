"""ResNet: layers that learn a residual to add to their input, so that depth does not hurt.

Paper: Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Deep Residual Learning for Image
Recognition", 2015, arXiv:1512.03385.

The idea. A deeper plain network trains worse than a shallower one, although it could copy it and make
the remaining layers the identity. The identity is hard to learn with weights, so it is built in: a block
outputs its input plus a residual, and a block that should do nothing has only to drive its weights to
zero. The sum also carries gradients past every block.

    y = ReLU(F(x) + S(x))     S identity, or where the shape changes: (A) padding, (B) projection

    Basic        F = BN(3×3 · ReLU(BN(3×3 · x)))
    Bottleneck   F = BN(1×1 · ReLU(BN(3×3 · ReLU(BN(1×1 · x)))))     widths w, w, 4w

For ImageNet (table 1): 7×7/2, pooling/2, four stages of widths 64, 128, 256, 512, all but the first of
which halve the resolution, global average pooling, one linear layer. For CIFAR (section 4.2): 3×3, three
stages of widths 16, 32, 64 with n basic blocks each, 6n + 2 layers in all.

`resnet50`, `101` and `152` are those whose weights are published: the 3×3 of a block has the stride
("v1.5"). In `resnet50_paper` the first 1×1 has it, as in the paper. `resnet20_cifar` to
`resnet110_cifar` have shortcut A (the paper's CIFAR networks), `…_cifar_b` shortcut B;
`resnet18_cifar` is the ImageNet network of 18 layers with a 3×3 first layer and no pooling.

What differs from the paper. Weights are initialized by He's rule on the fan-out (the paper: fan-in),
which preserves the gradient's scale. `zero_init` starts each block as its shortcut (Goyal et al. 2017,
arXiv:1706.02677). Momentum is Nesterov's, CIFAR's crops have reflected borders, not zeros, and
all 50,000 training images but the validation split are trained on.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.weight_files import Statistics, WeightFile
from torchstone.parts.conv.shortcut import shortcut
from torchstone.parts.dropout import DropBlock
from torchstone.parts.facts import parameter_facts
from torchstone.systems import Variant
from torchstone.tasks.transfer import IMAGENET
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

HEAD = ("fc.",)

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("BasicBlock", "Bottleneck", "ResNet")


@dataclass(frozen=True)
class Recipe:
    """How ResNet is trained, and by the same fields SENet and CBAM."""

    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders, IDX files) or zip
    size: int = 28  # image side length in pixels
    channels: int = 1  # image channels: 1 grayscale, 3 color
    variant: str = "resnet20_cifar"  # network variant
    zero_init: bool = False  # zero-initialize the last norm of each block, so that it starts as its shortcut
    steps: int = 500  # number of training steps
    batch_size: int = 64  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="sgd", lr=0.1, weight_decay=5e-4, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # augmentation: none, affine, or steps such as flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    drop_block: float = 0.0  # DropBlock in the last two stages: share dropped, from 0 on, at the last update
    drop_block_size: int = 7  # DropBlock: side of the dropped squares, at most that of the map
    weights: str | None = None  # initial weights: a published file or a run folder
    freeze: Literal["none", "backbone"] = "none"  # frozen part: none, or the backbone (trains the head alone)
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


CIFAR = Recipe(
    data="hf:uoft-cs/cifar10",
    size=32,
    channels=3,
    batch_size=128,
    optim=replace(Recipe.optim, weight_decay=1e-4),
    augment="flip-crop4",
)
RECIPES = {
    # torchstone train resnet         1.4 min on 1 core   test accuracy 0.988 (a linear classifier: 0.90)
    "mnist5k": Recipe(),
    # torchstone train resnet/cifar20 --data DIR   (the paper's 64k updates: 91.25 %)
    "cifar20": replace(CIFAR, steps=64_000, optim=replace(CIFAR.optim, lr_schedule="step", warmup_ratio=0.0)),
    # torchstone train resnet/cifar20_cpu --data DIR   26 min on 2 cores     test accuracy 0.834
    "cifar20_cpu": replace(CIFAR, steps=3500, optim=replace(CIFAR.optim, lr=0.2, weight_decay=5e-4)),
    # for tests: seconds
    "smoke": Recipe(data="digits", size=8, steps=60, batch_size=32, augment="none"),
}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and the shortcut."""

    last = "bn2"  # the last norm

    def __init__(self, inputs: int, width: int, stride: int, option: Literal["A", "B"] = "B", dilation=1):
        super().__init__()
        self.outputs = width
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride, option)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b width h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)  # in place, as are the ReLUs: memory is what limits the batch
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1×1 down to `width`, 3×3, 1×1 up to four times `width`, and the shortcut.

    Args:
        strided_conv: which convolution has the stride: 2, the 3×3 (as published), or 1 (the paper's).
    """

    last = "bn3"

    def __init__(
        self, inputs: int, width: int, stride: int, strided_conv: Literal[1, 2] = 2, dilation: int = 1
    ):
        super().__init__()
        self.outputs = 4 * width
        first, second = (stride, 1) if strided_conv == 1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.outputs)
        self.downsample = shortcut(inputs, self.outputs, stride)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


# first layer: (kernel, stride, padding), then pooling
STEMS: dict[str, tuple[tuple[int, int, int], Callable[[], nn.Module]]] = {
    "imagenet": ((7, 2, 3), lambda: nn.MaxPool2d(3, 2, 1)),
    "caffe": ((7, 2, 3), lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),  # pooling without padding
    "cifar": ((3, 1, 1), nn.Identity),
}


class ResNet(nn.Module):
    """First layer, stages of blocks, global average pooling, linear.

    Args:
        block: (inputs, width, stride) -> module with `outputs` channels; `last` names its last norm.
        depths: blocks in each stage; from the second on, a stage's first block halves the grid.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], Any],
        depths: tuple[int, ...],
        *,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        stem: str = "imagenet",
        num_classes: int = 1000,
        channels: int = 3,
        zero_init: bool = False,
    ):
        super().__init__()
        (kernel, stride, padding), pool = STEMS[stem]
        inputs = widths[0]
        self.conv1 = nn.Conv2d(channels, inputs, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = pool()
        self.stages = [f"layer{stage}" for stage in range(1, len(depths) + 1)]
        for name, depth, width in zip(self.stages, depths, widths, strict=True):
            blocks = []
            for i in range(depth):
                has_stride = i == 0 and name != "layer1"
                blocks.append(block(inputs, width, 2 if has_stride else 1))
                inputs = blocks[-1].outputs
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes)
        self.initialize(zero_init)

    def initialize(self, zero_init: bool) -> None:
        """var w = 2 / fan-out for convolutions (He et al. 2015, arXiv:1502.01852). Norms start as the
        identity, the linear layer uniform in ±1/√(fan-in)."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init and hasattr(layer, "last"):
                nn.init.zeros_(getattr(layer, layer.last).weight)  # ty: ignore[invalid-argument-type]

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CIFAR_LAYERS = (20, 32, 44, 56, 110)  # 6n + 2
IMAGENET_SHAPE, CIFAR_SHAPE = (3, 224, 224), (3, 32, 32)


def cifar_resnet(layers: int, block: Callable[[int, int, int], Any]) -> partial:
    """A network for CIFAR of 6n + 2 layers."""
    return partial(ResNet, block, (layers // 6,) * 3, widths=(16, 32, 64), stem="cifar", num_classes=10)


VARIANTS = {
    **{f"resnet{n}": Variant(partial(ResNet, BasicBlock, DEPTHS[n]), IMAGENET_SHAPE) for n in (18, 34)},
    **{f"resnet{n}": Variant(partial(ResNet, Bottleneck, DEPTHS[n]), IMAGENET_SHAPE) for n in (50, 101, 152)},
    "resnet50_paper": Variant(
        partial(ResNet, partial(Bottleneck, strided_conv=1), DEPTHS[50]), IMAGENET_SHAPE
    ),
    **{
        f"resnet{n}_cifar": Variant(cifar_resnet(n, partial(BasicBlock, option="A")), CIFAR_SHAPE)
        for n in CIFAR_LAYERS
    },
    **{f"resnet{n}_cifar_b": Variant(cifar_resnet(n, BasicBlock), CIFAR_SHAPE) for n in CIFAR_LAYERS},
    "resnet18_cifar": Variant(
        partial(ResNet, BasicBlock, DEPTHS[18], stem="cifar", num_classes=10), CIFAR_SHAPE
    ),
}


def published(variant: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names are ours. The public CIFAR networks have `linear` and `shortcut`."""

    def ours(key: str) -> str:
        key = key.replace(".shortcut.", ".downsample.")
        return key.replace("linear.", "fc.") if key.startswith("linear.") else key

    return {ours(key): value for key, value in state.items()}


# timm's networks with the same parameters
TWINS = {"resnetaa": "averages before it strides", "resnetblur": "blurs before it strides"}


def is_paper(name: str) -> bool:
    """Whether a network is the paper's, by its name."""
    return "_paper" in name


def file_statistics(variant: str, file: WeightFile) -> Statistics:
    """Mean and std of a published file: torchvision's and timm's are ImageNet's, but for timm's ra4.

    Raises:
        BadInput: by its name it is of another network with the same parameters.
    """
    name = file.architecture
    for twin, what in TWINS.items():
        if name.startswith(twin):
            raise BadInput(f"the file is of timm's {twin}…, which {what}: it is none of the networks here")
    if name.startswith("resnet50") and is_paper(name) != is_paper(variant):
        other = "resnet50" if is_paper(variant) else "resnet50_paper"
        raise BadInput(
            f"the file {name!r} is of {other}, whose blocks have their stride elsewhere: name that"
        )
    return ((0.5,) * 3, (0.5,) * 3) if ".ra4_" in file.architecture else IMAGENET


def with_drop_block(run: Run, recipe: Recipe) -> Run:
    """DropBlock (Ghiasi, Lin and Le 2018, arXiv:1810.12890) of the output of each block of the last two
    stages, in training; the share rises linearly from 0 to `recipe.drop_block` at the last update.

    The paper drops residual and shortcut separately, and in the stage before the last a quarter as much."""
    if not recipe.drop_block:
        return run
    drop, update = DropBlock(0.0, recipe.drop_block_size), run.update
    model: Any = run.state["model"]
    for stage in model.stages[-2:]:
        for block in getattr(model, stage):
            # of the block's own mode: an average of the weights is a copy that evaluates meanwhile
            block.register_forward_hook(lambda block, _, y: drop(y) if block.training else y)
    last, stream = recipe.steps * recipe.batch_size, cast("Any", run.state["stream"])

    def ramped(batch: Any) -> Any:
        drop.p = recipe.drop_block * min(1.0, stream.position / last)  # resumed with the stream
        return update(batch)

    run.update = ramped
    return run


def build(recipe: Recipe) -> Iterator[Run]:
    arguments = {"zero_init": recipe.zero_init}
    run = train_classifier(
        recipe, VARIANTS, arguments, head=HEAD, published=published, statistics=file_statistics
    )
    yield with_drop_block(run, recipe)


# parameters, multiply-accumulates
COUNTS = {
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "resnet50_paper": (25_557_032, 3_857_973_248),
    "resnet20_cifar": (269_722, 40_551_040),
    "resnet32_cifar": (464_154, 68_862_592),
    "resnet44_cifar": (658_586, 97_174_144),
    "resnet56_cifar": (853_018, 125_485_696),
    "resnet110_cifar": (1_727_962, 252_887_680),
    "resnet20_cifar_b": (272_474, 40_813_184),
    "resnet32_cifar_b": (466_906, 69_124_736),
    "resnet44_cifar_b": (661_338, 97_436_288),
    "resnet56_cifar_b": (855_770, 125_747_840),
    "resnet110_cifar_b": (1_730_714, 253_149_824),
    "resnet18_cifar": (11_173_962, 555_422_720),
}

FACTS = parameter_facts(VARIANTS, COUNTS)


def reference():
    """torchvision's classes; where it has none, the equations on bare tensors with the same weights."""
    from torchstone.parts.optional_imports import import_torchvision
    from torchstone.references.resnet import resnet_cases

    names = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    makers = {v: partial(getattr(import_torchvision().models, v), num_classes=10) for v in names}
    for variant, (make, shape) in VARIANTS.items():
        is_large = variant in ("resnet101", "resnet152")  # in float64 they take 3 GB
        dtype = torch.float32 if is_large else torch.float64
        side = 40 if shape == IMAGENET_SHAPE else 16
        yield from resnet_cases(variant, make, makers.get(variant), published, side=side, dtype=dtype)
