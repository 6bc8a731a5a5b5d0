"""GAN: a generator learns from a critic that learns to tell its pictures from real ones.

Paper: Ian Goodfellow, Jean Pouget-Abadie, Mehdi Mirza, Bing Xu, David Warde-Farley, Sherjil Ozair, Aaron
Courville and Yoshua Bengio, "Generative Adversarial Nets", NeurIPS 2014, arXiv:1406.2661.

The idea. To say how likely a picture is takes an integral that nobody can do; to tell a real picture from
a made one takes a classifier. So one network makes pictures of noise, another is trained to say which
are real, and the first follows the second's gradient to where it is fooled. At the end neither can do
better: the pictures are distributed as the data are, and the critic says ½ of all of them.

    min_G max_D  V(D, G) = E_x log D(x) + E_z log(1 − D(G(z)))                          (equation 1)
    D*(x) = p_data(x) / (p_data(x) + p_G(x)),   V(D*, G) = −log 4 + 2 JSD(p_data ‖ p_G)  (section 4.1)

    G   z, 100 numbers N(0, 1)    1200 ReLU    1200 ReLU    784 sigmoid        2,503,984 parameters
    D   784, dropout 0.2          240 maxout of 5, dropout 0.5      the same   1 logit   1,231,441

The widths are those of the code published with the paper; `gan_digits` is a small one for 8×8. In the step of either player no gradient
reaches the other. The generator ascends log D(G(z)) (`non_saturating`, section 3): where the critic is
sure, as it is at first, `minimax` has no slope. `hinge` and `wgan_gp` are later games
(`parts/gan/losses.py`).

What differs from the paper. Adam with β₁ = ½ in place of gradient descent with momentum that rises, with
which the published setting takes hours; at a rate of 1e-3 that falls (at the usual 2e-4 half of the samples
were ones). The output's biases start at zero and not at the mean picture.
Samples are drawn from a moving average of the generator. The paper scores them by a Parzen window, which
it calls a poor measure itself; here a classifier of the same set looks at them (`metrics/classifier_features.py`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
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
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.gan.losses import GAMES
from torchstone.plots.sample_grid import unit
from torchstone.systems import Variant
from torchstone.systems.convolutional import lenet5
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.inference import sample
from torchstone.tasks.gan.train import adversarial

# fmt: off
__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "reference", "sample"]
# fmt: on

MARGIN = ("times_nearer", 1.0)
evaluate = partial(inference.evaluate, classifier=lenet5)


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "gan"  # which network
    loss: Literal["non_saturating", "minimax", "hinge", "wgan_gp"] = "non_saturating"  # the game
    penalty: float = 10.0  # of the critic's slope, in wgan_gp
    critic_steps: int = 1  # steps of the critic for one of the generator
    samples: int = 1000  # judged at each evaluation; at the end five times as many
    steps: int = 5000  # updates
    batch_size: int = 100  # pictures a step
    optim: OptimConfig = OptimConfig(
        beta1=0.5, lr_schedule="linear", ema_decay=0.998
    )  # optimizer, schedule, precision
    critic_lr: float | None = None  # the critic's, none for the same
    augment: str = "none"  # of real pictures; what is learnt is made so too
    seed: int = 0  # of weights, order, noise and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


RECIPES = {
    # torchstone train gan   8 min of a core   18.8 times nearer than untrained, each digit 5 % or more
    "mnist5k": Recipe(),
    "mnist": Recipe(data="hf:ylecun/mnist", steps=20_000),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="gan_digits",
        samples=200,
        steps=600,
        batch_size=32,
        optim=replace(Recipe.optim, lr=2e-3, lr_schedule="constant", ema_decay=0.9),
        critic_lr=4e-3,
    ),
}


class Generator(nn.Module):
    """Noise to pictures on 0..1."""

    def __init__(self, latent: int = 100, width: int = 1200, channels: int = 1, size: int = 28):
        super().__init__()
        self.latent, self.shape = latent, (channels, size, size)
        self.first = nn.Linear(latent, width)
        self.second = nn.Linear(width, width)
        self.output = nn.Linear(width, math.prod(self.shape))
        uniform(self, 0.05 * (1200 / width) ** 0.5)  # the published bound at the published width

    def forward(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b c size size"]:
        h = F.relu(self.second(F.relu(self.first(z))))
        return torch.sigmoid(self.output(h)).unflatten(1, self.shape)


class Maxout(nn.Module):
    """The largest of `pieces` linear functions, a unit (Goodfellow et al. 2013, arXiv:1302.4389)."""

    def __init__(self, inputs: int, units: int, pieces: int):
        super().__init__()
        self.pieces, self.linear = pieces, nn.Linear(inputs, units * pieces)

    def forward(self, x: Float[Tensor, "b inputs"]) -> Float[Tensor, "b units"]:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class Critic(nn.Module):
    """Pictures to the logit of being real."""

    def __init__(self, units: int = 240, pieces: int = 5, channels: int = 1, size: int = 28):
        super().__init__()
        self.first = Maxout(channels * size**2, units, pieces)
        self.second = Maxout(units, units, pieces)
        self.output = nn.Linear(units, 1)
        uniform(self, 0.005 * 28 / size)

    def forward(self, pictures: Float[Tensor, "b c size size"]) -> Float[Tensor, " b"]:
        h = self.first(F.dropout(pictures.flatten(1), 0.2, self.training))
        h = self.second(F.dropout(h, 0.5, self.training))
        return self.output(F.dropout(h, 0.5, self.training))[:, 0]


def uniform(network: nn.Module, bound: float) -> None:
    """Weights uniform in ±bound, biases zero."""
    for weight in network.parameters():
        nn.init.uniform_(weight, -bound, bound) if weight.ndim > 1 else nn.init.zeros_(weight)


SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {  # of the two players
    "gan": ({"width": 1200, "size": 28}, {"units": 240, "pieces": 5}),
    "gan_digits": ({"width": 256, "size": 8}, {"units": 80, "pieces": 3}),
}
VARIANTS = {name: Variant(partial(Generator, **each), (100,)) for name, (each, _) in SIZES.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    model_config, theirs = SIZES[recipe.variant]
    size = model_config["size"]
    data = load_images(recipe.data, size=size, channels=1, device=device)
    rng.seed(recipe.seed)
    model, critic = Generator(**model_config).to(device), Critic(**theirs, size=size).to(device)
    yield adversarial(
        model, critic, recipe, data, model_config=model_config, picture=unit(data.metadata), classifier=lenet5
    )


def at_equilibrium(game: str) -> float:
    """V of equation 1 where the critic says ½ of everything."""
    undecided = torch.zeros(8, dtype=torch.float64)
    return -float(GAMES[game].critic(undecided, undecided))


FACTS = [
    Fact("generator's parameters (the code published)", lambda: count_parameters(Generator()), 2_503_984),
    Fact("critic's parameters (the code published)", lambda: count_parameters(Critic()), 1_231_441),
    Fact("value at the optimum: −log 4 (theorem 1)", lambda: at_equilibrium("minimax"), -math.log(4), 1e-12),
]  # fmt: skip


def reference() -> Iterator[ParityCase]:
    """Both networks beside their definition, unit by unit."""
    torch.manual_seed(0)
    made = lively(Generator(5, 7, 2, 3).double())
    yield ParityCase(made, Slow(made), torch.randn(4, 5, dtype=torch.float64))
    critic = lively(Critic(4, 3, 2, 3).double()).eval()
    yield ParityCase(critic, Slow(critic), torch.rand(4, 2, 3, 3, dtype=torch.float64))


def lively(network: nn.Module) -> nn.Module:
    """With weights under which every layer matters and none saturates, and biases that are not zero."""
    for weight in network.parameters():
        nn.init.normal_(weight, 0.0 if weight.ndim > 1 else 0.5, weight[0].numel() ** -0.5)
    return network


class Slow(nn.Module):
    """The same parameters, sums written out."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.one(each) for each in x])

    def one(self, x: Tensor) -> Tensor:
        net: Any = self.net
        x = x.flatten()
        if isinstance(net, Generator):
            for layer in (net.first, net.second):
                x = torch.stack([s.clamp(min=0) for s in sums(layer, x)])
            return torch.stack([1 / (1 + (-s).exp()) for s in sums(net.output, x)]).view(net.shape)
        for layer in (net.first, net.second):
            each, n = sums(layer.linear, x), layer.pieces
            x = torch.stack([torch.stack(each[i : i + n]).max() for i in range(0, len(each), n)])
        return sums(net.output, x)[0]


def sums(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    return [(w * x).sum() + b for w, b in zip(layer.weight, layer.bias, strict=True)]
