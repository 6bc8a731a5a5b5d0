"""Sampling from a diffusion model: the loop over timesteps, guidance, inpainting, DDIM inversion.

Works on any network that predicts `process.prediction_type` from (x_t, t, context) and has that `process`.
The sampling step is the system's own, such as `ddpm.p_sample`.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from torchstone.engine.console import track
from torchstone.errors import BadInput
from torchstone.metrics.classifier_features import FeatureClassifier, resize_for_classifier
from torchstone.parts.diffusion.process import DenoiseFn, DiffusionProcess, NoiseSchedule, randn_like
from torchstone.parts.modes import eval_mode
from torchstone.plots import sample_grid
from torchstone.tasks.anomaly import check_finite

Images = Float[Tensor, "batch channel height width"]
Samples = Float[Tensor, "batch *shape"]  # images, or vectors
Pixels = UInt8[Tensor, "count channel height width"]
# one reverse step, such as `ddpm.p_sample`:
# (denoise_fn, process, schedule, x_t, t, s, generator, eta) -> (x_s, x̂₀)
PSample = Callable[..., tuple[Tensor, Tensor]]
LogProbFn = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> log p(label | x_t), (batch,)

CHUNK_SIZE = 256  # images sampled at a time


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn.

    Args:
        steps: number of sampling steps; by default all timesteps.
        sampler: `ddpm` or `ddim`; by default the process's own.
        eta: of DDIM: 0 is deterministic, 1 as stochastic as DDPM.
        guidance_scale: s of classifier-free guidance, 1 for none (`guided_denoiser`).
        seed: of the noise.
    """

    steps: int | None = None
    sampler: str | None = None
    eta: float = 0.0
    guidance_scale: float = 1.0
    seed: int = 0

    @classmethod
    def from_metadata(cls, fields: Mapping[str, Any]) -> "SamplingConfig":
        """What a run's metadata holds as `sampling`; earlier versions say `guidance`."""
        old_names = {"guidance": "guidance_scale"}
        return cls(**{old_names.get(name, name): value for name, value in fields.items()})

    def process(self, process: DiffusionProcess) -> DiffusionProcess:
        """`process` with this sampler.

        Raises:
            BadInput: a number of steps or an eta that is not possible.
        """
        if not 0 <= self.eta <= 1:
            raise BadInput(f"eta is between 0 (DDIM) and 1 (DDPM), not {self.eta}")
        process = dataclasses.replace(process, sampler=self.sampler or process.sampler)
        process.timestep_pairs(self.steps)
        return process


@dataclass(frozen=True)
class Inpainting:
    """Images to be completed (RePaint: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1).

    Args:
        image: what is known, from −1 to 1.
        mask: True where it is known.
        resample_steps: how often each step is taken, with noise added in between, so that the known and
            the generated part become consistent; 1 is once.
    """

    image: Float[Tensor, "#batch channel height width"]
    mask: Bool[Tensor, "#batch #channel height width"]
    resample_steps: int = 1


# ---------------------------------------------------------------------------------------- guidance


def guided_denoiser(model: Any, context: Tensor | None = None, guidance_scale: float = 1.0) -> DenoiseFn:
    """The network's output for a label or a text, with classifier-free guidance (Ho and Salimans 2022,
    arXiv:2207.12598).

        ε̃ = ε_∅ + s (ε_c − ε_∅) = (1 + w) ε_c − w ε_∅,  s = 1 + w

    Args:
        context: labels or token ids; None for no condition.
        guidance_scale: s, as diffusers and Stable Diffusion count: 1 is the conditional network itself,
            0 the unconditional one, and the paper's w is s − 1.
    """
    if context is None or guidance_scale in (0, 1):
        return lambda x, t: model(x, t, context if guidance_scale else None)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        contexts = torch.cat([context, model.null_context(len(x))])
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), contexts).chunk(2)
        guided = unconditional + guidance_scale * (conditional - unconditional)
        if conditional.shape[1] == x.shape[1]:
            return guided
        # further channels say how wide the step is, which is not extrapolated
        return torch.cat([guided[:, : x.shape[1]], conditional[:, x.shape[1] :]], 1)

    return guided


