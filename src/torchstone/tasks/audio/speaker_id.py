"""Who speaks: from sequences of vectors, or sounds, with a label each to a Run, and its use afterwards."""

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
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.parts.recurrent.layers import Cell
from torchstone.tasks.build_network import build_network
from torchstone.tasks.optimization import gradient_update


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to tell who speaks; validation guides, the test is looked at once.

    The recipe states data, rate, pool, length (vectors of a passage in training), jitter, batch, steps,
    seed and what `descent` and `networks.made` need. Sounds become log-mel vectors; every number is
    brought to mean 0 and deviation 1 over the training split. Metrics are `accuracy` (a share) and
    `loss` (cross-entropy, nats), of whole sequences.
    """
    data = read_speakers(recipe.data, recipe.rate)
    how = asdict(AudioFeatures(recipe.rate)) if data.sounds else None
    everything = [extract_features(item, how) for item in data.train.items]
    x = torch.cat(everything).double()
    metadata = {
        "task": "voices",
        "variant": recipe.variant,
        "classes": list(data.classes),
        "sound": how,
        "mean": x.mean(0).tolist(),
        "deviation": x.std(0).clamp(min=1e-3).tolist(),
        "data": data.note,
    }
    model, metadata["model_config"] = build_network(
        recipe, cell, inputs=x.shape[1], outputs=len(data.classes), tokens=False, pool=recipe.pool
    )
    device = next(model.parameters()).device
    stream = SequenceBatches(
        [normalize(each, metadata) for each in everything],
        data.train.labels,
        recipe.batch_size,
        seed=recipe.seed,
        most=recipe.length,
        jitter=recipe.jitter,
        device=device,
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )

    def objective(net: nn.Module, batch: SequenceBatch) -> dict[str, Tensor]:
        logits = net(batch.x, batch.lengths)
        right = (logits.detach().argmax(1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(logits, batch.labels), "accuracy": right}

    update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure(judged, metadata, data.val),
        state=state,
        steps=recipe.steps,
        test=lambda: measure(judged, metadata, data.test),
        report=lambda folder: report(judged, metadata, data.test, folder),
        metadata=metadata,
    )


def extract_features(item: Tensor, how: dict | None) -> Float[Tensor, "frames width"]:
    """A wave's log-mel vectors; vectors as they are."""
    return item if how is None else AudioFeatures(**how).of(item[None], torch.tensor([len(item)]))[0][0]


def normalize(x: Float[Tensor, "frames width"], metadata: dict) -> Float[Tensor, "frames width"]:
    mean, deviation = (torch.tensor(metadata[name]) for name in ("mean", "deviation"))
    return (x - mean) / deviation


@torch.no_grad()
def predict_logits(model: nn.Module, metadata: dict, voices: SpeakerSplit) -> Float[Tensor, "items classes"]:
    """Logits of each item as a whole, in evaluation mode."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    rows = [normalize(extract_features(item, metadata["sound"]), metadata) for item in voices.items]
    logits = torch.empty(len(rows), len(metadata["classes"]))
    for index, batch in eval_batches(rows, voices.labels, device):
        logits[index] = model(batch.x, batch.lengths).float().cpu()
    model.train(was_training)
    return logits


def measure(model: nn.Module, metadata: dict, voices: SpeakerSplit) -> dict[str, float]:
    """Accuracy (a share) and mean cross-entropy (nats) of a whole split."""
    logits, labels = predict_logits(model, metadata, voices), torch.tensor(voices.labels)
    right = (logits.argmax(1) == labels).double().mean()
    return {"accuracy": right.item(), "loss": F.cross_entropy(logits, labels).item()}


def report(model: nn.Module, metadata: dict, voices: SpeakerSplit, folder: Path) -> None:
    """Draw who is taken for whom."""
    from torchstone.plots.classification import confusion

    count, guesses = len(metadata["classes"]), predict_logits(model, metadata, voices).argmax(1)
    matrix = torch.bincount(torch.tensor(voices.labels) * count + guesses, minlength=count**2)
    confusion(matrix.reshape(count, count), metadata["classes"], folder / "confusion.png")


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Accuracy and loss on `spec`: on its test split if `held_out`, else on all of it.

    Raises:
        BadInput: its speakers are not those the model was trained to tell apart, or it holds other
            vectors.
    """
    data = read_speakers(spec, metadata["sound"]["rate"] if metadata["sound"] else AudioFeatures.rate)
    if list(data.classes) != metadata["classes"]:
        raise BadInput(
            f"{spec} has the speakers {', '.join(data.classes)}, but the model tells apart "
            f"{', '.join(metadata['classes'])}"
        )
    if data.sounds != bool(**metadata["sound"]):
        raise BadInput(f"{spec} is {'sound' if data.sounds else 'vectors'}, the model's data was not")
    voices = data.test if held_out else concat_splits(data.train, data.val, data.test)
    return {**measure(model, metadata, voices), "items": len(voices)}


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path]) -> list[dict]:
    """Who speaks in each sound file, or in those of a folder; of a model of vectors, in each CSV file
    with one vector a line.

    Raises:
        BadInput: a file that cannot be used, of the other kind, or with vectors of another width.
    """
    if how := metadata["sound"]:
        names = expand_audio_paths(inputs)
        items = [read_audio(file, how["rate"]) for file in names]
    else:
        names = [Path(each) for each in inputs]
        items = [_table(file, len(metadata["mean"])) for file in names]
    voices = SpeakerSplit(items, [0] * len(items), [str(file) for file in names])
    answers = []
    for name, chances in zip(voices.names, predict_logits(model, metadata, voices).softmax(1), strict=True):
        best = int(chances.argmax())
        answers.append(
            {
                "input": name,
                "label": metadata["classes"][best],
                "probability": float(chances[best]),
                "probabilities": dict(zip(metadata["classes"], chances.tolist(), strict=True)),
            }
        )
    return answers


def _table(file: Path, width: int) -> Float[Tensor, "frames width"]:
    if file.suffix.lower() in EXTENSIONS:
        raise BadInput(
            f"this model reads vectors of {width} numbers, not sound: train on a folder of sounds a "
            f"speaker to use it on {file.name}"
        )
    if not file.is_file():
        raise BadInput(f"there is no file {file}: give CSV, one vector of {width} numbers a line")
    rows: list[list[float]] = []
    for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
        try:
            row = [float(cell) for cell in line.split(",")] if line.strip() else []
        except ValueError:
            row = [float("nan")]
        if row and (len(row) != width or not all(map(isfinite, row))):
            raise BadInput(f"{file}, line {number}: give {width} numbers, with commas between")
        rows += [row] if row else []
    if not rows:
        raise BadInput(f"{file} is empty: give one vector of {width} numbers a line")
    return torch.tensor(rows)
