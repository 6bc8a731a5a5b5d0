"""VQ-VAE: an autoencoder whose code is a grid of symbols out of a codebook, and a prior over such grids.

Paper: Aaron van den Oord, Oriol Vinyals and Koray Kavukcuoglu, "Neural Discrete Representation Learning",
NeurIPS 2017, arXiv:1711.00937. The prior: van den Oord et al., "Conditional Image Generation with PixelCNN
Decoders", NeurIPS 2016, arXiv:1606.05328.

The idea. A VAE with a powerful decoder ignores its code. Here each vector of the encoder is replaced by the
nearest of K learned ones, and the KL term is a constant, so that nothing pushes the code to be empty. An
image becomes a small grid of symbols. What such grids look like is learned afterwards, by a network that
predicts each symbol from those before it. New images are sampled by it and decoded.

    z_e = encoder(x);   k = argmin_j ‖z_e − e_j‖;   z_q = e_k,  whose gradient is passed to z_e        (1, 2)
    L = ‖x − decoder(z_q)‖² / Var x + ‖sg z_e − e‖² + β ‖z_e − sg e‖²,  means,  β = ¼                     (3)
    codebook "ema":  N_j ← γ N_j + (1 − γ) n_j,  m_j ← γ m_j + (1 − γ) Σ z_e,  e_j = m_j / N_j          (A.1)
    prior: log p(k) = Σ_i log p(k_i | k_1 … k_{i−1}, class)                                     (section 3.3)

    encoder   4 × 4 convolution, stride 2, ReLU, for each halving;  3 × 3;  residual blocks;  1 × 1 to D
    decoder   3 × 3;  residual blocks;  transposed 4 × 4, stride 2, for each doubling
    residual  x + 1 × 1 (ReLU (3 × 3 (ReLU x))), of fewer channels in between;  ReLU after the last

    vqvae          32 × 32 in color, 128 channels, K = 512, D = 64: the example published with the paper
    vqvae_mnist    28 × 28 gray to 7 × 7 symbols, K = 64;   vqvae_digits   8 × 8 to 4 × 4, K = 32, for tests

Quantization is in `parts/vae/vector_quantizer.py`, the prior's layers are in `parts/vae/gated_pixelcnn.py`. A
run has two stages, autoencoder and prior, and `sample` takes `--label`. `code_perplexity` is how many entries
of the codebook are in use.

What differs from the paper. Entries that are hardly used are put where a vector of the batch is; at the first
update all of them are. Without it most of a codebook may never come into use. The prior sees a class where
the data have classes, as in its own paper. The prior of 8 × 8 symbols has 12 layers.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.vae.gated_pixelcnn import GatedPixelCNN
from torchstone.parts.vae.vector_quantizer import Quantized, VectorQuantizer
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.vae import quantized
from torchstone.tasks.vae.quantized import explain, predict, sample

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "explain",
    "predict",
    "reference",
    "sample",
]

evaluate = partial(quantized.evaluate, classifier=CLASSIFIER)
MARGIN = ("loss", -0.3)  # of the prior, in nats a symbol

Images = Float[Tensor, "batch channel height width"]
Codes = Int64[Tensor, "batch rows columns"]
Labels = Int64[Tensor, " batch"] | None


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "vqvae_mnist"  # network variant
    codebook_update: Literal["ema", "gradient"] = (
        "ema"  # codebook update: moving averages of the vectors, or its own loss
    )
    codebook_decay: float = 0.99  # decay of the codebook's moving averages
    revive_below: float = 0.05  # unused codes: those below this fraction of the average use are moved
    commitment_weight: float = 0.25  # commitment weight β: how strongly vectors stay near their entries
    steps: int = 1500  # number of updates of the autoencoder
    batch_size: int = 64  # images per update
    prior_steps: int = 1000  # number of updates of the prior
    prior_lr: float = 2e-3  # learning rate of the prior
    prior_ema_decay: float = 0.995  # decay of the averaged weights of the prior
    eval_samples: int = 2000  # samples evaluated at the end (0: none)
    augment: str = "none"  # augmentation, such as shift2; samples then look augmented too
    optim: OptimConfig = OptimConfig(lr=1e-3, warmup_ratio=0.02)  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order and revived codes
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train vqvae    9 min of a core   reconstructions 22.6 dB; 82 and 86 % of samples as asked
    "mnist5k": Recipe(),
    # torchstone train vqvae/cifar10 --data FOLDER    the paper's
    "cifar10": Recipe(
        data="cifar10",
        variant="vqvae",
        steps=250_000,
        batch_size=128,
        prior_steps=500_000,
        prior_lr=3e-4,
        eval_samples=10_000,
        augment="flip",
        optim=replace(Recipe.optim, lr=2e-4, warmup_ratio=0.0, lr_schedule="constant"),
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="vqvae_digits",
        steps=100,
        batch_size=32,
        prior_steps=120,
        prior_lr=5e-3,
        prior_ema_decay=0.9,
        eval_samples=0,
        optim=replace(Recipe.optim, lr=3e-3),
    ),
}


class ResidualBlocks(nn.Module):
    """x + 1 × 1 (ReLU (3 × 3 (ReLU x))), several times; then ReLU."""

    def __init__(self, width: int, inner: int, count: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, width, 1)
            )
            for _ in range(count)
        )

    def forward(self, x: Images) -> Images:
        for block in self.blocks:
            x = x + block(x)
        return F.relu(x)


def make_encoder(channels: int, width: int, residual_width: int, halvings: int, dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    widths = [channels, *[width // 2] * (halvings - 1), width]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
    residual = ResidualBlocks(width, residual_width, 2)
    return nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1), residual, nn.Conv2d(width, dim, 1))


def make_decoder(channels: int, width: int, residual_width: int, halvings: int, dim: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(dim, width, 3, padding=1), ResidualBlocks(width, residual_width, 2)]
    widths = [width, *[width // 2] * (halvings - 1)]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1))


class Output(NamedTuple):
    """A reconstruction, its quantization, and the prior's logits for each symbol."""

    reconstruction: Images
    quantized: Quantized
    logits: Float[Tensor, "batch codes rows columns"]


