"""CBAM: residual networks whose blocks weigh their channels, and then their places.

Paper: Sanghyun Woo, Jongchan Park, Joon-Young Lee and In So Kweon, "CBAM: Convolutional Block Attention
Module", 2018, arXiv:1807.06521.

The idea. Squeeze-and-excitation asks the mean of each channel what to look for. The largest value says
something that the mean does not, so both are asked, through one and the same small network. What
remains is where to look: the mean and the largest over channels make two maps, and one 7×7 convolution
turns them into a weight for every place.

    channel   M_c = σ(MLP(mean over places of x) + MLP(largest over places of x))          (equation 2)
    spatial   M_s = σ(BN(f⁷ˣ⁷([largest over channels of x; mean over channels of x])))     (equation 3)

    F'(x) = M_c(F(x)) · F(x),    F''(x) = M_s(F'(x)) · F'(x),    y = ReLU(F''(x) + S(x))

    Per block: 2C²/r + C/r + C parameters, as in SENet, r = 16, and 2·7² + 2 for the map of places.

`cbam_resnet18`, `34`, `50` and `101` are the authors' networks, the 3×3 of a block halving the grid.
`cbam_resnet20_cifar` puts the module into the CIFAR network of 20 layers, shortcut A.

What differs from the paper. As in the authors' code, the map of places is normalised over the batch
before σ, its norm starts with weight zero, so that training begins with no preference for any place,
and the two maps stand in the other order. The CIFAR network squeezes to 8 units at least: one
sixteenth of its 16 channels is one, and if that is dead nothing is learnt. Weights start by He's rule
on the fan out.
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
from torchstone.parts.conv.channel_attention import ChannelGate, SpatialGate
from torchstone.parts.conv.shortcut import shortcut
from torchstone.parts.facts import Fact, parameters
from torchstone.references.resnet import convolve, batch_norm, resnet_cases
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
    variant: str = "cbam_resnet20_cifar"  # which network
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
    # torchstone train cbam           2.1 min on 1 core   test accuracy 0.991 (a linear classifier: 0.90)
    "mnist5k": Recipe(),
    # torchstone train cbam/cifar20 --data DIR
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


class CBAM(nn.Module):
    """Which channels (through `least` units at least), then which places. Keeps the shape."""

    def __init__(self, channels: int, least: int = 1):
        super().__init__()
        self.channel = ChannelGate(channels, max(least, channels // REDUCTION))
        self.spatial = SpatialGate(7)
        nn.init.zeros_(self.spatial.bn.weight)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.spatial(self.channel(x))


class Basic(nn.Module):
    """Two 3×3 convolutions, the module, and the shortcut."""

    last = "bn2"

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        option: Literal["A", "B"] = "B",
        least: int = 1,
    ):
        super().__init__()
        self.outputs = width
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride, option)
        self.cbam = CBAM(width, least)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b width h2 w2"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.cbam(self.bn2(self.conv2(y)))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1×1 down to `width`, 3×3, 1×1 up to four times `width`, the module, and the shortcut."""

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


BLOCKS = {18: Basic, 34: Basic, 50: Bottleneck, 101: Bottleneck}

VARIANTS = {
    **{f"cbam_resnet{n}": Variant(partial(ResNet, block, DEPTHS[n]), PICTURE) for n, block in BLOCKS.items()},
    "cbam_resnet20_cifar": Variant(small(20, partial(Basic, option="A", least=8)), TINY),
}

# the authors' names for the parts of the module, and ours
NAMES = {
    "ChannelGate.mlp.1": "channel.fc1",
    "ChannelGate.mlp.3": "channel.fc2",
    "SpatialGate.spatial": "spatial",
}


def published(variant: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names, saved from inside `DataParallel`, to ours."""

    def ours(key: str) -> str:
        key = key.removeprefix("module.")
        for theirs, name in NAMES.items():
            key = key.replace(theirs, name)
        return key

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


# parameters; multiply-accumulates: those of the ResNet, 4C²/r and 2·7²·(places) a block
COUNTS = {
    "cbam_resnet18": (11_779_392, 1_815_063_764),
    "cbam_resnet34": (21_960_468, 3_665_434_742),
    "cbam_resnet50": (28_089_624, 4_095_573_110),
    "cbam_resnet101": (49_330_172, 7_812_577_278),
    "cbam_resnet20_cifar": (276_406, 40_956_928),
}

FACTS = [
    *counted(VARIANTS, COUNTS),
    Fact("map of places, per block", lambda: parameters(SpatialGate(7)), 2 * 7**2 + 2),
]


def reference():
    """The same weights through the equations written out; there is no library to ask."""
    for variant, (make, shape) in VARIANTS.items():
        side = 40 if shape == PICTURE else 16
        yield from resnet_cases(variant, make, None, published, size=side, gate=attended)


def attended(y: Tensor, block: Any) -> Tensor:
    """Equations 2 and 3 by sums, windows and products."""
    mlp, places = block.cbam.channel, block.cbam.spatial
    flat = y.flatten(2)
    logits = torch.zeros_like(flat[..., 0])
    for z in (flat.sum(2) / flat.shape[2], flat.max(2).values):
        hidden = (torch.einsum("bc,hc->bh", z, mlp.fc1.weight) + mlp.fc1.bias).clamp(min=0)
        logits = logits + torch.einsum("bh,ch->bc", hidden, mlp.fc2.weight) + mlp.fc2.bias
    y = y / (1 + torch.exp(-logits))[:, :, None, None]
    maps = torch.stack([y.max(1).values, y.sum(1) / y.shape[1]], 1)
    return y / (1 + torch.exp(-batch_norm(convolve(maps, places.conv), places.bn)))
