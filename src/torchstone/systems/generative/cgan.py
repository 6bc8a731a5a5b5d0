"""Conditional GAN: generator and discriminator both receive the label of the image.

Paper: Mehdi Mirza and Simon Osindero, "Conditional Generative Adversarial Nets", 2014, arXiv:1411.1784.

The idea. The generator of a GAN trained on digits makes whichever digit it likes. Here it receives a label
in addition to the noise. The discriminator receives the label too, and so rejects not only bad images but
also good ones of another class. Nothing else changes, and one network generates any class on demand.

    min_G max_D  E_x log D(x | y) + E_z log(1 − D(G(z | y)))                             (equation 2)

    cgan         the networks of `dcgan` on 28×28; y is joined to z, and to the image as constant planes
    cgan_paper   section 4.1, fully connected:
        G   z → 200 ReLU,  y → 1000 ReLU,  both → 1200 ReLU → 784 sigmoid                2,413,984 parameters
        D   x → 240 maxout of 5,  y → 50 maxout of 5,  both → 240 maxout of 4 → 1 logit  1,224,351

y is one-hot. A distribution over classes is also a label, and without a label it is uniform. In each step
both networks receive the labels of the real images.

What differs from the paper. Its learning rate falls from 0.1 to 1e-6 over days of gradient descent; Adam is
used here. Noise is N(0, 1), where the paper's is uniform; images lie on −1..1 in `cgan` and on 0..1 in
`cgan_paper`. The discriminator of `cgan_paper` has dropout of ½, its generator none. The paper scores a
Parzen window; here a classifier checks whether an image shows its label.
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
from torchstone.parts.old_keys import accept_old_keys
from torchstone.plots.sample_grid import symmetric_range, unit_range
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER, dcgan
from torchstone.systems.generative.gan import Maxout, init_uniform, train
from torchstone.tasks.gan import inference
from torchstone.tasks.gan.inference import sample

__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "reference", "sample"]

MARGIN = ("label_accuracy", 0.3)
evaluate = partial(inference.evaluate, classifier=CLASSIFIER)

Labels = Int64[Tensor, " b"] | Float[Tensor, "b classes"] | None


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "cgan"  # network variant: cgan (convolutions) or cgan_paper (2014)
    loss: Literal["non_saturating", "minimax", "hinge", "wgan_gp"] = "non_saturating"  # GAN loss
    base_channels: int = 64  # channels on the finest grid
    discriminator_norm: Literal["batch", "layer", "spectral", "none"] = (
        "batch"  # normalization in cgan's discriminator
    )
    gp_weight: float = 10.0  # gradient penalty weight λ of wgan_gp
    discriminator_steps: int = 1  # discriminator steps per generator step
    eval_samples: int = 1000  # samples per evaluation; five times as many at the end
    steps: int = 2500  # number of updates
    batch_size: int = 64  # images per step
    optim: OptimConfig = OptimConfig(
        lr=5e-4, beta1=0.5, lr_schedule="linear", ema_decay=0.99
    )  # optimizer, schedule, precision
    discriminator_lr: float | None = None  # learning rate of the discriminator (none: that of the generator)
    augment: str = "none"  # augmentation of real images; samples then look augmented too
    seed: int = 0  # random seed of weights, data order, noise and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train cgan   414 s of a core   96.9 % of samples are classified as their label
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
        base_channels=32,
        eval_samples=200,
        steps=250,
        batch_size=32,
        optim=replace(Recipe.optim, lr=2e-3, lr_schedule="constant", ema_decay=0.9),
    ),
}


def class_weights(labels: Labels, num_classes: int, like: Tensor) -> Float[Tensor, "b classes"]:
    """The condition y of each row of `like`: one-hot, as given, or uniform."""
    if labels is None:
        return like.new_full((len(like), num_classes), 1 / num_classes)
    weights = F.one_hot(labels, num_classes) if labels.ndim == 1 else labels
    return weights.to(like.dtype)


class Generator(nn.Module):
    """`dcgan`'s generator, with the label concatenated to the noise."""

    def __init__(self, latent_dim: int = 100, num_classes: int = 10, **shape: Any):
        super().__init__()
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.net = dcgan.Generator(latent_dim + num_classes, **(MNIST_SHAPE | shape))

    def forward(self, z: Float[Tensor, "b latent"], labels: Labels = None) -> Float[Tensor, "b c size size"]:
        return self.net(torch.cat([z, class_weights(labels, self.num_classes, z)], 1))


