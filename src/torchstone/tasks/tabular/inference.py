"""Use of a network that was trained on a table: evaluation, and prediction of rows."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from torchstone.data.tabular.encoding import Schema
from torchstone.data.tabular.mixed import load_mixed_like, load_mixed_rows
from torchstone.tasks.tabular.train import compute_outputs, evaluate_split


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Metrics on a table: its test split if `held_out`, else all its rows that have a target.

    Raises:
        BadInput: other columns or classes than those the model was trained on.
    """
    table = load_mixed_like(
        spec, Schema.from_metadata(metadata["schema"]), metadata["target"], metadata["classes"]
    )
    table.splits["all"] = torch.arange(len(table.x))
    split = "test" if held_out else "all"
    return {**evaluate_split(model, metadata, table, split), "rows": len(table.splits[split])}


def predict(model: nn.Module, metadata: dict, inputs: Sequence[Path | str]) -> list[dict]:
    """Of each row of table files, or of cells separated by commas: label and probabilities, or the number.

    Raises:
        BadInput: a file is missing or lacks a column; a cell does not fit its column.
    """
    schema = Schema.from_metadata(metadata["schema"])
    answers = []
    for each in inputs:
        outputs = compute_outputs(model, metadata, load_mixed_rows(each, schema))
        rows = outputs.softmax(1) if metadata["classes"] else outputs
        for number, row in enumerate(rows.tolist(), 1):
            name = f"{each}, row {number}" if Path(each).is_file() else str(each)
            if not metadata["classes"]:
                text = f"{name}: {metadata['target']} {row[0]:.6g}"
                answers.append({"input": name, "value": row[0], "text": text})
                continue
            best = max(range(len(row)), key=row.__getitem__)
            answers.append(
                {
                    "input": name,
                    "label": metadata["classes"][best],
                    "probability": row[best],
                    "probabilities": dict(zip(metadata["classes"], row, strict=True)),
                }
            )
    return answers
