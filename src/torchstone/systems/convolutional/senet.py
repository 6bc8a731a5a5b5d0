"""SENet: residual networks whose blocks weigh their channels by what they see of the whole picture.

Paper: Jie Hu, Li Shen, Samuel Albanie, Gang Sun and Enhua Wu, "Squeeze-and-Excitation Networks", 2017,
arXiv:1709.01507.

The idea. A convolution mixes channels with the same weights everywhere and sees only its window. A
gate on the branch of each residual block looks at all places at once and says which channels matter
for this picture; it costs two small matrix products a block, a tenth more parameters and next to no
time.

    squeeze      z_c = mean of channel c over all places                        (equation 2)
    excitation   s = σ(W₂ ReLU(W₁ z + b₁) + b₂),   W₁: C → C/r, W₂: C/r → C     (equation 3)
    scale        x̃_c = s_c · x_c                                                (equation 4)

    y = ReLU(scale(F(x)) + S(x))     Σ over blocks of 2C²/r + C/r + C parameters, r = 16

`seresnet50`, `101` and `152` are the networks with the 3×3 of a block halving the grid, as weights are
published for today. `seresnet50_paper`, `101_paper` and `152_paper` are the authors' in Caffe: the
first 1×1 halves it, and the pooling after the first layer has no edge. `seresnet18` and `34` are the
ones whose weights are published: pooled as in Caffe, and with a ReLU between the last norm and the
gate. `seresnet20_cifar` is the CIFAR network of 20 layers, shortcut A, as in the paper's table 5.

What differs from the paper. The CIFAR network squeezes to 8 units at least: one sixteenth of its 16
channels is one, and a gate whose only unit is dead learns nothing. Weights start by He's rule on the fan out, momentum is Nesterov's, and
CIFAR's crops are of reflected pictures. On grey digits the smallest network stands in for ImageNet.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_pictures
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.parts.conv.channel_attention import SqueezeExcitation
from torchstone.parts.conv.shortcut import shortcut
from torchstone.parts.facts import Fact
from torchstone.references.resnet import resnet_cases
from torchstone.systems import Variant
from torchstone.systems.convolutional.resnet import DEPTHS, PICTURE, TINY, ResNet, counted, small
from torchstone.tasks.vision.classify import classify, evaluate, predict

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

HEAD = ("fc.",)
REDUCTION = 16


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, a folder (class folders or IDX) or its zip
    size: int = 28  # pixels a side
    channels: int = 1  # 1 grey, 3 colour
    variant: str = "seresnet20_cifar"  # which network
    zero_init: bool = False  # start each block as its shortcut
    steps: int = 500  # updates
    batch_size: int = 64  # pictures an update
    optim: OptimConfig = OptimConfig(
        optimizer="sgd", lr=0.1, weight_decay=5e-4, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # none, affine, or steps: flip+crop4+randaugment2-9
    weights: str | None = None  # start from a published file's or a run's
    freeze: Literal["none", "backbone"] = "none"  # what stays as those weights are
    seed: int = 0  # of weights, order and augmentation
    device: str = "auto"  # auto, cpu, cuda, mps


RECIPES = {
    # torchstone train senet          1.6 min on 1 core   test accuracy 0.988 (a linear classifier: 0.90)
    "mnist5k": Recipe(),
    # torchstone train senet/cifar20 --data DIR
    "cifar20": Recipe(
        data="hf:uoft-cs/cifar10",
        size=32,
        channels=3,
        steps=64_000,
        batch_size=128,
        optim=replace(Recipe.optim, weight_decay=1e-4, lr_schedule="step", warmup_ratio=0.0),
        augment="flip-crop4",
    ),
    # for tests: seconds
    "smoke": Recipe(data="digits", size=8, steps=60, batch_size=32, augment="none"),
}


class Basic(nn.Module):
    """Two 3×3 convolutions, the gate, and the shortcut.

    `rectified` puts a ReLU before the gate, as the published networks of 18 and 34 layers have it;
    `least` is how many units the gate squeezes to at least.
    """

    last = "bn2"

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        option: Literal["A", "B"] = "B",
        rectified: bool = False,
        least: int = 1,
    ):
        super().__init__()
        self.outputs = width
        self.rectified = rectified
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcitation(width, max(least, width // REDUCTION))
        self.downsample = shortcut(inputs, width, stride, option)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b width h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.rectified:
            y = F.relu(y, inplace=True)
        y = self.se(y)
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1×1 down to `width`, 3×3, 1×1 up to four times `width`, the gate, and the shortcut.

    `halve` says which convolution has the stride: 2, the 3×3, or 1 (the paper's).
    """

    last = "bn3"

    def __init__(self, inputs: int, width: int, stride: int, halve: Literal[1, 2] = 2):
        super().__init__()
        self.outputs = 4 * width
        first, second = (stride, 1) if halve == 1 else (1, stride)
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


