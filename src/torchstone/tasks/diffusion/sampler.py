"""Sampling by denoising: along any number of levels, towards a label or a text, around known pixels.

Works on any network that says what `Process.told` means of (x, t, context) and holds its `process`.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.parts.diffusion.noise_schedule import Noise
from torchstone.parts.diffusion.process import Process

Pictures = Float[Tensor, "batch channel height width"]
Known = Float[Tensor, "#batch channel height width"]
Mask = Bool[Tensor, "#batch #channel height width"]
Levels = Int64[Tensor, " batch"]
Says = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> what the network says
Weighs = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> log p(label | x_t), (batch,)


def told(model: Any, context: Tensor | None = None, scale: float = 1.0) -> Says:
    """The network's word with a label or a text, free of a classifier (Ho and Salimans 2022,
    arXiv:2207.12598).

        ε̃ = ε_∅ + s (ε_c − ε_∅) = (1 + w) ε_c − w ε_∅,  s = 1 + w

    Args:
        context: what it is told; nothing for none.
        scale: s, as diffusers and Stable Diffusion count: 1 is the conditional network itself, 0 the
            unconditional one, and the paper's w is s − 1.
    """
    if context is None or scale in (0, 1):
        return lambda x, t: model(x, t, context if scale else None)

    def both(x: Tensor, t: Tensor) -> Tensor:
        contexts = torch.cat([context, model.nothing(len(x))])
        with_, without = model(torch.cat([x, x]), torch.cat([t, t]), contexts).chunk(2)
        return without + scale * (with_ - without)

    return both


def steered(says: Says, process: Process, noise: Noise, weighs: Weighs, scale: float) -> Says:
    """Towards what a classifier of noisy pictures thinks likely (Dhariwal and Nichol 2021,
    arXiv:2105.05233, algorithm 2): ε̂ = ε − s √(1 − ᾱ_t) ∇ log p(label | x_t)."""

    def says_so(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(weighs(x, t).sum(), x)
        by = -scale * (1 - noise.kept(t, x)).sqrt() * slope
        return noise.moved(process.told, says(x.detach(), t), by, t)

    return says_so


def looks_clean(says: Says, process: Process, noise: Noise, weighs: Weighs) -> Weighs:
    """A classifier of noisy pictures out of one of clean ones: it is shown the x₀ the network sees.

    Args:
        weighs: (x₀, t) -> log p(label | x₀).
    """

    def weigh(x: Tensor, t: Tensor) -> Tensor:
        return weighs(process.told_clean(noise, says(x, t), x, t)[0], t)

    return weigh


def way(
    model: Any,
    start: Pictures,
    *,
    steps: int | None = None,
    eta: float = 0.0,
    sampler: str | None = None,
    generator: torch.Generator | None = None,
    says: Says | None = None,
    known: tuple[Known, Mask] | None = None,
    again: int = 1,
) -> Iterator[tuple[Pictures, Pictures]]:
    """(x_s, the x₀ it heads for) after each step from `start`, noise of the highest level.

    Args:
        steps: of the levels; by default all.
        eta: of DDIM: 0 draws nothing, 1 as much as DDPM.
        sampler: `ddpm` or `ddim`, if not what the model's process says.
        generator: what new noise is drawn from, on its own device.
        says: instead of the network without a context.
        known: pictures and True where they are known: the rest is filled in (RePaint: Lugmayr et al.
            2022, arXiv:2201.09865, algorithm 1).
        again: how often each step is gone, with noise added in between, so that what is known and
            what is filled in grow together; 1 is once.

    Raises:
        BadInput: a number of steps that the levels do not have, or an eta that is no share.
    """
    if not 0 <= eta <= 1:
        raise BadInput(f"eta is between 0 (DDIM) and 1 (DDPM), not {eta}")
    if again < 1:
        raise BadInput(f"each step is gone at least once, not {again} times")
    process = model.process
    if sampler is not None:
        process = dataclasses.replace(process, sampler=sampler)
    noise = process.noise().to(start.device)
    says = says or told(model)
    x = start
    # known beforehand: to look whether sigma is zero would wait for the device at each step
    draws = process.sampler == "ddpm" or eta > 0
    where = x.device if generator is None else generator.device

    def draw() -> Tensor:
        drawn = torch.randn(x.shape, generator=generator, device=where, dtype=x.dtype)
        return drawn.to(x.device)

    was_training = model.training
    model.eval()
    try:
        for here, there in process.way(steps):
            t, s = rows(x, here), rows(x, there)
            turns = again if known and there >= 0 else 1
            with torch.no_grad():  # not around `yield`: that would reach whoever asks
                for turn in range(turns):
                    mean, sigma, clean = process.step(noise, says(x, t), x, t, s, eta)
                    x = mean + sigma * draw() if draws else mean
                    if known:
                        pictures, mask = known[0].expand_as(x), known[1]
                        seen = noise.add(pictures, draw(), s) if there >= 0 else pictures
                        x = torch.where(mask, seen, x)
                        if turn < turns - 1:
                            x = noise.again(x, draw(), s, t)
            yield x, clean
    finally:
        model.train(was_training)


def rows(x: Tensor, level: int) -> Levels:
    """The level of each picture."""
    return torch.full((len(x),), level, device=x.device)


def generate(model: Any, start: Pictures, **how: Any) -> Pictures:
    """What `way` comes to at its end."""
    ((x, _),) = deque(way(model, start, **how), maxlen=1)
    return x


@torch.no_grad()
def encode(model: Any, pictures: Pictures, *, steps: int | None = None, says: Says | None = None) -> Pictures:
    """The noise that DDIM (η = 0) makes `pictures` of, nearly: the same way backwards (Song et al. 2020,
    arXiv:2010.02502, section 4.3), the nearer the more steps."""
    process = dataclasses.replace(model.process, sampler="ddim", clip=None)
    noise = process.noise().to(pictures.device)
    says, x = says or told(model), pictures
    was_training = model.training
    model.eval()
    for there, here in reversed(process.way(steps)):
        t, s = rows(x, max(here, 0)), rows(x, there)
        clean, epsilon = process.told_clean(noise, says(x, t), x, t)
        if here < 0:
            clean = x
        x, _ = noise.implicit(clean, epsilon, t, s)
    model.train(was_training)
    return x
