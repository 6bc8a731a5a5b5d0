"""Density estimation of rows of numbers: from a flow, a recipe and points to a Run."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.tabular.points import Draws, Points
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.parts.flow.coupling import normal
from torchstone.parts.metrics.kernel_density import log_kernel_density
from torchstone.plots.density_2d import painted, portrait
from torchstone.plots.sample_grid import watched
from torchstone.tasks.anomaly import usual
from torchstone.tasks.optimization import gradient_update

Each = Float[Tensor, " count"]

FINE = 500  # points of validation that the kernels' width is chosen on
WIDTHS = torch.logspace(-2, 0, 25).tolist()  # of the kernels, in standard deviations of the data


def density_of_points(model: Any, recipe: Any, points: Points, *, model_config: dict[str, Any]) -> Run:
    """A Run that fits a flow to rows of numbers; as `density`, without augment and levels.

    `loss` is −log p in nats a row, `kernels` the same by a Gaussian on each training point, as wide as
    suits the validation split best, and `behind` how much the flow needs more than that.
    """

    def objective(net: Any, rows: Tensor) -> Tensor:
        z, log_det = net(rows)
        return -(normal(z) + log_det).mean()

    update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    shares = {"rank": parallel.rank(), "world_size": parallel.world_size()}
    stream = state["stream"] = Draws(points.train, recipe.batch_size, seed=recipe.seed, **shares)
    metadata = {
        "task": "density",
        "variant": recipe.variant,
        "model_config": model_config,
        "features": list(points.features),
        "data": points.description,
    }

    def evaluate() -> dict[str, float]:
        each = of_rows(judged, points.val)
        metadata["usual"] = usual(each)
        return {"loss": -each.mean().item()}

    def test() -> dict[str, float]:
        loss, kernels = -of_rows(judged, points.test).mean().item(), kernel_loss(points)
        return {"loss": loss, "kernels": kernels, "behind": loss - kernels}

    plane = len(points.features) == 2

    def report(folder: Path) -> None:
        if plane:
            portrait(judged, points.test, points.features, folder / "density.png")

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
    return watched(run, lambda: painted(judged, points.test), columns=2) if plane else run


@torch.no_grad()
def of_rows(model: Any, rows: Float[Tensor, "count numbers"]) -> Each:
    """log density of each row, in nats."""
    was_training = model.training
    model.eval()
    each = model.log_prob(rows)
    model.train(was_training)
    return each


def kernel_loss(points: Points) -> float:
    """−log density of the test rows, in nats a row, by kernels on the training rows (standardised)."""
    mean, std = torch.tensor(points.mean).double(), torch.tensor(points.std).double()
    train, val, test = (
        (each.cpu().double() - mean) / std for each in (points.train, points.val, points.test)
    )
    fine = [log_kernel_density(val[:FINE], train, width).mean().item() for width in WIDTHS]
    best = WIDTHS[fine.index(max(fine))]
    return -(log_kernel_density(test, train, best).mean() - std.log().sum()).item()
