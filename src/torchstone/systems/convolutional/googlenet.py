"""GoogLeNet: filters of several sizes side by side, and a twelfth of AlexNet's weights.

Paper: Christian Szegedy, Wei Liu, Yangqing Jia and six others, "Going deeper with convolutions",
2014, arXiv:1409.4842.

The idea. Nobody knows beforehand how large a filter a layer wants, so an Inception module has 1×1,
3×3 and 5×5 and a pooling side by side and joins their maps; 1×1 convolutions first squeeze what the
large ones see. Two small classifiers half-way up send gradient into the lower layers:

    loss = L(logits, y) + 0.3 (L(aux1, y) + L(aux2, y))

Training, the forward pass gives (logits, aux1, aux2); in evaluation mode, the logits.
`googlenet_paper` is the paper's: biases, 5×5 filters, local response normalisation, dropout 0.4;
6,998,552 parameters, 13,378,280 with the auxiliary classifiers. `googlenet` is the network whose
weights are published: batch normalisation instead, 3×3 filters where the paper has 5×5, dropout 0.2;
6,624,904 and 13,004,888. Names and shapes are those of torchvision's file. Its weights want pictures
scaled to −1..1; torchvision's network turns ImageNet's normalisation into that, ours does not.

What differs from the paper. It gives no starting weights (ours: He et al. 2015) and no constants for
response normalisation (ours: AlexNet's). Momentum is Nesterov's on one machine, the rate falls by a
cosine, crops are of one scale. `googlenet` averages to 4×4 before an auxiliary classifier at every
size; the paper's 5×5 pooling asks for pictures of 223 to 226 pixels.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.conv.branches import Branches
from torchstone.parts.conv.local_response_norm import local_response_norm, local_response_norm_by_definition
from torchstone.parts.facts import Fact, count_parameters, macs
from torchstone.parts.init import init_
from torchstone.systems import Variant
from torchstone.tasks.vision.classify import classify, evaluate, predict

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, or a folder of class folders
    variant: str = "googlenet"  # googlenet (as published) or googlenet_paper (2014)
    size: int = 64  # side of a picture, pixels
    channels: int = 1  # 1 grey, 3 colour
    steps: int = 150  # updates
    batch_size: int = 64  # pictures an update
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=2e-3, weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # none, affine, or steps: flip+crop4+randaugment2-9
    weights: str | None = None  # start from a published file's or a run's
    freeze: Literal["none", "backbone"] = "none"  # what stays as those weights are
    seed: int = 0  # of weights, order and augmentation
    device: str = "auto"  # auto, cpu, cuda, mps


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

# table 1: maps of 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection
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

LISTENERS = {"inception4a": ("aux1", 512), "inception4d": ("aux2", 528)}  # who hears how many maps


@dataclass(frozen=True)
class Form:
    """Where the two networks part."""

    norm: bool  # batch normalisation in place of biases
    large: int  # side of the "5×5" filters
    response: Callable[[], nn.Module]  # after the first and third convolution
    pool4: int  # side of the last maximum
    dropout: float
    squeeze: Callable[[], nn.Module]  # to 4×4, before an auxiliary classifier


PUBLISHED = Form(True, 3, nn.Identity, 2, 0.2, lambda: nn.AdaptiveAvgPool2d(4))
PAPER = Form(False, 5, local_response_norm, 3, 0.4, lambda: nn.AvgPool2d(5, 3))


class GoogLeNet(nn.Module):
    """Three convolutions, nine Inception modules, one full layer; two auxiliary classifiers."""

    def __init__(self, form: Form, num_classes: int = 1000, channels: int = 3):
        super().__init__()
        self.conv1 = unit(form, channels, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = form.response()
        self.conv2 = unit(form, 64, 64, 1)
        self.conv3 = unit(form, 64, 192, 3)
        self.norm2 = form.response()
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        inputs, sides = 192, {"maxpool3": 3, "maxpool4": form.pool4}
        for name, row in TABLE.items():
            if row is None:
                self.add_module(name, nn.MaxPool2d(sides[name], 2, ceil_mode=True))
            else:
                self.add_module(name, inception(form, inputs, row))
                inputs = row[0] + row[2] + row[4] + row[5]
        for name, maps in LISTENERS.values():
            self.add_module(name, auxiliary(form, maps, num_classes))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(form.dropout)
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
        heard = []
        for name in TABLE:
            x = getattr(self, name)(x)
            if self.training and name in LISTENERS:
                heard.append(getattr(self, LISTENERS[name][0])(x))
        logits = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return (logits, *heard) if self.training else logits


def unit(form: Form, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the side (over `stride`), normalised or biased, and rectified."""
    layers = OrderedDict[str, nn.Module]()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not form.norm)
    if form.norm:
        layers["bn"] = nn.BatchNorm2d(outputs, eps=1e-3)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def inception(form: Form, inputs: int, row: tuple[int, ...]) -> Branches:
    """Figure 2(b), with the maps of a row of the table."""
    one, reduce3, three, reduce5, five, pool = row
    wide = unit(form, reduce5, five, form.large)
    return Branches(
        branch1=unit(form, inputs, one, 1),
        branch2=nn.Sequential(unit(form, inputs, reduce3, 1), unit(form, reduce3, three, 3)),
        branch3=nn.Sequential(unit(form, inputs, reduce5, 1), wide),
        branch4=nn.Sequential(nn.MaxPool2d(3, 1, padding=1), unit(form, inputs, pool, 1)),
    )


