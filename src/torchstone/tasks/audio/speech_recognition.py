"""Speech recognition: from a model that labels each time step to a Run; evaluation and prediction."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.data.audio.files import Recording, expand_audio_paths, read_audio
from torchstone.data.audio.speech import SpeechDataset, read_speech
from torchstone.data.audio.speech_batches import Augmentation, SpeechBatch, SpeechBatches, UtteranceComposer
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.tasks.audio.transcribe import (
    feature_extractor,
    feature_statistics,
    measure,
    report,
    transcribe,
)
from torchstone.tasks.optimization import gradient_update

SPLIT_SEEDS = {"val": 2**40, "test": 2**41}  # of the composed utterances of a split
COMPOSED_UTTERANCES = {"val": 100, "test": 300}
STATISTICS_UTTERANCES = 256  # for the mean and standard deviation of the features
CANDIDATES = 3  # alternative transcripts that beam search returns

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]


def train_recognizer(
    model: Any, recipe: Any, data: SpeechDataset, *, loss: Loss, model_config: dict[str, Any]
) -> Run:
    """A Run that trains `model` to transcribe speech.

    `model(features, lengths)` gives logits of each time step, label 0 being the blank;
    `model.output_lengths(lengths)` the number of time steps for so many feature vectors. The recipe states
    variant, `audio`, `augmentation`, batch_size, steps, seed and beam_size.

    `loss` is CTC's in nats per label; `label_error` the insertions, deletions and substitutions per label
    of the greedy transcripts, over a full split; `beam_error` that of beam search. Data sets of isolated
    recordings are evaluated on utterances composed of the split's own, always the same ones, and in
    `single_error` on each of the test recordings by itself.

    Args:
        loss: (log-probabilities (batch, time, classes), their lengths, labels, their counts) -> mean loss per
            label, and the number of labels as `weight`.
        model_config: constructor arguments of `model`, saved with the weights.

    Raises:
        BadInput: no utterance is long enough for its transcript.
    """
    device = next(model.parameters()).device
    audio, augmentation = recipe.audio, recipe.augmentation
    held_out = held_out_utterances(data, audio, augmentation)
    too_short = 0
    if data.is_isolated:
        source: Any = UtteranceComposer(data.train, audio.sample_rate, augmentation, recipe.seed)
    else:
        source = [each for each in data.train if is_long_enough(model, audio, each)]
        too_short = len(data.train) - len(source)
        if not source:
            raise BadInput(f"every sound of {data.name} is too short for its text")
    stream = SpeechBatches(
        source,
        data.alphabet,
        recipe.batch_size,
        seed=recipe.seed,
        snr_db=augmentation.snr_db,
        device=device,
        **parallel.share(),
    )
    dropped = f"; {too_short} too short for their text not trained on" if too_short else ""
    metadata = {
        "task": "speech",
        "variant": recipe.variant,
        "model_config": model_config,
        "alphabet": data.alphabet,
        "audio_features": asdict(audio),
        "augmentation": asdict(augmentation),
        **feature_statistics(islice(stream, math.ceil(STATISTICS_UTTERANCES / recipe.batch_size)), audio),
        "data": data.description + dropped,
    }
    stream.load_state_dict({"position": 0})
    extract = feature_extractor(metadata, device)

    def objective(net: Any, batch: SpeechBatch) -> dict[str, Tensor]:
        x, frames = extract(batch.waveforms, batch.lengths)
        log_probs = net(x, frames).float().log_softmax(2)
        return loss(log_probs, model.output_lengths(frames), batch.labels, batch.counts)

    update, state, eval_model = gradient_update(model, recipe.optim, objective, steps=recipe.steps)
    state["stream"] = stream

    def test() -> dict[str, float]:
        metrics = measure(eval_model, metadata, held_out["test"])
        if recipe.beam_size > 1:
            searched = measure(eval_model, metadata, held_out["test"], recipe.beam_size)
            metrics["beam_error"] = searched["label_error"]
        if data.is_isolated and data.test is not data.train:
            metrics["single_error"] = measure(eval_model, metadata, data.test)["label_error"]
        return metrics

    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: measure(eval_model, metadata, held_out["val"]),
        best_metric="label_error",
        # utterances of isolated recordings are composed anew without end
        examples=Examples(
            recipe.batch_size, None if data.is_isolated else len(source), len(held_out["val"]), "utterances"
        ),
        state=state,
        steps=recipe.steps,
        test=test,
        report=lambda folder: report(eval_model, metadata, held_out["test"], folder),
        metadata=metadata,
    )


def held_out_utterances(
    data: SpeechDataset, audio: AudioFeatures, augmentation: Augmentation
) -> dict[str, Sequence[Recording]]:
    """The utterances of the validation and test splits, composed where the recordings are isolated."""
    splits: dict[str, Sequence[Recording]] = {"val": data.val, "test": data.test}
    if not data.is_isolated:
        return splits
    return {name: compose_utterances(split, name, audio, augmentation) for name, split in splits.items()}


def compose_utterances(
    recordings: Sequence[Recording], split: str, audio: AudioFeatures, augmentation: Augmentation
) -> list[Recording]:
    """Utterances for evaluation, always the same ones."""
    compose = UtteranceComposer(recordings, audio.sample_rate, augmentation, SPLIT_SEEDS[split])
    return [compose(number) for number in range(COMPOSED_UTTERANCES[split])]


def is_long_enough(model: Any, audio: AudioFeatures, recording: Recording) -> bool:
    """Whether there is a time step for each label, and one for the blank between two equal ones."""
    length = torch.tensor([len(recording.wave)])
    if int(length) < audio.samples[0]:
        return False
    text = recording.text
    repeats = sum(a == b for a, b in pairwise(text))
    return int(model.output_lengths(audio.frame_counts(length))) >= len(text) + repeats


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Label error on `spec`: on its test split if `held_out`, else on every utterance of it.

    Raises:
        BadInput: a transcript with a character that the model has no label for.
    """
    audio = AudioFeatures.from_metadata(metadata["audio_features"])
    data = read_speech(spec, audio.sample_rate)
    if unknown := sorted(set(data.alphabet) - set(metadata["alphabet"])):
        raise BadInput(
            f"{spec} is written with {unknown[0]!r}, but the model knows only {metadata['alphabet']!r}"
        )
    same_recordings = data.is_isolated and data.test is data.train
    everything = data.train if same_recordings else [*data.train, *data.val, *data.test]
    recordings = data.test if held_out else everything
    if not data.is_isolated:
        return {**measure(model, metadata, recordings), "utterances": len(recordings)}
    augmentation = Augmentation.from_metadata(metadata["augmentation"])
    metrics = measure(model, metadata, compose_utterances(recordings, "test", audio, augmentation))
    if data.test is not data.train:
        metrics["single_error"] = measure(model, metadata, recordings)["label_error"]
    return {**metrics, "utterances": COMPOSED_UTTERANCES["test"], "recordings": len(recordings)}


def predict(
    model: nn.Module, metadata: dict, inputs: Sequence[str | Path], *, beam_size: int = 1
) -> list[dict]:
    """The transcript of each sound file (or of those of a folder).

    Args:
        beam_size: above 1, the most likely transcript by prefix beam search, and alternatives with their
            probabilities; else the greedy one.

    Raises:
        BadInput: a file that cannot be used, or a folder without sounds.
    """
    sample_rate, recordings = AudioFeatures.from_metadata(metadata["audio_features"]).sample_rate, []
    for file in expand_audio_paths(inputs):
        recordings.append(Recording(read_audio(file, sample_rate), "", "", str(file)))
    answers = []
    transcripts = transcribe(model, metadata, recordings, beam_size)
    for each, hypotheses in zip(recordings, transcripts, strict=True):
        answer: dict[str, Any] = {"input": each.name, "text": hypotheses[0][0]}
        if beam_size > 1:
            best = hypotheses[: CANDIDATES + 1]
            candidates = [{"word": text, "probability": min(1.0, math.exp(log))} for text, log in best]
            answer |= {"probability": candidates[0]["probability"], "candidates": [candidates]}
        answers.append(answer)
    return answers