class Discriminator(nn.Module):
    """`dcgan`'s discriminator, with a constant plane for each class concatenated to the image."""

    def __init__(self, num_classes: int = 10, norm: str = "batch", **shape: Any):
        super().__init__()
        self.num_classes, shape = num_classes, MNIST_SHAPE | shape
        channels = shape["channels"] + num_classes
        self.net = dcgan.Discriminator(**(shape | {"channels": channels}), norm=norm)

    def forward(self, images: Float[Tensor, "b c size size"], labels: Labels = None) -> Float[Tensor, " b"]:
        planes = class_weights(labels, self.num_classes, images)[:, :, None, None]
        return self.net(torch.cat([images, planes.expand(-1, -1, *images.shape[2:])], 1))


class PaperGenerator(nn.Module):
    """Section 4.1: noise and label each have a layer of their own, then a joint one."""

    def __init__(self, latent_dim: int = 100, num_classes: int = 10, channels: int = 1, size: int = 28):
        super().__init__()
        self.latent_dim, self.num_classes, self.shape = latent_dim, num_classes, (channels, size, size)
        self.noise_layer, self.label_layer = nn.Linear(latent_dim, 200), nn.Linear(num_classes, 1000)
        self.joint_layer = nn.Linear(1200, 1200)
        self.output = nn.Linear(1200, math.prod(self.shape))
        init_uniform(self, 0.05)
        accept_old_keys(self, {"of_z.": "noise_layer.", "of_y.": "label_layer.", "both.": "joint_layer."})

    def forward(self, z: Float[Tensor, "b latent"], labels: Labels = None) -> Float[Tensor, "b c size size"]:
        y = class_weights(labels, self.num_classes, z)
        h = torch.cat([F.relu(self.noise_layer(z)), F.relu(self.label_layer(y))], 1)
        return torch.sigmoid(self.output(F.relu(self.joint_layer(h)))).unflatten(1, self.shape)


class PaperDiscriminator(nn.Module):
    """Section 4.1: image and label each have a maxout layer of their own, then a joint one."""

    def __init__(self, num_classes: int = 10, channels: int = 1, size: int = 28):
        super().__init__()
        self.num_classes = num_classes
        self.image_layer, self.label_layer = Maxout(channels * size**2, 240, 5), Maxout(num_classes, 50, 5)
        self.joint_layer = Maxout(290, 240, 4)
        self.output = nn.Linear(240, 1)
        init_uniform(self, 0.005)
        accept_old_keys(self, {"of_x.": "image_layer.", "of_y.": "label_layer.", "both.": "joint_layer."})

    def forward(self, images: Float[Tensor, "b c size size"], labels: Labels = None) -> Float[Tensor, " b"]:
        y = class_weights(labels, self.num_classes, images)
        h = torch.cat([self.image_layer(images.flatten(1)), self.label_layer(y)], 1)
        h = self.joint_layer(F.dropout(h, 0.5, self.training))
        return self.output(F.dropout(h, 0.5, self.training))[:, 0]


