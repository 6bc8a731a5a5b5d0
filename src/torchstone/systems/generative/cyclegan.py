"""CycleGAN: translation of images between two domains, learned without a single pair of examples.

Paper: Jun-Yan Zhu, Taesung Park, Phillip Isola and Alexei A. Efros, "Unpaired Image-to-Image Translation
using Cycle-Consistent Adversarial Networks", ICCV 2017, arXiv:1703.10593.

The idea. A discriminator of each domain teaches a generator to make images that look like it. But any image
of the domain would do. So there is a generator back, and an image that was translated there and back must be
what it was: what it shows has to survive on the way. A generator that is given an image of its own target
domain must leave it as it is, which keeps colors.

    G: A → B, F: B → A; discriminators D_A, D_B of patches, real ones 1, translated ones 0 (least squares)
    generators       (D_B(G(a)) − 1)² + (D_A(F(b)) − 1)²
                     + λ (‖F(G(a)) − a‖₁ + ‖G(F(b)) − b‖₁)                          (equation 2)
                     + ½ λ (‖G(b) − b‖₁ + ‖F(a) − a‖₁)                              (section 5.2)
    discriminators   ½ ((D_B(b) − 1)² + D_B(b')²) + the same of A;   b' out of a pool of 50 translated images

All terms are means; λ = 10. Adam has β₁ = ½ and the learning rate 2e-4, constant for the first half of the
steps, then linear to zero. Weights start as N(0, 0.02²). Networks are in `parts/gan/image_translation.py`,
the pool in `parts/gan/image_pool.py`.

    cyclegan_unet       32 × 32: U-Net, the sides halved 4 times
    cyclegan_small      32 × 32: ResNet with 3 blocks
    cyclegan_resnet6, cyclegan_resnet9   the paper's, of 128 × 128 and of 256 × 256
    resnet6_generator, resnet9_generator  one direction of these: what the authors' files hold

Where pictures have known partners, as drawings of one emoji by two artists have, these measure the result:
`partner_l1` is the distance to the true partner, `untranslated_l1` that of the picture itself. Nothing is
trained or chosen by it: the last weights are kept.

What differs from the paper. Batches are larger than one image where images are small, and the learning rate
decays by steps, not by epochs. Images are not resized and cropped at random: `augment` has that. A
generator's passes over a batch and over the other domain's are one pass over both, which is the same for
instance norm.
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
from torchstone.data.vision.domain_batches import UnpairedBatch, UnpairedBatches
from torchstone.data.vision.image_domains import load_domains
from torchstone.engine import parallel, rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.image_translation import resnet_generator, unet_generator
from torchstone.parts.facts import Fact, ParityCase, count_on_meta, on_meta
from torchstone.parts.gan.image_pool import ImagePool
from torchstone.parts.gan.image_translation import PatchDiscriminator, ResNetGenerator, UNetGenerator
from torchstone.parts.gan.losses import GAN_LOSSES, LEAST_SQUARES, GanLoss
from torchstone.systems import Variant
from torchstone.tasks.gan.translation import ProcessPools, evaluate, predict, translation_run
from torchstone.tasks.optimization import GradientUpdateParts, gradient_update

__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

MARGIN = ("cycle_l1", -0.1)
STORY = ("generator_loss", "discriminator_loss", "cyclegan_update", "translate")
LOSSES = {"least_squares": LEAST_SQUARES, "non_saturating": GAN_LOSSES["non_saturating"]}
UPDATE_WORK = 22.0  # forward passes of a generator that a pair of pictures costs: six with gradients, and D's

Images = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set: openmoji, twemoji, digits, or a folder with a/ and b/
    size: int = 32  # image side length in pixels
    variant: str = "cyclegan_unet"  # network variant
    base_channels: int = 16  # channels of the generators on the finest grid
    discriminator_channels: int = 16  # channels of the discriminators on the finest grid
    discriminator_layers: int = (
        2  # strided convolutions of the discriminators: 1, 2, 3 for patches of 16, 34, 70
    )
    loss: Literal["least_squares", "non_saturating"] = "least_squares"  # GAN loss
    cycle_weight: float = 10.0  # cycle-consistency weight λ
    identity_weight: float = 5.0  # identity loss weight (the paper's ½ λ)
    pool_size: int = 50  # image pool: stored translations of each domain, 0 for none
    augment: str = "flip"  # augmentation of both domains
    steps: int = 800  # number of updates
    batch_size: int = 4  # pictures of each domain per update
    optim: OptimConfig = OptimConfig(
        lr=1e-3, beta1=0.5, lr_schedule="constant_linear", ema_decay=0.99
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order and pools
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    "openmoji": Recipe(),
    # torchstone train cyclegan/artists --data FOLDER          9 min of a core   9.1 % nearer to the partner
    "artists": Recipe(
        data="emoji_artists", steps=10_000, optim=replace(Recipe.optim, lr=5e-4, ema_decay=0.998)
    ),
    # torchstone train cyclegan/artists-minute --data FOLDER   54 s of a core   5.5 % nearer to the partner
    "artists_minute": Recipe(data="emoji_artists"),
    # the control, without the cycle loss                      54 s of a core   3.3 %
    "no_cycle": Recipe(data="emoji_artists", cycle_weight=0.0),
    # torchstone train cyclegan/paper --data FOLDER    the paper's, of 200 epochs of 1,000 pictures
    "paper": Recipe(
        data="horse2zebra",
        size=256,
        variant="cyclegan_resnet9",
        base_channels=64,
        discriminator_channels=64,
        discriminator_layers=3,
        steps=200_000,
        batch_size=1,
        optim=replace(Recipe.optim, lr=2e-4, ema_decay=0.0),
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        size=16,
        base_channels=8,
        discriminator_channels=8,
        discriminator_layers=1,
        pool_size=20,
        augment="none",
        steps=60,
        batch_size=8,
        optim=replace(Recipe.optim, lr=2e-3, ema_decay=0.9),
    ),
}


class Translations(NamedTuple):
    """Of a batch of each domain: translated, translated and back again, and (if asked for) through the
    generator whose target they are already."""

    b: Images  # G(a)
    a: Images  # F(b)
    cycled_a: Images  # F(G(a))
    cycled_b: Images  # G(F(b))
    same_b: Images | None  # G(b)
    same_a: Images | None  # F(a)


GENERATORS: dict[str, Any] = {
    "resnet": lambda width, depth: ResNetGenerator(width=width, blocks=depth),
    "unet": lambda width, depth: UNetGenerator(width=width, depth=depth, norm="instance", dropout=0.0),
}


class CycleGan(nn.Module):
    """Generators of both directions.

    Args:
        kind: `resnet`, with `depth` residual blocks, or `unet`, which halves the sides `depth` times.
        base_channels: channels on the finest grid.
    """

    directions = ("b", "a")

    def __init__(self, kind: str = "resnet", depth: int = 9, base_channels: int = 64):
        super().__init__()
        self.multiple = 4 if kind == "resnet" else 2**depth  # of which sides are
        self.to_b = GENERATORS[kind](base_channels, depth)
        self.to_a = GENERATORS[kind](base_channels, depth)

    def translate(self, images: Images, to: str) -> Images:
        return self.to_b(images) if to == "b" else self.to_a(images)

    def forward(self, a: Images) -> tuple[Images, Images]:
        """(G(a), F(G(a)))."""
        b = self.to_b(a)
        return b, self.to_a(b)


class BothWays(nn.Module):
    """All passes of an update."""

    def __init__(self, model: CycleGan, with_identity: bool):
        super().__init__()
        self.model, self.with_identity = model, with_identity

    def forward(self, a: Images, b: Images) -> Translations:
        to_a, to_b = self.model.to_a, self.model.to_b
        same_a = same_b = None
        if self.with_identity:
            fake_b, same_b = to_b(torch.cat([a, b])).split([len(a), len(b)])
            fake_a, same_a = to_a(torch.cat([b, a])).split([len(b), len(a)])
        else:
            fake_b, fake_a = to_b(a), to_a(b)
        return Translations(fake_b, fake_a, to_a(fake_b), to_b(fake_a), same_b, same_a)


class Discriminators(nn.Module):
    """One of each domain."""

    def __init__(self, width: int = 64, layers: int = 3):
        super().__init__()
        self.a, self.b = (PatchDiscriminator(width=width, layers=layers) for _ in range(2))

    def forward(self, batch: "DiscriminatorBatch") -> tuple[Tensor, ...]:
        """Logits of real and of generated images of A, and of B."""
        pairs = ((self.a, batch.real_a, batch.fake_a), (self.b, batch.real_b, batch.fake_b))
        return tuple(logits for net, *both in pairs for logits in net(torch.cat(both)).chunk(2))


class DiscriminatorBatch(NamedTuple):
    real_a: Images
    fake_a: Images
    real_b: Images
    fake_b: Images


def generator_loss(
    t: Translations,
    batch: UnpairedBatch,
    discriminators: Discriminators,
    loss: GanLoss,
    weights: tuple[float, float],
) -> dict[str, Tensor]:
    """Equation 3, and the identity loss.

    Args:
        weights: of the cycle, and of the identity loss.
    """
    of_cycle, of_identity = weights
    adversarial = loss.generator(discriminators.b(t.b).flatten())
    adversarial = adversarial + loss.generator(discriminators.a(t.a).flatten())
    cycle = F.l1_loss(t.cycled_a, batch.a) + F.l1_loss(t.cycled_b, batch.b)
    metrics = {"adversarial_loss": adversarial, "cycle_loss": cycle}
    total = adversarial + of_cycle * cycle
    if t.same_a is not None and t.same_b is not None:
        metrics["identity_loss"] = F.l1_loss(t.same_a, batch.a) + F.l1_loss(t.same_b, batch.b)
        total = total + of_identity * metrics["identity_loss"]
    return {"loss": total, **metrics}


def discriminator_loss(logits: tuple[Tensor, ...], loss: GanLoss) -> Tensor:
    """Half of the sum, which slows the discriminators down (section 7.1)."""
    real_a, fake_a, real_b, fake_b = (each.flatten() for each in logits)
    return (loss.discriminator(real_a, fake_a) + loss.discriminator(real_b, fake_b)) / 2


def cyclegan_update(model: CycleGan, discriminators: Discriminators, recipe: Recipe) -> GradientUpdateParts:
    """A step of the generators, then one of the discriminators, on the images that the first one made.

    No gradient of one step reaches the other's networks, and none is computed for it: while the generators
    learn, the gradients of the discriminators' weights are left out.
    """
    loss = LOSSES[recipe.loss]
    weights = (recipe.cycle_weight, recipe.identity_weight)
    fakes: list[tuple[Tensor, Tensor]] = []

    def generator_objective(net: Any, batch: UnpairedBatch) -> dict[str, Tensor]:
        translations = net(batch.a, batch.b)
        fakes.append((translations.a.detach(), translations.b.detach()))
        return generator_loss(translations, batch, discriminators, loss, weights)

    generator_step, state, eval_model = gradient_update(
        model,
        recipe.optim,
        generator_objective,
        steps=recipe.steps,
        forward_module=BothWays(model, recipe.identity_weight > 0),
    )
    discriminator_step, discriminator_state, _ = gradient_update(
        discriminators,
        replace(recipe.optim, ema_decay=0.0),
        lambda net, batch: discriminator_loss(net(batch), loss),
        steps=recipe.steps,
    )
    state |= {f"discriminator_{name}": item for name, item in discriminator_state.items()}
    state["discriminators"] = state.pop("discriminator_model")
    pool_a, pool_b = ImagePool(recipe.pool_size), ImagePool(recipe.pool_size)
    state["pools"] = ProcessPools(pool_a, pool_b)

    def update(batch: UnpairedBatch) -> dict[str, Tensor]:
        fakes.clear()
        metrics = generator_step(batch)
        fake_a, fake_b = (torch.cat(each) for each in zip(*fakes, strict=True))
        fake_a, fake_b = pool_a.query(fake_a, batch.chance[:, 0]), pool_b.query(fake_b, batch.chance[:, 1])
        step = discriminator_step(DiscriminatorBatch(batch.a, fake_a, batch.b, fake_b))
        return metrics | {"discriminator_loss": step["loss"]}

    return GradientUpdateParts(update, state, eval_model)  # ty: ignore[invalid-argument-type]


CONFIGS: dict[str, dict[str, Any]] = {
    "cyclegan_unet": {"kind": "unet", "depth": 4, "base_channels": 32},
    "cyclegan_small": {"kind": "resnet", "depth": 3, "base_channels": 32},
    "cyclegan_resnet6": {"kind": "resnet", "depth": 6},
    "cyclegan_resnet9": {"kind": "resnet", "depth": 9},
}
SIZES = {"cyclegan_unet": 32, "cyclegan_small": 32, "cyclegan_resnet6": 128, "cyclegan_resnet9": 256}
ONE_WAY = {"resnet6_generator": (6, 128), "resnet9_generator": (9, 256)}
VARIANTS = {
    **{name: Variant(partial(CycleGan, **each), (3, *2 * [SIZES[name]])) for name, each in CONFIGS.items()},
    **{name: Variant(partial(ResNetGenerator, blocks=n), (3, s, s)) for name, (n, s) in ONE_WAY.items()},
}


def build(recipe: Recipe) -> Iterator[Run]:
    if recipe.variant not in CONFIGS:
        raise BadInput(f"{recipe.variant} is one direction of a CycleGAN: train {', '.join(CONFIGS)}")
    device = select_device(recipe.device)
    model_config: dict[str, Any] = CONFIGS[recipe.variant] | {"base_channels": recipe.base_channels}
    rng.seed(recipe.seed)
    model = CycleGan(**model_config).to(device)
    if recipe.size % model.multiple:
        raise BadInput(
            f"{recipe.variant} takes images with sides that {model.multiple} divides, not {recipe.size}"
        )
    PatchDiscriminator.check_side(recipe.discriminator_layers, recipe.size)
    discriminators = Discriminators(recipe.discriminator_channels, recipe.discriminator_layers).to(device)
    data = load_domains(recipe.data, size=recipe.size, device=device)
    stream = UnpairedBatches(
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
        *cyclegan_update(model, discriminators, recipe),
        best_metric=None,
        update_work=UPDATE_WORK,
        metadata={"variant": recipe.variant, "model_config": model_config},
    )


FACTS = [
    Fact("resnet9 generator's parameters", lambda: count_on_meta(ResNetGenerator, blocks=9), 11_378_179),
    Fact("resnet6 generator's parameters", lambda: count_on_meta(ResNetGenerator, blocks=6), 7_837_699),
    Fact("patch discriminator's parameters", lambda: count_on_meta(PatchDiscriminator), 2_764_737),
    Fact("patch discriminator's field", lambda: on_meta(PatchDiscriminator).patch_size(), 70),
]


def published(variant: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An authors' file, one generator, by our names (`hub/image_translation.py`)."""
    if variant not in ONE_WAY:
        raise BadInput(f"the authors' files hold one generator: load them as {' or '.join(ONE_WAY)}")
    return resnet_generator(tensors)


