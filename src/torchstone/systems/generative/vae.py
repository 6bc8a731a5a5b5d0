"""VAE: an autoencoder whose code is a distribution, so that new images can be sampled.

Paper: Diederik Kingma and Max Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114
(2013). With it: Burda, Grosse and Salakhutdinov, importance-weighted autoencoders (IWAE), 2015,
arXiv:1509.00519; Kingma et al., free bits, 2016, arXiv:1606.04934; Higgins et al., β-VAE, ICLR 2017;
Burgess et al., 2018, arXiv:1804.03599.

The idea. Each image is assumed to have a latent cause, a few normally distributed numbers. A decoder maps
them to the image, and an encoder estimates them from it, with uncertainty. Both maximize a lower bound on
the likelihood of the image. The estimate is sampled as mean + σ ε, a function of noise that gradients pass
through. New images are then decoded from N(0, I), and a low bound marks an unusual image.

    q(z|x) = N(μ(x), diag σ²(x)),  z = μ + σ ε,  ε ~ N(0, I)                       (section 2.4)
    L = E log p(x|z) − KL(q(z|x) ‖ N(0, I)),  KL = ½ Σ (μ² + σ² − 1 − log σ²)      (10, appendix B)
    log p(x|z) = Σ x log p + (1 − x) log(1 − p)                                    (11)
    L_k = E log (1/k) Σ p(x, z_i) / q(z_i|x),  L ≤ L_5 ≤ L_50 ≤ log p(x)           (Burda 8, theorem 1)
    E log p(x|z) − β Σ_j max(free bits, mean KL_j)                                 (Higgins; Kingma 2016)

`encode(x) -> (mean, logvar)`, `decode(z) -> logits`, `forward(x, epsilon) -> (logits, mean, logvar)` for ε of
shape (batch, samples, latent); x is (batch, channel, size, size) from 0 to 1. The terms of the bounds are in
`parts/vae/elbo.py`; inpainting, interpolation and the latent grid in `tasks/vae/figures.py`.

    vae          784-400-20, ReLU: as in PyTorch's examples       652,824 parameters
    vae_paper    784-500-20, tanh: the paper's on MNIST           815,824
    vae_iwae     784-200-200-50, tanh: Burda et al., one layer    425,284
    vae_burgess  4 convolutions of 4 × 4, stride 2, on 64 × 64, then 256-256-10 (β-VAE)   502,005
    vae_conv     the same on 28 × 28 with 20 latents;  vae_digits   a small one for 8 × 8
    vae_deep     784-400-200-8: fewer latents, a lower bound, better samples;  vae_plane   2, for plots

Pixels are binary. A gray image is binarized anew for each batch, each pixel 1 with the probability of its
gray level (Burda et al., 5.1; Salakhutdinov and Murray 2008); validation and test images are binarized once.
`--binarization threshold` gives bounds that look far better and compare with nobody's; with `none` they are
no likelihoods.

What differs from the paper. Adam, where the paper has Adagrad; weights start by Glorot and Bengio, where the
paper's are N(0, 0.01²); the output biases start at each pixel's frequency (Burda et al.'s code). No weight
decay, for the paper's prior on weights. Metrics are those of an exponential moving average of the weights.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.dequantized_batches import all_images
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.vae.elbo import (
    bernoulli_log_prob,
    beta_kl,
    iwae_bound,
    kl_to_prior,
    log_importance_weights,
    reparameterize,
)
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.vae import inference
from torchstone.tasks.vae.inference import explain, predict, sample
from torchstone.tasks.vae.train import train_vae

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

evaluate = partial(inference.evaluate, classifier=CLASSIFIER)
MARGIN = ("elbo", 4.0)

Images = Float[Tensor, "batch channel height width"]
Latent = Float[Tensor, "batch latent"]


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # data set: mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "vae_deep"  # network variant
    latent_dim: int | None = None  # latent dimension (none: the variant's own)
    binarization: Literal["stochastic", "threshold", "none"] = (
        "stochastic"  # binarization of gray pixels: stochastic (Bernoulli), at a threshold, or none
    )
    beta: float = 1.0  # weight of the KL term (β-VAE)
    free_bits: float = 0.0  # nats of KL per latent that are not penalized
    latent_samples: int = 1  # latent samples per image in training
    use_iwae: bool = False  # train on the importance-weighted bound (IWAE) instead of the ELBO
    eval_samples: int = 2000  # samples evaluated at the end (0: none)
    steps: int = 4000  # number of updates
    batch_size: int = 128  # images per update
    augment: str = "none"  # augmentation, such as affine; samples then look augmented too
    optim: OptimConfig = OptimConfig(
        lr=2e-3, warmup_ratio=0.02, ema_decay=0.99
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train vae                      1 min of a core          samples: precision 0.9
    "mnist5k": Recipe(),
    # torchstone train vae/mnist --data FOLDER  20 min, very busy core   ELBO −99.4, IWAE of 50 samples −95.9
    "mnist": Recipe(
        data="hf:ylecun/mnist",
        variant="vae_paper",
        steps=10_000,
        optim=replace(Recipe.optim, ema_decay=0.999),
    ),
    # torchstone train vae/iwae --data FOLDER   the importance-weighted bound of 50 samples; an hour or so
    "iwae": Recipe(
        data="hf:ylecun/mnist",
        variant="vae_iwae",
        latent_samples=50,
        use_iwae=True,
        steps=10_000,
        optim=replace(Recipe.optim, ema_decay=0.999),
    ),
    # torchstone train vae/plane   two latents, to be plotted: pictures/plane.png
    "plane": Recipe(variant="vae_plane"),
    # torchstone train vae/conv
    "conv": Recipe(variant="vae_conv", steps=1500),
    # torchstone train vae/beta   disentangled latents, on 64 × 64
    "beta": Recipe(
        variant="vae_burgess", beta=4.0, steps=1500, batch_size=64, optim=replace(Recipe.optim, lr=5e-4)
    ),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="vae_digits",
        binarization="threshold",
        steps=500,
        batch_size=32,
        optim=replace(Recipe.optim, lr=5e-3, ema_decay=0.9),
        eval_samples=0,
    ),
}

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp_layers(
    shape: tuple[int, int, int], widths: Sequence[int], latent_dim: int, activation: str
) -> tuple[nn.Sequential, nn.Sequential]:
    """Fully connected encoder and decoder, mirror images of each other."""

    def stack(sizes: Sequence[int], outputs: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        return [*layers, nn.Linear(sizes[-1], outputs)]

    pixels = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), *stack([pixels, *widths], 2 * latent_dim))
    decoder = nn.Sequential(*stack([latent_dim, *widths[::-1]], pixels), nn.Unflatten(1, shape))
    return encoder, decoder


def conv_layers(
    shape: tuple[int, int, int], widths: Sequence[int], latent_dim: int, activation: str
) -> tuple[nn.Sequential, nn.Sequential]:
    """Convolutional encoder and decoder (Burgess et al., section 4.1).

    4 × 4 convolutions of 32 channels, each of which halves the side while it is even and above 4, then the
    fully connected layers.
    """
    channels, side, _ = shape
    sides = [side]
    while sides[-1] > 4 and sides[-1] % 2 == 0:
        sides.append(sides[-1] // 2)
    act, width, steps = ACTIVATIONS[activation], 32, len(sides) - 1
    grid = (width, sides[-1], sides[-1])
    if not steps:
        raise BadInput(f"a side of {side} cannot be halved: try 28, 32 or 64")
    down, up = [], []
    for number in range(steps):
        outer = width if number else channels
        down += [nn.Conv2d(outer, width, 4, 2, 1), act()]
        up = [act(), nn.ConvTranspose2d(width, outer, 4, 2, 1), *up]
    encoder, decoder = mlp_layers(grid, widths, latent_dim, activation)
    return nn.Sequential(*down, *encoder), nn.Sequential(*decoder, *up)


class VAE(nn.Module):
    """Encoder and decoder.

    Args:
        widths: of the fully connected layers of the encoder; the decoder has them in reverse.
        use_conv: convolutions before them, transposed ones after.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        widths: Sequence[int] = (400,),
        latent_dim: int = 20,
        activation: str = "relu",
        use_conv: bool = False,
    ):
        super().__init__()
        if latent_dim < 1:
            raise BadInput(f"latent_dim must be at least 1, not {latent_dim}")
        self.latent_dim, self.shape = latent_dim, (channels, size, size)
        make_layers = conv_layers if use_conv else mlp_layers
        self.encoder, self.decoder = make_layers(self.shape, widths, latent_dim, activation)
        for weight in self.parameters():
            (nn.init.xavier_uniform_ if weight.ndim > 1 else nn.init.zeros_)(weight)

    @torch.no_grad()
    def init_output_bias(self, frequency: Float[Tensor, "channel height width"]) -> None:
        """Let the decoder start with each pixel's frequency (each channel's, if it is convolutional)."""
        bias: Any = [m for m in self.decoder if hasattr(m, "bias")][-1].bias
        p = frequency.flatten() if len(bias) == frequency.numel() else frequency.mean((1, 2))
        bias.copy_(torch.logit(p.clamp(0.001, 0.999)))

    def encode(self, x: Images) -> tuple[Latent, Latent]:
        """mean and logvar of q(z|x)."""
        mean, logvar = self.encoder(x).chunk(2, 1)
        return mean, logvar

    def decode(self, z: Float[Tensor, "*count latent"]) -> Float[Tensor, "*count channel height width"]:
        """Logits of the pixels."""
        return self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])

    def forward(
        self, x: Images, epsilon: Float[Tensor, "batch samples latent"] | None = None
    ) -> tuple[Float[Tensor, "batch *samples channel height width"], Latent, Latent]:
        """Logits for each latent sample (without ε: for the mean code), mean and logvar."""
        mean, logvar = self.encode(x)
        z = mean if epsilon is None else reparameterize(mean, logvar, epsilon)
        return self.decode(z), mean, logvar

    @torch.no_grad()
    def sample(self, count: int, *, seed: int = 0, temperature: float = 1.0) -> Images:
        """Pixel probabilities of `count` images, z ~ N(0, temperature² I), from the noise of `seed`."""
        device = next(self.parameters()).device
        z = torch.randn(count, self.latent_dim, generator=torch.Generator().manual_seed(seed))
        return torch.cat([self.decode(rows).sigmoid() for rows in (temperature * z).to(device).split(500)])


