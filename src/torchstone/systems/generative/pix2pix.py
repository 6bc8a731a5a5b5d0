"""pix2pix: a conditional GAN that translates images, learned from pairs of an image and its translation.

Paper: Phillip Isola, Jun-Yan Zhu, Tinghui Zhou and Alexei A. Efros, "Image-to-Image Translation with
Conditional Adversarial Networks", CVPR 2017, arXiv:1611.07004 (2016).

The idea. A network that minimizes the distance to the true translation paints the mean of all that are
possible, which is gray and blurred. A discriminator that sees a patch of the image beside that of its
translation tells such a mean from a real one. The distance sets what is where, the discriminator how it
looks. One network and one loss serve lines to colors, maps to photographs, labels to streets.

    generator        −log D(a, G(a)) + λ ‖b − G(a)‖₁                               (equation 4, section 3.3)
    discriminator    −½ (log D(a, b) + log(1 − D(a, G(a))))

G is a U-Net, whose skips take lines and edges past the bottleneck; D sees patches of both images, six
channels. Batch norm and, on coarse grids, dropout of ½, as the paper's noise. λ = 100; Adam has β₁ = ½ and
the learning rate 2e-4, constant for the first half of the steps, then linear to zero. Weights start as N(0,
0.02²). Networks are in `parts/gan/image_translation.py`.

    pix2pix_small    32 × 32: the sides halved 5 times     pix2pix_unet256    the paper's, of 256 × 256

What differs from the paper. When it is used the network is in evaluation mode: without dropout, and with
running statistics of batch norm, where the paper keeps the noise of both; so the same image has the same
translation. The learning rate decays in the second half of the steps, as in the authors' later code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.domain_batches import PairedBatch, PairedBatches
from torchstone.data.vision.image_domains import load_domains
from torchstone.engine import parallel, rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.image_translation import unet_generator
from torchstone.parts.facts import Fact, ParityCase, count_on_meta, on_meta
from torchstone.parts.gan.image_translation import PatchDiscriminator, UNetGenerator
from torchstone.parts.gan.losses import GAN_LOSSES, LEAST_SQUARES, GanLoss
from torchstone.systems import Variant
from torchstone.tasks.gan.translation import evaluate, predict, translation_run
from torchstone.tasks.optimization import GradientUpdateParts, gradient_update

__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

MARGIN = ("partner_gain", 0.3)
STORY = ("generator_loss", "discriminator_loss", "pix2pix_update", "translate")
LOSSES = {"non_saturating": GAN_LOSSES["non_saturating"], "least_squares": LEAST_SQUARES}
UPDATE_WORK = 7.0  # forward passes of the generator that a picture costs: one with gradient, and D's

Images = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class Recipe:
    data: str = (
        "openmoji"  # data set: openmoji, twemoji, digits, or a folder with a/ and b/ of the same names
    )
    size: int = 32  # image side length in pixels
    variant: str = "pix2pix_small"  # network variant
    base_channels: int = 16  # channels of the generator on the finest grid
    discriminator_channels: int = 16  # channels of the discriminator on the finest grid
    discriminator_layers: int = (
        2  # strided convolutions of the discriminator: 1, 2, 3 for patches of 16, 34, 70
    )
    loss: Literal["non_saturating", "least_squares"] = "non_saturating"  # GAN loss
    l1_weight: float = 100.0  # weight λ of the distance to the true translation
    augment: str = "flip"  # augmentation of both images alike
    steps: int = 800  # number of updates
    batch_size: int = 16  # pairs per update
    optim: OptimConfig = OptimConfig(
        lr=1e-3, beta1=0.5, lr_schedule="constant_linear"
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    "openmoji": Recipe(),
    # torchstone train pix2pix/paper --data FOLDER    the paper's, of 200 epochs of 400 pairs
    "paper": Recipe(
        data="facades",
        size=256,
        variant="pix2pix_unet256",
        base_channels=64,
        discriminator_channels=64,
        discriminator_layers=3,
        steps=80_000,
        batch_size=1,
        optim=replace(Recipe.optim, lr=2e-4),
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        size=32,
        base_channels=4,
        discriminator_channels=4,
        discriminator_layers=1,
        augment="none",
        steps=60,
        batch_size=8,
        optim=replace(Recipe.optim, lr=4e-3),
    ),
}


class Pix2Pix(nn.Module):
    """The generator, with the one direction that it has.

    Args:
        depth: number of times that the sides are halved.
    """

    directions = ("b",)

    def __init__(self, depth: int = 8, base_channels: int = 64):
        super().__init__()
        self.generator = UNetGenerator(width=base_channels, depth=depth)

    def forward(self, a: Images) -> Images:
        """G(a)."""
        return self.generator(a)

    def translate(self, images: Images, to: str = "b") -> Images:
        return self.generator(images)


class DiscriminatorBatch(NamedTuple):
    a: Images
    b: Images
    fake_b: Images


class ConditionalDiscriminator(nn.Module):
    """Logits of patches of an image with its translation: of a true one, and of a generated one. Batch norm
    normalizes each of the two batches by itself."""

    def __init__(self, width: int = 64, layers: int = 3):
        super().__init__()
        self.net = PatchDiscriminator(6, width, layers, norm="batch")

    def score(self, a: Images, b: Images) -> Tensor:
        return self.net(torch.cat([a, b], 1)).flatten()

    def forward(self, batch: DiscriminatorBatch) -> tuple[Tensor, Tensor]:
        return self.score(batch.a, batch.b), self.score(batch.a, batch.fake_b)


def generator_loss(
    fake_logits: Tensor, fake_b: Images, b: Images, loss: GanLoss, l1_weight: float
) -> dict[str, Tensor]:
    """Equation 4."""
    adversarial, distance = loss.generator(fake_logits), F.l1_loss(fake_b, b)
    return {"loss": adversarial + l1_weight * distance, "adversarial_loss": adversarial, "l1_loss": distance}


def discriminator_loss(logits: tuple[Tensor, Tensor], loss: GanLoss) -> Tensor:
    """Half of the sum, which slows the discriminator down (section 3.3)."""
    return loss.discriminator(*logits) / 2


class GeneratorBatch(NamedTuple):
    """Pairs, and the translations of the first, with their graph."""

    a: Images
    b: Images
    fake_b: Images


def pix2pix_update(
    model: Pix2Pix, discriminator: ConditionalDiscriminator, recipe: Recipe
) -> GradientUpdateParts:
    """A step of the discriminator, then one of the generator against it, both of the same translations.

    No gradient of one step reaches the other's network.
    """
    if recipe.optim.grad_accum_steps > 1:
        raise BadInput("the discriminator learns from a whole batch: leave grad_accum_steps at 1")
    loss = LOSSES[recipe.loss]

    def generator_objective(net: Any, batch: GeneratorBatch) -> dict[str, Tensor]:
        logits = discriminator.score(batch.a, batch.fake_b)
        return generator_loss(logits, batch.fake_b, batch.b, loss, recipe.l1_weight)

    generator_step, state, eval_model = gradient_update(
        model, recipe.optim, generator_objective, steps=recipe.steps
    )
    discriminator_step, discriminator_state, _ = gradient_update(
        discriminator,
        replace(recipe.optim, ema_decay=0.0),
        lambda net, batch: discriminator_loss(net(batch), loss),
        steps=recipe.steps,
    )
    state |= {f"discriminator_{name}": item for name, item in discriminator_state.items()}
    state["discriminator"] = state.pop("discriminator_model")
    generator = generator_step.replica or model

    def update(batch: PairedBatch) -> dict[str, Tensor]:
        with generator_step.autocast:
            fake = generator(batch.a)
        step = discriminator_step(DiscriminatorBatch(batch.a, batch.b, fake.detach()))
        metrics = generator_step(GeneratorBatch(batch.a, batch.b, fake))
        return metrics | {"discriminator_loss": step["loss"]}

    return GradientUpdateParts(update, state, eval_model)  # ty: ignore[invalid-argument-type]


CONFIGS: dict[str, dict[str, Any]] = {
    "pix2pix_small": {"depth": 5, "base_channels": 32},
    "pix2pix_unet256": {"depth": 8, "base_channels": 64},
}
VARIANTS = {
    name: Variant(partial(Pix2Pix, **each), (3, *2 * [2 ** each["depth"]])) for name, each in CONFIGS.items()
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    model_config = CONFIGS[recipe.variant] | {"base_channels": recipe.base_channels}
    multiple = 2 ** model_config["depth"]
    if recipe.size % multiple:
        raise BadInput(f"{recipe.variant} takes images with sides that {multiple} divides, not {recipe.size}")
    PatchDiscriminator.check_side(recipe.discriminator_layers, recipe.size)
    data = load_domains(recipe.data, size=recipe.size, device=device)
    for split in ("train", "val", "test"):
        if not len(getattr(data, split).pairs):
            raise BadInput(
                f"{recipe.data} has no pairs to {split} with: give each picture in a/ one of the same "
                "name in b/"
            )
    rng.seed(recipe.seed)
    model = Pix2Pix(**model_config).to(device)
    discriminator = ConditionalDiscriminator(recipe.discriminator_channels, recipe.discriminator_layers)
    stream = PairedBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        augment=make_augmentation(recipe.augment),
        **parallel.share(),
    )
    yield translation_run(
        recipe,
        data,
        stream,
        *pix2pix_update(model, discriminator.to(device), recipe),
        best_metric="partner_l1",
        update_work=UPDATE_WORK,
        metadata={"variant": recipe.variant, "model_config": model_config},
    )


FACTS = [
    Fact("unet256 generator's parameters", lambda: count_on_meta(UNetGenerator), 54_413_955),
    Fact(
        "patch discriminator's parameters",
        lambda: count_on_meta(PatchDiscriminator, inputs=6, norm="batch"),
        2_768_705,
    ),
    Fact("patch discriminator's field", lambda: on_meta(PatchDiscriminator).patch_size(), 70),
]


def published(variant: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An authors' file by our names (`hub/image_translation.py`)."""
    return {f"generator.{name}": tensor for name, tensor in unet_generator(tensors).items()}