def reference() -> Iterator[ParityCase]:
    """The authors' networks, rebuilt from torch's layers, and their losses, one pass after the other."""
    from torchstone.references import image_translation as plain
    from torchstone.references import randomize_weights

    torch.manual_seed(0)
    for width, blocks, side in ((4, 2, 16), (3, 1, 12), (6, 3, 8), (2, 4, 20)):
        ours, theirs = ResNetGenerator(width=width, blocks=blocks), plain.ResNet(width, blocks)
        label = f"{blocks} blocks, {side}×{side}"
        yield plain.generator_case(ours, theirs, resnet_generator, side, label)
    ours, theirs = ResNetGenerator(width=4, blocks=2, norm="batch"), plain.ResNet(4, 2, "batch")
    yield plain.generator_case(ours, theirs, resnet_generator, 16, "batch norm")
    for width, depth in ((4, 3), (2, 5)):
        ours, theirs = GENERATORS["unet"](width, depth), plain.UNet(width, depth, "instance", False)
        yield plain.generator_case(ours, theirs, unet_generator, 2**depth, f"halved {depth} times")
    for width, layers, side in ((4, 1, 10), (3, 2, 16), (2, 3, 34)):
        net, other = PatchDiscriminator(width=width, layers=layers), plain.Patches(3, width, layers)
        nets = [plain.freeze_shifts(each.double()) for each in same_weights(net, randomize_weights(other))]
        images = torch.randn(2, 3, side, side, dtype=torch.float64)
        yield ParityCase(*nets, images, None, torch.optim.AdamW, f"{layers} layers, {side}×{side}")
    for width, blocks, layers, batch in ((3, 1, 1, 2), (2, 2, 2, 3)):
        losses, others = Losses(width, blocks, layers), plain.PlainLosses(width, blocks, layers)
        nets = [
            plain.freeze_shifts(each.double()) for each in same_weights(losses, randomize_weights(others))
        ]
        images = tuple(torch.randn(batch, 3, 16, 16, dtype=torch.float64).tanh() for _ in range(4))
        yield ParityCase(*nets, images, None, torch.optim.AdamW, f"losses, {layers} layers, batch of {batch}")


def same_weights(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Ours with the weights of theirs, which has as many in the same order."""
    with torch.no_grad():
        for p, value in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.copy_(value)
    return ours, theirs


class Losses(nn.Module):
    """All losses of an update, for the reference."""

    def __init__(self, width: int, blocks: int, layers: int):
        super().__init__()
        self.model = CycleGan("resnet", blocks, width)
        self.discriminators = Discriminators(width, layers)

    def forward(self, a: Images, b: Images, fake_a: Images, fake_b: Images) -> tuple[Tensor, ...]:
        batch = UnpairedBatch(a, b, a.new_zeros(len(a), 2, 2))
        translations = BothWays(self.model, True)(a, b)
        found = generator_loss(translations, batch, self.discriminators, LEAST_SQUARES, (10.0, 5.0))
        logits = self.discriminators(DiscriminatorBatch(a, fake_a, b, fake_b))
        terms = [found[name] for name in ("adversarial_loss", "cycle_loss", "identity_loss")]
        return (*terms, discriminator_loss(logits, LEAST_SQUARES))