MNIST_SHAPE: dict[str, Any] = {"base_channels": 64, "channels": 1, "size": 28}
VARIANTS = {
    "cgan": Variant(Generator, (100,)),
    "cgan_digits": Variant(partial(Generator, size=8), (100,)),
    "cgan_paper": Variant(PaperGenerator, (100,)),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    size = 8 if recipe.variant == "cgan_digits" else 28
    data = load_images(recipe.data, size=size, channels=1, device=device)
    model_config: dict[str, Any] = {"num_classes": len(data.classes), "size": size}
    rng.seed(recipe.seed)
    model: nn.Module
    discriminator: nn.Module
    if recipe.variant == "cgan_paper":
        model, discriminator = PaperGenerator(**model_config), PaperDiscriminator(**model_config)
        metadata = unit_range(data.metadata)
    else:
        model_config["base_channels"] = recipe.base_channels
        model = Generator(**model_config)
        discriminator = Discriminator(**model_config, norm=recipe.discriminator_norm)
        metadata = symmetric_range(data.metadata)
    model, discriminator = model.to(device), discriminator.to(device)
    yield train(model, discriminator, recipe, data, model_config=model_config, metadata=metadata)


def label_parameters(conditional: nn.Module, unconditional: nn.Module) -> int:
    """What the label adds."""
    return count_parameters(conditional) - count_parameters(unconditional)


FACTS = [
    Fact("cgan_paper generator's parameters", lambda: count_parameters(PaperGenerator()), 2_413_984),
    Fact("cgan_paper discriminator's parameters", lambda: count_parameters(PaperDiscriminator()), 1_224_351),
    Fact(
        "what the label adds to cgan's generator: classes × 128 filters of 7×7",
        lambda: label_parameters(Generator(), dcgan.Generator(100, **MNIST_SHAPE)),
        10 * 128 * 49,
    ),
    Fact(
        "what it adds to cgan's discriminator: classes × 64 filters of 4×4",
        lambda: label_parameters(Discriminator(), dcgan.Discriminator(**MNIST_SHAPE)),
        10 * 64 * 16,
    ),
]


def reference() -> Iterator[ParityCase]:
    """A label concatenated to the input shifts the first layer's output: the same networks with that shift
    taken from the label's own weights."""
    from torchstone.references import randomize_weights

    torch.manual_seed(0)
    y = torch.tensor([2, 0, 1])
    for model, x in (
        (Generator(6, 3, base_channels=3, size=16), torch.randn(3, 6)),
        (Discriminator(3, "layer", base_channels=3, size=16), torch.rand(3, 1, 16, 16)),
        (PaperGenerator(6, 3, 1, 4), torch.randn(3, 6)),
        (PaperDiscriminator(3, 1, 4).eval(), torch.rand(3, 1, 4, 4)),
    ):
        label = type(model).__name__
        model = randomize_weights(model.double())
        yield ParityCase(model, ReferenceNetwork(model), (x.double(), y), label=label)


class ReferenceNetwork(nn.Module):
    """The same parameters; of the label, only the columns of weights that it selects."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        net: Any = self.net
        if isinstance(net, Generator | Discriminator):
            first, *rest = net.net.layers
            weight, n = first.weight, net.num_classes
            if isinstance(net, Generator):  # every position of the grid has a shift of its own
                h = torch.einsum("bi,iohw->bohw", x, weight[:-n]) + weight[-n:][labels]
            else:
                plane = x.new_ones(1, 1, *x.shape[2:])
                columns = weight[:, -n:][:, labels].transpose(0, 1)
                shift = [F.conv2d(plane, each[:, None], None, 2, 1) for each in columns]
                h = F.conv2d(x, weight[:, :-n], None, 2, 1) + torch.cat(shift)
            h = nn.Sequential(*rest)(h)
            return h if isinstance(net, Generator) else h[:, 0, 0, 0]
        if isinstance(net, PaperGenerator):
            z = x @ net.noise_layer.weight.T + net.noise_layer.bias
            y = net.label_layer.weight.T[labels] + net.label_layer.bias
            h = torch.cat([z, y], 1).clamp(min=0) @ net.joint_layer.weight.T + net.joint_layer.bias
            h = h.clamp(min=0) @ net.output.weight.T + net.output.bias
            return (1 / (1 + (-h).exp())).view(-1, *net.shape)
        pieces = x.flatten(1) @ net.image_layer.linear.weight.T + net.image_layer.linear.bias
        y = net.label_layer.linear.weight.T[labels] + net.label_layer.linear.bias
        h = torch.cat([pieces.view(-1, 240, 5).amax(2), y.view(-1, 50, 5).amax(2)], 1)
        h = h @ net.joint_layer.linear.weight.T + net.joint_layer.linear.bias
        h = h.view(-1, 240, 4).amax(2)
        return (h @ net.output.weight.T + net.output.bias).flatten()
