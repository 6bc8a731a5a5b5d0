"""VGG: depth from small convolutions alone.

Paper: Karen Simonyan and Andrew Zisserman, "Very deep convolutional networks for large-scale image
recognition", 2014, arXiv:1409.1556. The batch-normalized forms add Ioffe and Szegedy 2015
(arXiv:1502.03167) after each convolution.

The idea. Two 3×3 convolutions in a row have the receptive field of one 5×5, three that of one 7×7, with
fewer weights (27 C² against 49 C²) and more ReLUs between. So every filter is 3×3, every pooling halves
the side, the maps double as the side halves, and only the depth varies.

A network is a row of table 1: numbers are maps, "pool" is 2×2 max pooling.

    vgg11 = A, vgg13 = B, vgg16 = D, vgg19 = E, then full layers of 4096, 4096 and the classes

`vgg16_bn_cifar` is D for images of 32×32: batch normalization, and one full layer on the last 512 maps;
14,728,266 parameters, names as in the widely used pytorch-cifar. Names and shapes of the others are those
of torchvision's files.

What differs from the paper. Weights are initialized as in He et al. 2015 (arXiv:1502.01852), so no
network is grown from a shallower one. Maps are averaged to 7×7 before the full layers (at 224 pixels they
are 7×7), so any size from 32 up works. Momentum is Nesterov's, and the learning rate follows a cosine,
not manual steps. The scale of training images is not jittered.
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
from torchstone.hub.weight_files import Statistics, WeightFile
from torchstone.parts.facts import ParityCase, parameter_facts
from torchstone.parts.init import init_
from torchstone.systems import Variant
from torchstone.tasks.transfer import IMAGENET
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]

# what of the paper is written out here; the loss is cross-entropy, the task's
STORY = ("conv_stack", "VGG")


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders, IDX files) or zip
    variant: str = "vgg16_bn_cifar"  # network variant: vgg11, 13, 16, 19, each also with _bn; vgg16_bn_cifar
    size: int = 32  # image side length in pixels
    channels: int = 1  # image channels: 1 grayscale, 3 color
    hidden: int = 4096  # units per hidden fully connected layer (vgg16_bn_cifar has none)
    steps: int = 100  # number of training steps
    batch_size: int = 64  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "shift2"  # augmentation: none, affine, or steps such as flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    weights: str | None = None  # initial weights: a published file or a run folder
    freeze: Literal["none", "backbone"] = "none"  # frozen part: none, or the backbone (trains the head alone)
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


CIFAR = Recipe(
    data="hf:uoft-cs/cifar10",
    channels=3,
    steps=78_000,
    batch_size=128,
    optim=replace(Recipe.optim, optimizer="sgd", lr=0.1, weight_decay=5e-4),
    augment="flip-crop4",
)

RECIPES = {
    # torchstone train vgg            3.2 min on 1 core   test accuracy 0.983 (a linear classifier: 0.90)
    "mnist5k": Recipe(),
    # 200 epochs; pytorch-cifar reports 92.64 % with batch 128 and the same rate and decay
    "cifar10": CIFAR,
    # 74 epochs; the paper took two to three weeks on four Titan Black, and reports a top-5 error
    # of 8.8 % at one scale (configuration D)
    "imagenet": Recipe(
        data="hf:ILSVRC/imagenet-1k",
        variant="vgg16",
        size=224,
        channels=3,
        steps=370_000,
        batch_size=256,
        optim=replace(Recipe.optim, optimizer="sgd", lr=0.01, weight_decay=5e-4),
        augment="flip-crop4",
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        steps=18,
        batch_size=16,
        optim=replace(Recipe.optim, lr=5e-4, beta1=0.8, warmup_ratio=0.0),
        augment="none",
    ),
}

# table 1; maps of each convolution, "pool" for 2×2 max pooling
LAYERS = {
    "vgg11": "64 pool 128 pool 256 256 pool 512 512 pool 512 512 pool",
    "vgg13": "64 64 pool 128 128 pool 256 256 pool 512 512 pool 512 512 pool",
    "vgg16": "64 64 pool 128 128 pool 256 256 256 pool 512 512 512 pool 512 512 512 pool",
    "vgg19": "64 64 pool 128 128 pool 256 256 256 256 pool 512 512 512 512 pool 512 512 512 512 pool",
}


def conv_stack(row: str, channels: int, norm: bool) -> nn.Sequential:
    """The convolutions that a row of the table describes."""
    layers: list[nn.Module] = []
    for word in row.split():
        if word == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        maps = int(word)
        layers.append(nn.Conv2d(channels, maps, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(maps))
        layers.append(nn.ReLU(inplace=True))
        channels = maps
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """A stack of convolutions, its maps averaged to `grid` × `grid`, and a classifier."""

    def __init__(self, features: nn.Module, grid: int, classifier: nn.Module):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.classifier = classifier
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                init_(module.weight, "he")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                last = module
        nn.init.normal_(last.weight, 0, 0.01)  # no class is preferred at the start

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def imagenet_vgg(row: str, norm: bool, num_classes: int = 1000, channels: int = 3, hidden: int = 4096) -> VGG:
    """A network of the paper, or its batch-normalized form."""
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(hidden, num_classes),
    )
    return VGG(conv_stack(LAYERS[row], channels, norm), 7, classifier)


def cifar_vgg(num_classes: int = 10, channels: int = 3) -> VGG:
    """VGG-16 for small images."""
    return VGG(conv_stack(LAYERS["vgg16"], channels, norm=True), 1, nn.Linear(512, num_classes))


VARIANTS = {
    f"{row}{suffix}": Variant(partial(imagenet_vgg, row, bool(suffix)), (3, 224, 224))
    for row in LAYERS
    for suffix in ("", "_bn")
} | {"vgg16_bn_cifar": Variant(cifar_vgg, (3, 32, 32))}

# parameters of the classification layer, replaced for other classes
HEAD = ("classifier.6.", "classifier.weight", "classifier.bias")


# of Caffe's weights, which take pixels of 0 to 255 less their mean
CAFFE = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3


def file_statistics(variant: str, file: WeightFile) -> Statistics:
    """Mean and std of a published file: torchvision's are ImageNet's, but for its vgg16 of features alone,
    which is Caffe's and has NaN for a classifier."""
    classifier = [tensor for name, tensor in file.tensors.items() if name.startswith("classifier.")]
    is_nan = bool(classifier) and all(bool(tensor.isnan().all()) for tensor in classifier)
    return CAFFE if variant == "vgg16" and (is_nan or "vgg16_features" in file.architecture) else IMAGENET


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.size < 32:
        raise BadInput(f"{recipe.variant} needs a size of 32 or more, not {recipe.size}")
    arguments = {} if recipe.variant == "vgg16_bn_cifar" else {"hidden": recipe.hidden}
    yield train_classifier(recipe, VARIANTS, arguments, head=HEAD, statistics=file_statistics)


