"""Real NVP: exact likelihoods from invertible networks.

Paper: Laurent Dinh, Jascha Sohl-Dickstein and Samy Bengio, "Density Estimation using Real NVP", ICLR
2017, arXiv:1605.08803 (2016).

The idea. If noise is mapped to data by an invertible function, the density of the data is that of the noise
times the Jacobian determinant of the inverse. The model can therefore be trained by maximum likelihood,
without a bound or a discriminator. Coupling layers make such functions from arbitrary networks: half of the
numbers stay unchanged and determine how the other half is scaled and shifted. For images the side is halved
stage by stage and half of the channels leave, so that coarse structure is modeled on a coarse grid.

    log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|                              (equations 2 and 3)
    z = b ⊙ x + (1 − b) ⊙ (x ⊙ exp(s(b ⊙ x)) + t(b ⊙ x)),  log |det| = Σ s      (6, 9)
    x ← logit(α + (1 − 2 α) (pixel + u) / levels),  u uniform                   (section 4.1)
    bits per dimension = (log levels − log p(y) / D) / log 2

`forward(x) -> (z, log_det)`, `inverse(z) -> (x, log_det)`, `log_prob(x)` in nats, `sample(n)`; x is
(batch, features) of points or (batch, channel, height, width) after the logit, z (batch, numbers). The
layers are in `parts/flow/coupling.py`, dequantization and bits per dimension in `parts/flow/likelihood.py`.

    realnvp_points    rows of features: couplings with alternating masks, fully connected
    realnvp_digits    8 × 8: two scales;   realnvp_mnist   28 × 28: three
    realnvp_cifar10   32 × 32 in color: two scales, 8 residual blocks of 64 channels (section 4.1)

A scale is 3 couplings with checkerboard masks, the squeeze, 3 with channel masks; the last scale is 4 with
checkerboard masks. The baseline is kernel density estimation for points (`gap_to_kde`, in nats) and a
histogram of each pixel for images.

What differs from the paper. α is used on both sides, as in the code published with it. There is no batch
norm, under which the likelihood of an image depends on the rest of its batch. Between the couplings are a
learned scale and shift of each channel instead (Kingma and Dhariwal 2018, arXiv:1807.03039, 3.1), in their
networks group norm. Likelihoods are those of averaged weights. `realnvp_cifar10` is of the paper's size,
not its weights.
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
from torchstone.data.vision.dequantized_batches import LikelihoodBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase
from torchstone.parts.flow.coupling import (
    ActNorm,
    AffineCoupling,
    ComposeFlow,
    MultiScaleFlow,
    Squeeze,
    Standardize,
    alternating_mask,
    channel_mask,
    checkerboard,
    standard_normal_log_prob,
)
from torchstone.parts.flow.likelihood import bits_per_dim, dequantize, logit
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.anomaly import check_finite
from torchstone.tasks.flow import inference
from torchstone.tasks.flow.inference import predict, sample
from torchstone.tasks.flow.train import train_image_flow, train_point_flow

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "predict",
    "reference",
    "sample",
]

evaluate = partial(inference.evaluate, classifier=CLASSIFIER)
MARGIN = ("bits_per_dimension", -1.0)

Points = Float[Tensor, "batch *shape"]
Noise = Float[Tensor, "batch numbers"]
LogProb = Float[Tensor, " batch"]


@dataclass(frozen=True)
class Recipe:
    data: str = "digits"  # data set: digits, mnist5k, hf:NAME, a folder; moons, circles, blobs, a table
    variant: str = "realnvp_digits"  # network variant; for points and tables realnvp_points
    pixel_levels: int = 256  # number of pixel values (digits: 17)
    eval_samples: int = 2000  # samples evaluated at the end (0: none)
    steps: int = 2000  # number of updates
    batch_size: int = 64  # images or points per update
    augment: str = "none"  # augmentation of images; samples then look augmented too
    optim: OptimConfig = OptimConfig(
        lr=2e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train realnvp                  80 s of a core           2.04 bits; histogram 2.41
    "digits": Recipe(pixel_levels=17, steps=700),  # with 2,000 it overfits, to 2.4
    # torchstone train realnvp/moons            31 s of a core           0.02 nats above the KDE loss
    "moons": Recipe(data="moons", variant="realnvp_points", batch_size=256, steps=3000),
    # torchstone train realnvp/mnist5k
    "mnist5k": Recipe(data="mnist5k", variant="realnvp_mnist"),
    # torchstone train realnvp/cifar10 --data FOLDER   the paper's setting
    "cifar10": Recipe(
        data="cifar10",
        variant="realnvp_cifar10",
        augment="flip",
        steps=400_000,
        optim=replace(
            Recipe.optim,
            lr=1e-3,
            beta2=0.999,
            weight_decay=5e-5,
            lr_schedule="constant",
            ema_decay=0.999,
            compile=True,
        ),
    ),
    # for tests: seconds
    "smoke": Recipe(pixel_levels=17, steps=40, batch_size=32, eval_samples=0),
}


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with a skip connection, norm and ReLU before each."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b width h w"]) -> Float[Tensor, "b width h w"]:
        h = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(h)))


def conv_coupling_net(channels: int, width: int, blocks: int) -> nn.Sequential:
    """s and t of images: residual blocks between 3 × 3 convolutions; both start at zero."""
    layers = [nn.Conv2d(channels, width, 3, padding=1), *(ResidualBlock(width) for _ in range(blocks))]
    last = nn.Conv2d(width, 2 * channels, 3, padding=1)
    return nn.Sequential(*layers, nn.GroupNorm(1, width), nn.ReLU(), zero_init(last))


def mlp_coupling_net(features: int, width: int, blocks: int) -> nn.Sequential:
    """s and t of rows: `blocks` hidden layers; both start at zero."""
    layers: list[nn.Module] = [nn.Linear(features, width), nn.SiLU()]
    for _ in range(blocks - 1):
        layers += [nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, zero_init(nn.Linear(width, 2 * features)))


def zero_init(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer with all its weights zero."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


class RealNVP(nn.Module):
    """Couplings, with a scale and shift of each channel between them.

    Args:
        shape: of x without the batch: (features,), or (channel, height, width).
        width, blocks: of each coupling's network.
        couplings: number of couplings; of images, for each mask of a scale.
        scales: of images; the side must be divisible by 2 ** (scales - 1).
        mean, std: of each feature of a row, by which it is standardized first.

    Raises:
        BadInput: a single number, or a side that cannot be halved that often.
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
            layers: list[nn.Module] = [Standardize(mean or [0.0] * n, std or [1.0] * n)]
            for number in range(couplings):
                mask = alternating_mask(n, odd=number % 2 == 1)
                layers += [ActNorm(n, 0), AffineCoupling(mlp_coupling_net(n, width, blocks), mask, n)]
            self.flow: Any = ComposeFlow(layers)
        else:
            self.flow = MultiScaleFlow(self.stages(width, blocks, couplings, scales), shape)

    def stages(self, width: int, blocks: int, couplings: int, scales: int) -> Iterator[ComposeFlow]:
        """Section 3.6; each scale keeps half of the channels that the squeeze of the one before made."""
        c, h, w = self.shape

        def coupling(mask: Tensor) -> list[nn.Module]:
            return [ActNorm(c), AffineCoupling(conv_coupling_net(c, width, blocks), mask, c)]

        for _ in range(scales - 1):
            layers: list[nn.Module] = []
            for number in range(couplings):
                layers += coupling(checkerboard(h, w, odd=number % 2 == 1))
            c, h, w = 4 * c, h // 2, w // 2
            layers.append(Squeeze())
            for number in range(couplings):
                layers += coupling(channel_mask(c, second=number % 2 == 1))
            yield ComposeFlow(layers)
            c //= 2
        yield ComposeFlow(
            layer for number in range(4) for layer in coupling(checkerboard(h, w, odd=number % 2 == 1))
        )

    def forward(self, x: Points) -> tuple[Noise, LogProb]:
        return self.flow(x)

    def inverse(self, z: Noise) -> tuple[Points, LogProb]:
        return self.flow.inverse(z)

    def log_prob(self, x: Points) -> LogProb:
        """log p(x) in nats (equation 3)."""
        z, log_det = self(x)
        return standard_normal_log_prob(z) + log_det

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Points:
        """`count` samples x = f⁻¹(z), from the noise of `seed`, the same on every device but for rounding.

        Raises:
            NotFinite: one of them has a number that is NaN or infinite.
        """
        like = next(self.parameters())
        generator = torch.Generator().manual_seed(seed)
        z = temperature * torch.randn(count, math.prod(self.shape), generator=generator)
        samples = [self.inverse(rows)[0] for rows in z.to(like).split(500)]
        return check_finite(torch.cat(samples), "samples")