def training_loss(
    net: Any, x: Images, epsilon: Float[Tensor, "batch samples latent"], recipe: Recipe
) -> dict[str, Tensor]:
    """−L of equation 10, with β and free bits; with `use_iwae` −L_k of Burda et al., equation 8."""
    logits, mean, logvar = net(x, epsilon)
    log_likelihood, kl = bernoulli_log_prob(logits, x), kl_to_prior(mean, logvar)
    elbo = log_likelihood.mean() - kl.sum(1).mean()
    if recipe.use_iwae:
        z = reparameterize(mean, logvar, epsilon)
        loss = -iwae_bound(log_importance_weights(log_likelihood, z, epsilon, logvar)).mean()
    else:
        loss = beta_kl(kl, recipe.beta, recipe.free_bits) - log_likelihood.mean()
    return {"loss": loss, "elbo": elbo, "kl": kl.sum(1).mean()}


def image_variant(channels: int = 1, size: int = 28, **model_config: Any) -> Variant:
    return Variant(partial(VAE, channels=channels, size=size, **model_config), (channels, size, size))


VARIANTS = {
    "vae": image_variant(),
    "vae_paper": image_variant(widths=(500,), activation="tanh"),
    "vae_iwae": image_variant(widths=(200, 200), latent_dim=50, activation="tanh"),
    "vae_burgess": image_variant(size=64, widths=(256, 256), latent_dim=10, use_conv=True),
    "vae_conv": image_variant(widths=(256,), use_conv=True),
    "vae_deep": image_variant(widths=(400, 200), latent_dim=8),
    "vae_plane": image_variant(widths=(400, 200), latent_dim=2),
    "vae_digits": image_variant(size=8, widths=(64,), latent_dim=8),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    channels, size, _ = VARIANTS[recipe.variant].shape
    latent_dim = make.keywords.get("latent_dim", 20) if recipe.latent_dim is None else recipe.latent_dim
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    rng.seed(recipe.seed)
    model = make(latent_dim=latent_dim).to(device)
    model.init_output_bias(all_images(data.train).float().mean(0) / 255)
    model_config = {"latent_dim": latent_dim}
    yield train_vae(model, recipe, data, loss=training_loss, model_config=model_config, classifier=CLASSIFIER)


def variant_parameters(variant: str) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make())


