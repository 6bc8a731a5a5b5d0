"""LeNet-5: learned features by convolution and subsampling.

Paper: Yann LeCun, Léon Bottou, Yoshua Bengio and Patrick Haffner, "Gradient-based learning applied
to document recognition", Proceedings of the IEEE 86(11), 1998, section II-B.

The idea. A digit shifted by a few pixels is the same digit, so one small filter is shared by all
locations of the image instead of one weight per location. Each feature map is then subsampled, which
preserves the feature and discards its exact location. All of it, filters included, is trained by gradient
descent on the last layer's error.

Layers, for an image of 32×32 (a 28×28 digit, padded):

    C1  convolution 5×5, 6 maps of 28×28          S2  subsampling, 6 of 14×14
    C3  convolution 5×5, 16 maps of 10×10         S4  subsampling, 16 of 5×5
    C5  convolution 5×5, 120 maps of 1×1          F6  full, 84 units          output, 10

`lenet5` is the form in use today: C3 connected to all of S2, max pooling, ReLU, a linear
output with cross-entropy; 61,706 parameters.

`lenet5_paper` is the paper's: C3 connected by table I, subsampling with a trainable coefficient and
bias, the squashing function 1.7159·tanh(2x/3), and radial basis units whose centers are bitmaps of
the characters; 60,000 trainable parameters.

What differs from the paper. It is trained by stochastic gradient descent with momentum on batches
and a decaying learning rate, not by the stochastic diagonal Levenberg-Marquardt method one image at a
time. The centers of the output units are our own drawing of 7×12 digits in the manner of its figure 3;
for other than ten classes they are random signs, which the paper names as the alternative.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.parts.facts import Fact, ParityCase, count_parameters, layers, macs
from torchstone.parts.old_keys import accept_old_keys
from torchstone.systems import Variant
from torchstone.tasks.vision.classify import evaluate, explain, predict, train_classifier

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders, IDX files) or zip
    variant: str = "lenet5"  # network variant: lenet5 (today's form) or lenet5_paper (1998)
    steps: int = 1500  # number of training steps
    batch_size: int = 64  # batch size
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=4e-3, weight_decay=0.02, warmup_ratio=0.1
    )  # optimizer, schedule, precision
    augment: str = "affine"  # augmentation: none, affine, or steps such as flip+crop4+randaugment2-9
    label_smoothing: float = 0.0  # label smoothing: share of the target that all classes divide
    weights: str | None = None  # initial weights: a published file or a run folder
    freeze: Literal["none", "backbone"] = "none"  # frozen part: none, or the backbone (trains the head alone)
    seed: int = 0  # random seed of weights, data order and augmentation
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train lenet5                   12 s on 2 idle cores   test accuracy 0.987
    "mnist5k": Recipe(),
    # torchstone train lenet5/mnist --data DIR  2 min on 2 cores       test accuracy 0.9946
    "mnist": Recipe(data="hf:ylecun/mnist", steps=8500, augment="shift2"),
    # torchstone train lenet5/paper             30 s on 2 cores        test accuracy 0.985
    "paper": Recipe(
        variant="lenet5_paper", optim=replace(Recipe.optim, optimizer="sgd", lr=2e-3, weight_decay=0.0)
    ),
    # torchstone train lenet5/digits            23 s on 2 busy cores   test accuracy 0.998
    "digits": Recipe(data="digits", steps=800),
    # for tests: seconds
    "smoke": Recipe(data="digits", steps=60, batch_size=32, augment="shift2"),
}


class LeNet5(nn.Module):
    """Today's LeNet-5."""

    def __init__(self, num_classes: int = 10, channels: int = 1):
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, 5)
        self.s2 = nn.MaxPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.s4 = nn.MaxPool2d(2)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)

    def forward(self, images: Float[Tensor, "b c 32 32"]) -> Float[Tensor, "b classes"]:
        x = self.s2(F.relu(self.c1(images)))
        x = self.s4(F.relu(self.c3(x)))
        x = F.relu(self.c5(x)).flatten(1)
        return self.output(F.relu(self.f6(x)))


# Table I: which maps of S2 (rows) each map of C3 (columns) is connected to.
CONNECTIONS = """
    X...XXX..XXXX.XX
    XX...XXX..XXXX.X
    XXX...XXX..X.XXX
    .XXX..XXXX..X.XX
    ..XXX..XXXX.XX.X
    ...XXX..XXXX.XXX
"""