RECTIFIED = partial(Basic, rectified=True)
PAPER = partial(Bottleneck, halve=1)
SHALLOW, DEEP = (18, 34), (50, 101, 152)


def caffe(block, layers: int) -> Variant:
    return Variant(partial(ResNet, block, DEPTHS[layers], stem="caffe"), PICTURE)


VARIANTS = {
    **{f"seresnet{n}": caffe(RECTIFIED, n) for n in SHALLOW},
    **{f"seresnet{n}": Variant(partial(ResNet, Bottleneck, DEPTHS[n]), PICTURE) for n in DEEP},
    **{f"seresnet{n}_paper": caffe(PAPER, n) for n in DEEP},
    "seresnet20_cifar": Variant(small(20, partial(Basic, option="A", least=8)), TINY),
}


def published(variant: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's `seresnet…` has our names; its `legacy_seresnet…`, the authors' weights, has others."""

    def ours(key: str) -> str:
        key = key.removeprefix("layer0.").replace(".se_module.", ".se.")
        return key.replace("last_linear.", "fc.")

    return {ours(key): value for key, value in state.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = load_pictures(recipe.data, size=recipe.size, channels=recipe.channels, device=device)
    model_config = {
        "num_classes": len(data.classes),
        "channels": recipe.channels,
        "zero_init": recipe.zero_init,
    }
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield classify(model, recipe, data, model_config=model_config, head=HEAD, published=published)


# parameters, multiply-accumulates: those of the ResNet and 2C²/r a block
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


def gates(network: nn.Module) -> int:
    """Σ over blocks of 2C²/r + C/r + C, from the widths C and C/r alone."""
    gated = [m.fc1 for m in network.modules() if isinstance(m, SqueezeExcitation)]
    sides = [(layer.in_channels, layer.out_channels) for layer in gated]
    return sum(2 * c * squeezed + squeezed + c for c, squeezed in sides)


def added() -> int:
    with torch.device("meta"):
        return gates(VARIANTS["seresnet50"].make())


FACTS = [
    *counted(VARIANTS, COUNTS),
    Fact("seresnet50: what the gates add to resnet50", added, 28_088_024 - 25_557_032),
]


def reference():
    """timm's classes; for CIFAR the same weights through the equations written out."""
    from torchstone.references import timm

    def theirs(variant: str):
        plain = variant in ("seresnet50", "seresnet101", "seresnet152")
        name = variant if plain else f"legacy_{variant.removesuffix('_paper')}"
        return partial(timm().create_model, name, num_classes=10, drop_rate=0.0)

    for variant, (make, _) in VARIANTS.items():
        if variant == "seresnet20_cifar":
            yield from resnet_cases(variant, make, None, published, size=16, gate=excited)
            continue
        large = "101" in variant or "152" in variant  # in float64 they take 3 GB
        precision = torch.float32 if large else torch.float64
        yield from resnet_cases(variant, make, theirs(variant), published, dtype=precision)
    first = "seresnet18"
    make = VARIANTS[first].make
    yield from resnet_cases(first, make, theirs(first), published, size=64, dtype=torch.float32)


def excited(y: Tensor, block: Any) -> Tensor:
    """Equations 2 to 4, one picture after another."""
    w1, w2 = block.se.fc1.weight[:, :, 0, 0], block.se.fc2.weight[:, :, 0, 0]
    scaled = []
    for picture in y:
        z = picture.sum((1, 2)) / picture[0].numel()
        s = w2 @ (w1 @ z + block.se.fc1.bias).clamp(min=0) + block.se.fc2.bias
        scaled.append(picture / (1 + torch.exp(-s))[:, None, None])
    return torch.stack(scaled)