def reference() -> Iterator[ParityCase]:
    """The authors' networks, rebuilt from torch's layers, in both modes."""
    from torchstone.references import image_translation as plain
    from torchstone.references import randomize_weights

    torch.manual_seed(0)
    for width, depth in ((4, 3), (2, 6), (3, 5), (2, 7)):
        for training in (True, False):
            ours, theirs = Pix2Pix(depth, width), plain.UNet(width, depth)
            label = f"halved {depth} times, {'train' if training else 'eval'}"
            yield plain.generator_case(
                ours, theirs, partial(published, ""), 2**depth, label, training=training
            )
    for width, layers, side in ((4, 1, 10), (3, 2, 16), (2, 3, 34)):
        ours, theirs = ConditionalDiscriminator(width, layers), plain.Patches(6, width, layers, "batch")
        ours.load_state_dict(
            dict(zip(ours.state_dict(), randomize_weights(theirs).state_dict().values(), strict=True))
        )
        a, b, fake = (torch.randn(2, 3, side, side, dtype=torch.float64) for _ in range(3))
        inputs = (DiscriminatorBatch(a, b, fake),)
        yield ParityCase(
            ours.double(), OnBoth(theirs.double()), inputs, None, torch.optim.AdamW, f"{layers} layers"
        )


class OnBoth(nn.Module):
    """The reference's discriminator on true and on generated pairs, one after the other."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, batch: DiscriminatorBatch) -> tuple[Tensor, Tensor]:
        pairs = (torch.cat([batch.a, b], 1) for b in (batch.b, batch.fake_b))
        return tuple(self.net(pair).flatten() for pair in pairs)
