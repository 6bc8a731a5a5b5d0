"""Batches of sounds and their labels, without end: composed of single recordings, or as they are."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstone.data.audio.files import Recording
from torchstone.data.sampler import share_of_batch
from torchstone.data.text.sentence_batches import Alike
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_seed

NOISE_CLIPS, NOISE_SAMPLES, NOISE_SEED = 16, 2**17, 2006  # pieces of noise, their samples, and what they are drawn by


class SpeechBatch(NamedTuple):
    """Sounds side by side with their labels; what is filled up is 0 in both."""

    waves: Float[Tensor, "batch samples"]
    lengths: Int64[Tensor, " batch"]
    labels: Int64[Tensor, "batch labels"]
    counts: Int64[Tensor, " batch"]


@dataclass(frozen=True)
class Augmentation:
    """How utterances are made of recordings; pairs are ranges that a number is drawn from, evenly.

    Args:
        count: recordings in one, all of one speaker.
        gap, edge: seconds of silence between recordings, and before the first and after the last.
        speed: each recording is played at up to so much faster or slower, its pitch with it.
        loudness: decibels that a recording may be softer than the loudest can be.
        noise: decibels that the mean power of what is spoken lies above that of the noise, whose own
            falls with frequency as 1/f^a, a between 0 and 1.5.
    """

    count: tuple[int, int] = (1, 7)
    gap: tuple[float, float] = (0.02, 0.3)
    edge: tuple[float, float] = (0.0, 0.3)
    speed: float = 0.1
    loudness: float = 6.0
    noise: tuple[float, float] = (15.0, 50.0)


class UtteranceComposer:
    """Utterances by number: the same seed and number give the same one."""

    def __init__(self, recordings: Sequence[Recording], rate: int, manner: Augmentation, seed: int):
        if not 1 <= manner.count[0] <= manner.count[1]:
            raise BadInput(f"utterances are of 1 or more recordings, not {manner.count}")
        if not 0 <= manner.speed < 1:
            raise BadInput(f"speed is changed by a share from 0 to below 1, not {manner.speed}")
        self.speakers: dict[str, list[Recording]] = defaultdict(list)
        for recording in recordings:
            self.speakers[recording.speaker].append(recording)
        self.names = sorted(self.speakers)
        self.rate, self.manner, self.seed = rate, manner, seed
        self.noises = noise_clips()

    def __call__(self, number: int) -> Recording:
        """The utterance of this number."""
        draw = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.AUGMENTATION, number))
        how = self.manner
        speaker = self.names[_whole(0, len(self.names) - 1, draw)]
        own = self.speakers[speaker]
        chosen = [own[_whole(0, len(own) - 1, draw)] for _ in range(_whole(*how.count, draw))]
        pieces = [self._silence(how.edge, draw)]
        for place, each in enumerate(chosen):
            if place:
                pieces.append(self._silence(how.gap, draw))
            pieces.append(each.wave if not how.speed else self._paced(each.wave, draw))
            pieces[-1] = pieces[-1] * 10 ** (-_number(0, how.loudness, draw) / 20)
        wave = torch.cat([*pieces, self._silence(how.edge, draw)])
        spoken = torch.cat(pieces[1:]).square().mean()
        wave = add_noise(wave, spoken, _number(*how.noise, draw), self.noises, draw)
        text = "".join(each.text for each in chosen)
        return Recording(wave / wave.abs().max(), text, speaker, f"composed of {speaker}, {number}")

    def _silence(self, seconds: tuple[float, float], draw: torch.Generator) -> Tensor:
        return torch.zeros(round(_number(*seconds, draw) * self.rate))

    def _paced(self, wave: Tensor, draw: torch.Generator) -> Tensor:
        """Played faster or slower, between its samples in straight lines."""
        pace = 1 + self.manner.speed * _number(-1, 1, draw)
        length = max(2, round(len(wave) / pace))
        return F.interpolate(wave[None, None], length, mode="linear", align_corners=True)[0, 0]


@functools.cache
def noise_clips() -> list[Float[Tensor, " samples"]]:
    """Pieces of noise of mean power 1, whose own falls with frequency as 1/f^a, a from 0 to 1.5."""
    generator, pieces = torch.Generator().manual_seed(NOISE_SEED), []
    for number in range(NOISE_CLIPS):
        spectrum = torch.fft.rfft(torch.randn(NOISE_SAMPLES, generator=generator))
        bins = torch.arange(len(spectrum)).clamp(min=1)
        piece = torch.fft.irfft(spectrum * bins ** (-0.75 * number / (NOISE_CLIPS - 1)), NOISE_SAMPLES)
        pieces.append(piece / piece.square().mean().sqrt())
    return pieces


def add_noise(
    wave: Float[Tensor, " samples"],
    spoken: Tensor,
    decibels: float,
    pieces: Sequence[Tensor],
    draw: torch.Generator,
) -> Float[Tensor, " samples"]:
    """The wave with a piece of noise so many decibels below the power `spoken`."""
    piece = pieces[_whole(0, len(pieces) - 1, draw)]
    begin = _whole(0, len(piece) - 1, draw)
    index = torch.arange(begin, begin + len(wave)) % len(piece)
    return wave + piece[index] * (spoken / 10 ** (decibels / 10)).sqrt()


def _number(low: float, high: float, draw: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=draw))


def _whole(low: int, high: int, draw: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=draw))


class SpeechBatches:
    """Endless `Spoken` batches; their whole state is how many utterances were drawn.

    With a `Composer` each utterance is a new one; recordings of other sets come once an epoch, those
    of like length together, under noise drawn anew each time (`noise`, decibels as in `Manner`).
    `batch` counts the utterances of all `world` processes together.

    Raises:
        BadInput: the batch cannot be shared by the processes; there are no recordings.
    """

    def __init__(
        self,
        source: UtteranceComposer | Sequence[Recording],
        alphabet: str,
        batch: int,
        *,
        seed: int,
        noise: tuple[float, float] | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch, rank, world_size)
        self.source, self.alphabet, self.batch, self.seed = source, alphabet, batch, seed
        self.noise, self.device, self.rank, self.world_size = noise, device, rank, world_size
        self.pieces = noise_clips() if noise and not isinstance(source, UtteranceComposer) else []
        self.alike = None
        if not isinstance(source, UtteranceComposer):
            if not source:
                raise BadInput("no utterances to make batches of")
            lengths = torch.tensor([len(each.wave) for each in source])
            # no pool is larger than an epoch, or a batch would hold one several times
            self.alike = Alike(lengths, batch, seed, pool=max(1, min(16, len(lengths) // batch)))
        self.position = 0

    def __iter__(self) -> "Utterances":
        return self

    def __next__(self) -> SpeechBatch:
        share = self.batch // self.world_size
        places = [self.position + self.rank * share + i for i in range(share)]
        if isinstance(self.source, UtteranceComposer):
            drawn = [self.source(place) for place in places]
        else:
            assert self.alike
            index = self.alike.index(self.position).chunk(self.world_size)[self.rank].tolist()
            drawn = [self._again(self.source[i], p) for i, p in zip(index, places, strict=True)]
        self.position += self.batch
        return collate(drawn, self.alphabet, self.device)

    def _again(self, recording: Recording, place: int) -> Recording:
        if self.noise is None:
            return recording
        draw = torch.Generator().manual_seed(derive_seed(self.seed, SeedStream.AUGMENTATION, place))
        wave, power = recording.wave, recording.wave.square().mean()
        wave = add_noise(wave, power, _number(*self.noise, draw), self.pieces, draw)
        return recording._replace(wave=wave / wave.abs().max())

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def collate(recordings: Sequence[Recording], alphabet: str, device: torch.device | str = "cpu") -> SpeechBatch:
    """Recordings side by side; label 0 is no character, label k the k-th of the alphabet."""
    places = {character: k for k, character in enumerate(alphabet, 1)}
    sides = []
    for rows in (
        [each.wave for each in recordings],
        [torch.tensor([places[c] for c in each.text], dtype=torch.int64) for each in recordings],
    ):
        lengths = torch.tensor([len(row) for row in rows])
        sides += [pad_sequence(rows, batch_first=True).to(device), lengths.to(device)]
    return SpeechBatch(*sides)


def eval_batches(
    recordings: Sequence[Recording],
    alphabet: str,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[list[int], SpeechBatch]]:
    """All of them once, shorter ones first, with their numbers."""
    order = sorted(range(len(recordings)), key=lambda i: len(recordings[i].wave))
    for first in range(0, len(order), batch):
        index = order[first : first + batch]
        yield index, collate([recordings[i] for i in index], alphabet, device)
