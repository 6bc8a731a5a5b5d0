"""GoogLeNet: filters of several sizes in parallel, and a twelfth of AlexNet's weights.

Paper: Christian Szegedy, Wei Liu, Yangqing Jia and six others, "Going deeper with convolutions",
2014, arXiv:1409.4842.

The idea. The best filter size of a layer is not known in advance, so an Inception module has 1×1, 3×3 and
5×5 convolutions and a pooling in parallel and concatenates their maps; 1×1 convolutions first reduce the
channels of the large ones. Two auxiliary classifiers half-way up send gradient into the lower layers:

    loss = L(logits, y) + 0.3 (L(aux1, y) + L(aux2, y))

In training mode the forward pass returns (logits, aux1, aux2), in evaluation mode the logits.
`googlenet_paper` is the paper's: biases, 5×5 filters, local response normalization, dropout 0.4;
6,998,552 parameters, 13,378,280 with the auxiliary classifiers. `googlenet` is the network whose
weights are published: batch normalization instead, 3×3 filters where the paper has 5×5, dropout 0.2;
6,624,904 and 13,004,888. Names and shapes are those of torchvision's file. Its weights expect images
scaled to −1..1; torchvision's network converts ImageNet's normalization to that, ours does not.

What differs from the paper. It gives no initialization (ours: He et al. 2015) and no constants for
response normalization (ours: AlexNet's). Momentum is Nesterov's on one machine, the learning rate follows
a cosine, crops are of one scale. `googlenet` averages to 4×4 before an auxiliary classifier at every
size; the paper's 5×5 pooling requires images of 223 to 226 pixels.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
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
from torchstone.parts.conv.branches import Branches
from torchstone.parts.conv.local_response_norm import local_response_norm, local_response_norm_by_definition
from torchstone.parts.facts import Fact, ParityCase, count_parameters, macs, on_meta
from torchstone.parts.init import init_
from torchstone.systems import Variant
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders, IDX files) or zip
    variant: str = "googlenet"  # network variant: googlenet (as published) or googlenet_paper (2014)
    size: int = 64  # image side length in pixels
    channels: int = 1  # image channels: 1 grayscale, 3 color
    steps: int = 150  # number of training steps
    batch_size: int = 64  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=2e-3, weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # augmentation: none, affine, or steps such as flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    weights: str | None = None  # initial weights: a published file or a run folder
    freeze: Literal["none", "backbone"] = "none"  # frozen part: none, or the backbone (trains the head alone)
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train googlenet      2.1 min on 1 core   test accuracy 0.978 (a linear classifier: 0.90)
    "mnist5k": Recipe(),
    # 250 epochs; the paper: a week on a few GPUs, one network's top-5 error 10.07 %
    "imagenet": Recipe(
        data="hf:ILSVRC/imagenet-1k",
        variant="googlenet_paper",
        size=224,
        channels=3,
        steps=2_500_000,
        batch_size=128,
        optim=replace(Recipe.optim, optimizer="sgd", lr=0.01, weight_decay=2e-4, ema_decay=0.9999),
        augment="flip-crop4",
    ),
    # for tests: seconds
    "smoke": Recipe(data="digits", size=32, steps=24, batch_size=32, augment="none"),
}

# table 1: channels of 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection
TABLE = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "maxpool3": None,
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "maxpool4": None,
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}

AUXILIARY = {"inception4a": ("aux1", 512), "inception4d": ("aux2", 528)}  # module: (classifier, its maps)


@dataclass(frozen=True)
class GoogLeNetConfig:
    """Where the two networks differ."""

    batch_norm: bool  # batch normalization in place of biases
    large_kernel: int  # side of the "5×5" filters
    response_norm: Callable[[], nn.Module]  # after the first and third convolution
    pool4: int  # side of the last max pooling
    dropout: float
    aux_pool: Callable[[], nn.Module]  # to 4×4, before an auxiliary classifier


PUBLISHED = GoogLeNetConfig(True, 3, nn.Identity, 2, 0.2, lambda: nn.AdaptiveAvgPool2d(4))
PAPER = GoogLeNetConfig(False, 5, local_response_norm, 3, 0.4, lambda: nn.AvgPool2d(5, 3))


class GoogLeNet(nn.Module):
    """Three convolutions, nine Inception modules, one full layer; two auxiliary classifiers."""

    def __init__(self, config: GoogLeNetConfig, num_classes: int = 1000, channels: int = 3):
        super().__init__()
        self.conv1 = conv_unit(config, channels, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = config.response_norm()
        self.conv2 = conv_unit(config, 64, 64, 1)
        self.conv3 = conv_unit(config, 64, 192, 3)
        self.norm2 = config.response_norm()
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        inputs, sides = 192, {"maxpool3": 3, "maxpool4": config.pool4}
        for name, row in TABLE.items():
            if row is None:
                self.add_module(name, nn.MaxPool2d(sides[name], 2, ceil_mode=True))
            else:
                self.add_module(name, inception(config, inputs, row))
                inputs = row[0] + row[2] + row[4] + row[5]
        for name, maps in AUXILIARY.values():
            self.add_module(name, auxiliary_classifier(config, maps, num_classes))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                init_(module.weight, "he")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"] | tuple[Float[Tensor, "batch classes"], ...]:
        x = self.norm1(self.maxpool1(self.conv1(images)))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        aux = []
        for name in TABLE:
            x = getattr(self, name)(x)
            if self.training and name in AUXILIARY:
                aux.append(getattr(self, AUXILIARY[name][0])(x))
        logits = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return (logits, *aux) if self.training else logits


def conv_unit(
    config: GoogLeNetConfig, inputs: int, outputs: int, kernel: int, stride: int = 1
) -> nn.Sequential:
    """A convolution that preserves the side (over `stride`), with batch norm or a bias, and ReLU."""
    layers = OrderedDict[str, nn.Module]()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not config.batch_norm)
    if config.batch_norm:
        layers["bn"] = nn.BatchNorm2d(outputs, eps=1e-3)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def inception(config: GoogLeNetConfig, inputs: int, row: tuple[int, ...]) -> Branches:
    """Figure 2(b), with the channels of a row of the table."""
    one, reduce3, three, reduce5, five, pool = row
    wide = conv_unit(config, reduce5, five, config.large_kernel)
    return Branches(
        branch1=conv_unit(config, inputs, one, 1),
        branch2=nn.Sequential(conv_unit(config, inputs, reduce3, 1), conv_unit(config, reduce3, three, 3)),
        branch3=nn.Sequential(conv_unit(config, inputs, reduce5, 1), wide),
        branch4=nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv_unit(config, inputs, pool, 1)),
    )


def auxiliary_classifier(config: GoogLeNetConfig, inputs: int, num_classes: int) -> nn.Sequential:
    """A classifier on maps half-way up (section 5)."""
    layers = OrderedDict[str, nn.Module](squeeze=config.aux_pool(), conv=conv_unit(config, inputs, 128, 1))
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(128 * 4 * 4, 1024), "relu": nn.ReLU()}
    layers |= {"dropout": nn.Dropout(0.7), "fc2": nn.Linear(1024, num_classes)}
    return nn.Sequential(layers)


def loss(output: Tensor | tuple[Tensor, ...], labels: Tensor) -> Float[Tensor, ""]:
    """L(logits) + 0.3 (L(aux1) + L(aux2)), L the cross-entropy; of the logits alone in evaluation."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels)
    main, *aux = (F.cross_entropy(logits, labels) for logits in output)
    return main + 0.3 * sum(aux)