def auxiliary(form: Form, inputs: int, num_classes: int) -> nn.Sequential:
    """A classifier on maps half-way up (section 5)."""
    layers = OrderedDict[str, nn.Module](squeeze=form.squeeze(), conv=unit(form, inputs, 128, 1))
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
    "googlenet": Variant(functools.partial(GoogLeNet, PUBLISHED), (3, 224, 224)),
    "googlenet_paper": Variant(functools.partial(GoogLeNet, PAPER), (3, 224, 224)),
}

HEAD = ("fc.", "aux1.fc2.", "aux2.fc2.")  # keys of a weights file that belong to its own classes
SIZES = {"googlenet": (15, 10_000), "googlenet_paper": (223, 226)}  # pixels
HALF = (0.5,) * 3, (0.5,) * 3  # mean and deviation of pictures from −1 to 1


def build(recipe: Recipe) -> Iterator[Run]:
    variant, size, (least, most) = recipe.variant, recipe.size, SIZES[recipe.variant]
    if not least <= size <= most:
        raise BadInput(f"{variant} needs a size of {least} to {most}, not {size}")
    device = select_device(recipe.device)
    data = load_images(recipe.data, size=recipe.size, channels=recipe.channels, device=device)
    model_config = {"num_classes": len(data.classes), "channels": data.metadata["channels"]}
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    yield classify(model, recipe, data, model_config=model_config, loss=loss, head=HEAD, statistics=HALF)


def unmade(variant: str) -> nn.Module:
    """The network without memory for its weights, to be counted."""
    with torch.device("meta"):
        return VARIANTS[variant].make()


def counts(variant: str) -> tuple[int, ...]:
    """Parameters: in all, of the main network, and of each auxiliary classifier."""
    model = unmade(variant)
    total, *heads = (count_parameters(model.get_submodule(name)) for name in ("", "aux1", "aux2"))
    return total, total - sum(heads), *heads


PAPER_COUNTS = (13_378_280, 6_998_552, 3_188_840, 3_190_888)
FACTS = [
    Fact("googlenet parameters", lambda: counts("googlenet")[:2], (13_004_888, 6_624_904)),
    Fact("googlenet_paper parameters", lambda: counts("googlenet_paper"), PAPER_COUNTS),
    *(
        Fact(f"{v} multiply-accumulates", lambda v=v: macs(unmade(v), (1, 3, 224, 224)), figure)
        for v, figure in (("googlenet", 1_498_376_192), ("googlenet_paper", 1_582_671_872))
    ),
]


def reference():
    """torchvision's network with its auxiliary classifiers; the paper's written out."""
    from torchstone.references import torchvision

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32):
        for training in (True, False):
            torch.manual_seed(0)
            theirs: Any = torchvision().models.GoogLeNet(10, init_weights=False).to(dtype)
            theirs(images.to(dtype))  # the running statistics move from where they started
            ours: Any = GoogLeNet(PUBLISHED, 10).to(dtype)
            ours.load_state_dict(theirs.state_dict())
            ours, theirs = (ready(m, f"googlenet, {dtype}", training) for m in (ours, theirs))
            yield ours, theirs, images.to(dtype)
    images = F.interpolate(images[:1].double(), 224)
    for training in (True, False):
        torch.manual_seed(0)
        ours = ready(GoogLeNet(PAPER, 10).double(), "googlenet_paper", training)
        yield ours, WrittenOut(ours).train(training), images


def ready(model: Any, name: str, training: bool) -> Any:
    """In its mode and named after it; in evaluation nothing reaches the auxiliary classifiers."""
    model.aux1.requires_grad_(training)
    model.aux2.requires_grad_(training)
    if type(model) is GoogLeNet:
        model.__name__ = f"{name}, {'train' if training else 'eval'}"
    elif training:  # torchvision gives (logits, aux2, aux1)
        model.register_forward_hook(lambda _, __, output: (output[0], *output[:0:-1]))
    return model.train(training)


class WrittenOut(nn.Module):
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

        def module(x, place):
            one, three, five, pool = net.get_submodule(f"inception{place}").children()
            three, five = (conv(conv(x, branch[0]), branch[1]) for branch in (three, five))
            return torch.cat([conv(x, one), three, five, conv(F.max_pool2d(x, 3, 1, 1), pool[1])], 1)

        def heard(x, head):
            x = conv(F.avg_pool2d(x, 5, 3), head.conv).flatten(1)
            return full(F.dropout(full(x, head.fc1).clamp(min=0), 0.7, self.training), head.fc2)

        def halved(x):  # the last 3×3 may reach past the edge of an even side
            return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)

        x = local_response_norm_by_definition(halved(conv(images, net.conv1, 2)))
        x = halved(local_response_norm_by_definition(conv(conv(x, net.conv2), net.conv3)))
        x = module(halved(module(module(x, "3a"), "3b")), "4a")
        answers = [heard(x, net.aux1)] if self.training else []
        x = module(module(module(x, "4b"), "4c"), "4d")
        answers += [heard(x, net.aux2)] if self.training else []
        x = module(module(halved(module(x, "4e")), "5a"), "5b").mean((2, 3))
        logits = full(F.dropout(x, 0.4, self.training), net.fc)
        return (logits, *answers) if self.training else logits
