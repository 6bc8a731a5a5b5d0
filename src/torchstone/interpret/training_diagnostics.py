"""What a network in training looks like: its loss around the weights, gradients and activations by layer, and
the noise of the gradient. Of any run with one `GradientUpdate`, on batches of its own stream; nothing is
trained.
"""

import contextlib
import copy
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from torchstone.engine import rng
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.modes import eval_mode

LAYERS = 24  # in a picture, at most


class Landscape(NamedTuple):
    """The loss at w + a·δ + b·η for every a (rows) and b of `offsets`, equally spaced around 0."""

    offsets: list[float]
    losses: list[list[float]]


class LayerValues(NamedTuple):
    """Values of a layer: of an activation's elements, or of a weight's gradient."""

    name: str
    values: Tensor


class NoiseScale(NamedTuple):
    """B = tr(Σ)/‖G‖² in rows of a batch, of the whole gradient and by layer; None where ‖G‖² is not above 0
    within what so many batches can tell."""

    total: float | None
    layers: dict[str, float | None]
    batch: int
    batches: int


def update_of(run: Any) -> GradientUpdate:
    """A run's only gradient update.

    Raises:
        BadInput: it has none, or several.
    """
    found = [item for item in run.state.values() if isinstance(item, GradientUpdate)]
    if len(found) != 1 or not isinstance(run.state.get("model"), nn.Module):
        raise BadInput("these pictures are of runs with one network and one optimizer, which this is not")
    return found[0]


@contextlib.contextmanager
def same_chance() -> Generator[None]:
    """Within, random numbers are drawn; afterwards the generators are as they were."""
    before = rng.snapshot()
    try:
        yield
    finally:
        rng.restore(before)


def batch_loss(update: GradientUpdate, batch: Any) -> Tensor:
    result = update.loss(batch)
    return result if isinstance(result, Tensor) else result["loss"]


def filter_normalized(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A Gaussian direction whose filters have the norms of the weight's (Li et al. 2017, arXiv:1712.09913,
    section 4): rows of a matrix, filters of a convolution; 0 for biases and norms, as there."""
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    axes = tuple(range(1, weight.ndim))
    norm = noise.square().sum(axes, keepdim=True).sqrt().clamp(min=1e-12)
    return noise * weight.square().sum(axes, keepdim=True).sqrt() / norm


@torch.no_grad()
def loss_landscape(run: Any, batch: Any, *, points: int = 13, reach: float = 1.0, seed: int = 0) -> Landscape:
    """The loss of a batch on a plane through the weights, in evaluation mode, with the same random numbers at
    every point. The weights are put back bit for bit."""
    update = update_of(run)
    generator = torch.Generator().manual_seed(seed)
    weights = [p.detach().clone() for p in update.parameters]
    planes = [[filter_normalized(w, generator) for w in weights] for _ in range(2)]
    offsets = [reach * (2 * i / (points - 1) - 1) for i in range(points)]
    losses = []
    try:
        with eval_mode(run.state["model"]):
            for a in offsets:
                row = []
                for b in offsets:
                    for p, w, first, second in zip(update.parameters, weights, *planes, strict=True):
                        p.copy_(w + a * first + b * second)
                    with same_chance():
                        row.append(float(batch_loss(update, batch)))
                losses.append(row)
    finally:
        for p, w in zip(update.parameters, weights, strict=True):
            p.copy_(w)
    return Landscape(offsets, losses)


def layer_values(run: Any, batch: Any) -> tuple[list[LayerValues], list[LayerValues]]:
    """(activations, gradients) of a batch in training mode: outputs of the modules without children, in the
    order in which they are computed, and the gradients of weights with two or more axes."""
    update, model = update_of(run), run.state["model"]
    buffers = copy.deepcopy(dict(model.named_buffers()))
    activations: list[LayerValues] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            floats = [t for t in tree_flatten(output)[0] if isinstance(t, Tensor) and t.is_floating_point()]
            activations.extend(LayerValues(name, t.detach().flatten().float()) for t in floats[:1])

        return look

    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        gradients = named_gradients(update, model, batch)
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    chosen = [LayerValues(name, g.flatten().float()) for name, g in gradients.items() if g.ndim > 1]
    return activations, chosen


def named_gradients(update: GradientUpdate, model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """The gradient of a batch's loss by the name of the weight; those that it does not reach are left out."""
    trained = {id(p) for p in update.parameters}
    named = {name: p for name, p in model.named_parameters() if id(p) in trained}
    with same_chance(), torch.enable_grad():
        found = torch.autograd.grad(batch_loss(update, batch), list(named.values()), allow_unused=True)
    return {name: g.detach() for name, g in zip(named, found, strict=True) if g is not None}


def gradient_noise_scale(run: Any, batches: Sequence[Any]) -> NoiseScale:
    """B_simple of McCandlish et al. 2018, arXiv:1812.06162, equation 2.9: batches that are much smaller spend
    updates on noise, much larger ones spend examples on little.

    From n batches of b rows, with ḡ the mean of their gradients gᵢ (appendix A.1 there, with B = n·b and b):
    ‖G‖² = (n·‖ḡ‖² − mean ‖gᵢ‖²)/(n − 1) and tr Σ = b·n/(n − 1)·(mean ‖gᵢ‖² − ‖ḡ‖²), both without bias.
    """
    update, model = update_of(run), run.state["model"]
    buffers = copy.deepcopy(dict(model.named_buffers()))
    squares: dict[str, float] = {}
    means: dict[str, Tensor] = {}
    for batch in batches:
        for name, g in named_gradients(update, model, batch).items():
            squares[name] = squares.get(name, 0.0) + float(g.double().square().sum()) / len(batches)
            means[name] = means.get(name, 0) + g.double() / len(batches)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    rows = next(t.shape[0] for t in tree_flatten(batches[0])[0] if isinstance(t, Tensor))
    lengths = {name: float(mean.square().sum()) for name, mean in means.items()}

    def scale(square: float, length: float) -> float | None:
        n = len(batches)
        signal = (n * length - square) / (n - 1)
        noise = rows * n / (n - 1) * (square - length)
        return noise / signal if signal > 0 else None

    layers = {name: scale(squares[name], lengths[name]) for name in means if means[name].ndim > 1}
    return NoiseScale(scale(sum(squares.values()), sum(lengths.values())), layers, rows, len(batches))


def evenly(items: Sequence[Any], count: int = LAYERS) -> list[Any]:
    """At most `count` of them, the first and the last among them."""
    return [items[i] for i in evenly_spaced(len(items), count).tolist()]
