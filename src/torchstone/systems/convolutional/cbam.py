"""CBAM: residual networks whose blocks weight their channels, and then their locations.

Paper: Sanghyun Woo, Jongchan Park, Joon-Young Lee and In So Kweon, "CBAM: Convolutional Block Attention
Module", 2018, arXiv:1807.06521.

The idea. Squeeze-and-excitation weights channels by their mean. The maximum carries information that the
mean does not, so both go through the same small MLP. Channel attention says what to look for; spatial
attention adds where: the mean and the maximum over channels make two maps, and one 7×7 convolution turns
them into a weight for every location.

    channel   M_c = σ(MLP(mean over locations of x) + MLP(max over locations of x))     (equation 2)
    spatial   M_s = σ(BN(f⁷ˣ⁷([max over channels of x; mean over channels of x])))      (equation 3)

    F'(x) = M_c(F(x)) · F(x),    F''(x) = M_s(F'(x)) · F'(x),    y = ReLU(F''(x) + S(x))

    Per block: 2C²/r + C/r + C parameters, as in SENet, r = 16, and 2·7² + 2 for the spatial map.

`cbam_resnet18`, `34`, `50` and `101` are the authors' networks, with the stride in the 3×3 of a block.
`cbam_resnet20_cifar` puts the module into the CIFAR network of 20 layers, shortcut A.

What differs from the paper. As in the authors' code, the spatial map has batch norm before σ, whose weight
starts at zero, so that training begins with no preference for any location, and the two maps are in the
other order. The CIFAR network squeezes to at least 8 units: one sixteenth of its 16 channels is one, and
a gate whose only unit is dead learns nothing. Weights are initialized by He's rule on the fan-out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.run import Run
from torchstone.parts.conv.channel_attention import ChannelGate, SpatialGate
from torchstone.parts.conv.shortcut import shortcut
from torchstone.parts.facts import Fact, count_parameters, parameter_facts
from torchstone.systems import Variant
from torchstone.systems.convolutional import resnet
from torchstone.systems.convolutional.resnet import DEPTHS, IMAGENET_SHAPE, Recipe, ResNet
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

HEAD = ("fc.",)
REDUCTION = 16

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("CBAM", "BasicBlock", "Bottleneck")

RECIPES = {
    # torchstone train cbam           2.1 min on 1 core   test accuracy 0.991 (a linear classifier: 0.90)
    "mnist5k": replace(resnet.RECIPES["mnist5k"], variant="cbam_resnet20_cifar"),
    # torchstone train cbam/cifar20 --data DIR
    "cifar20": replace(resnet.RECIPES["cifar20"], variant="cbam_resnet20_cifar"),
    # for tests: seconds
    "smoke": replace(resnet.RECIPES["smoke"], variant="cbam_resnet20_cifar"),
}


class CBAM(nn.Module):
    """Channel attention (squeezed to at least `min_squeezed` units), then spatial attention."""

    def __init__(self, channels: int, min_squeezed: int = 1):
        super().__init__()
        self.channel = ChannelGate(channels, max(min_squeezed, channels // REDUCTION))
        self.spatial = SpatialGate(7)
        nn.init.zeros_(self.spatial.bn.weight)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.spatial(self.channel(x))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, the CBAM module, and the shortcut."""

    last = "bn2"

    def __init__(
        self, inputs: int, width: int, stride: int, option: Literal["A", "B"] = "B", min_squeezed: int = 1
    ):
        super().__init__()
        self.outputs = width
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride, option)
        self.cbam = CBAM(width, min_squeezed)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b width h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.cbam(self.bn2(self.conv2(y)))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1×1 down to `width`, 3×3, 1×1 up to four times `width`, the CBAM module, and the shortcut."""

    last = "bn3"

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.outputs)
        self.downsample = shortcut(inputs, self.outputs, stride)
        self.cbam = CBAM(self.outputs)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.cbam(self.bn3(self.conv3(y)))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


BLOCKS = {18: BasicBlock, 34: BasicBlock, 50: Bottleneck, 101: Bottleneck}

VARIANTS = {
    **{
        f"cbam_resnet{n}": Variant(partial(ResNet, block, DEPTHS[n]), IMAGENET_SHAPE)
        for n, block in BLOCKS.items()
    },
    "cbam_resnet20_cifar": Variant(
        resnet.cifar_resnet(20, partial(BasicBlock, option="A", min_squeezed=8)), resnet.CIFAR_SHAPE
    ),
}

# the authors' names for the parts of the module, and ours
NAMES = {
    "ChannelGate.mlp.1": "channel.fc1",
    "ChannelGate.mlp.3": "channel.fc2",
    "SpatialGate.spatial": "spatial",
}


def published(variant: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the authors' names to ours."""

    def ours(key: str) -> str:
        for theirs, name in NAMES.items():
            key = key.replace(theirs, name)
        return key

    return {ours(key): value for key, value in state.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    arguments = {"zero_init": recipe.zero_init}
    run = train_classifier(recipe, VARIANTS, arguments, head=HEAD, published=published)
    yield resnet.with_drop_block(run, recipe)


# parameters; multiply-accumulates: those of the ResNet, 4C²/r and 2·7²·(locations) per block
COUNTS = {
    "cbam_resnet18": (11_779_392, 1_815_063_764),
    "cbam_resnet34": (21_960_468, 3_665_434_742),
    "cbam_resnet50": (28_089_624, 4_095_573_110),
    "cbam_resnet101": (49_330_172, 7_812_577_278),
    "cbam_resnet20_cifar": (276_406, 40_956_928),
}

FACTS = [
    *parameter_facts(VARIANTS, COUNTS),
    Fact(
        "parameters of spatial attention, per block", lambda: count_parameters(SpatialGate(7)), 2 * 7**2 + 2
    ),
]


def reference():
    """The equations on bare tensors with the same weights; no library has the network."""
    from torchstone.references.resnet import resnet_cases

    for variant, (make, shape) in VARIANTS.items():
        side = 40 if shape == IMAGENET_SHAPE else 16
        yield from resnet_cases(variant, make, None, published, side=side, gate=cbam_by_definition)


def cbam_by_definition(y: Tensor, block: Any) -> Tensor:
    """Equations 2 and 3 by sums, windows and products."""
    from torchstone.references.resnet import batch_norm, convolve

    mlp, spatial = block.cbam.channel, block.cbam.spatial
    flat = y.flatten(2)
    logits = torch.zeros_like(flat[..., 0])
    for z in (flat.sum(2) / flat.shape[2], flat.max(2).values):
        hidden = (torch.einsum("bc,hc->bh", z, mlp.fc1.weight) + mlp.fc1.bias).clamp(min=0)
        logits = logits + torch.einsum("bh,ch->bc", hidden, mlp.fc2.weight) + mlp.fc2.bias
    y = y / (1 + torch.exp(-logits))[:, :, None, None]
    maps = torch.stack([y.max(1).values, y.sum(1) / y.shape[1]], 1)
    return y / (1 + torch.exp(-batch_norm(convolve(maps, spatial.conv), spatial.bn)))
