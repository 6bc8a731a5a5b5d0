"""What every task that follows a gradient has around its objective: from a recipe to an update."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchstone.engine import parallel
from torchstone.engine.update import descend
from torchstone.parts.ema import average
from torchstone.tasks import optimizers


class Descent(NamedTuple):
    """An update, what a checkpoint must hold of it, and the network to judge: the averaged one, if any."""

    update: descend
    state: dict[str, Any]
    judged: Any


def descent(
    model: nn.Module,
    recipe: Any,
    objective: Callable[[Any, Any], Tensor | dict[str, Tensor]],
    *,
    parameters: Iterable[nn.Parameter | dict[str, Any]] | None = None,
    asked: nn.Module | None = None,
) -> Descent:
    """The recipe's way down `objective`.

    The recipe states optimiser, lr, momentum, weight_decay, schedule, warmup, clip, accumulate,
    precision and, if it has them, compile and ema.

    Args:
        objective: (network, batch) -> what `descend` takes for a loss.
        parameters: to be trained, or groups of them; by default all that are not frozen.
        asked: the network that `objective` calls, if it is not `model` itself but a part around it.
    """
    state: dict[str, Any] = {"model": model}
    ema, judged = None, model
    if getattr(recipe, "ema", 0.0):
        state["ema"] = averaged = average(model, recipe.ema)
        ema, judged = (averaged, model), averaged.module
    net = parallel.replicate(model if asked is None else asked)
    if parameters is None:
        parameters = [p for p in model.parameters() if p.requires_grad]
    state["optimiser"] = optimiser = optimizers.optimiser(parameters, recipe)
    state["schedule"] = schedule = optimizers.schedule(optimiser, recipe)
    state["update"] = update = descend(
        lambda batch: objective(net, batch),
        optimiser,
        schedule=schedule,
        accumulate=recipe.accumulate,
        clip=recipe.clip,
        precision=recipe.precision,
        ema=ema,
        replica=net,
        compile=getattr(recipe, "compile", False),
    )
    return Descent(update, state, judged)