class VQVAE(nn.Module):
    """Autoencoder and prior.

    Args:
        width, residual_width: channels on the coarsest grid, and within residual blocks.
        halvings: of the sides, by the encoder.
        num_codes, dim: K and D.
        num_classes: of the prior; 0 for none.
        prior: its `hidden`, `layers` and `kernel`.
        codebook: `decay` and `revive_below` of its quantizer.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int = 32,
        width: int = 128,
        residual_width: int = 32,
        halvings: int = 2,
        num_codes: int = 512,
        dim: int = 64,
        num_classes: int = 0,
        prior: dict[str, int] | None = None,
        codebook: dict[str, Any] | None = None,
    ):
        super().__init__()
        if halvings < 1 or size % 2**halvings:
            raise BadInput(f"a side of {size} cannot be halved {halvings} times: choose a multiple of it")
        self.shape, self.num_codes, self.num_classes = (channels, size, size), num_codes, num_classes
        self.grid = (size // 2**halvings,) * 2
        self.encoder = make_encoder(channels, width, residual_width, halvings, dim)
        self.quantizer = VectorQuantizer(num_codes, dim, **(codebook or {}))
        self.decoder = make_decoder(channels, width, residual_width, halvings, dim)
        self.prior = GatedPixelCNN(num_codes, num_classes=num_classes, **(prior or {}))

    def autoencode(self, x: Images) -> tuple[Images, Quantized]:
        """The reconstruction, with the straight-through gradient."""
        found = self.quantizer(self.encoder(x))
        return self.decoder(found.vectors), found

    def encode(self, x: Images) -> Codes:
        """The symbols of images."""
        return self.quantizer(self.encoder(x)).codes

    def decode(self, codes: Codes) -> Images:
        return self.decoder(self.quantizer.embed(codes))

    def forward(self, x: Images, labels: Labels = None) -> Output:
        if self.num_classes and labels is None:
            labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
        reconstruction, found = self.autoencode(x)
        return Output(reconstruction, found, self.prior(found.codes, labels))


def autoencoder_loss(
    x: Images, reconstruction: Images, found: Quantized, variance: float, recipe: Recipe
) -> dict[str, Tensor]:
    """Equation 3. With moving averages the codebook has no loss."""
    error = F.mse_loss(reconstruction, x)
    loss = error / variance + recipe.commitment_weight * found.commitment_loss
    if recipe.codebook_update == "gradient":
        loss = loss + found.codebook_loss
    return {"loss": loss, "mse": error, "commitment_loss": found.commitment_loss}


def prior_loss(logits: Float[Tensor, "batch codes rows columns"], codes: Codes) -> Float[Tensor, ""]:
    """−log p of the symbols, in nats a symbol."""
    return F.cross_entropy(logits, codes)


CONFIGS: dict[str, dict[str, Any]] = {
    "vqvae": {"prior": {"hidden": 128, "layers": 12, "kernel": 7}},
    "vqvae_mnist": {
        "channels": 1,
        "size": 28,
        "width": 64,
        "num_codes": 64,
        "dim": 16,
        "prior": {"hidden": 48, "layers": 5, "kernel": 5},
    },
    "vqvae_digits": {
        "channels": 1,
        "size": 8,
        "width": 16,
        "residual_width": 8,
        "halvings": 1,
        "num_codes": 32,
        "dim": 8,
        "prior": {"hidden": 24, "layers": 3, "kernel": 3},
    },
}


def shape_of(variant: str) -> tuple[int, int, int]:
    config = CONFIGS[variant]
    return (config.get("channels", 3), *2 * [config.get("size", 32)])


VARIANTS = {name: Variant(partial(VQVAE, **each), shape_of(name)) for name, each in CONFIGS.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    channels, size, _ = shape_of(recipe.variant)
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    decay = recipe.codebook_decay if recipe.codebook_update == "ema" else None
    model_config = {
        "num_classes": len(data.classes) if len(data.classes) > 1 else 0,
        "codebook": {"decay": decay, "revive_below": recipe.revive_below},
    }
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    setup = quantized.Setup(model, recipe, data, model_config, CLASSIFIER)
    yield quantized.train_autoencoder(setup, autoencoder_loss)
    yield quantized.train_prior(setup, prior_loss)


def count_autoencoder(variant: str) -> int:
    """Parameters of encoder, decoder and codebook, without the prior's."""
    total = count_on_meta(VARIANTS[variant].make, codebook={"decay": None})
    return total - count_on_meta(GatedPixelCNN, 512, **CONFIGS[variant]["prior"])


# encoder, decoder and codebook of the example published with the paper, counted from its layers
FACTS = [
    Fact("autoencoder's parameters, with the codebook", lambda: count_autoencoder("vqvae"), 695_491),
    Fact("symbols of an image of 32 × 32", lambda: VARIANTS["vqvae"].make().grid, (8, 8)),
]


class Losses(nn.Module):
    """Both losses, for the reference."""

    def __init__(self, model: nn.Module, recipe: Recipe):
        super().__init__()
        self.model, self.recipe = model, recipe

    def forward(self, x: Images, labels: Tensor) -> tuple[Tensor, ...]:
        output = self.model(x, labels)
        terms = autoencoder_loss(x, output.reconstruction, output.quantized, 0.3, self.recipe)
        nats = prior_loss(output.logits, output.quantized.codes)
        return output.reconstruction, output.logits, terms["loss"], nats


def reference() -> Iterator[ParityCase]:
    """Quantization by distances one by one, its gradient by hand; masked convolutions as whole kernels with
    zeros."""
    from torchstone.references.vqvae import cases

    yield from cases(VQVAE, Losses, Recipe)