class LeNet5Paper(nn.Module):
    """The network of 1998."""

    def __init__(self, num_classes: int = 10, channels: int = 1):
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = TableConvolution(connection_table(), 5)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = RadialBasis(class_centers(num_classes))
        self.initialize()

    def initialize(self) -> None:
        """Uniform in ±2.4/fan-in, so that units start in the linear part of the tanh (appendix A)."""
        for layer in (self.c1, self.c5, self.f6):
            bound = 2.4 / layer.weight[0].numel()
            for parameter in layer.parameters():  # weight, then bias
                nn.init.uniform_(parameter, -bound, bound)
        for weight in self.c3.weights:  # fan-in differs from map to map
            nn.init.uniform_(weight, -2.4 / weight.numel(), 2.4 / weight.numel())
        nn.init.zeros_(self.c3.bias)

    def forward(self, images: Float[Tensor, "b c 32 32"]) -> Float[Tensor, "b classes"]:
        x = squash(self.s2(squash(self.c1(images))))
        x = squash(self.s4(squash(self.c3(x))))
        x = squash(self.c5(x)).flatten(1)
        x = squash(self.f6(x))
        return -self.output(x)  # the nearest center has the largest logit


def squash(a: Tensor) -> Tensor:
    """f(a) = A·tanh(S·a), with A = 1.7159 and S = 2/3, so that f(±1) = ±1 (appendix A)."""
    return 1.7159 * torch.tanh(2 / 3 * a)


class Subsampling(nn.Module):
    """The sum of each 2×2 block, times one trainable coefficient per map, plus one bias per map."""

    def __init__(self, channels: int):
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((channels, 1, 1), 0.25))  # starts as the mean
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h//2 w//2"]:
        return F.avg_pool2d(x, 2, divisor_override=1) * self.coefficient + self.bias


class TableConvolution(nn.Module):
    """A convolution whose output maps are each connected to only some of the input maps.

    Weights exist only where the table has a connection; for speed they are scattered into one dense
    kernel with zeros elsewhere.
    """

    mask: Bool[Tensor, "outputs inputs"]

    def __init__(self, table: Int[Tensor, "inputs outputs"], kernel: int):
        super().__init__()
        self.weights = nn.ParameterList(
            [torch.empty(int(column.sum()), kernel, kernel) for column in table.T]
        )
        self.bias = nn.Parameter(torch.empty(table.shape[1]))
        self.register_buffer("mask", table.T.bool(), persistent=False)

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return F.conv2d(x, self.kernel(), self.bias)

    def kernel(self) -> Float[Tensor, "outputs inputs k k"]:
        flat = torch.cat(list(self.weights))
        dense = flat.new_zeros(*self.mask.shape, *flat.shape[1:])
        dense[self.mask] = flat  # row by row: output after output, its inputs in order
        return dense


class RadialBasis(nn.Module):
    """y_i = Σ_j (x_j − w_ij)², the squared distance to each class's fixed center (equation 7)."""

    centers: Float[Tensor, "classes units"]

    def __init__(self, centers: Float[Tensor, "classes units"]):
        super().__init__()
        self.register_buffer("centers", centers)
        accept_old_keys(self, {"centres": "centers"})

    def forward(self, x: Float[Tensor, "b units"]) -> Float[Tensor, "b classes"]:
        w = self.centers  # Σ(x − w)² = x·x − 2 x·w + w·w, one matrix product
        return x.square().sum(1, keepdim=True) - 2 * x @ w.T + w.square().sum(1)


def map_loss(logits: Float[Tensor, "b classes"], labels: Tensor) -> Float[Tensor, ""]:
    """E = mean of y_D + log(e^{−j} + Σ_i e^{−y_i})  (equation 9), with logits = −y.

    The maximum a posteriori criterion. Its second term pushes wrong classes away; j = 1 bounds it.
    """
    junk = torch.full_like(logits[:, :1], -1.0)
    padded = F.pad(labels, (0, labels.ndim - 1))  # soft labels have no share of it
    return F.cross_entropy(torch.cat([logits, junk], 1), padded)


def connection_table() -> Int[Tensor, "6 16"]:
    return torch.tensor([[int(mark == "X") for mark in row] for row in CONNECTIONS.split()])


def class_centers(classes: int) -> Float[Tensor, "classes 84"]:
    """±1 bitmaps of the digits, 7 wide and 12 high; random signs where there are not ten classes."""
    if classes == 10:
        bitmaps = torch.tensor([[c == "#" for c in "".join(d.split())] for d in DIGITS])
        return bitmaps.float() * 2 - 1
    generator = torch.Generator("cpu").manual_seed(1998)
    return torch.randint(0, 2, (classes, 84), generator=generator, device="cpu").float() * 2 - 1


