"""Diffusion of pictures: from a network that tells noise, a recipe and data to a Run, and its use."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.streams.augment import from_name
from torchstone.streams.batches import Batches
from torchstone.streams.images import Pictures
from torchstone.streams.noised import Noised, Noising
from torchstone.tasks.bits import bits
from torchstone.tasks.conditions import Material, Tell
from torchstone.tasks.denoise import told, way
from torchstone.tasks.descent import descent

GLANCE = 256  # pictures that validation looks at
CHUNK = 256  # pictures that are drawn at a time
# values from −1 to 1, as the noise process has them
CENTRED = {"mean": [0.5], "std": [0.5]}


def diffuse(model: Any, recipe: Any, material: Material) -> Run:
    """A Run that trains `model` to tell what noise is in pictures of any noise level.

    The recipe states batch, steps, seed, variant, augment, drop, optimiser, lr, momentum, weight_decay,
    schedule, warmup, clip, accumulate, ema, precision, compile. `loss` is the mean squared error of what
    is told (Ho et al. 2020, equation 14, if that is ε), in validation on the same noise each time; the
    averaged network is the one that is judged.
    """
    data, tell = material.data, material.tell
    if data.train.labels.device.type != "mps":
        model = model.to(memory_format=torch.channels_last)
    device = data.train.labels.device
    noise, kind = model.process.noise().to(device), model.process.told

    def objective(net: Any, batch: Noised) -> Tensor:
        x, t, epsilon, context = batch
        said = net(noise.add(x, epsilon, t), t, context)
        return F.mse_loss(said, noise.target(kind, x, epsilon, t))

    update, state, judged = descent(model, recipe, objective)
    picture = centred(data.card)
    batches = Batches(
        data.train,
        recipe.batch,
        seed=recipe.seed,
        card=picture,
        augment=from_name(recipe.augment),
        rank=parallel.rank(),
        world=parallel.world(),
    )
    stream = Noising(batches, len(noise), tell=tell, drop=recipe.drop)

    def measured(split: Pictures, most: int | None = None) -> dict[str, float]:
        return {"loss": error(judged, split, objective, tell, most)}

    def test() -> dict[str, float]:
        pictures = data.test.take(torch.arange(len(data.test), device=device))
        return measured(data.test) | {"bits_per_dimension": bits(judged, pictures)}

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measured(data.val, GLANCE),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=test,
        card={
            "task": "diffuse",
            "variant": recipe.variant,
            "arguments": material.arguments,
            "picture": picture,
            "data": data.note,
            **material.card,
        },
    )


def centred(card: dict[str, Any]) -> dict[str, Any]:
    """The card of pictures whose values go from −1 to 1."""
    return card | {name: values * card["channels"] for name, values in CENTRED.items()}


@torch.no_grad()
def error(
    model: nn.Module,
    split: Pictures,
    objective: Callable[[Any, Noised], Tensor],
    tell: Tell | None,
    most: int | None = None,
    rows: int = 128,
) -> float:
    """The mean loss over (up to `most` evenly chosen) pictures, with noise that is always the same, all
    levels evenly."""
    was_training = model.training
    model.eval()
    device = split.labels.device
    count = min(len(split), most or len(split))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.linspace(0, len(split) - 1, count, dtype=torch.float64).round().long()
    levels = model.process.levels  # ty: ignore[unresolved-attribute]
    order = torch.randperm(count, generator=generator)
    t = ((order + 0.5) / count * levels).long()
    total = 0.0
    for part in torch.arange(count).split(rows):
        pictures = split.take(chosen[part].to(device))
        x = pictures.float() / 127.5 - 1
        epsilon = torch.randn(x.shape, generator=generator).to(device)
        told_of = split.labels[chosen[part].to(device)]
        context = tell(told_of, torch.zeros_like(told_of, dtype=torch.bool)) if tell else None
        batch = Noised(x, t[part].to(device), epsilon, context)
        total += objective(model, batch).item() * len(part)
    model.train(was_training)
    return total / count


def drawn(
    model: Any,
    count: int,
    *,
    context: Int64[Tensor, "count *places"] | None = None,
    seed: int = 0,
    guidance: float = 1.0,
    shown: bool = False,
    **how: Any,
) -> UInt8[Tensor, "count channel height width"]:
    """`count` pictures from the noise of `seed`, the same on every device but for rounding.

    Args:
        context: what each is to show.
        guidance: s of `denoise.told`.
        shown: a bar while it lasts, on a terminal.
        how: of `denoise.way`.
    """
    from rich.console import Console
    from rich.progress import track

    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, *model.shape, generator=generator)
    parts = []
    console = Console(stderr=True)
    for rows in torch.arange(count).split(CHUNK):
        says = told(model, None if context is None else context[rows].to(device), guidance)
        path = way(model, start[rows].to(device), says=says, generator=generator, **how)
        total = len(model.process.way(how.get("steps")))
        title = f"drawing {rows[0] + 1} to {rows[-1] + 1}"
        quiet = not (shown and console.is_terminal)
        bar = track(path, title, total, console=console, disable=quiet, transient=True)
        ((x, _),) = deque(bar, maxlen=1)
        parts.append(pixels(x))
    return torch.cat(parts)


def pixels(
    x: Float[Tensor, "batch channel height width"],
) -> UInt8[Tensor, "batch channel height width"]:
    """−1..1 as 0..255, on the CPU."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
