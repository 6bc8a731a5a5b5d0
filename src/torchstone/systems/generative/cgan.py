"""Conditional GAN: the same game, with both players told what the picture is to show.

Paper: Mehdi Mirza and Simon Osindero, "Conditional Generative Adversarial Nets", 2014, arXiv:1411.1784.

The idea. A generator of digits makes whichever digit it likes. Give it the label beside the noise, and give
the label to the critic too, which then refuses not only bad pictures but good ones of something else.
Nothing else changes, and one network makes any class on demand.

    min_G max_D  E_x log D(x | y) + E_z log(1 − D(G(z | y)))                             (equation 2)

    cgan         the networks of `dcgan` on 28×28, y joined to z, and to the picture as constant planes
    cgan_paper   section 4.1, of full layers:
        G   z → 200 ReLU,  y → 1000 ReLU,  both → 1200 ReLU → 784 sigmoid                2,413,984 parameters
        D   x → 240 maxout of 5,  y → 50 maxout of 5,  both → 240 maxout of 4 → 1 logit  1,224,351

y is one-hot; any shares of classes that add up to 1 are a label too, and without one all classes have the
same share. Both players of a step are told the labels of the real pictures in it.

What differs from the paper. Its rate falls from 0.1 to 1e-6 over days of gradient descent; Adam is used
here. Noise is N(0, 1), where the paper's is uniform; pictures lie on −1..1 in `cgan` and on 0..1 in
`cgan_paper`. There is dropout of ½ in the critic of `cgan_paper`, and none in its generator. The
paper scores a Parzen window; here a classifier says whether a picture is what was asked for.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.plots.sample_grid import centred, unit
from torchstone.systems import Variant
from torchstone.systems.convolutional import lenet5
from torchstone.systems.generative import dcgan
from torchstone.systems.generative.gan import Maxout, lively, uniform
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.inference import sample
from torchstone.tasks.gan.train import adversarial

# fmt: off
__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "reference", "sample"]
# fmt: on

MARGIN = ("agreement", 0.3)
evaluate = partial(inference.evaluate, classifier=lenet5)

Labels = Int64[Tensor, " b"] | Float[Tensor, "b classes"] | None


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "cgan"  # cgan (convolutions) or cgan_paper (2014)
    loss: Literal["non_saturating", "minimax", "hinge", "wgan_gp"] = "non_saturating"  # the game
    width: int = 64  # filters on the finest grid
    critic_norm: Literal["batch", "layer", "spectral", "none"] = "batch"  # in cgan's critic
    penalty: float = 10.0  # of the critic's slope, in wgan_gp
    critic_steps: int = 1  # steps of the critic for one of the generator
    samples: int = 1000  # judged at each evaluation; at the end five times as many
    steps: int = 2500  # updates
    batch_size: int = 64  # pictures a step
    optim: OptimConfig = OptimConfig(
        lr=5e-4, beta1=0.5, lr_schedule="linear", ema_decay=0.99
    )  # optimizer, schedule, precision
    critic_lr: float | None = None  # the critic's, none for the same
    augment: str = "none"  # of real pictures; what is learnt is made so too
    seed: int = 0  # of weights, order, noise and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


RECIPES = {
    # torchstone train cgan   414 s of a core   the label asked for is seen in 96.9 %
    "mnist5k": Recipe(),
    "mnist": Recipe(data="hf:ylecun/mnist", steps=10_000),
    "paper": Recipe(
        variant="cgan_paper",
        optim=replace(Recipe.optim, lr=2e-4, lr_schedule="constant", ema_decay=0.998),
        steps=6000,
        batch_size=100,
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="cgan_digits",
        width=32,
        samples=200,
        steps=250,
        batch_size=32,
        optim=replace(Recipe.optim, lr=2e-3, lr_schedule="constant", ema_decay=0.9),
    ),
}


def shares(labels: Labels, classes: int, like: Tensor) -> Float[Tensor, "b classes"]:
    """What each of `like` is to be: one-hot, as given, or each class alike."""
    if labels is None:
        return like.new_full((len(like), classes), 1 / classes)
    hot = F.one_hot(labels, classes) if labels.ndim == 1 else labels
    return hot.to(like.dtype)


class Generator(nn.Module):
    """`dcgan`'s, whose noise is followed by the label."""

    def __init__(self, latent: int = 100, classes: int = 10, **shape: Any):
        super().__init__()
        self.latent, self.classes = latent, classes
        self.net = dcgan.Generator(latent + classes, **(SMALL | shape))

    def forward(self, z: Float[Tensor, "b latent"], labels: Labels = None) -> Float[Tensor, "b c size size"]:
        return self.net(torch.cat([z, shares(labels, self.classes, z)], 1))


class Critic(nn.Module):
    """`dcgan`'s, whose picture is followed by a plane for each class."""

    def __init__(self, classes: int = 10, norm: str = "batch", **shape: Any):
        super().__init__()
        self.classes, shape = classes, SMALL | shape
        self.net = dcgan.Critic(**(shape | {"channels": shape["channels"] + classes}), norm=norm)

    def forward(self, pictures: Float[Tensor, "b c size size"], labels: Labels = None) -> Float[Tensor, " b"]:
        planes = shares(labels, self.classes, pictures)[:, :, None, None]
        return self.net(torch.cat([pictures, planes.expand(-1, -1, *pictures.shape[2:])], 1))


