"""What a speech recogniser hears: transcripts, how many labels of them are wrong, and pictures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.data.audio.files import Recording
from torchstone.data.audio.speech_batches import SpeechBatch, eval_batches
from torchstone.parts.audio.ctc import greedy_decode, prefix_beam_search
from torchstone.parts.audio.spectrogram import AudioFeatures
from torchstone.parts.metrics.edit_distance import edit_distance
from torchstone.plots.canvas import PALETTE, canvas, plain, save

MIN_LOG_PROB = -8.0  # log-probability below which the search does not try a label at a moment
PLOTTED_UTTERANCES = 3  # utterances in the picture
LISTED_TRANSCRIPTS = 24  # transcripts in the other
MIN_PLOTTED_PROB = 0.1  # probability that a label must reach to be drawn

Hypotheses = list[tuple[str, float]]  # texts and their log-probabilities, best first


def feature_statistics(batches: Iterable[SpeechBatch], how: AudioFeatures) -> dict[str, list[float]]:
    """Mean and deviation of each number of the vectors, for the metadata."""
    rows = []
    for batch in batches:
        x, frames = how.of(batch.waves, batch.lengths)
        rows += [row[:count].double() for row, count in zip(x, frames.tolist(), strict=True)]
    x = torch.cat(rows)
    return {"mean": x.mean(0).tolist(), "deviation": x.std(0).clamp(min=1e-3).tolist()}


def feature_extractor(metadata: dict, device: torch.device) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """From waves and their lengths to vectors of mean 0 and deviation 1, and their lengths."""
    how = AudioFeatures(**metadata["sound"])
    mean, deviation = (torch.tensor(metadata[name], device=device) for name in ("mean", "deviation"))

    def vectors(waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, frames = how.of(waves, lengths)
        return (x - mean) / deviation, frames

    return vectors


class Emissions(NamedTuple):
    """What a model tells of some recordings, `index` their numbers."""

    index: list[int]
    vectors: Float[Tensor, "batch frames width"]
    logs: Float[Tensor, "batch time classes"]
    moments: Int64[Tensor, " batch"]
    batch: SpeechBatch


def emissions(model: Any, metadata: dict, recordings: Sequence[Recording]) -> Iterator[Emissions]:
    """Log-probabilities of each label at each moment of all recordings, in evaluation mode."""
    device = next(model.parameters()).device
    was_training, vectors = model.training, feature_extractor(metadata, device)
    model.eval()
    for index, batch in eval_batches(recordings, metadata["alphabet"], device=device):
        with torch.no_grad():
            x, frames = vectors(batch.waves, batch.lengths)
            logs = model(x, frames).float().log_softmax(2)
        yield Emissions(index, x, logs, model.moments(frames), batch)
    model.train(was_training)


def decode(each: Emissions, alphabet: str, beams: int) -> list[Hypotheses]:
    """What is heard in each: the greedy text (its own probability is not known: 0), or with several
    `beams` the texts that the search has found."""
    if beams == 1:
        found = [[(tuple(row), -torch.inf)] for row in greedy_decode(each.logs, each.moments)]
    else:
        rows = zip(each.logs.cpu(), each.moments.tolist(), strict=True)
        found = [prefix_beam_search(row[:count], beams, least=MIN_LOG_PROB) for row, count in rows]
    return [[("".join(alphabet[k - 1] for k in path), log) for path, log in row] for row in found]


def transcribe(model: Any, metadata: dict, recordings: Sequence[Recording], beams: int = 1) -> list[Hypotheses]:
    """What is heard in each recording, best first."""
    heard: dict[int, Hypotheses] = {}
    for each in emissions(model, metadata, recordings):
        heard.update(zip(each.index, decode(each, metadata["alphabet"], beams), strict=True))
    return [heard[i] for i in range(len(recordings))]


def measure(model: Any, metadata: dict, recordings: Sequence[Recording], beams: int = 1) -> dict[str, float]:
    """`label_error`, edits a label over all of them; `right`, the share without an edit; `loss`, CTC's
    in nats a label (a text that has too few moments counts as wrong, and has no loss)."""
    wrong = right = labels = 0
    total, judged = 0.0, 0
    for each in emissions(model, metadata, recordings):
        for i, heard in zip(each.index, decode(each, metadata["alphabet"], beams), strict=True):
            apart = edit_distance(heard[0][0], recordings[i].text)
            wrong, right, labels = (
                wrong + apart,
                right + (not apart),
                labels + len(recordings[i].text),
            )
        losses = F.ctc_loss(
            each.logs.transpose(0, 1), each.batch.labels, each.moments, each.batch.counts,
            reduction="none",
        )  # fmt: skip
        fits = losses.isfinite()
        total += float(losses[fits].double().sum())
        judged += int(each.batch.counts[fits].sum())
    return {
        "label_error": wrong / max(1, labels),
        "right": right / len(recordings),
        "loss": total / max(1, judged),
    }


def report(model: Any, metadata: dict, recordings: Sequence[Recording], folder: Path) -> None:
    """Draw what is heard: some utterances with the network's output under them, and many transcripts
    beside what was said (all of them in `transcripts.txt`)."""
    heard = [found[0][0] for found in transcribe(model, metadata, recordings)]
    apart = [edit_distance(text, each.text) for text, each in zip(heard, recordings, strict=True)]
    pairs = [(each.text, text) for each, text in zip(recordings, heard, strict=True)]
    lines = [f"{n}\t{a}\t{b}\n" for n, (a, b) in zip(apart, pairs, strict=True)]
    (folder / "transcripts.txt").write_text("edits\tsaid\theard\n" + "".join(lines), "utf-8")
    order = sorted(range(len(pairs)), key=lambda i: -apart[i])
    _plot_transcripts([pairs[i] for i in order[:LISTED_TRANSCRIPTS]], sum(apart), folder / "transcripts.png")
    # one with mistakes, if there is any, and some without
    right = [i for i in order if not apart[i]]
    chosen = order[: max(1, PLOTTED_UTTERANCES - len(right))] + right[: PLOTTED_UTTERANCES - 1]
    plot_emissions(model, metadata, [recordings[i] for i in dict.fromkeys(chosen)], folder / "outputs.png")


def _plot_transcripts(pairs: Sequence[tuple[str, str]], wrong: int, file: Path) -> None:
    figure = canvas(9.0, 0.9 + 0.24 * len(pairs), layout=None)
    tall = figure.get_figheight()
    kind = "the most mistaken first" if wrong else "no mistake in any"
    figure.text(0.02, 1 - 0.3 / tall, f"said, and heard ({kind})", fontsize=10, fontweight="bold")
    for row, pair in enumerate(pairs):
        same = pair[0] == pair[1]
        for column, text in enumerate(pair):
            figure.text(
                0.02 + 0.49 * column, 1 - (0.68 + 0.24 * row) / tall, plain(text, 48) or "–",
                fontsize=8, family="monospace", color="black" if same else PALETTE[column],
            )  # fmt: skip
    save(figure, file)


def plot_emissions(model: Any, metadata: dict, recordings: Sequence[Recording], file: Path) -> None:
    """Draw each utterance's vectors over time, and under them how likely each label is."""
    how, alphabet = AudioFeatures(**metadata["sound"]), metadata["alphabet"]
    figure = canvas(10.0, 3.4 * len(recordings))
    axes = figure.subplots(2 * len(recordings), 1, squeeze=False)[:, 0]
    for each in emissions(model, metadata, recordings):
        for row, i in enumerate(each.index):
            above, below = axes[2 * i], axes[2 * i + 1]
            count, frames = (
                int(each.moments[row]),
                int(how.frames(each.batch.lengths[row : row + 1])),
            )
            seconds = frames * how.hop / 1000
            above.imshow(
                each.vectors[row, :frames].T.cpu().numpy(), origin="lower", aspect="auto",
                extent=(0, seconds, 0, how.width), cmap="magma", vmin=-2.5, vmax=2.5,
            )  # fmt: skip
            (heard,) = decode(each, alphabet, 1)[row]
            title = f"said {plain(recordings[i].text)}   heard {plain(heard[0])}"
            above.set_title(title, loc="left", fontsize=9, fontweight="bold")
            above.set_ylabel("mel band" if how.kind == "mel" else "number", fontsize=8)
            chances = each.logs[row, :count].exp().cpu().numpy()
            times = [(moment + 0.5) * seconds / count for moment in range(count)]
            below.plot(times, chances[:, 0], color="0.75", linewidth=1, label="blank")
            drawn = [k for k in range(1, chances.shape[1]) if chances[:, k].max() > MIN_PLOTTED_PROB]
            for place, k in enumerate(drawn):
                colour = PALETTE[place % len(PALETTE)]
                below.plot(times, chances[:, k], color=colour, linewidth=1.2)
                for moment in range(count):  # a name at each summit
                    around = chances[max(0, moment - 1) : moment + 2, k]
                    if chances[moment, k] > MIN_PLOTTED_PROB and chances[moment, k] == around.max():
                        below.annotate(
                            plain(alphabet[k - 1]), (times[moment], chances[moment, k]),
                            xytext=(0, 2), textcoords="offset points", ha="center", color=colour,
                            fontsize=8,
                        )  # fmt: skip
            below.set_xlim(0, seconds)
            below.set_ylim(0, 1.25)
            below.set_ylabel("probability", fontsize=8)
            below.set_xlabel("seconds", fontsize=8)
            for one in (above, below):
                one.tick_params(labelsize=8)
                one.spines[["top", "right"]].set_visible(False)
    save(figure, file)
