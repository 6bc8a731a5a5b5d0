"""Real NVP: a likelihood that is exact, from maps that can be undone.

Paper: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real NVP", ICLR
2017, arXiv:1605.08803 (2016).

The idea. Take noise through a map that can be undone, and the density of what comes out is that of the
noise times how much the map stretches space there; so it can be trained by maximum likelihood, with no
bound and no critic. Couplings make such maps of any networks: half of the numbers stay as they are and
say how the other half is scaled and moved. Picture by picture the grid is halved and half of the
channels leave, so that what is coarse is modelled on a coarse grid.

    log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|                              (equations 2 and 3)
    z = b ⊙ x + (1 − b) ⊙ (x ⊙ exp(s(b ⊙ x)) + t(b ⊙ x)),  log |det| = Σ s      (6, 9)
    x ← logit(α + (1 − 2 α) (pixel + u) / levels),  u uniform                   (section 4.1)
    bits a dimension = (log levels − log p(y) / D) / log 2

`forward(x) -> (z, log_det)`, `inverse(z) -> (x, log_det)`, `log_prob(x)` in nats, `sample(n)`; x is
(batch, numbers) of points or (batch, channel, height, width) after the logit, z (batch, numbers). The maps
are in `parts/flow/coupling.py`, noise within a pixel and bits in `parts/flow/dequantization.py`.

    realnvp_points    rows of numbers: couplings of every other number, by full layers
    realnvp_digits    8 × 8: two scales;   realnvp_mnist   28 × 28: three
    realnvp_cifar10   32 × 32 in colour: two scales, 8 residual blocks of 64 features (section 4.1)

A scale is 3 couplings on a checkerboard, the squeeze, 3 on halves of the channels; the last scale 4 on a
checkerboard. Points come with a kernel density estimate beside them (`behind`, in nats), pictures with a
histogram of each pixel.

What differs from the paper. α is used on both sides, as in the code published with it. There is no batch
norm, in which a picture's likelihood depends on those beside it: the maps have a learnt scale and shift
of each channel between them (Kingma and Dhariwal 2018, arXiv:1807.03039, 3.1), the networks group norm.
Likelihoods are measured on averaged weights. `realnvp_cifar10` is of the paper's size, not its weights.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.tabular.points import is_points, load_points
from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase
from torchstone.parts.flow import coupling
from torchstone.parts.flow.coupling import Chain, Coupling, Scales, Squeeze, Standard, Stretch
from torchstone.parts.flow.dequantization import bits
from torchstone.systems import Variant
from torchstone.systems.convolutional import lenet5
from torchstone.tasks.anomaly import finite
from torchstone.tasks.flow import inference
from torchstone.tasks.flow.inference import predict, sample
from torchstone.tasks.flow.train_images import density
from torchstone.tasks.flow.train_points import density_of_points

# fmt: off
__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference", "sample"]
# fmt: on

evaluate = partial(inference.evaluate, classifier=lenet5)
MARGIN = ("bits_per_dimension", -1.0)

Points = Float[Tensor, "batch *shape"]
Noise = Float[Tensor, "batch numbers"]
Each = Float[Tensor, " batch"]


@dataclass(frozen=True)
class Recipe:
    data: str = "digits"  # digits, mnist5k, hf:NAME, a folder; moons, circles, blobs, a table
    variant: str = "realnvp_digits"  # which network; of points and tables: realnvp_points
    levels: int = 256  # values that a pixel has (17 of digits)
    judged: int = 2000  # samples that are judged at the end, 0 for none
    steps: int = 2000  # updates
    batch_size: int = 64  # pictures or points an update
    augment: str = "none"  # of pictures; what is learnt is made so too
    optim: OptimConfig = OptimConfig(
        lr=2e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    seed: int = 0  # of weights, order and noise
    device: str = "auto"  # auto, cpu, cuda, mps


RECIPES = {
    # torchstone train realnvp                  80 s of a core           2.04 bits; histogram 2.41
    "digits": Recipe(levels=17, steps=700),  # with 2,000 it overfits, to 2.4
    # torchstone train realnvp/moons            31 s of a core           0.02 nats behind the kernels
    "moons": Recipe(data="moons", variant="realnvp_points", batch_size=256, steps=3000),
    # torchstone train realnvp/mnist5k
    "mnist5k": Recipe(data="mnist5k", variant="realnvp_mnist"),
    # torchstone train realnvp/cifar10 --data FOLDER   the paper's setting
    "cifar10": Recipe(
        data="cifar10", variant="realnvp_cifar10", augment="flip", steps=400_000, optim=replace(Recipe.optim, lr=1e-3, beta2=0.999, weight_decay=5e-5, lr_schedule="constant", ema_decay=0.999, compile=True)),
    # for tests: seconds
    "smoke": Recipe(levels=17, steps=40, batch_size=32, judged=0),
}  # fmt: skip


class Residual(nn.Module):
    """Two 3 × 3 convolutions that add to their input, norm and ReLU before each."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b width h w"]) -> Float[Tensor, "b width h w"]:
        inner = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(inner)))


