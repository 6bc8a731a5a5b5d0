"""Transcription by a CTC model: decoding, label error rate, and figures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.audio.files import Recording
from torchstone.data.audio.speech_batches import SpeechBatch, eval_batches
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.parts.decoding.ctc_decoding import greedy_decode, prefix_beam_search
from torchstone.parts.metrics.edit_distance import edit_distance
from torchstone.parts.modes import eval_mode
from torchstone.plots.canvas import PALETTE, canvas, plain, save

MIN_LOG_PROB = -8.0  # below it the search does not try a label at a time step
PLOTTED_UTTERANCES = 3  # in `outputs.png`
LISTED_TRANSCRIPTS = 24  # in `transcripts.png`
MIN_PLOTTED_PROB = 0.1  # that a label must reach to be drawn

Hypotheses = list[tuple[str, float]]  # texts and their log-probabilities, best first


def feature_statistics(batches: Iterable[SpeechBatch], audio: AudioFeatures) -> dict[str, list[float]]:
    """Mean and standard deviation of each feature, for the metadata."""
    rows = []
    for batch in batches:
        x, frames = audio.extract(batch.waveforms, batch.lengths)
        rows += [row[:count].double() for row, count in zip(x, frames.tolist(), strict=True)]
    x = torch.cat(rows)
    return {"mean": x.mean(0).tolist(), "std": x.std(0).clamp(min=1e-3).tolist()}


def feature_extractor(
    metadata: dict, device: torch.device
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """From waveforms and their lengths to standardized features, and their lengths."""
    audio = AudioFeatures.from_metadata(metadata["audio_features"])
    mean, std = (torch.tensor(metadata[name], device=device) for name in ("mean", "std"))

    def extract(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, frames = audio.extract(waveforms, lengths)
        return (x - mean) / std, frames

    return extract


class Emissions(NamedTuple):
    """A model's output for a batch of recordings, whose indices are `index`."""

    index: list[int]
    features: Float[Tensor, "batch frames width"]
    log_probs: Float[Tensor, "batch time classes"]
    lengths: Int64[Tensor, " batch"]
    batch: SpeechBatch


def emissions(model: Any, metadata: dict, recordings: Sequence[Recording]) -> Iterator[Emissions]:
    """Log-probabilities of each label at each time step of all recordings, in evaluation mode."""
    device = next(model.parameters()).device
    extract = feature_extractor(metadata, device)
    with eval_mode(model):
        for index, batch in eval_batches(recordings, metadata["alphabet"], device=device):
            with torch.no_grad():
                x, frames = extract(batch.waveforms, batch.lengths)
                log_probs = model(x, frames).float().log_softmax(2)
            yield Emissions(index, x, log_probs, model.output_lengths(frames), batch)


def decode(each: Emissions, alphabet: str, beam_size: int) -> list[Hypotheses]:
    """The transcripts of each recording: the greedy one (of unknown probability), or beam search's."""
    if beam_size == 1:
        paths = [[(tuple(row), -torch.inf)] for row in greedy_decode(each.log_probs, each.lengths)]
    else:
        rows = zip(each.log_probs.cpu(), each.lengths.tolist(), strict=True)
        paths = [prefix_beam_search(row[:n], beam_size, min_log_prob=MIN_LOG_PROB) for row, n in rows]
    return [[("".join(alphabet[k - 1] for k in path), log_prob) for path, log_prob in row] for row in paths]


def transcribe(
    model: Any, metadata: dict, recordings: Sequence[Recording], beam_size: int = 1
) -> list[Hypotheses]:
    """The transcripts of each recording, best first."""
    transcripts: dict[int, Hypotheses] = {}
    for each in emissions(model, metadata, recordings):
        transcripts.update(zip(each.index, decode(each, metadata["alphabet"], beam_size), strict=True))
    return [transcripts[i] for i in range(len(recordings))]


def measure(
    model: Any, metadata: dict, recordings: Sequence[Recording], beam_size: int = 1
) -> dict[str, float]:
    """`label_error`, edits per label over all recordings; `exact_match`, the share without an edit; `loss`,
    the CTC loss in nats per label (a text too long for its time steps counts as wrong, without a loss)."""
    edits = exact = labels = 0
    total, loss_labels = 0.0, 0
    for each in emissions(model, metadata, recordings):
        for i, hypotheses in zip(each.index, decode(each, metadata["alphabet"], beam_size), strict=True):
            distance = edit_distance(hypotheses[0][0], recordings[i].text)
            edits, exact = edits + distance, exact + (not distance)
            labels += len(recordings[i].text)
        losses = F.ctc_loss(
            each.log_probs.transpose(0, 1),
            each.batch.labels,
            each.lengths,
            each.batch.counts,
            reduction="none",
        )
        finite = losses.isfinite()
        total += float(losses[finite].double().sum())
        loss_labels += int(each.batch.counts[finite].sum())
    return {
        "label_error": edits / max(1, labels),
        "exact_match": exact / len(recordings),
        "loss": total / max(1, loss_labels),
    }


