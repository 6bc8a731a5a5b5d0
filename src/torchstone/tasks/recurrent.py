"""What a recurrent network is used for: one recipe for all uses, and each use's own task."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import nn

from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput

# the task module of each use, which has `build` and what of `evaluate`, `predict`, `sample` it can;
# a run's metadata names its use as `task`
TASKS = {
    "language": "text.rnn_language_model",
    "label": "text.recurrent_classifier",
    "voices": "audio.speaker_id",
    "forecast": "series.forecast",
    "music": "music",
    "adding": "memory_problems",
    "copy": "memory_problems",
}


TaskName = Literal["language", "label", "voices", "forecast", "music", "adding", "copy"]


@dataclass(frozen=True)
class Recipe:
    """What RNN, LSTM and GRU are trained with, for each of their uses."""

    use: TaskName = "language"  # what it learns to do
    data: str = "shakespeare"  # what it learns from; each use names its own
    variant: str = "lstm"  # which network; none of the next four leaves it as it is
    hidden: int | None = None  # units a layer
    layers: int | None = None  # of the cell, one on the other
    bidirectional: bool | None = None  # read from the end as well
    path: Literal["fast", "written"] | None = None  # fused kernels, or the equations
    embedding: int | None = None  # numbers a symbol, none for as many as units
    combine: Literal["concatenate", "sum", "average"] = "concatenate"  # the two directions' outputs
    projection: int = 0  # width of an LSTM's output, 0 for its units
    tied: bool = False  # the embedding is the last layer too
    pool: Literal["last", "mean", "max"] = "last"  # what a label is told from
    start: Literal["uniform", "orthogonal", "chrono"] = "uniform"  # of the recurrent weights
    forget: float | None = None  # bias that an LSTM's forget gate begins with
    tokenizer: str = "characters"  # characters, bpe, or a published tokenizer.json
    vocabulary: int = 1000  # tokens there may be at most, when they are learnt
    most: int | None = None  # labelled texts at most, none for all
    length: int = 64  # moments a sequence, or between two cuts of back-propagation
    horizon: int = 48  # points ahead that are forecast
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)  # of a forecast; the outer ones are its band
    ahead: Literal["direct", "steps"] = "direct"  # a forecast at once, or point by point
    patch: int = 1  # points of a series that a moment reads
    together: bool = False  # one state reads all columns of a series
    frame: float | None = None  # quarter notes a frame of music lasts, none for what the data have
    rate: int = 8000  # samples a second that sound is brought to
    jitter: float = 0.0  # deviation of what is added to vectors in training
    transpose: int = 0  # semitones at most by which a piece is moved in training
    dropout: float = 0.0  # share of numbers dropped in training, on all but recurrent connections
    steps: int = 2000  # updates
    batch_size: int = 32  # sequences an update
    optim: OptimConfig = OptimConfig(lr=2e-3, max_grad_norm=1.0)  # optimizer, schedule, precision
    seed: int = 0  # of weights, order and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


def task_module(use: str) -> ModuleType:
    return importlib.import_module(f"torchstone.tasks.{TASKS[use]}")


def build_run(recipe: Recipe, variants: Mapping[str, Any]) -> Run:
    """The Run of the recipe's use, on the cell of its variant and with what that one sets."""
    make = variants[recipe.variant].make
    own = {name: value for name, value in make.keywords.items() if hasattr(recipe, name)}
    own = {name: value for name, value in own.items() if getattr(recipe, name) is None}
    return task_module(recipe.use).build(replace(recipe, **own), make.args[0])


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """What the model reaches on `spec`: on its test split if `held_out`, else on all of it."""
    return _task_function(metadata, "evaluate")(model, metadata, spec, held_out=held_out)


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path], **options: Any) -> list[dict]:
    """What the model says of each input: a text, or a file, as its use has it."""
    return _task_function(metadata, "predict", options)(model, metadata, inputs, **options)


def sample(model: nn.Module, metadata: dict, **options: Any) -> list:
    """What the model makes of nothing, or of a beginning."""
    return _task_function(metadata, "sample", options)(model, metadata, **options)


def _task_function(metadata: dict, verb: str, options: dict[str, Any] | None = None) -> Any:
    """The use's own function, if it has one and takes the `options`."""
    function = getattr(task_module(metadata["task"]), verb, None)
    if function is None:
        raise BadInput(f"a model for {metadata['task']} has nothing to {verb}")
    known = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    unknown = [name for name in options or {} if name not in known]
    if unknown and not takes_any:
        raise BadInput(f"a model for {metadata['task']} does not {verb} with {unknown[0]!r}")
    return function
