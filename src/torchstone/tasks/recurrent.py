"""Tasks of recurrent networks: one recipe for all of them, and a module for each.

`recipe.task` names the task; its module in `TASKS` trains, and what else it can do (`evaluate`, `predict`,
`sample`) is reached through the functions here.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.recurrent.sequence_model import SequenceModel, SequenceModelConfig, init_recurrent
from torchstone.tasks.series.forecaster import ForecastConfig

# the module of each task, with `build` and those of `evaluate`, `predict` and `sample` that it supports;
# a run's metadata names its task
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
    """How RNN, LSTM and GRU are trained, for each of their tasks."""

    task: TaskName = "language"  # task: language model, text labels, speaker id, forecast, music, memory
    data: str = "shakespeare"  # data set or file; each task has its own
    variant: str = "lstm"  # network variant
    network: SequenceModelConfig = SequenceModelConfig()  # architecture
    pool: Literal["last", "mean", "max"] = "last"  # pooling over time, for one output per sequence
    recurrent_init: Literal["uniform", "orthogonal", "chrono"] = "uniform"  # recurrent initialization
    forget_bias: float | None = None  # initial bias of an LSTM's forget gates
    seq_len: int = 64  # sequence length: BPTT window, context, or longest sequence in training
    tokenizer: str = "characters"  # tokenizer: characters, bpe, or a published tokenizer.json
    vocab_size: int = 1000  # vocabulary size of a learned tokenizer, at most
    max_examples: int | None = None  # labelled texts to use at most, none for all
    audio: AudioFeatures = AudioFeatures()  # audio features
    input_noise_std: float = 0.0  # standard deviation of noise added to input vectors in training
    frame_beats: float | None = None  # quarter notes per frame of music, none for the data set's own
    transpose: int = 0  # transposition of pieces in training, in semitones at most
    forecast: ForecastConfig = ForecastConfig()  # forecast
    steps: int = 2000  # number of updates
    batch_size: int = 32  # sequences per update
    optim: OptimConfig = OptimConfig(lr=2e-3, max_grad_norm=1.0)  # optimizer, schedule, precision
    seed: int = 0  # seed of weights, data order and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


def task_module(task: str) -> ModuleType:
    return importlib.import_module(f"torchstone.tasks.{TASKS[task]}")


def build_run(recipe: Recipe, variants: Mapping[str, Any]) -> Run:
    """The Run of the recipe's task, on its variant's cell; the variant decides what `network` leaves open."""
    make = variants[recipe.variant].make
    unset = {name for name, value in asdict(recipe.network).items() if value is None}
    own = {name: value for name, value in make.keywords.items() if name in unset}
    recipe = replace(recipe, network=replace(recipe.network, **own))
    return task_module(recipe.task).build(recipe, make.args[0])


def build_network(recipe: Recipe, cell: Cell, **others: Any) -> tuple[SequenceModel, dict[str, Any]]:
    """The network on its device, initialized from the recipe's seed, and its `model_config`.

    Args:
        others: what the data decide: `inputs`, `outputs`, `tokens`, `pool`.

    Raises:
        BadInput: options that do not go together.
    """
    given = {name: value for name, value in asdict(recipe.network).items() if value is not None}
    model_config = given | others
    device = select_device(recipe.device)
    rng.seed(recipe.seed)
    model = SequenceModel(cell, **model_config)
    init_recurrent(
        model.recurrent, recipe.recurrent_init, forget_bias=recipe.forget_bias, time_steps=recipe.seq_len
    )
    return model.to(device), model_config


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Metrics on `spec`: on its test split if `held_out`, else on all of it."""
    return _task_function(metadata, "evaluate")(model, metadata, spec, held_out=held_out)


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path], **options: Any) -> list[dict]:
    """The prediction for each input: a text or a file, as the task has it."""
    return _task_function(metadata, "predict", options)(model, metadata, inputs, **options)


def sample(model: nn.Module, metadata: dict, **options: Any) -> list:
    """Generated samples, with or without a prompt."""
    return _task_function(metadata, "sample", options)(model, metadata, **options)


def few_shot(model: nn.Module, metadata: dict, spec: str, **options: Any) -> dict[str, float]:
    """Accuracy of a language model with examples in its context: see `text.few_shot`."""
    return _task_function(metadata, "few_shot", options)(model, metadata, spec, **options)


def _task_function(metadata: dict, verb: str, options: dict[str, Any] | None = None) -> Any:
    """The task's own function, if it has one and takes the `options`."""
    function = getattr(task_module(metadata["task"]), verb, None)
    if function is None and verb == "few_shot":
        raise BadInput(f"a model for {metadata['task']} predicts no next token: shots are of language models")
    if function is None:
        raise BadInput(f"a model for {metadata['task']} has nothing to {verb}")
    known = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    unknown = [name for name in options or {} if name not in known]
    if unknown and not takes_any:
        raise BadInput(f"a model for {metadata['task']} does not {verb} with {unknown[0]!r}")
    return function