class PaperGenerator(nn.Module):
    """Section 4.1: noise and label each to a layer of their own, then together."""

    def __init__(self, latent: int = 100, classes: int = 10, channels: int = 1, size: int = 28):
        super().__init__()
        self.latent, self.classes, self.shape = latent, classes, (channels, size, size)
        self.of_z, self.of_y = nn.Linear(latent, 200), nn.Linear(classes, 1000)
        self.both = nn.Linear(1200, 1200)
        self.output = nn.Linear(1200, math.prod(self.shape))
        uniform(self, 0.05)

    def forward(self, z: Float[Tensor, "b latent"], labels: Labels = None) -> Float[Tensor, "b c size size"]:
        y = shares(labels, self.classes, z)
        h = torch.cat([F.relu(self.of_z(z)), F.relu(self.of_y(y))], 1)
        return torch.sigmoid(self.output(F.relu(self.both(h)))).unflatten(1, self.shape)


class PaperCritic(nn.Module):
    def __init__(self, classes: int = 10, channels: int = 1, size: int = 28):
        super().__init__()
        self.classes = classes
        self.of_x, self.of_y = Maxout(channels * size**2, 240, 5), Maxout(classes, 50, 5)
        self.both = Maxout(290, 240, 4)
        self.output = nn.Linear(240, 1)
        uniform(self, 0.005)

    def forward(self, pictures: Float[Tensor, "b c size size"], labels: Labels = None) -> Float[Tensor, " b"]:
        y = shares(labels, self.classes, pictures)
        h = torch.cat([self.of_x(pictures.flatten(1)), self.of_y(y)], 1)
        h = self.both(F.dropout(h, 0.5, self.training))
        return self.output(F.dropout(h, 0.5, self.training))[:, 0]


SMALL: dict[str, Any] = {"width": 64, "channels": 1, "size": 28}
VARIANTS = {
    "cgan": Variant(Generator, (100,)),
    "cgan_digits": Variant(partial(Generator, size=8), (100,)),
    "cgan_paper": Variant(PaperGenerator, (100,)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    size = 8 if recipe.variant == "cgan_digits" else 28
    data = load_images(recipe.data, size=size, channels=1, device=device)
    model_config: dict[str, Any] = {"classes": len(data.classes), "size": size}
    rng.seed(recipe.seed)
    if recipe.variant == "cgan_paper":
        model, critic, metadata = (
            PaperGenerator(**model_config),
            PaperCritic(**model_config),
            unit(data.metadata),
        )
    else:
        model_config["width"] = recipe.width
        model, metadata = Generator(**model_config), centred(data.metadata)
        critic = Critic(**model_config, norm=recipe.critic_norm)
    model, critic = model.to(device), critic.to(device)
    yield adversarial(
        model, critic, recipe, data, model_config=model_config, picture=metadata, classifier=lenet5
    )


FACTS = [
    Fact("cgan_paper generator's parameters", lambda: count_parameters(PaperGenerator()), 2_413_984),
    Fact("cgan_paper critic's parameters", lambda: count_parameters(PaperCritic()), 1_224_351),
    Fact("what the label adds to cgan's generator: classes × 128 filters of 7×7",
         lambda: count_parameters(Generator()) - count_parameters(dcgan.Generator(100, **SMALL)), 10 * 128 * 49),
    Fact("what it adds to cgan's critic: classes × 64 filters of 4×4",
         lambda: count_parameters(Critic()) - count_parameters(dcgan.Critic(**SMALL)), 10 * 64 * 16),
]  # fmt: skip


def reference() -> Iterator[ParityCase]:
    """A label that is joined to the input is a shift of the first layer's output: the same networks with
    that shift taken from the label's own weights."""
    torch.manual_seed(0)
    y = torch.tensor([2, 0, 1])
    for make, x in (
        (Generator(6, 3, width=3, size=16), torch.randn(3, 6)),
        (Critic(3, "layer", width=3, size=16), torch.rand(3, 1, 16, 16)),
        (PaperGenerator(6, 3, 1, 4), torch.randn(3, 6)),
        (PaperCritic(3, 1, 4).eval(), torch.rand(3, 1, 4, 4)),
    ):
        model = lively(make.double())
        yield ParityCase(model, Shifted(model), (x.double(), y), label=type(make).__name__)


class Shifted(nn.Module):
    """The same parameters; of the label, only the columns of weights that it picks."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        net: Any = self.net
        if isinstance(net, Generator | Critic):
            first, *rest = net.net.layers
            weight, classes = first.weight, net.classes
            if isinstance(net, Generator):  # every place of the grid has a shift of its own
                h = torch.einsum("bi,iohw->bohw", x, weight[:-classes]) + weight[-classes:][labels]
            else:
                plane = x.new_ones(1, 1, *x.shape[2:])
                columns = weight[:, -classes:][:, labels].transpose(0, 1)
                shift = [F.conv2d(plane, each[:, None], None, 2, 1) for each in columns]
                h = F.conv2d(x, weight[:, :-classes], None, 2, 1) + torch.cat(shift)
            h = nn.Sequential(*rest)(h)
            return h if isinstance(net, Generator) else h[:, 0, 0, 0]
        if isinstance(net, PaperGenerator):
            z = x @ net.of_z.weight.T + net.of_z.bias
            y = net.of_y.weight.T[labels] + net.of_y.bias
            h = torch.cat([z, y], 1).clamp(min=0) @ net.both.weight.T + net.both.bias
            h = h.clamp(min=0) @ net.output.weight.T + net.output.bias
            return (1 / (1 + (-h).exp())).view(-1, *net.shape)
        pieces = x.flatten(1) @ net.of_x.linear.weight.T + net.of_x.linear.bias
        label = net.of_y.linear.weight.T[labels] + net.of_y.linear.bias
        h = torch.cat([pieces.view(-1, 240, 5).amax(2), label.view(-1, 50, 5).amax(2)], 1)
        h = (h @ net.both.linear.weight.T + net.both.linear.bias).view(-1, 240, 4).amax(2)
        return (h @ net.output.weight.T + net.output.bias).flatten()
