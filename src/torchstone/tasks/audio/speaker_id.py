"""Speaker identification: training a recurrent network on sounds or vectors, evaluation and prediction."""

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.audio.files import EXTENSIONS, expand_audio_paths, read_audio
from torchstone.data.audio.sequence_batches import SequenceBatch, SequenceBatches, eval_batches
from torchstone.data.audio.speakers import SpeakerSplit, concat_splits, read_speakers
from torchstone.data.text_files import read_utf8
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.parts.modes import eval_mode
from torchstone.parts.recurrent.layers import Cell
from torchstone.tasks.inference import label_prediction
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.recurrent import build_network


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to identify speakers; validation guides, the test split is used once.

    Sounds become the recipe's `audio` features; every feature is standardized over the training split.
    Training crops sequences to `seq_len` vectors and adds noise of `input_noise_std`. Metrics are
    `accuracy` and `loss` (cross-entropy, nats), of full sequences.
    """
    data = read_speakers(recipe.data, recipe.audio.sample_rate)
    features = asdict(recipe.audio) if data.is_sound else None
    train = [extract_features(item, features) for item in data.train.items]
    x = torch.cat(train).double()
    metadata = {
        "task": "voices",
        "variant": recipe.variant,
        "classes": list(data.classes),
        "audio_features": features,
        "mean": x.mean(0).tolist(),
        "std": x.std(0).clamp(min=1e-3).tolist(),
        "data": data.description,
    }
    model, metadata["model_config"] = build_network(
        recipe, cell, inputs=x.shape[1], outputs=len(data.classes), tokens=False, pool=recipe.pool
    )
    device = next(model.parameters()).device
    stream = SequenceBatches(
        [normalize(each, metadata) for each in train],
        data.train.labels,
        recipe.batch_size,
        seed=recipe.seed,
        max_length=recipe.seq_len,
        noise_std=recipe.input_noise_std,
        device=device,
        **parallel.share(),
    )

    def objective(net: nn.Module, batch: SequenceBatch) -> dict[str, Tensor]:
        logits = net(batch.x, batch.lengths)
        accuracy = (logits.detach().argmax(1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "accuracy": accuracy}

    update, state, eval_model = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure(eval_model, metadata, data.val),
        best_metric="accuracy",
        examples=Examples(recipe.batch_size, len(data.train), len(data.val), "recordings"),
        state=state,
        steps=recipe.steps,
        test=lambda: measure(eval_model, metadata, data.test),
        report=lambda folder: report(eval_model, metadata, data.test, folder),
        metadata=metadata,
    )


def extract_features(item: Tensor, features: dict | None) -> Float[Tensor, "frames width"]:
    """The features of a waveform; vectors as they are."""
    if features is None:
        return item
    extractor = AudioFeatures.from_metadata(features)
    return extractor.extract(item[None], torch.tensor([len(item)]))[0][0]


def normalize(x: Float[Tensor, "frames width"], metadata: dict) -> Float[Tensor, "frames width"]:
    mean, std = (torch.tensor(metadata[name]) for name in ("mean", "std"))
    return (x - mean) / std


def prepare_rows(items: Sequence[Tensor], metadata: dict) -> list[Float[Tensor, "frames width"]]:
    """The standardized features of each waveform, or vectors."""
    return [normalize(extract_features(item, metadata["audio_features"]), metadata) for item in items]


@torch.no_grad()
def predict_logits(model: nn.Module, metadata: dict, split: SpeakerSplit) -> Float[Tensor, "items classes"]:
    """Logits of each full item, in evaluation mode."""
    device = next(model.parameters()).device
    rows = prepare_rows(split.items, metadata)
    logits = torch.empty(len(rows), len(metadata["classes"]))
    with eval_mode(model):
        for index, batch in eval_batches(rows, split.labels, device):
            logits[index] = model(batch.x, batch.lengths).float().cpu()
    return logits


def measure(model: nn.Module, metadata: dict, split: SpeakerSplit) -> dict[str, float]:
    """Accuracy and mean cross-entropy (nats) on a full split."""
    logits, labels = predict_logits(model, metadata, split), torch.tensor(split.labels)
    accuracy = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": accuracy.item(), "loss": F.cross_entropy(logits, labels).item()}


def report(model: nn.Module, metadata: dict, split: SpeakerSplit, folder: Path) -> None:
    """Draw the confusion matrix."""
    from torchstone.plots.classification import plot_confusion_matrix

    count, predicted = len(metadata["classes"]), predict_logits(model, metadata, split).argmax(1)
    matrix = torch.bincount(torch.tensor(split.labels) * count + predicted, minlength=count**2)
    plot_confusion_matrix(matrix.reshape(count, count), metadata["classes"], folder / "confusion.png")


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Accuracy and loss on `spec`: on its test split if `held_out`, else on all of it.

    Raises:
        BadInput: other speakers than those of training, or other vectors.
    """
    features = metadata["audio_features"]
    extractor = AudioFeatures.from_metadata(features) if features else AudioFeatures()
    data = read_speakers(spec, extractor.sample_rate)
    if list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the speakers {', '.join(data.classes)}, but the model knows "
            f"{', '.join(metadata['classes'])}"
        )
    if data.is_sound != bool(features):
        raise BadInput(f"{spec} is {'sound' if data.is_sound else 'vectors'}, the model's data was not")
    split = data.test if held_out else concat_splits(data.train, data.val, data.test)
    return {**measure(model, metadata, split), "items": len(split)}


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path]) -> list[dict]:
    """The speaker of each sound file, or of those of a folder; for a model of vectors, of each CSV file
    with one vector per line.

    Raises:
        BadInput: a file that cannot be used, of the other kind, or with vectors of another width.
    """
    items, files = read_items(inputs, metadata)
    split = SpeakerSplit(items, [0] * len(items), [str(file) for file in files])
    rows = predict_logits(model, metadata, split).softmax(1).tolist()
    named = zip(split.names, rows, strict=True)
    return [label_prediction(name, metadata["classes"], row) for name, row in named]


def read_items(inputs: Sequence[str | Path], metadata: dict) -> tuple[list[Tensor], list[Path]]:
    """Waveforms of sound files, or of those of a folder; vectors of CSV files; and the files.

    Raises:
        BadInput: a file that cannot be used, of the other kind, or with vectors of another width.
    """
    if features := metadata["audio_features"]:
        files = expand_audio_paths(inputs)
        sample_rate = AudioFeatures.from_metadata(features).sample_rate
        items = [read_audio(file, sample_rate) for file in files]
    else:
        files = [Path(each) for each in inputs]
        items = [_read_vectors(file, len(metadata["mean"])) for file in files]
    return items, files


def _read_vectors(file: Path, width: int) -> Float[Tensor, "frames width"]:
    if file.suffix.lower() in EXTENSIONS:
        raise BadInput(
            f"this model reads vectors of {width} numbers, not sound: train on a folder of sounds per "
            f"speaker to use it on {file.name}"
        )
    if not file.is_file():
        raise BadInput(f"there is no file {file}: give CSV, one vector of {width} numbers per line")
    rows: list[list[float]] = []
    for number, line in enumerate(read_utf8(file).split("\n"), 1):
        try:
            row = [float(cell) for cell in line.split(",")] if line.strip() else []
        except ValueError:
            row = [float("nan")]
        if row and (len(row) != width or not all(map(isfinite, row))):
            raise BadInput(f"{file}, line {number}: give {width} numbers, separated by commas")
        rows += [row] if row else []
    if not rows:
        raise BadInput(f"{file} is empty: give one vector of {width} numbers per line")
    return torch.tensor(rows)
