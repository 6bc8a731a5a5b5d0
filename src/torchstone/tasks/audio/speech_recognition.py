"""Speech recognition: from a model that tells labels at each moment to a Run, and its use afterwards."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.data.audio.files import Recording, expand_audio_paths, read_audio
from torchstone.data.audio.speech import SpeechDataset, read_speech
from torchstone.data.audio.speech_batches import UtteranceComposer, Augmentation, SpeechBatch, SpeechBatches
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.tasks.audio.transcribe import measure, feature_extractor, report, feature_statistics, transcribe
from torchstone.tasks.optimization import gradient_update

SPLIT_SEEDS = {"val": 2**40, "test": 2**41}  # what composed utterances of a split are drawn by
COMPOSED_UTTERANCES = {"val": 100, "test": 300}  # how many there are
STATISTICS_UTTERANCES = 256  # utterances that mean and deviation are taken from
CANDIDATES = 3  # texts that are told beside the likeliest


def train_recognizer(model: Any, recipe: Any, data: SpeechDataset, how: AudioFeatures, *, model_config: dict[str, Any]) -> Run:
    """A Run that trains `model` to write down what is said.

    `model(vectors, lengths)` gives logits of each moment, label 0 being none; `model.moments(lengths)`
    says how many moments so many vectors become. The recipe states variant, count, speed, noise,
    batch, steps, seed, beams, optimiser, lr, momentum, weight_decay, schedule, warmup, clip,
    accumulate, precision, compile. `loss` is CTC's, in nats a label; `label_error` the insertions,
    deletions and substitutions a label of the greedy transcripts, over a whole split; `beam_error` that
    of the search. Sets of single recordings are judged on utterances composed of the split's own,
    always the same ones, and in `single_error` on each of the test's recordings alone, as it is.

    Args:
        model_config: what `model` was made with; kept with the weights, so that it can be made again.

    Raises:
        BadInput: no utterance is long enough for what is said in it.
    """
    device = next(model.parameters()).device
    manner = Augmentation(count=recipe.count, speed=recipe.speed, noise=recipe.noise)
    parts, left = held_out_utterances(data, how, manner), 0
    if data.composed:
        source: Any = UtteranceComposer(data.train, how.rate, manner, recipe.seed)
    else:
        source = [each for each in data.train if is_long_enough(model, how, each)]
        left = len(data.train) - len(source)
        if not source:
            raise BadInput(f"every sound of {data.name} is too short for its text")
    stream = SpeechBatches(
        source,
        data.alphabet,
        recipe.batch_size,
        seed=recipe.seed,
        noise=recipe.noise,
        device=device,
        rank=parallel.rank(),
        world_size=parallel.world_size(),
    )
    metadata = {
        "task": "speech",
        "variant": recipe.variant,
        "model_config": model_config,
        "alphabet": data.alphabet,
        "sound": asdict(how),
        "manner": asdict(manner),
        **feature_statistics(islice(stream, math.ceil(STATISTICS_UTTERANCES / recipe.batch_size)), how),
        "data": data.note + (f"; {left} too short for their text not trained on" if left else ""),
    }
    stream.load_state_dict({"position": 0})
    vectors = feature_extractor(metadata, device)

    def objective(net: Any, batch: SpeechBatch) -> dict[str, Tensor]:
        x, frames = vectors(batch.waves, batch.lengths)
        logs = net(x, frames).float().log_softmax(2).transpose(0, 1)
        moments, labels = model.moments(frames), batch.counts.sum()
        each = F.ctc_loss(logs, batch.labels, moments, batch.counts, reduction="none")
        return {"loss": each.sum() / labels, "weight": labels}

    update, state, judged = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream

    def test() -> dict[str, float]:
        found = measure(judged, metadata, parts["test"])
        if recipe.beams > 1:
            found["beam_error"] = measure(judged, metadata, parts["test"], recipe.beams)["label_error"]
        if data.composed and data.test is not data.train:
            found["single_error"] = measure(judged, metadata, data.test)["label_error"]
        return found

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure(judged, metadata, parts["val"]),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(judged, metadata, parts["test"], folder),
        metadata=metadata,
    )


def held_out_utterances(data: SpeechDataset, how: AudioFeatures, manner: Augmentation) -> dict[str, Sequence[Recording]]:
    """The utterances of validation and test: composed, where the set is one to compose from."""
    parts = {"val": data.val, "test": data.test}
    return {s: compose_utterances(part, s, how, manner) if data.composed else part for s, part in parts.items()}


def compose_utterances(recordings: Sequence[Recording], split: str, how: AudioFeatures, manner: Augmentation) -> list[Recording]:
    """Utterances to be judged on, the same ones always."""
    make = UtteranceComposer(recordings, how.rate, manner, SPLIT_SEEDS[split])
    return [make(number) for number in range(COMPOSED_UTTERANCES[split])]


def is_long_enough(model: Any, how: AudioFeatures, recording: Recording) -> bool:
    """Whether there are moments enough for the text: one a label, and one between two alike."""
    length = torch.tensor([len(recording.wave)])
    if int(length) < how.samples[0]:
        return False
    text = recording.text
    alike = sum(a == b for a, b in pairwise(text))
    return int(model.moments(how.frames(length))) >= len(text) + alike


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Label error on `spec`: on its test split if `held_out`, else on every utterance of it.

    Raises:
        BadInput: something said there is written with characters that the model has no label for.
    """
    how = AudioFeatures(**metadata["sound"])
    data = read_speech(spec, how.rate)
    if unknown := sorted(set(data.alphabet) - set(metadata["alphabet"])):
        raise BadInput(
            f"{spec} is written with {unknown[0]!r}, but the model knows only {metadata['alphabet']!r}"
        )
    everything = data.train if data.composed and data.test is data.train else None
    chosen = data.test if held_out else everything or [*data.train, *data.val, *data.test]
    if not data.composed:
        return {**measure(model, metadata, chosen), "utterances": len(chosen)}
    manner = Augmentation(**metadata["manner"])
    found = measure(model, metadata, compose_utterances(chosen, "test", how, manner))
    if data.test is not data.train:
        found["single_error"] = measure(model, metadata, chosen)["label_error"]
    return {**found, "utterances": COMPOSED_UTTERANCES["test"], "recordings": len(chosen)}


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path], *, beams: int = 1) -> list[dict]:
    """What is said in each sound file (or in those of a folder).

    Args:
        beams: above 1, the likeliest text by prefix search with so many prefixes, and others beside it
            with their probabilities; else the greedy one.

    Raises:
        BadInput: a file that cannot be used, or a folder without sounds.
    """
    rate, recordings = AudioFeatures(**metadata["sound"]).rate, []
    for file in expand_audio_paths(inputs):
        recordings.append(Recording(read_audio(file, rate), "", "", str(file)))
    answers = []
    for each, heard in zip(recordings, transcribe(model, metadata, recordings, beams), strict=True):
        answer: dict[str, Any] = {"input": each.name, "text": heard[0][0]}
        if beams > 1:
            some = heard[: CANDIDATES + 1]
            told = [{"word": a, "probability": min(1.0, math.exp(b))} for a, b in some]
            answer |= {"probability": told[0]["probability"], "candidates": [told]}
        answers.append(answer)
    return answers
