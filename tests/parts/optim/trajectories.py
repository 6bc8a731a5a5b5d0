"""A hundred steps of two optimizers on the same weights and gradients."""

import copy
import functools

import torch
from torch import nn

SHAPES = ((4, 3), (3,), (2, 3, 2, 2), ())


def weights(shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    return [
        nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype))
        for shape in shapes
    ]


def groups(parameters):
    """Two groups, the second with options of its own."""
    return [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.003, "weight_decay": 0.2}]


@functools.cache
def noises_of(step, shapes, dtype):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


def set_gradients(parameters, step, size=1.0):
    """Gradients that depend on the weights and on the step; every fourth step one weight has none."""
    noises = noises_of(step, tuple(p.shape for p in parameters), parameters[0].dtype)
    for index, (p, noise) in enumerate(zip(parameters, noises, strict=True)):
        p.grad = None if (step % 4 == 3 and index == 1) else size * (noise + 0.3 * p.detach())


def gap(ours, theirs, *, steps=100, shapes=SHAPES, dtype=torch.float64, grouped=True):
    """Largest distance of the weights over all steps, relative to a tensor's largest weight (at least 1).

    `ours` and `theirs` make an optimizer of parameters. Both also change their learning rate as a schedule does.
    """
    mine, other = weights(shapes, dtype), weights(shapes, dtype)
    optimizers = [make(groups(p) if grouped else p) for make, p in ((ours, mine), (theirs, other))]
    worst = 0.0
    for step in range(steps):
        for parameters, optimizer in zip((mine, other), optimizers, strict=True):
            set_gradients(parameters, step)
            for group in optimizer.param_groups:
                group["lr"] *= 0.99
            optimizer.step()
        if step % 10 == 9:
            for a, b in zip(mine, other, strict=True):
                scale = max(1.0, float(b.detach().abs().max()))
                worst = max(worst, float((a.detach() - b.detach()).abs().max()) / scale)
    return worst


def resumed_gap(make, shapes=SHAPES):
    """Distance of the weights after 20 steps at once and after 10, a copy of the state dict, and 10 more."""
    return exchanged_gap(make, make, shapes)


def exchanged_gap(make, other, shapes=SHAPES):
    """Distance of the weights after 20 steps of one, and after 10 of it, its state loaded by the other, 10 more."""
    whole, halves = weights(shapes), weights(shapes)
    optimizer = make(groups(whole))
    for step in range(20):
        set_gradients(whole, step)
        optimizer.step()
    optimizer = make(groups(halves))
    for step in range(20):
        if step == 10:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = other(groups(halves))
            optimizer.load_state_dict(saved)
        set_gradients(halves, step)
        optimizer.step()
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in zip(whole, halves, strict=True))