def classifier_guided_denoiser(
    denoise_fn: DenoiseFn,
    process: DiffusionProcess,
    schedule: NoiseSchedule,
    log_prob_fn: LogProbFn,
    scale: float,
) -> DenoiseFn:
    """Guidance by a classifier of noisy images (Dhariwal and Nichol 2021, arXiv:2105.05233, algorithm 2):
    ε̂ = ε − s √(1 − ᾱ_t) ∇ log p(label | x_t)."""

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob_fn(x, t).sum(), x)
        shift = -scale * (1 - schedule.alpha_bar(t, x)).sqrt() * gradient
        return schedule.shift_epsilon(process.prediction_type, denoise_fn(x.detach(), t), shift, t)

    return guided


def classifier_on_x0(
    denoise_fn: DenoiseFn, process: DiffusionProcess, schedule: NoiseSchedule, log_prob_fn: LogProbFn
) -> LogProbFn:
    """A classifier of noisy images out of one of clean images: it is applied to the network's x̂₀.

    Args:
        log_prob_fn: (x₀, t) -> log p(label | x₀).
    """

    def log_prob(x: Tensor, t: Tensor) -> Tensor:
        return log_prob_fn(process.predict_x0(schedule, denoise_fn(x, t), x, t)[0], t)

    return log_prob


@dataclass(frozen=True)
class ClassifierGuidance:
    """Guidance towards `labels` by the classifier that evaluates samples, which knows clean images only.

    Args:
        scale: s of `classifier_guided_denoiser`, 0 for none.
    """

    classifier: FeatureClassifier
    labels: Int64[Tensor, " count"]
    scale: float

    def denoiser(self, denoise_fn: DenoiseFn, process: DiffusionProcess, rows: Tensor) -> DenoiseFn:
        """`denoise_fn`, guided, for the samples of these `rows`."""
        device = next(self.classifier.network.parameters()).device
        schedule, labels = process.noise_schedule().to(device), self.labels[rows].to(device)

        def log_prob_fn(x0: Tensor, t: Tensor) -> Tensor:
            logits = self.classifier.network(classifier_input(x0, self.classifier.metadata))
            return logits.log_softmax(1).gather(1, labels[:, None])[:, 0]

        log_prob = classifier_on_x0(denoise_fn, process, schedule, log_prob_fn)
        return classifier_guided_denoiser(denoise_fn, process, schedule, log_prob, self.scale)


def classifier_input(x: Images, metadata: dict[str, Any]) -> Float[Tensor, "batch channel side side"]:
    """Images from −1 to 1 as the classifier takes them, without rounding, so that gradients pass."""
    x = resize_for_classifier((x + 1) / 2, metadata)
    shape = (1, len(metadata["mean"]), 1, 1)
    mean, std = (torch.tensor(metadata[name], device=x.device).view(shape) for name in ("mean", "std"))
    return (x - mean) / std


# ---------------------------------------------------------------------------------------- sampling


def sample_loop(
    p_sample: PSample,
    model: Any,
    x_T: Samples,
    config: SamplingConfig = SamplingConfig(),
    *,
    denoise_fn: DenoiseFn | None = None,
    generator: torch.Generator | None = None,
    inpainting: Inpainting | None = None,
) -> Iterator[tuple[Samples, Samples]]:
    """(x_s, x̂₀) after each sampling step, from the noise `x_T`.

    Args:
        denoise_fn: by default the network without a context.
        generator: of the noise that steps add, on a device of its own; by default one of `config.seed`.

    Raises:
        BadInput: a number of steps, an eta or a number of resampling steps that is not possible.
    """
    process = config.process(model.process)
    resample_steps = 1 if inpainting is None else inpainting.resample_steps
    if resample_steps < 1:
        raise BadInput(f"resample_steps must be at least 1, not {resample_steps}")
    schedule = process.noise_schedule().to(x_T.device)
    denoise_fn = denoise_fn or guided_denoiser(model)
    generator = generator or torch.Generator().manual_seed(config.seed)
    x = x_T
    with eval_mode(model):
        for timestep, following in process.timestep_pairs(config.steps):
            t, s = full_timesteps(x, timestep), full_timesteps(x, following)
            repeats = resample_steps if following >= 0 else 1
            with torch.no_grad():  # not around `yield`: that would reach the caller
                for repeat in range(repeats):
                    x, x0 = p_sample(denoise_fn, process, schedule, x, t, s, generator, config.eta)
                    if inpainting is not None:
                        known = inpainting.image.expand_as(x)
                        if following >= 0:
                            known = schedule.add_noise(known, randn_like(x, generator), s)
                        x = torch.where(inpainting.mask, known, x)
                        if repeat < repeats - 1:
                            x = schedule.add_noise(x, randn_like(x, generator), t, s)
            yield x, x0


