"""VAE: a code for pictures that is a distribution, and so can be drawn from.

Paper: Diederik Kingma and Max Welling, "Auto-Encoding Variational Bayes", ICLR 2014, arXiv:1312.6114
(2013). With it: Burda, Grosse and Salakhutdinov, importance-weighted auto-encoders, 2015,
arXiv:1509.00519; Kingma et al., free bits, 2016, arXiv:1606.04934; Higgins et al., β-VAE, ICLR 2017;
Burgess et al., 2018, arXiv:1804.03599.

The idea. Suppose that each picture has a hidden cause, a few normal numbers. A decoder tells the picture
from them, an encoder guesses which ones it was, with how much doubt; both are trained on a lower bound of
the picture's likelihood. What lets the gradient through is to draw the guess as mean + σ ε, a function of
noise. Afterwards new pictures come from N(0, I), and how low the bound is says how unusual a picture is.

    q(z|x) = N(μ(x), diag σ²(x)),  z = μ + σ ε,  ε ~ N(0, I)                       (section 2.4)
    L = E log p(x|z) − KL(q(z|x) ‖ N(0, I)),  KL = ½ Σ (μ² + σ² − 1 − log σ²)      (10, appendix B)
    log p(x|z) = Σ x log p + (1 − x) log(1 − p)                                    (11)
    L_k = E log (1/k) Σ p(x, z_i) / q(z_i|x),  L ≤ L_5 ≤ L_50 ≤ log p(x)           (Burda 8, theorem 1)
    E log p(x|z) − β Σ_j max(free bits, mean KL_j)                                 (Higgins; Kingma 2016)

`encode(x) -> (mean, logvar)`, `decode(z) -> logits`, `forward(x, epsilon) -> (logits, mean, logvar)`, for
(batch, samples, latent) of ε; x is (batch, channel, size, size) from 0 to 1. The bound is in
`parts/vae/elbo.py`; in-painting, paths, the latent plane in `tasks/vae/figures.py`.

    vae          784-400-20, ReLU: as in PyTorch's examples       652,824 parameters
    vae_paper    784-500-20, tanh: the paper's on MNIST           815,824
    vae_iwae     784-200-200-50, tanh: Burda et al., one layer    425,284
    vae_burgess  4 convolutions of 4 × 4, stride 2, on 64 × 64, then 256-256-10 (β-VAE)   502,005
    vae_conv     the same on 28 × 28 with 20 latents;  vae_digits   a small one for 8 × 8
    vae_deep     784-400-200-8: fewer latents, a lower bound, better samples;  vae_plane   2, to be seen

Pixels are on or off. A grey picture is made so anew at each look, each pixel on by the chance of its
shade (Burda et al., 5.1; Salakhutdinov and Murray 2008); validation and test are drawn once. `threshold`
gives bounds that look far better and compare with nobody's; with `grey` they are no likelihoods.

What differs from the paper. Adam, where the paper has Adagrad; weights start by Glorot and Bengio, where
the paper's are N(0, 0.01²); the last biases at each pixel's frequency (Burda et al.'s code). No weight
decay, for the paper's prior on weights. What is judged is the average of the weights of late.
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
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.vae.elbo import divergence, drawn, importance, log_weights, on_or_off, paid
from torchstone.systems import Variant
from torchstone.systems.convolutional import lenet5
from torchstone.tasks.flow.train_images import everything
from torchstone.tasks.vae import inference
from torchstone.tasks.vae.inference import explain, predict, sample
from torchstone.tasks.vae.train import autoencode

# fmt: off
__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "explain", "predict", "reference", "sample"]
# fmt: on

evaluate = partial(inference.evaluate, classifier=lenet5)
MARGIN = ("bound", 4.0)

Pictures = Float[Tensor, "batch channel height width"]
Latent = Float[Tensor, "batch latent"]


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, hf:NAME, or a folder (class folders or IDX)
    variant: str = "vae_deep"  # which network
    latent: int | None = None  # width of the code, none for the variant's own
    pixels: Literal["drawn", "threshold", "grey"] = "drawn"  # how a shade becomes on or off
    beta: float = 1.0  # price of the code
    free_bits: float = 0.0  # nats of each latent that cost nothing
    samples: int = 1  # of the code, for each picture in training
    weighted: bool = False  # train the importance-weighted bound of them
    judged: int = 2000  # samples that are judged at the end, 0 for none
    steps: int = 4000  # updates
    batch_size: int = 128  # pictures an update
    augment: str = "none"  # such as affine; what is learnt is made so too
    optim: OptimConfig = OptimConfig(
        lr=2e-3, warmup_ratio=0.02, ema_decay=0.99
    )  # optimizer, schedule, precision
    seed: int = 0  # of weights, order and noise
    device: str = "auto"  # auto, cpu, cuda, mps


RECIPES = {
    # torchstone train vae                      1 min of a core          samples: precision 0.9
    "mnist5k": Recipe(),
    # torchstone train vae/mnist --data FOLDER  20 min, very busy core   bound −99.4, of 50 samples −95.9
    "mnist": Recipe(data="hf:ylecun/mnist", variant="vae_paper", steps=10_000, optim=replace(Recipe.optim, ema_decay=0.999)),
    # torchstone train vae/iwae --data FOLDER   the importance-weighted bound of 50 samples; an hour or so
    "iwae": Recipe(
        data="hf:ylecun/mnist", variant="vae_iwae", samples=50, weighted=True, steps=10_000, optim=replace(Recipe.optim, ema_decay=0.999)),
    # torchstone train vae/plane   two latents, to be looked at: pictures/plane.png
    "plane": Recipe(variant="vae_plane"),
    # torchstone train vae/conv
    "conv": Recipe(variant="vae_conv", steps=1500),
    # torchstone train vae/beta   latents that say one thing each, on 64 × 64
    "beta": Recipe(variant="vae_burgess", beta=4.0, steps=1500, batch_size=64, optim=replace(Recipe.optim, lr=5e-4)),
    # for tests: seconds
    "smoke": Recipe(
        data="digits", variant="vae_digits", pixels="threshold", steps=500, batch_size=32, optim=replace(Recipe.optim, lr=5e-3, ema_decay=0.9), judged=0),
}  # fmt: skip

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def full(
    shape: tuple[int, int, int], widths: Sequence[int], latent: int, activation: str
) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of full layers, each the other turned round."""

    def stack(sizes: Sequence[int], end: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        return [*layers, nn.Linear(sizes[-1], end)]

    pixels = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), *stack([pixels, *widths], 2 * latent))
    decoder = nn.Sequential(*stack([latent, *widths[::-1]], pixels), nn.Unflatten(1, shape))
    return encoder, decoder


