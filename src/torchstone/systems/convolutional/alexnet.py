"""AlexNet: a convolutional network deep and wide enough for ImageNet.

Paper: Alex Krizhevsky, Ilya Sutskever and Geoffrey Hinton, "ImageNet classification with deep
convolutional neural networks", NeurIPS 2012. `alexnet` is the network of Krizhevsky 2014, "One
weird trick for parallelizing convolutional neural networks", arXiv:1404.5997.

The idea. LeNet's design scales to a thousand times its size, given three things: units that do not
saturate (ReLU) keep the gradient alive, two GPUs make it affordable, and dropout with translated and
mirrored images keeps sixty million weights from overfitting.

`alexnet_paper`, for an image of 227×227 (two groups of maps where the paper's two GPUs did not communicate):

    conv1  11×11/4   96 of 55×55     norm, pool 3×3/2     fc6   4096, dropout
    conv2  5×5      256 of 27×27     norm, pool 3×3/2     fc7   4096, dropout
    conv3  3×3      384 of 13×13                          fc8   1000
    conv4  3×3      384 of 13×13     two groups in conv2, conv4 and conv5;
    conv5  3×3      256 of 13×13     pool 3×3/2 to 6×6    60,965,224 parameters

`alexnet` has one tower with fewer maps in its first layers (64, 192, 384, 256, 256), no groups and
no response normalization: 61,100,840 parameters. Names and shapes are those of torchvision's file.

What differs from the paper. The paper says 224×224 images; its 55×55 maps come from 227. Response
normalization sums across both groups, as its formula says. Other image sizes are pooled to 6×6, which at
224 and 227 changes nothing. Momentum is Nesterov's, and the learning rate follows a cosine, not manual
steps. `alexnet` is initialized as in He et al. 2015. The default recipes' hidden layers are narrower
than 4096: ten classes of digits do not need 54 million weights there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.conv.local_response_norm import local_response_norm, local_response_norm_by_definition
from torchstone.parts.facts import ParityCase, parameter_facts
from torchstone.parts.init import init_
from torchstone.systems import Variant
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("AlexNet", "AlexNetPaper")


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders, IDX files) or zip
    variant: str = "alexnet"  # network variant: alexnet (2014, one tower) or alexnet_paper (2012, two groups)
    size: int = 64  # image side length in pixels
    channels: int = 1  # image channels: 1 grayscale, 3 color
    hidden: int = 512  # units per hidden fully connected layer (papers: 4096)
    steps: int = 150  # number of training steps
    batch_size: int = 64  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=5e-4, beta1=0.8, weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # augmentation: none, affine, or steps such as flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    weights: str | None = None  # initial weights: a published file or a run folder
    freeze: Literal["none", "backbone"] = "none"  # frozen part: none, or the backbone (trains the head alone)
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


IMAGENET = Recipe(
    data="hf:ILSVRC/imagenet-1k",
    variant="alexnet_paper",
    size=227,
    channels=3,
    hidden=4096,
    steps=900_000,
    batch_size=128,
    optim=replace(Recipe.optim, optimizer="sgd", lr=0.01, beta1=0.9, weight_decay=5e-4, warmup_ratio=0.0),
    augment="flip-crop4",
)

RECIPES = {
    # torchstone train alexnet        33 s on 1 core   test accuracy 0.963 (a linear classifier: 0.90)
    "mnist5k": Recipe(),
    # 90 epochs; the paper took six days on two GTX 580 and reports a top-5 error of 18.2 %
    "imagenet": IMAGENET,
    # for tests: seconds
    "smoke": Recipe(data="digits", size=63, steps=70, batch_size=32, augment="none"),
}

# outputs, kernel, stride, padding; "pool" is overlapping max pooling, 3×3 with stride 2
LAYERS = (
    (64, 11, 4, 2),
    "pool",
    (192, 5, 1, 2),
    "pool",
    (384, 3, 1, 1),
    (256, 3, 1, 1),
    (256, 3, 1, 1),
    "pool",
)


class AlexNet(nn.Module):
    """The network of 2014: one tower, without normalization."""

    def __init__(self, num_classes: int = 1000, channels: int = 3, hidden: int = 4096):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for layer in LAYERS:
            if isinstance(layer, str):
                layers.append(nn.MaxPool2d(3, 2))
            else:
                layers += [nn.Conv2d(inputs, *layer), nn.ReLU(inplace=True)]
                inputs = layer[0]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        last = nn.Linear(hidden, num_classes)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(inputs * 6 * 6, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            last,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                init_(module.weight, "he")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(last.weight, 0, 0.01)  # no class is preferred at the start

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


class AlexNetPaper(nn.Module):
    """The network of 2012."""

    def __init__(self, num_classes: int = 1000, channels: int = 3, hidden: int = 4096):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 96, 11, 4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.norm = local_response_norm(n=5, alpha=1e-4, beta=0.75, k=2)
        self.pool = nn.MaxPool2d(3, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.fc6 = nn.Linear(256 * 6 * 6, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(0.5)
        self.initialize()

    def initialize(self) -> None:
        """Weights from N(0, 0.01²); biases 1 where ReLUs would start dead, else 0 (section 5)."""
        for name, parameter in self.named_parameters():
            layer, kind = name.split(".")
            if kind == "weight":
                nn.init.normal_(parameter, 0, 0.01)
            else:
                starts_at_one = layer in ("conv2", "conv4", "conv5", "fc6", "fc7")
                nn.init.constant_(parameter, 1.0 if starts_at_one else 0.0)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.pool(self.norm(F.relu(self.conv1(images))))
        x = self.pool(self.norm(F.relu(self.conv2(x))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = self.pool(F.relu(self.conv5(x)))
        x = self.avgpool(x).flatten(1)
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)


VARIANTS = {"alexnet": Variant(AlexNet, (3, 224, 224)), "alexnet_paper": Variant(AlexNetPaper, (3, 227, 227))}

# parameters of the classification layer, replaced for other classes
HEAD = ("classifier.6.", "fc8.")

MIN_SIZE = {"alexnet": 63, "alexnet_paper": 67}  # leaves one location after the last pooling


def build(recipe: Recipe) -> Iterator[Run]:
    minimum = MIN_SIZE[recipe.variant]
    if recipe.size < minimum:
        raise BadInput(f"{recipe.variant} needs a size of {minimum} or more, not {recipe.size}")
    yield train_classifier(recipe, VARIANTS, {"hidden": recipe.hidden}, head=HEAD)


# parameters, multiply-accumulates
COUNTS = {
    "alexnet": (61_100_840, 714_188_480),
    # conv1 105.4 M, conv2 223.9 M, conv3 149.5 M, conv4 112.1 M, conv5 74.8 M, full layers 58.6 M
    "alexnet_paper": (
        60_965_224,
        105_415_200 + 223_948_800 + 149_520_384 + 112_140_288 + 74_760_192 + 58_621_952,
    ),
}
FACTS = parameter_facts(VARIANTS, COUNTS)


def reference():
    """torchvision's AlexNet; the paper's network by its equations.

    In float64 with 256 hidden units, to fit into memory; in float32 with all of them.
    """
    from torchstone.parts.optional_imports import import_torchvision
    from torchstone.references.torchvision_cases import torchvision_cases

    generator = torch.Generator().manual_seed(0)
    for dtype, hidden in ((torch.float64, 256), (torch.float32, 4096)):
        images = torch.randn(2, 3, 96, 96, generator=generator, dtype=dtype)

        def theirs(hidden=hidden) -> nn.Module:
            net: Any = import_torchvision().models.AlexNet(num_classes=10)
            net.classifier[1] = nn.Linear(9216, hidden)
            net.classifier[4] = nn.Linear(hidden, hidden)
            net.classifier[6] = nn.Linear(hidden, 10)
            return net

        yield from torchvision_cases("alexnet", partial(AlexNet, 10, hidden=hidden), theirs, images)
    images = torch.randn(2, 3, 99, 99, generator=generator, dtype=torch.float64)
    for training in (False, True):
        torch.manual_seed(0)
        ours = AlexNetPaper(10, hidden=256).double().train(training)
        label = f"alexnet_paper, {'train' if training else 'eval'}"
        yield ParityCase(ours, NaiveAlexNet(ours).train(training), images, label=label)


class NaiveAlexNet(nn.Module):
    """The parameters of an `AlexNetPaper`, its equations map by map, its two groups by hand."""

    def __init__(self, model: AlexNetPaper):
        super().__init__()
        self.net = model

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        x = F.conv2d(images, net.conv1.weight, net.conv1.bias, stride=4).clamp(min=0)
        x = F.max_pool2d(local_response_norm_by_definition(x), 3, 2)
        x = F.max_pool2d(local_response_norm_by_definition(grouped_conv(x, net.conv2, 2).clamp(min=0)), 3, 2)
        x = F.conv2d(x, net.conv3.weight, net.conv3.bias, padding=1).clamp(min=0)
        x = grouped_conv(x, net.conv4, 1).clamp(min=0)
        x = F.max_pool2d(grouped_conv(x, net.conv5, 1).clamp(min=0), 3, 2)
        x = F.adaptive_avg_pool2d(x, 6).flatten(1)
        for layer in (net.fc6, net.fc7):
            x = (x @ layer.weight.T + layer.bias).clamp(min=0)
            x = F.dropout(x, 0.5, self.training)
        return x @ net.fc8.weight.T + net.fc8.bias


def grouped_conv(x: Tensor, layer: nn.Conv2d, padding: int) -> Tensor:
    """A convolution in two groups: each half of the filters gets one half of the maps."""
    assert layer.bias is not None
    groups = zip(x.chunk(2, 1), layer.weight.chunk(2), layer.bias.chunk(2), strict=True)
    return torch.cat([F.conv2d(half, w, b, padding=padding) for half, w, b in groups], 1)
