"""SENet: residual networks whose blocks weight their channels by the global content of the image.

Paper: Jie Hu, Li Shen, Samuel Albanie, Gang Sun and Enhua Wu, "Squeeze-and-Excitation Networks", 2017,
arXiv:1709.01507.

The idea. A convolution mixes channels with the same weights everywhere and has a local receptive field.
A gate on the branch of each residual block pools over all locations and weights the channels by their
importance for this image. It costs two small matrix products per block, a tenth more parameters and next
to no time.

    squeeze      z_c = mean of channel c over all locations                     (equation 2)
    excitation   s = σ(W₂ ReLU(W₁ z + b₁) + b₂),   W₁: C → C/r, W₂: C/r → C     (equation 3)
    scale        x̃_c = s_c · x_c                                                (equation 4)

    y = ReLU(scale(F(x)) + S(x))     Σ over blocks of 2C²/r + C/r + C parameters, r = 16

`seresnet50`, `101` and `152` have the stride in the 3×3 of a block; these are the networks whose weights
are published today. `seresnet50_paper`, `101_paper` and `152_paper` are the authors' in Caffe: the stride
is in the first 1×1, and the pooling after the first layer has no padding. `seresnet18` and `34` are those
whose weights are published: pooled as in Caffe, and with a ReLU between the last norm and the gate.
`seresnet20_cifar` is the CIFAR network of 20 layers, shortcut A, as in the paper's table 5.

What differs from the paper. The CIFAR network squeezes to at least 8 units: one sixteenth of its 16
channels is one, and a gate whose only unit is dead learns nothing. Weights are initialized by He's rule
on the fan-out, momentum is Nesterov's, and CIFAR's crops have reflected borders. On gray digits the
smallest network stands in for ImageNet.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.hub.weight_files import Statistics, WeightFile
from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.conv.shortcut import shortcut
from torchstone.parts.facts import Fact, on_meta, parameter_facts
from torchstone.systems import Variant
from torchstone.systems.convolutional import resnet
from torchstone.systems.convolutional.resnet import DEPTHS, IMAGENET_SHAPE, Recipe, ResNet
from torchstone.tasks.transfer import IMAGENET
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

HEAD = ("fc.",)
REDUCTION = 16

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("BasicBlock", "Bottleneck")

RECIPES = {
    # torchstone train senet          1.6 min on 1 core   test accuracy 0.988 (a linear classifier: 0.90)
    "mnist5k": replace(resnet.RECIPES["mnist5k"], variant="seresnet20_cifar"),
    # torchstone train senet/cifar20 --data DIR
    "cifar20": replace(resnet.RECIPES["cifar20"], variant="seresnet20_cifar"),
    # for tests: seconds
    "smoke": replace(resnet.RECIPES["smoke"], variant="seresnet20_cifar"),
}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, the gate, and the shortcut.

    Args:
        relu_before_gate: as the published networks of 18 and 34 layers have it.
        min_squeezed: the gate squeezes to at least this many units.
    """

    last = "bn2"

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        option: Literal["A", "B"] = "B",
        relu_before_gate: bool = False,
        min_squeezed: int = 1,
    ):
        super().__init__()
        self.outputs = width
        self.relu_before_gate = relu_before_gate
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcitation(width, max(min_squeezed, width // REDUCTION))
        self.downsample = shortcut(inputs, width, stride, option)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b width h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.relu_before_gate:
            y = F.relu(y, inplace=True)
        y = self.se(y)
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1×1 down to `width`, 3×3, 1×1 up to four times `width`, the gate, and the shortcut.

    Args:
        strided_conv: which convolution has the stride: 2, the 3×3, or 1 (the paper's).
    """

    last = "bn3"

    def __init__(self, inputs: int, width: int, stride: int, strided_conv: Literal[1, 2] = 2):
        super().__init__()
        self.outputs = 4 * width
        first, second = (stride, 1) if strided_conv == 1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.outputs)
        self.se = SqueezeExcitation(self.outputs, self.outputs // REDUCTION)
        self.downsample = shortcut(inputs, self.outputs, stride)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.se(self.bn3(self.conv3(y)))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


SHALLOW_BLOCK = partial(BasicBlock, relu_before_gate=True)
PAPER_BLOCK = partial(Bottleneck, strided_conv=1)
SHALLOW, DEEP = (18, 34), (50, 101, 152)


def caffe_resnet(block, layers: int) -> Variant:
    return Variant(partial(ResNet, block, DEPTHS[layers], stem="caffe"), IMAGENET_SHAPE)


VARIANTS = {
    **{f"seresnet{n}": caffe_resnet(SHALLOW_BLOCK, n) for n in SHALLOW},
    **{f"seresnet{n}": Variant(partial(ResNet, Bottleneck, DEPTHS[n]), IMAGENET_SHAPE) for n in DEEP},
    **{f"seresnet{n}_paper": caffe_resnet(PAPER_BLOCK, n) for n in DEEP},
    "seresnet20_cifar": Variant(
        resnet.cifar_resnet(20, partial(BasicBlock, option="A", min_squeezed=8)), resnet.CIFAR_SHAPE
    ),
}


def published(variant: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's `seresnet…` has our names; its `legacy_seresnet…` (the authors' weights) has others."""

    def ours(key: str) -> str:
        key = key.removeprefix("layer0.").replace(".se_module.", ".se.")
        return key.replace("last_linear.", "fc.")

    return {ours(key): value for key, value in state.items()}


def file_statistics(variant: str, file: WeightFile) -> Statistics:
    """Mean and std of a published file, ImageNet's.

    The authors' networks of 50 and more layers have the parameters of timm's, and other strides and pooling;
    their files have other names.

    Raises:
        BadInput: the file is of the other one.
    """
    is_authors = any(name.startswith(("layer0.", "last_linear.")) for name in file.tensors)
    paper = variant.removesuffix("_paper") + "_paper"
    if paper in VARIANTS and is_authors and variant != paper:
        raise BadInput(f"the file is of the authors' network (timm: legacy_{variant}), which is {paper} here")
    timms = variant.removesuffix("_paper")
    if variant == paper and not is_authors and re.match(rf"{timms}(?!_paper)", file.architecture):
        raise BadInput(f"the file is of timm's {timms}, not of the authors' network: name {timms}")
    return IMAGENET


def build(recipe: Recipe) -> Iterator[Run]:
    arguments = {"zero_init": recipe.zero_init}
    run = train_classifier(
        recipe, VARIANTS, arguments, head=HEAD, published=published, statistics=file_statistics
    )
    yield resnet.with_drop_block(run, recipe)


# parameters, multiply-accumulates: those of the ResNet and 2C²/r per block
COUNTS = {
    "seresnet18": (11_778_592, 1_814_160_384),
    "seresnet34": (21_958_868, 3_663_918_592),
    "seresnet50": (28_088_024, 4_091_699_200),
    "seresnet101": (49_326_872, 7_806_148_608),
    "seresnet152": (66_821_848, 11_520_204_800),
    "seresnet50_paper": (28_088_024, 3_860_488_192),
    "seresnet101_paper": (49_326_872, 7_574_937_600),
    "seresnet152_paper": (66_821_848, 11_288_993_792),
    "seresnet20_cifar": (275_506, 40_556_416),
}


def gate_parameters(network: nn.Module) -> int:
    """Σ over blocks of 2C²/r + C/r + C, from the widths C and C/r alone."""
    gates = [m.fc1 for m in network.modules() if isinstance(m, SqueezeExcitation)]
    widths = [(layer.in_channels, layer.out_channels) for layer in gates]
    return sum(2 * c * squeezed + squeezed + c for c, squeezed in widths)


FACTS = [
    *parameter_facts(VARIANTS, COUNTS),
    Fact(
        "seresnet50: parameters that the gates add to resnet50",
        lambda: gate_parameters(on_meta(VARIANTS["seresnet50"].make)),
        28_088_024 - 25_557_032,
    ),
]


def reference():
    """timm's classes; for CIFAR the equations on bare tensors with the same weights."""
    from torchstone.references.resnet import resnet_cases
    from torchstone.references.vision import import_timm

    def theirs(variant: str):
        is_current = variant in ("seresnet50", "seresnet101", "seresnet152")
        name = variant if is_current else f"legacy_{variant.removesuffix('_paper')}"
        return partial(import_timm().create_model, name, num_classes=10, drop_rate=0.0)

    for variant, (make, _) in VARIANTS.items():
        if variant == "seresnet20_cifar":
            yield from resnet_cases(variant, make, None, published, side=16, gate=gate_by_definition)
            continue
        is_large = "101" in variant or "152" in variant  # in float64 they take 3 GB
        dtype = torch.float32 if is_large else torch.float64
        yield from resnet_cases(variant, make, theirs(variant), published, dtype=dtype)
    first = "seresnet18"
    make = VARIANTS[first].make
    yield from resnet_cases(first, make, theirs(first), published, side=64, dtype=torch.float32)


def gate_by_definition(y: Tensor, block: Any) -> Tensor:
    """Equations 2 to 4, one image after another."""
    w1, w2 = block.se.fc1.weight[:, :, 0, 0], block.se.fc2.weight[:, :, 0, 0]
    scaled = []
    for image in y:
        z = image.sum((1, 2)) / image[0].numel()
        s = w2 @ (w1 @ z + block.se.fc1.bias).clamp(min=0) + block.se.fc2.bias
        scaled.append(image / (1 + torch.exp(-s))[:, None, None])
    return torch.stack(scaled)