def convolutions(channels: int, width: int, blocks: int) -> nn.Sequential:
    """s and t of pictures: residual blocks between 3 × 3 convolutions; both start at zero."""
    layers = [nn.Conv2d(channels, width, 3, padding=1), *(Residual(width) for _ in range(blocks))]
    last = nn.Conv2d(width, 2 * channels, 3, padding=1)
    return nn.Sequential(*layers, nn.GroupNorm(1, width), nn.ReLU(), nothing(last))


def full(numbers: int, width: int, blocks: int) -> nn.Sequential:
    """s and t of rows: `blocks` hidden layers; both start at zero."""
    layers: list[nn.Module] = [nn.Linear(numbers, width), nn.SiLU()]
    for _ in range(blocks - 1):
        layers += [nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nothing(nn.Linear(width, 2 * numbers)))


def nothing(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer, saying zero."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


class RealNVP(nn.Module):
    """Couplings, and between them a scale and shift of each channel.

    Args:
        shape: of x without the batch: (numbers,), or (channel, height, width).
        width, blocks: of each coupling's network; `couplings` of them, of pictures on each mask of a scale.
        scales: of pictures; the side must be divisible by 2 that often but once.
        mean, std: of each number of a row, which is standardised by them first.

    Raises:
        BadInput: one number, or a side that cannot be halved that often.
    """

    def __init__(
        self,
        shape: Sequence[int] = (2,),
        width: int = 64,
        blocks: int = 2,
        couplings: int = 3,
        scales: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__()
        self.shape = tuple(shape)
        if any(side % 2 ** (scales - 1) for side in shape[1:]):
            raise BadInput(f"{shape[1:]} cannot be halved {scales - 1} times: use fewer scales")
        if math.prod(shape) < 2:
            raise BadInput("a coupling needs two numbers or more")
        if len(shape) == 1:
            (n,) = shape
            maps: list[nn.Module] = [Standard(mean or [0.0] * n, std or [1.0] * n)]
            for number in range(couplings):
                mask = coupling.turns(n, odd=number % 2 == 1)
                maps += [Stretch(n, 0), Coupling(full(n, width, blocks), mask, n)]
            self.flow: Any = Chain(maps)
        else:
            self.flow = Scales(self.stages(width, blocks, couplings, scales), shape)

    def stages(self, width: int, blocks: int, couplings: int, scales: int) -> Iterator[Chain]:
        """Section 3.6; each scale's channels are half of the four times as many that it squeezed out."""
        c, h, w = self.shape

        def coupled(mask: Tensor) -> list[nn.Module]:
            return [Stretch(c), Coupling(convolutions(c, width, blocks), mask, c)]

        for _ in range(scales - 1):
            maps: list[nn.Module] = []
            for number in range(couplings):
                maps += coupled(coupling.checkerboard(h, w, odd=number % 2 == 1))
            c, h, w = 4 * c, h // 2, w // 2
            maps.append(Squeeze())
            for number in range(couplings):
                maps += coupled(coupling.halves(c, second=number % 2 == 1))
            yield Chain(maps)
            c //= 2
        yield Chain(
            each for number in range(4) for each in coupled(coupling.checkerboard(h, w, odd=number % 2 == 1))
        )

    def forward(self, x: Points) -> tuple[Noise, Each]:
        return self.flow(x)

    def inverse(self, z: Noise) -> tuple[Points, Each]:
        return self.flow.inverse(z)

    def log_prob(self, x: Points) -> Each:
        """log p(x) in nats (equation 3)."""
        z, log_det = self(x)
        return coupling.normal(z) + log_det

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Points:
        """`count` of x, from the noise of `seed`, the same on every device but for rounding.

        Raises:
            NotFinite: one of them has a number that is NaN or infinite.
        """
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        z = temperature * torch.randn(count, math.prod(self.shape), generator=generator)
        made = [self.inverse(rows)[0] for rows in z.to(device).split(500)]
        return finite(torch.cat(made), "samples")


def sized(*shape: int, **model_config: Any) -> Variant:
    return Variant(partial(RealNVP, shape=shape, **model_config), shape)


VARIANTS = {
    "realnvp_points": sized(2, width=64, blocks=2, couplings=8),
    "realnvp_digits": sized(1, 8, 8, width=32, blocks=2, scales=2),
    "realnvp_mnist": sized(1, 28, 28, width=32, blocks=2, scales=3),
    "realnvp_cifar10": sized(3, 32, 32, width=64, blocks=8, scales=2),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    model_config: dict[str, Any] = {}
    rows = len(VARIANTS[recipe.variant].shape) == 1
    if is_points(recipe.data) != rows:
        fit = "realnvp_points" if not rows else "realnvp_digits, realnvp_mnist or realnvp_cifar10"
        raise BadInput(f"{recipe.variant} is not for {recipe.data}: choose --variant {fit}")
    if rows:
        points = load_points(recipe.data, device)
        model_config = {"shape": [len(points.features)], "mean": points.mean, "std": points.std}
    else:
        channels, size, _ = VARIANTS[recipe.variant].shape
        data = load_images(recipe.data, size=size, channels=channels, device=device)
    rng.seed(recipe.seed)
    model = make(**model_config).to(device)
    if rows:
        yield density_of_points(model, recipe, points, model_config=model_config)
    else:
        yield density(model, recipe, data, model_config=model_config, classifier=lenet5)


def lively(model: nn.Module, by: float = 0.3) -> nn.Module:
    """Weights at random, none of them zero: at the start each coupling does nothing, and so proves nothing."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn_like(weight))
    return model


def whole(side: int = 400, reach: float = 12.0) -> float:
    """The integral of a flow's density over the plane, by squares."""
    torch.manual_seed(0)
    model: Any = lively(RealNVP(couplings=4, width=16)).double()
    step = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 * reach - reach
    places = torch.cartesian_prod(step, step)
    with torch.no_grad():
        return float(model.log_prob(places).exp().sum()) * (2 * reach / side) ** 2


def left_first() -> int:
    """Of the numbers of a 32 × 32 colour picture, how many leave at the first scale."""
    return math.prod(RealNVP((3, 32, 32), width=2, scales=2).flow.leaving[0])


FACTS = [
    Fact("density of a random flow, over the plane", whole, 1.0, 0.01),
    Fact("bits a dimension of one density everywhere", lambda: bits(torch.zeros(1), 9).item(), 8.0),
    Fact("of 3,072 numbers leave half first (equation 14)", left_first, 1536),
]


def reference() -> Iterator[ParityCase]:
    """Flows at random weights beside the determinant of their Jacobian by automatic differentiation."""
    torch.manual_seed(0)
    for shape, scales in (((2,), 1), ((5,), 1), ((1, 4, 4), 2), ((3, 4, 4), 3)):
        model = lively(RealNVP(shape, width=4, blocks=1, couplings=2, scales=scales), 0.15).double()
        x = torch.randn(2, *shape, dtype=torch.float64)
        said = " × ".join(map(str, shape))
        yield ParityCase(model, Slow(model), x, optimizer=torch.optim.AdamW, label=said)


class Slow(nn.Module):
    """The same map, its log-determinant from the definition."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        each = [
            torch.autograd.functional.jacobian(
                lambda row, like=row: self.flow(row.view_as(like)[None])[0][0],
                row.flatten(),
                create_graph=True,
            )
            for row in x
        ]
        return self.flow(x)[0], torch.stack([torch.linalg.slogdet(j)[1] for j in each])