VARIANTS = {
    "googlenet": Variant(partial(GoogLeNet, PUBLISHED), (3, 224, 224)),
    "googlenet_paper": Variant(partial(GoogLeNet, PAPER), (3, 224, 224)),
}

HEAD = ("fc.", "aux1.fc2.", "aux2.fc2.")  # classification layers, replaced for other classes
SIZES = {"googlenet": (15, 10_000), "googlenet_paper": (223, 226)}  # min and max image side, pixels
HALF = (0.5,) * 3, (0.5,) * 3  # mean and std that scale images to −1..1


def build(recipe: Recipe) -> Iterator[Run]:
    minimum, maximum = SIZES[recipe.variant]
    if not minimum <= recipe.size <= maximum:
        raise BadInput(f"{recipe.variant} needs a size of {minimum} to {maximum}, not {recipe.size}")
    yield train_classifier(recipe, VARIANTS, loss=loss, head=HEAD, statistics=HALF)


def counts(variant: str) -> tuple[int, ...]:
    """Parameters: in total, of the main network, and of each auxiliary classifier."""
    model = on_meta(VARIANTS[variant].make)
    total, *heads = (count_parameters(model.get_submodule(name)) for name in ("", "aux1", "aux2"))
    return total, total - sum(heads), *heads


PAPER_COUNTS = (13_378_280, 6_998_552, 3_188_840, 3_190_888)
FACTS = [
    Fact("googlenet parameters", lambda: counts("googlenet")[:2], (13_004_888, 6_624_904)),
    Fact("googlenet_paper parameters", lambda: counts("googlenet_paper"), PAPER_COUNTS),
    *(
        Fact(
            f"{variant} multiply-accumulates",
            lambda make=VARIANTS[variant].make: macs(on_meta(make), (1, 3, 224, 224)),
            products,
        )
        for variant, products in (("googlenet", 1_498_376_192), ("googlenet_paper", 1_582_671_872))
    ),
]