def image_loss(net: Any, batch: LikelihoodBatch, levels: int) -> Tensor:
    """−log p of dequantized images after the logit (section 4.1), in bits per dimension."""
    x, logit_log_det = logit(dequantize(batch.images, batch.u, levels))
    z, log_det = net(x)
    log_prob = standard_normal_log_prob(z) + log_det + logit_log_det
    return bits_per_dim(log_prob, math.prod(x.shape[1:]), levels).mean()


def point_loss(net: Any, rows: Tensor) -> Tensor:
    """−log p (equation 3), in nats."""
    z, log_det = net(rows)
    return -(standard_normal_log_prob(z) + log_det).mean()


def shape_variant(*shape: int, **model_config: Any) -> Variant:
    return Variant(partial(RealNVP, shape=shape, **model_config), shape)


VARIANTS = {
    "realnvp_points": shape_variant(2, width=64, blocks=2, couplings=8),
    "realnvp_digits": shape_variant(1, 8, 8, width=32, blocks=2, scales=2),
    "realnvp_mnist": shape_variant(1, 28, 28, width=32, blocks=2, scales=3),
    "realnvp_cifar10": shape_variant(3, 32, 32, width=64, blocks=8, scales=2),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    model_config: dict[str, Any] = {}
    has_rows = len(VARIANTS[recipe.variant].shape) == 1
    if is_points(recipe.data) != has_rows:
        variants = "realnvp_points" if not has_rows else "realnvp_digits, realnvp_mnist or realnvp_cifar10"
        raise BadInput(f"{recipe.variant} is not for {recipe.data}: choose --variant {variants}")
    if has_rows:
        points = load_points(recipe.data, device)
        model_config = {"shape": [len(points.features)], "mean": points.mean, "std": points.std}
    else:
        channels, size, _ = VARIANTS[recipe.variant].shape
        data = load_images(recipe.data, size=size, channels=channels, device=device)
    rng.seed(recipe.seed)
    model = make(**model_config).to(device)
    if has_rows:
        yield train_point_flow(model, recipe, points, loss=point_loss, model_config=model_config)
    else:
        yield train_image_flow(
            model, recipe, data, loss=image_loss, model_config=model_config, classifier=CLASSIFIER
        )


def randomize_weights(model: nn.Module, scale: float = 0.3) -> nn.Module:
    """Random weights, none of them zero: the initial couplings are the identity, which proves nothing."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * torch.randn_like(weight))
    return model


def density_integral(side: int = 400, extent: float = 12.0) -> float:
    """The integral of a flow's density over the plane, by a Riemann sum."""
    torch.manual_seed(0)
    model: Any = randomize_weights(RealNVP(couplings=4, width=16)).double()
    step = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 * extent - extent
    grid = torch.cartesian_prod(step, step)
    with torch.no_grad():
        return float(model.log_prob(grid).exp().sum()) * (2 * extent / side) ** 2


def first_split_size() -> int:
    """How many of the numbers of a 32 × 32 color image leave at the first scale."""
    return math.prod(RealNVP((3, 32, 32), width=2, scales=2).flow.split_shapes[0])


FACTS = [
    Fact("density of a random flow, over the plane", density_integral, 1.0, 0.01),
    Fact("bits per dimension of a uniform density", lambda: bits_per_dim(torch.zeros(1), 9).item(), 8.0),
    Fact("of 3,072 numbers leave half first (equation 14)", first_split_size, 1536),
]


def reference() -> Iterator[ParityCase]:
    """Flows with random weights against the determinant of their Jacobian by automatic differentiation."""
    torch.manual_seed(0)
    for shape, scales in (((2,), 1), ((5,), 1), ((1, 4, 4), 2), ((3, 4, 4), 3)):
        model = RealNVP(shape, width=4, blocks=1, couplings=2, scales=scales)
        model = randomize_weights(model, 0.15).double()
        x = torch.randn(2, *shape, dtype=torch.float64)
        label = " × ".join(map(str, shape))
        yield ParityCase(model, ReferenceFlow(model), x, optimizer=torch.optim.AdamW, label=label)


class ReferenceFlow(nn.Module):
    """The same map, its log-determinant from the definition."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        jacobians = [
            torch.autograd.functional.jacobian(
                lambda row, like=row: self.flow(row.view_as(like)[None])[0][0],
                row.flatten(),
                create_graph=True,
            )
            for row in x
        ]
        return self.flow(x)[0], torch.stack([torch.linalg.slogdet(j)[1] for j in jacobians])
