"""Eight Gaussians on a ring in the plane, and models of them: how many a model covers can be counted."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.diffusion_batches import DiffusionBatch
from torchstone.engine import rng
from torchstone.engine.run import Intervals, Run, fit
from torchstone.engine.update import OptimConfig
from torchstone.errors import NotFinite
from torchstone.parts.diffusion.process import DiffusionProcess
from torchstone.parts.diffusion.unet_blocks import timestep_embedding
from torchstone.parts.gan.losses import GAN_LOSSES, gradient_penalty
from torchstone.parts.gan.spectral_norm import apply_spectral_norm
from torchstone.parts.rl.networks import mlp
from torchstone.systems.generative import ddpm
from torchstone.tasks.diffusion.sampler import SamplingConfig, generate
from torchstone.tasks.optimization import gradient_update

MODES, RADIUS, DEVIATION = 8, 2.0, 0.1
WIDTH, LATENT_DIM, BATCH, SAMPLES = 64, 8, 128, 2000
GanName = Literal["minimax", "non-saturating", "WGAN-GP", "spectral norm"]
# name -> the loss of `parts/gan/losses.py`, steps of the discriminator for each of the generator
GANS: dict[GanName, tuple[str, int]] = {
    "minimax": ("minimax", 1),
    "non-saturating": ("non_saturating", 1),
    "WGAN-GP": ("wgan_gp", 3),
    "spectral norm": ("hinge", 1),
}
GP_WEIGHT = 0.1  # λ of WGAN-GP, for data of two dimensions

Points = Float[Tensor, "count 2"]


def ring_points(count: int, generator: torch.Generator) -> Points:
    mode = torch.randint(MODES, (count,), generator=generator)
    angle = mode * (2 * math.pi / MODES)
    center = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    return center + DEVIATION * torch.randn(count, 2, generator=generator)


def mode_of(points: Points) -> tuple[Int64[Tensor, " count"], Float[Tensor, " count"]]:
    """The nearest Gaussian of each point, and how far away its mean is."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    centers = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    distance, mode = torch.cdist(points, centers).min(1)
    return mode, distance


def coverage(points: Points) -> tuple[int, float]:
    """How many Gaussians have at least a quarter of their share of the points within three deviations; and
    the share of all points that is within three deviations of one."""
    mode, distance = mode_of(points)
    near = distance <= 3 * DEVIATION
    counts = mode[near].bincount(minlength=MODES)
    return int((counts >= len(points) / MODES / 4).sum()), near.float().mean().item()


def mode_shares(points: Points) -> list[float]:
    """The share of the points whose nearest Gaussian is each, however far away; a whole of 1."""
    return (mode_of(points)[0].bincount(minlength=MODES) / len(points)).tolist()


class Denoiser(nn.Module):
    """A small network of (x_t, t) for the samplers of diffusion models."""

    def __init__(self, process: DiffusionProcess):
        super().__init__()
        self.process, self.shape = process, (2,)
        self.net = mlp([2 + 16, WIDTH, WIDTH, 2])

    def forward(self, x: Points, t: Int64[Tensor, " count"], context: None = None) -> Points:
        return self.net(torch.cat([x, timestep_embedding(t, 16)], 1))


def train_gan(
    name: GanName,
    lr: float,
    seed: int,
    steps: int,
    evaluations: int,
    *,
    discriminator_steps: int | None = None,
    measured: Callable[[Points], Any] = coverage,
) -> list[Any]:
    """`measured` of the samples at each of the evaluations of a GAN; where it diverged, of one point alone
    from then on.

    Both networks have two hidden layers of `WIDTH` units and Adam with β₁ = ½.

    Args:
        discriminator_steps: for each step of the generator, if not those of `GANS`.
    """
    rng.seed(seed)
    loss_name, default_steps = GANS[name]
    discriminator_steps = discriminator_steps or default_steps
    loss = GAN_LOSSES[loss_name]
    model, discriminator = mlp([LATENT_DIM, WIDTH, WIDTH, 2]), mlp([2, WIDTH, WIDTH, 1])
    if name == "spectral norm":
        apply_spectral_norm(discriminator)

    def score(net: nn.Module, x: Points) -> Float[Tensor, " count"]:
        return net(x)[:, 0]

    def discriminator_objective(net: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        real, z, weight = batch
        with torch.no_grad():
            fake = model(z)
        total = loss.discriminator(score(net, real), score(net, fake))
        if loss.has_gradient_penalty:
            total = total + GP_WEIGHT * gradient_penalty(partial(score, net), real, fake, weight)
        return total

    def generator_objective(net: Any, z: Tensor) -> Tensor:
        return loss.generator(score(discriminator, net(z)))

    optim = OptimConfig(lr=lr, beta1=0.5, lr_schedule="constant")
    generator_step, state, _ = gradient_update(model, optim, generator_objective, steps=steps)
    discriminator_step, _, _ = gradient_update(
        discriminator, optim, discriminator_objective, steps=steps * discriminator_steps
    )

    def update(batch: None) -> dict[str, Tensor]:
        for _ in range(discriminator_steps):
            real = ring_points(BATCH, generator)
            z = torch.randn(BATCH, LATENT_DIM, generator=generator)
            discriminator_step((real, z, torch.rand(BATCH, generator=generator)))
        return {"loss": generator_step(torch.randn(BATCH, LATENT_DIM, generator=generator))["loss"]}

    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(SAMPLES, LATENT_DIM, generator=torch.Generator().manual_seed(seed + 1000))
    run = Run(endless(), update, dict, state, steps)
    return watch(run, lambda: model(latent), evaluations, measured)


def train_diffusion(lr: float, seed: int, steps: int, evaluations: int) -> list[tuple[int, float]]:
    """As `train_gan`, of a diffusion model with a network of the same size."""
    rng.seed(seed)
    process = DiffusionProcess(
        timesteps=100, beta_schedule="cosine", prediction_type="v", clip_sample_range=None, sampler="ddim"
    )
    model, schedule = Denoiser(process), process.noise_schedule()

    def objective(net: Any, batch: DiffusionBatch) -> Tensor:
        return ddpm.training_loss(net, process, schedule, batch)

    step, state, _ = gradient_update(
        model, OptimConfig(lr=lr, lr_schedule="constant"), objective, steps=steps
    )

    def update(_: None) -> dict[str, Tensor]:
        t = torch.randint(len(schedule), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, 2, generator=generator)
        return step(DiffusionBatch(ring_points(BATCH, generator), t, noise, None))

    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(seed + 1000))
    run = Run(endless(), update, dict, state, steps)
    return watch(run, lambda: generate(ddpm.p_sample, model, x_T, SamplingConfig(steps=25)), evaluations)


def endless() -> Iterator[None]:
    """A stream whose batches the update makes itself."""
    while True:
        yield None


def watch(
    run: Run, sample: Callable[[], Points], evaluations: int, measured: Callable[[Points], Any] = coverage
) -> list[Any]:
    """Train, and measure samples at `evaluations` even intervals."""
    found: list[Any] = []

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        found.append(measured(sample()))
        return {}

    run.evaluate = evaluate
    try:
        fit(run, quiet=True, intervals=Intervals(evaluate=run.steps // evaluations))
    except NotFinite:
        found += [measured(torch.full((SAMPLES, 2), 100.0))] * (evaluations + 1 - len(found))
    return found[1:]  # without that of the untrained network