def convolutions(
    shape: tuple[int, int, int], widths: Sequence[int], latent: int, activation: str
) -> tuple[nn.Sequential, nn.Sequential]:
    """The same of 4 × 4 convolutions, each of which halves the side (Burgess et al., section 4.1): 32 channels
    while it is even and above 4, then the full layers."""
    channels, side, _ = shape
    sides = [side]
    while sides[-1] > 4 and sides[-1] % 2 == 0:
        sides.append(sides[-1] // 2)
    act, wide, steps = ACTIVATIONS[activation], 32, len(sides) - 1
    grid = (wide, sides[-1], sides[-1])
    if not steps:
        raise BadInput(f"a side of {side} cannot be halved: try 28, 32 or 64")
    down, up = [], []
    for number in range(steps):
        outer = wide if number else channels
        down += [nn.Conv2d(outer, wide, 4, 2, 1), act()]
        up = [act(), nn.ConvTranspose2d(wide, outer, 4, 2, 1), *up]
    inner, back = full(grid, widths, latent, activation)
    return nn.Sequential(*down, *inner), nn.Sequential(*back, *up)


class VAE(nn.Module):
    """Encoder and decoder.

    Args:
        widths: of the full layers, from the picture to the code; the decoder has them the other way round.
        convolve: convolutions before them, transposed ones after.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        widths: Sequence[int] = (400,),
        latent: int = 20,
        activation: str = "relu",
        convolve: bool = False,
    ):
        super().__init__()
        if latent < 1:
            raise BadInput(f"a code has at least 1 number, not {latent}")
        self.latent, self.shape = latent, (channels, size, size)
        make = convolutions if convolve else full
        self.encoder, self.decoder = make(self.shape, widths, latent, activation)
        for weight in self.parameters():
            (nn.init.xavier_uniform_ if weight.ndim > 1 else nn.init.zeros_)(weight)

    @torch.no_grad()
    def begin(self, frequency: Float[Tensor, "channel height width"]) -> None:
        """Let the decoder say each pixel's frequency (of each channel's, if it convolves) of every code."""
        bias: Any = [m for m in self.decoder if hasattr(m, "bias")][-1].bias
        each = frequency.flatten() if len(bias) == frequency.numel() else frequency.mean((1, 2))
        bias.copy_(torch.logit(each.clamp(0.001, 0.999)))

    def encode(self, x: Pictures) -> tuple[Latent, Latent]:
        """mean and logvar of q(z|x)."""
        mean, logvar = self.encoder(x).chunk(2, 1)
        return mean, logvar

    def decode(self, z: Float[Tensor, "*count latent"]) -> Float[Tensor, "*count channel height width"]:
        """Logits of each pixel's being on."""
        return self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])

    def forward(
        self, x: Pictures, epsilon: Float[Tensor, "batch samples latent"] | None = None
    ) -> tuple[Float[Tensor, "batch *samples channel height width"], Latent, Latent]:
        """Logits for each sample of the code (without ε: for its mean), mean and logvar."""
        mean, logvar = self.encode(x)
        return self.decode(mean if epsilon is None else drawn(mean, logvar, epsilon)), mean, logvar


