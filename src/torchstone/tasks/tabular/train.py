"""Networks on tables of numbers, categories and dates: training as a `Run`, and its metrics."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

from torchstone.data.tabular.encoding import NumberColumn
from torchstone.data.tabular.mixed import LabeledRows, MixedTable
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.parts.modes import eval_mode
from torchstone.tasks.optimization import decay_matrices_only, gradient_update
from torchstone.tasks.tabular.baselines import predict_baselines

ROWS = 4096  # rows at a time in evaluation


def describe_columns(table: MixedTable) -> list[dict[str, Any]]:
    """What a network needs to know of each encoded column, as JSON: the statistics of a number, or how many
    categories there are."""
    return [
        {
            "mean": column.mean,
            "std": column.std,
            "median": column.median,
            "edges": list(column.edges),
            "has_missing": column.has_missing,
        }
        if isinstance(column, NumberColumn)
        else {"categories": len(column.values)}
        for column in table.schema.columns
    ]


def train_table(model: nn.Module, recipe: Any, table: MixedTable, *, model_config: dict) -> Run:
    """A Run that trains `model` to predict the table's target: classes by cross-entropy, or a standardized
    number by squared error.

    Special recipe field: `table`. Metrics of classes are `loss`, `accuracy` and `balanced_accuracy` (the mean
    recall of the classes that occur); of numbers `rmse` and `mae` in the target's unit, and `r2`. The test
    adds those of scikit-learn's linear model and gradient boosting, fitted to the same training rows.
    """
    device = next(model.parameters()).device
    x, y = table.rows_of("train")
    center, scale = target_scale(table)
    weights = None
    if table.classes:
        counts = torch.bincount(y, minlength=len(table.classes)).float()
        if recipe.table.class_weights == "balanced":
            weights = (len(y) / (len(counts) * counts)).to(device)
    else:
        y = ((y - center) / scale).float()

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        rows, targets = batch
        outputs = net(rows)
        if not table.classes:
            return {"loss": (outputs[:, 0] - targets).square().mean()}
        count = weights[targets].sum() if weights is not None else torch.tensor(float(len(targets)))
        return {
            "loss": F.cross_entropy(outputs, targets, weights),
            "weight": count,
            "accuracy": (outputs.detach().argmax(1) == targets).float().mean(),
        }

    update, state, eval_model = gradient_update(
        model, recipe.optim, loss, steps=recipe.steps, parameters=decay_matrices_only(model, recipe.optim)
    )
    stream = LabeledRows(x.to(device), y.to(device), recipe.batch_size, seed=recipe.seed, **parallel.share())
    metadata = {
        "task": "table",
        "variant": "mlp_table",
        "model_config": model_config,
        "classes": list(table.classes),
        "target": table.target,
        "target_scale": [center, scale],
        "schema": table.schema.to_metadata(),
        "data": table.description,
    }

    def test() -> dict[str, float]:
        metrics = evaluate_split(eval_model, metadata, table, "test")
        return metrics | measure_baselines(table, balanced=weights is not None)

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: evaluate_split(eval_model, metadata, table, "val"),
        best_metric="accuracy" if table.classes else "rmse",
        examples=Examples(recipe.batch_size, len(x), len(table.splits["val"]), "rows"),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=test,
        report=lambda folder: save_report(eval_model, metadata, table, folder),
        metadata=metadata,
    )


def target_scale(table: MixedTable) -> tuple[float, float]:
    """Mean and standard deviation of a target that is a number, in training; 0 and 1 of classes."""
    if table.classes:
        return 0.0, 1.0
    _, y = table.rows_of("train")
    return float(y.mean()), float(y.std(correction=0)) or 1.0


@torch.no_grad()
def compute_outputs(
    model: nn.Module, metadata: dict, x: Float[Tensor, "rows columns"]
) -> Float[Tensor, "rows outputs"]:
    """Logits of each row, or the number in the target's unit, on the CPU."""
    device = next(model.parameters()).device
    with eval_mode(model):
        outputs = torch.cat([model(rows.to(device)) for rows in x.split(ROWS)]).cpu()
    center, scale = metadata["target_scale"]
    return outputs if metadata["classes"] else outputs.double() * scale + center


def evaluate_split(model: nn.Module, metadata: dict, table: MixedTable, split: str) -> dict[str, float]:
    """The metrics of a split, see `train_table`."""
    x, y = table.rows_of(split)
    outputs = compute_outputs(model, metadata, x)
    if not table.classes:
        return regression_metrics(outputs[:, 0], y)
    metrics = classification_metrics(outputs.argmax(1), y)
    return {"loss": F.cross_entropy(outputs, y).item(), **metrics}


def classification_metrics(predicted: Num[Tensor, " rows"], y: Num[Tensor, " rows"]) -> dict[str, float]:
    """The share that is right, and its mean over the classes that occur."""
    right = (predicted == y).double()
    recalls = [right[y == label].mean() for label in y.unique()]
    return {"accuracy": right.mean().item(), "balanced_accuracy": torch.stack(recalls).mean().item()}


def regression_metrics(predicted: Num[Tensor, " rows"], y: Num[Tensor, " rows"]) -> dict[str, float]:
    """Root mean squared error, mean absolute error, and the share of the variance that is explained.

    Where the targets are all the same, r2 is 1 for no error and else 0.
    """
    error = predicted.double() - y.double()
    variance = (y.double() - y.double().mean()).square().mean()
    mse = error.square().mean()
    r2 = 1 - mse / variance if variance > 0 else (mse == 0).double()
    return {"rmse": mse.sqrt().item(), "mae": error.abs().mean().item(), "r2": float(r2)}


def measure_baselines(table: MixedTable, *, balanced: bool) -> dict[str, float]:
    """Test metrics of scikit-learn's models: `logistic_accuracy`, `boosting_accuracy`, or `ridge_rmse`, …"""
    _, y = table.rows_of("test")
    measure = classification_metrics if table.classes else regression_metrics
    names = {"linear": "logistic" if table.classes else "ridge", "boosting": "boosting"}
    return {
        f"{names[kind]}_{metric}": value
        for kind, predicted in predict_baselines(table, balanced=balanced).items()
        for metric, value in measure(torch.from_numpy(predicted), y).items()
    }


def save_report(model: nn.Module, metadata: dict, table: MixedTable, folder: Path) -> None:
    """Plot the test rows: the confusion matrix of classes, or predicted against true numbers."""
    from torchstone.plots.classification import plot_confusion_matrix
    from torchstone.plots.regression import plot_predictions

    x, y = table.rows_of("test")
    outputs = compute_outputs(model, metadata, x)
    if not table.classes:
        plot_predictions(outputs[:, 0], y, table.target, folder / "predictions.png")
        return
    count = len(table.classes)
    matrix = torch.bincount(y * count + outputs.argmax(1), minlength=count**2).reshape(count, count)
    plot_confusion_matrix(matrix, table.classes, folder / "confusion.png")
