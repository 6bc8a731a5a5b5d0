"""Diffusion of pictures: from a network that tells noise, a recipe and data to a Run."""

import dataclasses
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor

from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.captioned import Captioned
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.diffusion_batches import Noised, Noising
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.metrics import classifier_features, memorization
from torchstone.parts.diffusion.text_encoder import mean
from torchstone.plots import sample_grid
from torchstone.tasks.diffusion.conditioning import Material, Tell
from torchstone.tasks.diffusion.guidance_sweep import plot, survey
from torchstone.tasks.diffusion.likelihood import bits
from torchstone.tasks.diffusion.sampler import told, way
from torchstone.tasks.optimization import gradient_update

Pixels = UInt8[Tensor, "count channel height width"]

GLANCE = 256  # pictures that validation looks at
CHUNK = 256  # pictures that are drawn at a time
SHOWN, PAIRS = 40, 24  # on a sheet while training goes on; beside training pictures
BRIEF = 10  # steps in which those sheets are drawn, at most


def diffuse(model: Any, recipe: Any, material: Material, classifier: Any) -> Run:
    """A Run that trains `model` to tell what noise is in pictures of any noise level.

    The recipe states batch, steps, seed, variant, augment, drop, optimiser, lr, momentum, weight_decay,
    schedule, warmup, clip, accumulate, ema, precision, compile; sampler, sampled, guidance: how
    pictures are drawn; judged, surveyed: how many are judged. `loss` is the mean squared error of what
    is told (Ho et al. 2020, equation 14, if that is ε), in validation on the same noise each time; in
    training that of the reader's sketch is added, if it makes one. The averaged network is judged.

    Args:
        classifier: of `quality.judge`, for data that have classes.
    """
    data, tell = material.data, material.tell
    if data.train.labels.device.type == "cuda":  # on a CPU norms of groups are slow that way
        model = model.to(memory_format=torch.channels_last)
    device = data.train.labels.device
    noise, kind = model.process.noise().to(device), model.process.told
    # refused now, not when all is trained
    dataclasses.replace(model.process, sampler=recipe.sampler).way(recipe.sampled)

    def objective(net: Any, batch: Noised) -> Tensor:
        x, t, epsilon, context = batch
        said = net(noise.add(x, epsilon, t), t, context)
        return F.mse_loss(said, noise.target(kind, x, epsilon, t))

    def taught(net: Any, batch: Noised) -> dict[str, Tensor]:
        sketch = model.sketch(mean(*model.reader(batch.context)))
        apart = F.mse_loss(sketch, F.adaptive_avg_pool2d(batch.x, sketch.shape[2:]))
        told = objective(net, batch)
        return {"loss": told + apart, "told": told, "sketch": apart}

    sketching = getattr(model, "sketch", None) is not None
    update, state, judged = gradient_update(
        model, recipe.optim, taught if sketching else objective, steps=recipe.steps
    )
    picture = sample_grid.centred(data.metadata)
    batches = ImageBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        metadata=picture,
        augment=make_augmentation(recipe.augment),
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    stream = Noising(batches, len(noise), tell=tell, drop=recipe.drop)
    judging = None
    if recipe.judged and not isinstance(data, Captioned):
        judging = classifier_features.judge(data, classifier)
    usual = {"guidance": recipe.guidance, "sampler": recipe.sampler, "steps": recipe.sampled}

    def draw(count: int, **how: Any) -> Pixels:
        context = material.in_turn(count)[0]
        return drawn(judged, count, context=context, **(usual | how))

    def glance() -> Pixels:
        return draw(SHOWN, sampler="ddim", steps=min(recipe.sampled, BRIEF))

    def test() -> dict[str, float]:
        pictures = data.test.take(torch.arange(len(data.test), device=device))
        found = {"loss": error(judged, data.test, objective, tell)}
        found["bits_per_dimension"] = bits(judged, pictures)
        if judging is not None:
            real, asked = judging.see_split(data.test), material.in_turn(recipe.judged)[0]
            found |= classifier_features.compared(judging.see(draw(recipe.judged)), *real, asked=asked)
            found["confident_data"] = float((real[0].chances.amax(1) >= 0.95).double().mean())
            if recipe.surveyed:
                asked = material.in_turn(recipe.surveyed)[0]
                found |= survey(draw, judging, real, recipe.surveyed, asked, len(noise))
        elif isinstance(data, Captioned) and recipe.judged:
            found["nearness"] = memorization.nearness(draw(recipe.judged), data.train, data.test)
            for name, split in (("match", data.test), ("match_known", data.train)):
                context, theirs = material.some(split, recipe.judged)
                made = drawn(judged, len(theirs), context=context, **usual)
                found[name] = memorization.matched(made, theirs)
        return found

    def report(folder: Path) -> None:
        if isinstance(data, Captioned):
            names = material.in_turn(PAIRS)[1]
            memorization.beside(draw(PAIRS), data, folder / "nearest.png", asked=names)
        elif judging is not None:
            classifier_features.beside(judging, draw(PAIRS), data.train, folder / "nearest.png")
        plot(run.results, folder / "guidance.png")

    run = Run(
        stream=stream,
        update=update,
        evaluate=lambda: {"loss": error(judged, data.val, objective, tell, GLANCE)},
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=test,
        report=report,
        metadata={
            "task": "diffuse",
            "variant": recipe.variant,
            "model_config": material.model_config,
            "picture": picture,
            "data": data.description,
            **material.metadata,
        },
    )
    return sample_grid.watched(run, glance, columns=10)


@torch.no_grad()
def error(
    model: Any,
    split: ImageSplit,
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
    chosen = classifier_features.spread(len(split), most)
    count = len(chosen)
    generator = torch.Generator().manual_seed(0)
    levels = model.process.levels
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
) -> Pixels:
    """`count` pictures from the noise of `seed`, the same on every device but for rounding, on the CPU.

    Args:
        context: what each is to show.
        guidance: s of `denoise.told`.
        shown: a bar while it lasts, on a terminal.
        how: of `denoise.way`; its `says` is a function of (rows, says), around what the network says.

    Raises:
        BadInput: a picture has values that are not finite.
    """
    from rich.console import Console
    from rich.progress import track

    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, *model.shape, generator=generator)
    around, metadata = how.pop("says", None), {"channels": model.shape[0]}
    parts = []
    console = Console(stderr=True)
    for rows in torch.arange(count).split(CHUNK):
        says = told(model, None if context is None else context[rows].to(device), guidance)
        says = says if around is None else around(rows, says)
        path = way(model, start[rows].to(device), says=says, generator=generator, **how)
        total = len(model.process.way(how.get("steps")))
        title = f"drawing {rows[0] + 1} to {rows[-1] + 1}"
        quiet = not (shown and console.is_terminal)
        bar = track(path, title, total, console=console, disable=quiet, transient=True)
        ((x, _),) = deque(bar, maxlen=1)
        if not torch.isfinite(x).all():
            raise BadInput("the pictures are not finite: the network's weights are no good")
        parts.append(sample_grid.pixels(x, sample_grid.centred(metadata)).cpu())
    return torch.cat(parts)