def full_timesteps(x: Tensor, timestep: int) -> Int64[Tensor, " batch"]:
    """One timestep for each image."""
    return torch.full((len(x),), timestep, device=x.device)


def generate(p_sample: PSample, model: Any, x_T: Samples, *args: Any, **kwargs: Any) -> Samples:
    """The end of `sample_loop`: images from −1 to 1."""
    ((x, _),) = deque(sample_loop(p_sample, model, x_T, *args, **kwargs), maxlen=1)
    return x


def sample_images(
    p_sample: PSample,
    model: Any,
    count: int,
    config: SamplingConfig,
    *,
    context: Int64[Tensor, "count *tokens"] | None = None,
    classifier_guidance: ClassifierGuidance | None = None,
    inpainting: Inpainting | None = None,
    progress: bool = True,
) -> Pixels:
    """`count` images from the noise of `config.seed`, on the CPU; the same on every device but for rounding.
    Latents, of a model that has an autoencoder, are decoded.

    Args:
        context: label or token ids of each image.
        progress: show how far it is.

    Raises:
        BadInput: an image has values that are not finite.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(config.seed)
    x_T = torch.randn(count, *model.shape, generator=generator)
    steps = len(config.process(model.process).timestep_pairs(config.steps))
    autoencoder = getattr(model, "autoencoder", None)
    images = []
    for rows in torch.arange(count).split(CHUNK_SIZE):
        condition = None if context is None else context[rows].to(device)
        denoise_fn = guided_denoiser(model, condition, config.guidance_scale)
        if classifier_guidance is not None:
            denoise_fn = classifier_guidance.denoiser(denoise_fn, model.process, rows)
        loop = sample_loop(
            p_sample,
            model,
            x_T[rows].to(device),
            config,
            denoise_fn=denoise_fn,
            generator=generator,
            inpainting=inpainting,
        )
        title = f"sampling {rows[0] + 1} to {rows[-1] + 1} of {count}, step"
        ((x, _),) = deque(track(loop, title, steps) if progress else loop, maxlen=1)
        if not torch.isfinite(x).all():
            raise BadInput("the samples are not finite: the network's weights are damaged, or diverged")
        if autoencoder is not None:
            with eval_mode(model), torch.no_grad():
                x = check_finite(autoencoder.from_latents(x), "decoded samples")
        metadata = sample_grid.symmetric_range({"channels": x.shape[1]})
        images.append(sample_grid.to_uint8(x, metadata).cpu())
    return torch.cat(images)


@torch.no_grad()
def ddim_invert(
    model: Any, images: Images, *, steps: int | None = None, denoise_fn: DenoiseFn | None = None
) -> Images:
    """The noise from which DDIM (η = 0) generates `images`, approximately: its steps backwards (Song et al.
    2020, arXiv:2010.02502, section 4.3). More steps come nearer."""
    process = dataclasses.replace(model.process, sampler="ddim", clip_sample_range=None)
    schedule = process.noise_schedule().to(images.device)
    denoise_fn, x = denoise_fn or guided_denoiser(model), images
    with eval_mode(model):
        for target, current in reversed(process.timestep_pairs(steps)):
            s, t = full_timesteps(x, max(current, 0)), full_timesteps(x, target)
            x0, epsilon = process.predict_x0(schedule, denoise_fn(x, s), x, s)
            if current < 0:
                x0 = x
            x, _ = schedule.ddim_step(x0, epsilon, s, t)
    return x