DIGITS = (
    "..###.. .#...#. #.....# #.....# #.....# #.....# #.....# #.....# #.....# #.....# .#...#. ..###..",
    "...#... ..##... .#.#... ...#... ...#... ...#... ...#... ...#... ...#... ...#... ...#... .#####.",
    ".#####. #.....# #.....# ......# ......# .....#. ....#.. ...#... ..#.... .#..... #...... #######",
    ".#####. #.....# ......# ......# ......# ..####. ......# ......# ......# ......# #.....# .#####.",
    ".....#. ....##. ...#.#. ..#..#. .#...#. #....#. ####### .....#. .....#. .....#. .....#. .....#.",
    "####### #...... #...... #...... #.####. ##....# ......# ......# ......# ......# #.....# .#####.",
    "..####. .#..... #...... #...... #...... #.####. ##....# #.....# #.....# #.....# #.....# .#####.",
    "####### ......# ......# .....#. .....#. ....#.. ....#.. ...#... ...#... ..#.... ..#.... ..#....",
    ".#####. #.....# #.....# #.....# #.....# .#####. #.....# #.....# #.....# #.....# #.....# .#####.",
    ".#####. #.....# #.....# #.....# #.....# #....## .####.# ......# ......# ......# .....#. .####..",
)

SHAPE, HEAD = (1, 32, 32), ("output.",)  # the head: parameters replaced for other classes
VARIANTS = {"lenet5": Variant(LeNet5, SHAPE), "lenet5_paper": Variant(LeNet5Paper, SHAPE)}


def build(recipe: Recipe) -> Iterator[Run]:
    loss = map_loss if recipe.variant == "lenet5_paper" else F.cross_entropy
    yield train_classifier(recipe, VARIANTS, size=32, channels=1, loss=loss, head=HEAD)


FACTS = [
    Fact("lenet5 parameters", lambda: count_parameters(LeNet5()), 61_706),
    Fact("lenet5 multiply-accumulates", lambda: macs(LeNet5(), (1, 1, 32, 32)), 416_520),
    Fact("lenet5_paper trainable parameters", lambda: count_parameters(LeNet5Paper()), 60_000),
    Fact(
        "lenet5_paper layer by layer",
        lambda: {name: n for name, m in layers(LeNet5Paper()) if (n := count_parameters(m))},
        {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164},
    ),
    Fact("connections of C3 (paper: 60 pairs of maps)", lambda: int(connection_table().sum()), 60),
]


def reference():
    """Both networks against their definition, pixel by pixel and unit by unit, in plain loops."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    for make in (LeNet5, LeNet5Paper):
        model = make().double()
        yield ParityCase(model, NaiveLeNet5(model), images)


class NaiveLeNet5(nn.Module):
    """The same parameters in the equations of the paper's section II-B."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.net = model

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.forward_one(image) for image in images])

    def forward_one(self, x: Tensor) -> Tensor:
        net: Any = self.net
        is_paper = isinstance(net, LeNet5Paper)
        f = (lambda a: 1.7159 * torch.tanh(a * 2 / 3)) if is_paper else (lambda a: a.clamp(min=0))
        g = f if is_paper else (lambda a: a)  # the paper squashes after subsampling too
        x = g(self.subsample(f(self.convolve(x, net.c1.weight, net.c1.bias)), net.s2))
        if is_paper:
            table, maps = connection_table().T, []
            for row, weight, bias in zip(table, net.c3.weights, net.c3.bias, strict=True):
                inputs = x[row.nonzero().flatten()]
                maps.append(self.convolve(inputs, weight[None], bias[None])[0])
            x = torch.stack(maps)
        else:
            x = self.convolve(x, net.c3.weight, net.c3.bias)
        x = g(self.subsample(f(x), net.s4))
        x = f(self.convolve(x, net.c5.weight, net.c5.bias)).flatten()
        x = f(self.full(x, net.f6))
        if is_paper:
            return torch.stack([-((x - center) ** 2).sum() for center in net.output.centers])
        return self.full(x, net.output)

    @staticmethod
    def full(x: Tensor, layer: nn.Linear) -> Tensor:
        return torch.stack([(w * x).sum() for w in layer.weight]) + layer.bias

    @staticmethod
    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        k = weight.shape[-1]
        side = range(x.shape[-1] - k + 1)
        rows = [[(weight * x[:, i : i + k, j : j + k]).sum((1, 2, 3)) for j in side] for i in side]
        return torch.stack([torch.stack(row, -1) for row in rows], -2) + bias[:, None, None]

    @staticmethod
    def subsample(x: Tensor, layer: nn.Module) -> Tensor:
        corners = torch.stack([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
        if isinstance(layer, Subsampling):
            return corners.sum(0) * layer.coefficient + layer.bias
        return corners.amax(0)