def kl_error() -> float:
    """Difference of the closed-form KL from torch.distributions'."""
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 50, 7, dtype=torch.float64)
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    return float((kl_to_prior(mean, logvar) - expected).abs().max())


FACTS = [
    Fact("parameters of 784-400-20 (PyTorch's example)", lambda: variant_parameters("vae"), 652_824),
    Fact("parameters of 784-500-20 (the paper's)", lambda: variant_parameters("vae_paper"), 815_824),
    Fact("parameters of 784-200-200-50 (Burda et al.)", lambda: variant_parameters("vae_iwae"), 425_284),
    Fact("parameters on 64 × 64 (Burgess et al.)", lambda: variant_parameters("vae_burgess"), 502_005),
    Fact("KL in closed form, from torch.distributions", kl_error, 0.0, 1e-12),
]


class TrainingLoss(nn.Module):
    """Both objectives by our parts: −ELBO with β and free bits, and −IWAE of each image."""

    def __init__(self, model: nn.Module, beta: float, free_bits: float):
        super().__init__()
        self.model, self.beta, self.free_bits = model, beta, free_bits

    def forward(self, x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        logits, mean, logvar = self.model(x, epsilon)
        log_likelihood = bernoulli_log_prob(logits, x)
        kl = beta_kl(kl_to_prior(mean, logvar), self.beta, self.free_bits)
        z = reparameterize(mean, logvar, epsilon)
        log_weights = log_importance_weights(log_likelihood, z, epsilon, logvar)
        return kl - log_likelihood.mean(), -iwae_bound(log_weights)


def reference() -> Iterator[ParityCase]:
    """The objective against its definition: densities of torch.distributions, sample by sample."""
    torch.manual_seed(0)
    configs: list[dict[str, Any]] = [
        {"size": 5, "widths": (6,), "latent_dim": 3, "activation": "tanh"},
        {"size": 4, "widths": (7, 6), "latent_dim": 2, "channels": 2},
        {"size": 8, "widths": (5,), "latent_dim": 2, "use_conv": True, "activation": "tanh"},
    ]
    for model_config, (beta, free_bits) in zip(configs, ((1.0, 0.0), (4.0, 0.0), (1.0, 0.25)), strict=True):
        model = VAE(**model_config).double()
        model.init_output_bias(torch.rand(model.shape, dtype=torch.float64))
        x = torch.rand(3, *model.shape, dtype=torch.float64).round()
        epsilon = torch.randn(3, 4, model.latent_dim, dtype=torch.float64)
        ours, theirs = TrainingLoss(model, beta, free_bits), ReferenceLoss(model, beta, free_bits)
        yield ParityCase(ours, theirs, (x, epsilon), label=f"β {beta:g}, free bits {free_bits:g}")


class ReferenceLoss(nn.Module):
    """The same from its definition: log p(x, z) − log q(z|x) one sample at a time."""

    def __init__(self, model: nn.Module, beta: float, free_bits: float):
        super().__init__()
        self.model, self.beta, self.free_bits = model, beta, free_bits

    def forward(self, x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        from torch.distributions import Bernoulli, Normal, kl_divergence

        net: Any = self.model
        likelihoods, bounds, divergences = [], [], []
        for image, noise in zip(x, epsilon, strict=True):
            mean, logvar = (each[0] for each in net.encode(image[None]))
            q, prior = Normal(mean, logvar.exp().sqrt()), Normal(0.0 * mean, 1.0 + 0.0 * mean)
            divergences.append(kl_divergence(q, prior))
            ratios = []
            for e in noise:
                z = mean + logvar.exp().sqrt() * e
                log_likelihood = Bernoulli(logits=net.decode(z[None])[0]).log_prob(image).sum()
                likelihoods.append(log_likelihood)
                ratios.append((log_likelihood + prior.log_prob(z).sum() - q.log_prob(z).sum()).exp())
            bounds.append(-(sum(ratios[1:], ratios[0]) / len(ratios)).log())
        kl = torch.stack(divergences).mean(0)
        clamped = torch.where(kl > self.free_bits, kl, torch.full_like(kl, self.free_bits))
        return self.beta * clamped.sum() - torch.stack(likelihoods).mean(), torch.stack(bounds)
