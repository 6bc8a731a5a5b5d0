"""Variational auto-encoding: from a network, a recipe and pictures to a Run, and what it is worth."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone.data.vision.augment import make_augmentation
from torchstone.data.vision.batches import ImageBatches
from torchstone.data.vision.dataset import ImageDataset
from torchstone.data.vision.dequantized_batches import Chanced, Chances, whole
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.vae.elbo import divergence, drawn, importance, log_weights, on_or_off, paid
from torchstone.plots.sample_grid import unit, watched
from torchstone.tasks import evaluate_samples as judging
from torchstone.tasks.anomaly import usual
from torchstone.tasks.flow.train_images import everything
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.vae.figures import filled, painted, paths, plane, rebuilt

Pixels = UInt8[Tensor, "count channel height width"]
Pictures = Float[Tensor, "count channel height width"]
Each = Float[Tensor, " count"]

SHOWN = 100  # on a sheet
ROWS = 1000  # samples that are looked at together
FEW, MANY = 5, 50  # samples that the bound is estimated with, on the clock and at the end
ACTIVE = 0.01  # variance of a latent's mean over pictures, above which it is in use
PIXELS = ("drawn", "threshold", "grey")


def pixels_of(pictures: Pictures, u: Pictures, how: str) -> Pictures:
    """What is to be likely, 0..1: each pixel on by the chance of its shade (`drawn`), on from the middle shade
    up (`threshold`), or its shade (`grey`), which makes the bound no likelihood.

    Args:
        pictures: from 0 to 255.
        u: uniform on 0..1.
    """
    x = pictures / 255
    if how == "drawn":
        return (u < x).to(x.dtype)
    return (x >= 0.5).to(x.dtype) if how == "threshold" else x


def checked(recipe: Any) -> None:
    """Raises `BadInput` for numbers that are no objective."""
    if recipe.samples < 1:
        raise BadInput(f"samples must be at least 1, not {recipe.samples}")
    if recipe.judged < 0:
        raise BadInput(f"judged must be at least 0, not {recipe.judged}")
    if not 0 <= recipe.beta < float("inf") or not 0 <= recipe.free_bits < float("inf"):
        raise BadInput("beta and free_bits are numbers of at least 0")
    if recipe.weighted and (recipe.beta != 1 or recipe.free_bits):
        raise BadInput("the weighted bound has no divergence in it: leave beta 1 and free_bits 0")


def autoencode(
    model: Any,
    recipe: Any,
    data: ImageDataset,
    *,
    model_config: dict[str, Any],
    classifier: Any = None,
) -> Run:
    """A Run that raises the bound on the likelihood of pictures.

    The recipe states pixels, beta, free_bits, samples, weighted, judged, batch, steps, seed, variant,
    augment, optimiser, lr, momentum, weight_decay, schedule, warmup, clip, accumulate, ema, precision,
    compile. `loss` is what is lowered, `bound` in nats a picture, of it `divergence`; at the end stand
    beside it the importance-weighted bound of 5 and 50 samples, how many latents are `active`, what
    `pixels_alone` reach, each by its own frequency, and what samples are worth (`quality.compared`).

    Args:
        model: (x, epsilon) -> (logits, mean, logvar), with `encode` and `decode`; `latent` is its width.
        model_config: what `model` was made with; kept with the weights, so that it can be made again.
        classifier: of `quality.judge`; without one, or with `judged` 0, samples are not judged.

    Raises:
        BadInput: numbers that are no objective.
    """
    checked(recipe)
    judges = classifier is not None and recipe.judged > 0

    def objective(net: Any, batch: Chanced) -> dict[str, Tensor]:
        x = pixels_of(batch.pictures, batch.u, recipe.pixels)
        logits, mean, logvar = net(x, batch.epsilon)
        likelihood, cost = on_or_off(logits, x), divergence(mean, logvar)
        bound = likelihood.mean() - cost.sum(1).mean()
        if recipe.weighted:
            assert batch.epsilon is not None
            z = drawn(mean, logvar, batch.epsilon)
            loss = -importance(log_weights(likelihood, z, batch.epsilon, logvar)).mean()
        else:
            loss = paid(cost, recipe.beta, recipe.free_bits) - likelihood.mean()
        return {"loss": loss, "bound": bound, "divergence": cost.sum(1).mean()}

    update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    batches = ImageBatches(
        data.train,
        recipe.batch_size,
        seed=recipe.seed,
        metadata=whole(data.metadata["channels"]),
        augment=make_augmentation(recipe.augment),
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    stream = state["stream"] = Chances(batches, (recipe.samples, model.latent))
    metadata = {
        "task": "autoencode",
        "variant": recipe.variant,
        "model_config": model_config,
        "picture": unit(data.metadata),
        "pixels": recipe.pixels,
        "judged": recipe.judged,
        "data": data.description,
    }

    def evaluate() -> dict[str, float]:
        found = looked(judged, everything(data.val), recipe.pixels, FEW)
        metadata["usual"] = usual(found.bound)  # for `predict`, which has no data beside it
        return {"bound": mean_of(found.bound), "divergence": mean_of(found.divergences.sum(1))}

    def test() -> dict[str, float]:
        found = worth(judged, everything(data.test), recipe.pixels)
        found["pixels_alone"] = alone(data, recipe.pixels)
        if judges:
            found |= judging.worth_of(lambda: painted(judged, recipe.judged), data, classifier)
        return found

    def report(folder: Path) -> None:
        shown = fixed(everything(data.test), recipe.pixels)
        rebuilt(judged, shown, folder / "rebuilt.png")
        paths(judged, shown, folder / "interpolation.png")
        plane(judged, shown, folder / "plane.png")
        filled(judged, shown, folder / "filled.png")
        if judges:
            judging.shown(painted(judged, judging.PAIRS), data, classifier, folder)

    run = Run(
        stream=stream,
        update=update,
        evaluate=evaluate,
        state=state,
        steps=recipe.steps,
        test=test,
        report=report,
        metadata=metadata,
    )
    return watched(run, lambda: painted(judged, SHOWN))


def mean_of(each: Tensor) -> float:
    return each.double().mean().item()


def fixed(pictures: Pixels, how: str) -> Pictures:
    """`pixels_of`, with noise that is always the same."""
    u = torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0))
    return pixels_of(pictures.float(), u.to(pictures.device), how)


class Looked(NamedTuple):
    """What is found in pictures: of each the bound, the divergence of each latent, the mean code, and
    log p(x, z) − log q(z|x) of each sample."""

    bound: Each
    divergences: Float[Tensor, "count latent"]
    mean: Float[Tensor, "count latent"]
    weights: Float[Tensor, "count samples"]


@torch.no_grad()
def looked(model: Any, pictures: Pixels, how: str, samples: int) -> Looked:
    """In evaluation mode, with noise that is always the same; the result is on the CPU."""
    was_training = model.training
    model.eval()
    generator, found = torch.Generator().manual_seed(1), []
    for x in fixed(pictures, how).split(max(1, ROWS // samples)):
        epsilon = torch.randn(len(x), samples, model.latent, generator=generator).to(x.device)
        logits, mean, logvar = model(x, epsilon)
        likelihood, cost = on_or_off(logits, x), divergence(mean, logvar)
        weights = log_weights(likelihood, drawn(mean, logvar, epsilon), epsilon, logvar)
        each = Looked(likelihood.mean(1) - cost.sum(1), cost, mean, weights)
        found.append([part.cpu() for part in each])
    model.train(was_training)
    return Looked(*map(torch.cat, zip(*found, strict=True)))


def worth(model: Any, pictures: Pixels, how: str) -> dict[str, float]:
    """The bound of 1, 5 and 50 samples in nats a picture, from the same samples; of it the divergence;
    and how many latents are in use (Burda et al. 2015, section 5)."""
    found = looked(model, pictures, how, MANY)
    few = found.weights.double().unflatten(1, (-1, FEW)).transpose(0, 1)
    return {
        "bound": mean_of(found.bound),
        "bound_5": mean_of(torch.stack([importance(each) for each in few.unbind(0)])),
        "bound_50": mean_of(importance(found.weights.double())),
        "divergence": mean_of(found.divergences.sum(1)),
        "active": float((found.mean.var(0) > ACTIVE).sum()),
    }


def alone(data: ImageDataset, how: str) -> float:
    """log p in nats of a test picture, each pixel by its own frequency in the train split."""
    shares = everything(data.train).double().mean(0) / 255
    if how == "threshold":
        shares = (everything(data.train) >= 127.5).double().mean(0)
    count = len(data.train)
    logits = torch.logit((shares * count + 0.5) / (count + 1))
    x = fixed(everything(data.test), how).double()
    return mean_of(on_or_off(logits.expand_as(x), x))
