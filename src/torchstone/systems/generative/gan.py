"""GAN: a generator learns from a discriminator, which learns to tell generated images from real ones.

Paper: Ian Goodfellow, Jean Pouget-Abadie, Mehdi Mirza, Bing Xu, David Warde-Farley, Sherjil Ozair, Aaron
Courville and Yoshua Bengio, "Generative Adversarial Nets", NeurIPS 2014, arXiv:1406.2661.

The idea. The likelihood of an image is an intractable integral, but to tell a real image from a generated
one takes only a classifier. So the generator maps noise to images, the discriminator is trained to
classify them as real or generated, and the generator follows the discriminator's gradient to where it is
wrong. At the optimum the samples have the distribution of the data, and the discriminator outputs ½
everywhere.

    min_G max_D  V(D, G) = E_x log D(x) + E_z log(1 − D(G(z)))                          (equation 1)
    D*(x) = p_data(x) / (p_data(x) + p_G(x)),   V(D*, G) = −log 4 + 2 JSD(p_data ‖ p_G)  (section 4.1)

    G   z, 100 numbers N(0, 1)    1200 ReLU    1200 ReLU    784 sigmoid        2,503,984 parameters
    D   784, dropout 0.2          240 maxout of 5, dropout 0.5      the same   1 logit   1,231,441

The widths are those of the code published with the paper; `gan_digits` is a small one for 8×8. No gradient
of either network's step reaches the other network. The generator maximizes log D(G(z)) (`non_saturating`,
section 3): while the discriminator is confident, as it is at first, the gradient of `minimax` vanishes.
`hinge` and `wgan_gp` are later losses (`parts/gan/losses.py`).

What differs from the paper. Adam with β₁ = ½ replaces gradient descent with rising momentum, with which the
published setting takes hours. The learning rate is 1e-3 and decays (at the usual 2e-4 half of the samples
were ones). The output biases start at zero, not at the mean image. Samples come from an exponential moving
average of the generator. The paper scores them by a Parzen window, which it calls a poor measure itself;
here they are compared in the features of a classifier (`metrics/classifier_features.py`).
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
from torchstone.parts.gan.losses import GAN_LOSSES, GanLoss
from torchstone.plots.sample_grid import unit_range
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.inference import sample
from torchstone.tasks.gan.train import DiscriminatorOutput, train_gan

__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "reference", "sample"]

MARGIN = ("fd_ratio_vs_untrained", 1.0)
evaluate = partial(inference.evaluate, classifier=CLASSIFIER)


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "gan"  # network variant
    loss: Literal["non_saturating", "minimax", "hinge", "wgan_gp"] = "non_saturating"  # GAN loss
    gp_weight: float = 10.0  # gradient penalty weight λ of wgan_gp
    discriminator_steps: int = 1  # discriminator steps per generator step
    eval_samples: int = 1000  # samples per evaluation; five times as many at the end
    steps: int = 5000  # number of updates
    batch_size: int = 100  # images per step
    optim: OptimConfig = OptimConfig(
        beta1=0.5, lr_schedule="linear", ema_decay=0.998
    )  # optimizer, schedule, precision
    discriminator_lr: float | None = None  # learning rate of the discriminator (none: that of the generator)
    augment: str = "none"  # augmentation of real images; samples then look augmented too
    seed: int = 0  # random seed of weights, data order, noise and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train gan   8 min of a core
    # Fréchet distance 18.8 times below untrained, each digit 5 % or more
    "mnist5k": Recipe(),
    "mnist": Recipe(data="hf:ylecun/mnist", steps=20_000),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="gan_digits",
        eval_samples=200,
        steps=600,
        batch_size=32,
        optim=replace(Recipe.optim, lr=2e-3, lr_schedule="constant", ema_decay=0.9),
        discriminator_lr=4e-3,
    ),
}


class Generator(nn.Module):
    """Noise to images on 0..1."""

    def __init__(self, latent_dim: int = 100, width: int = 1200, channels: int = 1, size: int = 28):
        super().__init__()
        self.latent_dim, self.shape = latent_dim, (channels, size, size)
        self.first = nn.Linear(latent_dim, width)
        self.second = nn.Linear(width, width)
        self.output = nn.Linear(width, math.prod(self.shape))
        init_uniform(self, 0.05 * (1200 / width) ** 0.5)  # the published bound at the published width

    def forward(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b c size size"]:
        h = F.relu(self.second(F.relu(self.first(z))))
        return torch.sigmoid(self.output(h)).unflatten(1, self.shape)


class Maxout(nn.Module):
    """Each unit is the maximum of `pieces` linear functions (Goodfellow et al. 2013, arXiv:1302.4389)."""

    def __init__(self, inputs: int, units: int, pieces: int):
        super().__init__()
        self.pieces, self.linear = pieces, nn.Linear(inputs, units * pieces)

    def forward(self, x: Float[Tensor, "b inputs"]) -> Float[Tensor, "b units"]:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class Discriminator(nn.Module):
    """Images to the logit of being real."""

    def __init__(self, units: int = 240, pieces: int = 5, channels: int = 1, size: int = 28):
        super().__init__()
        self.first = Maxout(channels * size**2, units, pieces)
        self.second = Maxout(units, units, pieces)
        self.output = nn.Linear(units, 1)
        init_uniform(self, 0.005 * 28 / size)

    def forward(self, images: Float[Tensor, "b c size size"]) -> Float[Tensor, " b"]:
        h = self.first(F.dropout(images.flatten(1), 0.2, self.training))
        h = self.second(F.dropout(h, 0.5, self.training))
        return self.output(F.dropout(h, 0.5, self.training))[:, 0]


def init_uniform(network: nn.Module, bound: float) -> None:
    """Weights uniform in ±bound, biases zero."""
    for weight in network.parameters():
        nn.init.uniform_(weight, -bound, bound) if weight.ndim > 1 else nn.init.zeros_(weight)


def discriminator_loss(output: DiscriminatorOutput, loss: GanLoss, gp_weight: float) -> Tensor:
    """−V of equation 1: −E log D(x) − E log(1 − D(G(z))), or that of another `loss`; plus λ times its
    gradient penalty, if it has one."""
    total = loss.discriminator(output.real, output.fake)
    return total if output.penalty is None else total + gp_weight * output.penalty


def generator_loss(fake_logits: Tensor, loss: GanLoss) -> Tensor:
    """−E log D(G(z)) (section 3), or that of another `loss`."""
    return loss.generator(fake_logits)


train = partial(
    train_gan, discriminator_loss=discriminator_loss, generator_loss=generator_loss, classifier=CLASSIFIER
)

# of generator and discriminator
CONFIGS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "gan": ({"width": 1200, "size": 28}, {"units": 240, "pieces": 5}),
    "gan_digits": ({"width": 256, "size": 8}, {"units": 80, "pieces": 3}),
}
VARIANTS = {name: Variant(partial(Generator, **each), (100,)) for name, (each, _) in CONFIGS.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    model_config, discriminator_config = CONFIGS[recipe.variant]
    size = model_config["size"]
    data = load_images(recipe.data, size=size, channels=1, device=device)
    rng.seed(recipe.seed)
    model = Generator(**model_config).to(device)
    discriminator = Discriminator(**discriminator_config, size=size).to(device)
    metadata = unit_range(data.metadata)
    yield train(model, discriminator, recipe, data, model_config=model_config, metadata=metadata)


def value_at_optimum(loss: str) -> float:
    """V of equation 1 where the discriminator outputs ½ everywhere."""
    logits = torch.zeros(8, dtype=torch.float64)
    return -float(GAN_LOSSES[loss].discriminator(logits, logits))


FACTS = [
    Fact("generator's parameters (the code published)", lambda: count_parameters(Generator()), 2_503_984),
    Fact(
        "discriminator's parameters (the code published)",
        lambda: count_parameters(Discriminator()),
        1_231_441,
    ),
    Fact(
        "value at the optimum: −log 4 (theorem 1)", lambda: value_at_optimum("minimax"), -math.log(4), 1e-12
    ),
]


def reference() -> Iterator[ParityCase]:
    """Both networks against their definition, unit by unit."""
    from torchstone.references import randomize_weights

    torch.manual_seed(0)
    generator = randomize_weights(Generator(5, 7, 2, 3).double())
    yield ParityCase(generator, ReferenceNetwork(generator), torch.randn(4, 5, dtype=torch.float64))
    discriminator = randomize_weights(Discriminator(4, 3, 2, 3).double()).eval()
    images = torch.rand(4, 2, 3, 3, dtype=torch.float64)
    yield ParityCase(discriminator, ReferenceNetwork(discriminator), images)


class ReferenceNetwork(nn.Module):
    """The same parameters, sums written out."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.forward_one(each) for each in x])

    def forward_one(self, x: Tensor) -> Tensor:
        net: Any = self.net
        x = x.flatten()
        if isinstance(net, Generator):
            for layer in (net.first, net.second):
                x = torch.stack([s.clamp(min=0) for s in linear_outputs(layer, x)])
            return torch.stack([1 / (1 + (-s).exp()) for s in linear_outputs(net.output, x)]).view(net.shape)
        for layer in (net.first, net.second):
            sums, n = linear_outputs(layer.linear, x), layer.pieces
            x = torch.stack([torch.stack(sums[i : i + n]).max() for i in range(0, len(sums), n)])
        return linear_outputs(net.output, x)[0]


def linear_outputs(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    return [(w * x).sum() + b for w, b in zip(layer.weight, layer.bias, strict=True)]