def reference():
    """torchvision's network with its auxiliary classifiers; the paper's by its equations."""
    from torchstone.parts.optional_imports import import_torchvision
    from torchstone.references.torchvision_cases import torchvision_cases

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32):

        def theirs(dtype=dtype) -> nn.Module:
            net: Any = import_torchvision().models.GoogLeNet(10, init_weights=False).to(dtype)
            net(images.to(dtype))  # moves the running statistics from their initial values
            return net

        yield from torchvision_cases(
            "googlenet",
            partial(GoogLeNet, PUBLISHED, 10),
            theirs,
            images.to(dtype),
            modes=(True, False),
            configure=match_outputs,
        )
    large = F.interpolate(images[:1].double(), 224)
    for training in (True, False):
        torch.manual_seed(0)
        ours = GoogLeNet(PAPER, 10).double().train(training)
        naive = NaiveGoogLeNet(ours).train(training)
        freeze_auxiliary(ours, training)
        label = f"googlenet_paper, {'train' if training else 'eval'}"
        yield ParityCase(ours, naive, large, label=label)


def freeze_auxiliary(model: Any, training: bool) -> None:
    """In evaluation mode no gradient reaches the auxiliary classifiers."""
    model.aux1.requires_grad_(training)
    model.aux2.requires_grad_(training)


def match_outputs(ours: GoogLeNet, theirs: Any, training: bool) -> None:
    """Both with the same trainable parameters and order of outputs."""
    freeze_auxiliary(ours, training)
    freeze_auxiliary(theirs, training)
    if training:  # torchvision returns (logits, aux2, aux1)
        theirs.register_forward_hook(lambda _, __, output: (output[0], *output[:0:-1]))


class NaiveGoogLeNet(nn.Module):
    """The parameters of the paper's network; its table 1 and figure 3 in plain convolutions."""

    def __init__(self, model: GoogLeNet):
        super().__init__()
        self.net = model

    def forward(self, images: Tensor) -> Any:
        net: Any = self.net

        def conv(x, unit, stride=1):
            weight = unit.conv.weight
            return F.conv2d(x, weight, unit.conv.bias, stride, weight.shape[2] // 2).clamp(min=0)

        def full(x, layer):
            return x @ layer.weight.T + layer.bias

        def module(x, name):
            one, three, five, pool = net.get_submodule(f"inception{name}").children()
            three, five = (conv(conv(x, branch[0]), branch[1]) for branch in (three, five))
            return torch.cat([conv(x, one), three, five, conv(F.max_pool2d(x, 3, 1, 1), pool[1])], 1)

        def auxiliary(x, head):
            x = conv(F.avg_pool2d(x, 5, 3), head.conv).flatten(1)
            return full(F.dropout(full(x, head.fc1).clamp(min=0), 0.7, self.training), head.fc2)

        def pool(x):  # the last 3×3 may reach past the edge of an even side
            return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)

        x = local_response_norm_by_definition(pool(conv(images, net.conv1, 2)))
        x = pool(local_response_norm_by_definition(conv(conv(x, net.conv2), net.conv3)))
        x = module(pool(module(module(x, "3a"), "3b")), "4a")
        aux = [auxiliary(x, net.aux1)] if self.training else []
        x = module(module(module(x, "4b"), "4c"), "4d")
        aux += [auxiliary(x, net.aux2)] if self.training else []
        x = module(module(pool(module(x, "4e")), "5a"), "5b").mean((2, 3))
        logits = full(F.dropout(x, 0.4, self.training), net.fc)
        return (logits, *aux) if self.training else logits