# parameters; multiply-accumulates at 224 pixels (vgg16_bn_cifar: 32)
COUNTS = {
    "vgg11": (132_863_336, 7_609_090_048),
    "vgg11_bn": (132_868_840, 7_609_090_048),
    "vgg13": (133_047_848, 11_308_466_176),
    "vgg13_bn": (133_053_736, 11_308_466_176),
    "vgg16": (138_357_544, 15_470_264_320),
    "vgg16_bn": (138_365_992, 15_470_264_320),
    "vgg19": (143_667_240, 19_632_062_464),
    "vgg19_bn": (143_678_248, 19_632_062_464),
    # the convolutions of vgg16 on 1/49 of the area, and 512 × 10
    "vgg16_bn_cifar": (14_728_266, (15_470_264_320 - 123_633_664) // 49 + 5_120),
}

FACTS = parameter_facts(VARIANTS, COUNTS)

# fully compared in evaluation mode too; of the others, the output
THOROUGH = ("vgg11", "vgg11_bn", "vgg16_bn", "vgg16_bn_cifar")


def reference():
    """torchvision's networks with 64 hidden units, for memory; the CIFAR network by its equations."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    yield partial(parity_case, "vgg11", False, images.float())
    for variant in VARIANTS:
        yield partial(parity_case, variant, True, images)
        yield partial(parity_case if variant in THOROUGH else output_case, variant, False, images)


def parity_case(variant: str, training: bool, images: Tensor) -> ParityCase:
    """Ours and theirs with the same weights and statistics."""
    torch.manual_seed(0)
    if variant == "vgg16_bn_cifar":
        ours: Any = cifar_vgg().to(images.dtype)
        ours(images)  # moves the running statistics from their initial values
        theirs: Any = NaiveVGG(ours)
    else:
        theirs = small_torchvision_vgg(variant).to(images.dtype)
        theirs(images)
        ours = VARIANTS[variant].make(num_classes=10, hidden=64).to(images.dtype)
        ours.load_state_dict(theirs.state_dict())
    if training and "bn" in variant:  # the gradient of a bias before normalization is rounding error
        for module in (*ours.modules(), *theirs.modules()):
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.requires_grad_(False)
    label = f"{variant}, {'train' if training else 'eval'}, {images.dtype}"
    return ParityCase(ours.train(training), theirs.train(training), images, label=label)


def output_case(variant: str, training: bool, images: Tensor) -> ParityCase:
    """As `parity_case`, of the outputs alone."""
    case = parity_case(variant, training, images)
    ours, theirs = case.ours.forward, case.theirs.forward
    case = case._replace(ours=lambda x: ours(x), theirs=lambda x: theirs(x))
    case.ours.__name__, case.theirs.__name__ = "VGG", type(theirs.__self__).__name__
    return case


def small_torchvision_vgg(variant: str) -> nn.Module:
    """torchvision's network with 64 hidden units and 10 classes."""
    from torchstone.parts.optional_imports import import_torchvision

    with torch.device("meta"):
        net = getattr(import_torchvision().models, variant)(num_classes=10)
        net.classifier[0] = nn.Linear(25_088, 64)
        net.classifier[3] = nn.Linear(64, 64)
        net.classifier[6] = nn.Linear(64, 10)
    net = net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            init_(module.weight, "fan_in")
            assert module.bias is not None
            nn.init.normal_(module.bias, 0, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    return net


class NaiveVGG(nn.Module):
    """The parameters of the CIFAR network, each layer by its formula, without the table."""

    def __init__(self, model: VGG):
        super().__init__()
        self.net = model

    def forward(self, x: Tensor) -> Tensor:
        layers: Any = self.net.features
        for start, convolutions in ((0, 2), (7, 2), (14, 3), (24, 3), (34, 3)):
            for i in range(start, start + 3 * convolutions, 3):
                x = F.conv2d(x, layers[i].weight, layers[i].bias, padding=1)
                x = self.normalize(x, layers[i + 1]).clamp(min=0)
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        classifier: Any = self.net.classifier
        return x.mean((2, 3)) @ classifier.weight.T + classifier.bias

    def normalize(self, x: Tensor, norm: Any) -> Tensor:
        """(x − μ) / √(σ² + ε) · γ + β: the batch's in training, else the running."""
        mean, variance = norm.running_mean, norm.running_var
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        mean, variance, scale, shift = (v[:, None, None] for v in (mean, variance, norm.weight, norm.bias))
        return (x - mean) / (variance + norm.eps).sqrt() * scale + shift
