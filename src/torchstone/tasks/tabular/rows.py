"""Classification of rows of numbers as they are: training as a `Run`, evaluation and prediction."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.tabular.dataset import Table, TableBatches, load_rows
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.tasks.inference import label_prediction


def classify_table(
    model: nn.Module,
    recipe: Any,
    table: Table,
    *,
    model_config: dict,
    update: Callable,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Run:
    """A Run that trains `model` by `update` to classify the table's rows.

    Special recipe field: `shuffle`. The model takes rows as they are in the table. Metrics are `accuracy`
    (0 to 1) and `loss`.

    Args:
        model_config: the arguments that `model` was built with; saved with the weights, to rebuild it.
        update: the learning rule; its state besides the model is to be added to `Run.state`.
        loss: (scores, labels) -> scalar, for validation and test.
    """
    stream = TableBatches(
        *table.rows_of("train"), recipe.batch_size, seed=recipe.seed, shuffle=recipe.shuffle
    )
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: evaluate_split(model, table, "val", loss),
        best_metric="accuracy",
        examples=Examples(
            min(recipe.batch_size, len(table.splits["train"])),
            len(table.splits["train"]),
            len(table.splits["val"]),
            "rows",
        ),
        state={"model": model, "stream": stream},
        steps=recipe.steps,
        test=lambda: evaluate_split(model, table, "test", loss),
        report=lambda folder: save_report(model, table, folder),
        metadata={
            "task": "tabular",
            "variant": recipe.variant,
            "model_config": model_config,
            "classes": list(table.classes),
            "features": list(table.features),
            "data": table.description,
        },
    )


@torch.no_grad()
def compute_scores(model: nn.Module, x: Tensor) -> Tensor:
    """Scores of rows, (rows, classes), in evaluation mode, on the CPU."""
    with eval_mode(model):
        return model(x.to(next(model.parameters()))).cpu()


def evaluate_split(model: nn.Module, table: Table, split: str, loss=F.cross_entropy) -> dict[str, float]:
    """Accuracy (0 to 1) and mean loss on a split."""
    x, y = table.rows_of(split)
    scores = compute_scores(model, x)
    accuracy = (scores.argmax(1) == y).double().mean()
    return {"accuracy": accuracy.item(), "loss": loss(scores, y).item()}


def evaluate(
    model: nn.Module, metadata: dict, table: Table, *, held_out: bool, loss=F.cross_entropy
) -> dict[str, float]:
    """Accuracy and loss on a table: its test split if `held_out`, else all its rows.

    Raises:
        BadInput: its features or classes are not those the model was trained on.
    """
    table = table.select(metadata["features"])
    if list(table.classes) != metadata["classes"]:
        raise BadInput(
            f"{table.name} has the classes {', '.join(table.classes)}, but the model was trained on "
            f"{', '.join(metadata['classes'])}"
        )
    table = dataclasses.replace(table, splits={"all": torch.arange(len(table.x)), **table.splits})
    split = "test" if held_out else "all"
    return {**evaluate_split(model, table, split, loss), "rows": len(table.splits[split])}


def save_report(model: nn.Module, table: Table, folder: Path) -> None:
    """Plot the confusion matrix of the test rows, and the margin of each class on all rows."""
    from torchstone.plots.canvas import PALETTE, canvas, plain, save
    from torchstone.plots.classification import plot_confusion_matrix

    scores, count = compute_scores(model, table.x), len(table.classes)
    test = table.splits["test"]
    matrix = torch.bincount(table.y[test] * count + scores[test].argmax(1), minlength=count**2)
    plot_confusion_matrix(matrix.reshape(count, count), table.classes, folder / "confusion.png")
    panels = [1] if count == 2 else list(range(min(count, 10)))
    names = [plain(name, 24) for name in table.classes]
    figure = canvas(8, 0.6 + len(panels) * (0.8 + 0.3 * count))
    for axes, own in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        others = scores.clone()
        others[:, own] = -torch.inf
        margin = scores[:, own] - others.amax(1)
        for label in range(count):
            values = margin[table.y == label].tolist()
            height = label + np.linspace(-0.3, 0.3, len(values)) * (len(values) > 1)
            axes.scatter(values, height, s=8, color=PALETTE[label % len(PALETTE)])
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_yticks(range(count), names, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_ylim(-0.6, count - 0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"score of {names[own]} minus the best other: it wins right of the line", fontsize=9)
        axes.set_ylabel("true class", fontsize=8)
    figure.suptitle(f"all {len(table.x)} rows", fontsize=10)
    save(figure, folder / "scores.png")


def predict(model: nn.Module, metadata: dict, inputs: Sequence[Path | str]) -> list[dict]:
    """Label and probabilities of rows: table files, or comma-separated numbers.

    Raises:
        BadInput: a file is missing or has other columns; the input is no numbers.
    """
    predictions = []
    for each in inputs:
        probabilities = compute_scores(model, load_rows(each, metadata["features"])).softmax(1).tolist()
        for number, row in enumerate(probabilities, 1):
            name = f"{each}, row {number}" if Path(each).is_file() else str(each)
            predictions.append(label_prediction(name, metadata["classes"], row))
    return predictions