def sized(channels: int = 1, size: int = 28, **model_config: Any) -> Variant:
    return Variant(partial(VAE, channels=channels, size=size, **model_config), (channels, size, size))


VARIANTS = {
    "vae": sized(),
    "vae_paper": sized(widths=(500,), activation="tanh"),
    "vae_iwae": sized(widths=(200, 200), latent=50, activation="tanh"),
    "vae_burgess": sized(size=64, widths=(256, 256), latent=10, convolve=True),
    "vae_conv": sized(widths=(256,), convolve=True),
    "vae_deep": sized(widths=(400, 200), latent=8),
    "vae_plane": sized(widths=(400, 200), latent=2),
    "vae_digits": sized(size=8, widths=(64,), latent=8),
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    channels, size, _ = VARIANTS[recipe.variant].shape
    latent = make.keywords.get("latent", 20) if recipe.latent is None else recipe.latent
    data = load_images(recipe.data, size=size, channels=channels, device=device)
    rng.seed(recipe.seed)
    model = make(latent=latent).to(device)
    model.begin(everything(data.train).float().mean(0) / 255)
    yield autoencode(model, recipe, data, model_config={"latent": latent}, classifier=lenet5)


def count(variant: str) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make())


def closed_form() -> float:
    """The divergence's distance from torch.distributions'."""
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 50, 7, dtype=torch.float64)
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    theirs = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    return float((divergence(mean, logvar) - theirs).abs().max())


FACTS = [
    Fact("parameters of 784-400-20 (PyTorch's example)", lambda: count("vae"), 652_824),
    Fact("parameters of 784-500-20 (the paper's)", lambda: count("vae_paper"), 815_824),
    Fact("parameters of 784-200-200-50 (Burda et al.)", lambda: count("vae_iwae"), 425_284),
    Fact("parameters on 64 × 64 (Burgess et al.)", lambda: count("vae_burgess"), 502_005),
    Fact("KL in closed form, from torch.distributions", closed_form, 0.0, 1e-12),
]


class Objective(nn.Module):
    """What is lowered, by our parts: the bound with β and free bits, and the weighted one."""

    def __init__(self, model: nn.Module, beta: float, free: float):
        super().__init__()
        self.model, self.beta, self.free = model, beta, free

    def forward(self, x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        logits, mean, logvar = self.model(x, epsilon)
        likelihood = on_or_off(logits, x)
        plain = paid(divergence(mean, logvar), self.beta, self.free) - likelihood.mean()
        weights = log_weights(likelihood, drawn(mean, logvar, epsilon), epsilon, logvar)
        return plain, -importance(weights)


def reference() -> Iterator[ParityCase]:
    """The objective beside its definition: densities of torch.distributions, sample by sample."""
    torch.manual_seed(0)
    small: list[dict[str, Any]] = [
        {"size": 5, "widths": (6,), "latent": 3, "activation": "tanh"},
        {"size": 4, "widths": (7, 6), "latent": 2, "channels": 2},
        {"size": 8, "widths": (5,), "latent": 2, "convolve": True, "activation": "tanh"},
    ]
    for model_config, (beta, free) in zip(small, ((1.0, 0.0), (4.0, 0.0), (1.0, 0.25)), strict=True):
        model = VAE(**model_config).double()
        model.begin(torch.rand(model.shape, dtype=torch.float64))
        x = torch.rand(3, *model.shape, dtype=torch.float64).round()
        epsilon = torch.randn(3, 4, model.latent, dtype=torch.float64)
        ours = Objective(model, beta, free)
        label = f"β {beta:g}, free bits {free:g}"
        yield ParityCase(ours, Written(model, beta, free), (x, epsilon), label=label)


class Written(nn.Module):
    """The same, written out: log p(x, z) − log q(z|x) one sample at a time."""

    def __init__(self, model: nn.Module, beta: float, free: float):
        super().__init__()
        self.model, self.beta, self.free = model, beta, free

    def forward(self, x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        from torch.distributions import Bernoulli, Normal, kl_divergence

        net: Any = self.model
        likelihoods, bounds, costs = [], [], []
        for picture, noise in zip(x, epsilon, strict=True):
            mean, logvar = (each[0] for each in net.encode(picture[None]))
            q, prior = Normal(mean, logvar.exp().sqrt()), Normal(0.0 * mean, 1.0 + 0.0 * mean)
            costs.append(kl_divergence(q, prior))
            ratios = []
            for e in noise:
                z = mean + logvar.exp().sqrt() * e
                told = Bernoulli(logits=net.decode(z[None])[0]).log_prob(picture).sum()
                likelihoods.append(told)
                ratios.append((told + prior.log_prob(z).sum() - q.log_prob(z).sum()).exp())
            bounds.append(-(sum(ratios[1:], ratios[0]) / len(ratios)).log())
        each = torch.stack(costs).mean(0)
        least = torch.where(each > self.free, each, torch.full_like(each, self.free))
        return self.beta * least.sum() - torch.stack(likelihoods).mean(), torch.stack(bounds)