def report(model: Any, metadata: dict, recordings: Sequence[Recording], folder: Path) -> None:
    """Draw some utterances with the network's output, and many transcripts next to the references (all of
    them in `transcripts.txt`)."""
    predicted = [hypotheses[0][0] for hypotheses in transcribe(model, metadata, recordings)]
    distances = [edit_distance(text, each.text) for text, each in zip(predicted, recordings, strict=True)]
    pairs = [(each.text, text) for each, text in zip(recordings, predicted, strict=True)]
    lines = [f"{n}\t{a}\t{b}\n" for n, (a, b) in zip(distances, pairs, strict=True)]
    (folder / "transcripts.txt").write_text("edits\treference\ttranscript\n" + "".join(lines), "utf-8")
    order = sorted(range(len(pairs)), key=lambda i: -distances[i])
    listed = [pairs[i] for i in order[:LISTED_TRANSCRIPTS]]
    _plot_transcripts(listed, sum(distances), folder / "transcripts.png")
    # one with errors, if there is any, and some without
    correct = [i for i in order if not distances[i]]
    examples = order[: max(1, PLOTTED_UTTERANCES - len(correct))] + correct[: PLOTTED_UTTERANCES - 1]
    unique = dict.fromkeys(examples)
    plot_emissions(model, metadata, [recordings[i] for i in unique], folder / "outputs.png")


def _plot_transcripts(pairs: Sequence[tuple[str, str]], edits: int, file: Path) -> None:
    figure = canvas(9.0, 0.9 + 0.24 * len(pairs), layout=None)
    height = figure.get_figheight()
    order = "most errors first" if edits else "no errors"
    title = f"reference, and transcript ({order})"
    figure.text(0.02, 1 - 0.3 / height, title, fontsize=10, fontweight="bold")
    for row, pair in enumerate(pairs):
        is_correct = pair[0] == pair[1]
        for column, text in enumerate(pair):
            figure.text(
                0.02 + 0.49 * column,
                1 - (0.68 + 0.24 * row) / height,
                plain(text, 48) or "–",
                fontsize=8,
                family="monospace",
                color="black" if is_correct else PALETTE[column],
            )
    save(figure, file)


def plot_emissions(model: Any, metadata: dict, recordings: Sequence[Recording], file: Path) -> None:
    """Draw each utterance's features over time, and the probability of each label below them."""
    audio = AudioFeatures.from_metadata(metadata["audio_features"])
    figure = canvas(10.0, 3.4 * len(recordings))
    axes = figure.subplots(2 * len(recordings), 1, squeeze=False)[:, 0]
    for each in emissions(model, metadata, recordings):
        for row, i in enumerate(each.index):
            upper, lower = axes[2 * i], axes[2 * i + 1]
            count = int(each.lengths[row])
            frames = int(audio.frame_counts(each.batch.lengths[row : row + 1]))
            seconds = frames * audio.hop_ms / 1000
            upper.imshow(
                each.features[row, :frames].T.cpu().numpy(),
                origin="lower",
                aspect="auto",
                extent=(0, seconds, 0, audio.width),
                cmap="magma",
                vmin=-2.5,
                vmax=2.5,
            )
            ((transcript, _),) = decode(each, metadata["alphabet"], 1)[row]
            title = f"reference {plain(recordings[i].text)}   transcript {plain(transcript)}"
            upper.set_title(title, loc="left", fontsize=9, fontweight="bold")
            upper.set_ylabel("mel band" if audio.features == "mel" else "coefficient", fontsize=8)
            probabilities = each.log_probs[row, :count].exp().cpu().numpy()
            times = [(t + 0.5) * seconds / count for t in range(count)]
            _plot_labels(lower, times, probabilities, metadata["alphabet"])
            lower.set_xlim(0, seconds)
            lower.set_ylim(0, 1.25)
            lower.set_ylabel("probability", fontsize=8)
            lower.set_xlabel("seconds", fontsize=8)
            for panel in (upper, lower):
                panel.tick_params(labelsize=8)
                panel.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def _plot_labels(axes: Any, times: Sequence[float], probabilities: Any, alphabet: str) -> None:
    """The probability of the blank and of each likely label over time; labels are named at their peaks."""
    axes.plot(times, probabilities[:, 0], color="0.75", linewidth=1, label="blank")
    likely = [k for k in range(1, probabilities.shape[1]) if probabilities[:, k].max() > MIN_PLOTTED_PROB]
    for number, k in enumerate(likely):
        color = PALETTE[number % len(PALETTE)]
        axes.plot(times, probabilities[:, k], color=color, linewidth=1.2)
        for t, time in enumerate(times):
            neighbors = probabilities[max(0, t - 1) : t + 2, k]
            if probabilities[t, k] > MIN_PLOTTED_PROB and probabilities[t, k] == neighbors.max():
                axes.annotate(
                    plain(alphabet[k - 1]),
                    (time, probabilities[t, k]),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    color=color,
                    fontsize=8,
                )
