"""Endless batches of utterances with their labels: composed of isolated recordings, or as they are."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchstone.data.audio.files import Recording
from torchstone.data.sampler import itself, load_position, position_state, share_of_batch
from torchstone.data.text.sentence_batches import LengthGrouped
from torchstone.errors import BadInput
from torchstone.parts.seeding import SeedStream, derive_generator

NOISE_CLIPS, NOISE_SAMPLES, NOISE_SEED = 16, 2**17, 2006


class SpeechBatch(NamedTuple):
    """Waveforms with their labels; both are padded with 0."""

    waveforms: Float[Tensor, "batch samples"]
    lengths: Int64[Tensor, " batch"]
    labels: Int64[Tensor, "batch labels"]
    counts: Int64[Tensor, " batch"]


# what fields of `Augmentation` were called in the metadata of earlier versions
OLD_FIELDS = {
    "count": "recordings_per_utterance",
    "gap": "gap_seconds",
    "edge": "edge_seconds",
    "speed": "speed_change",
    "loudness": "attenuation_db",
    "noise": "snr_db",
}


@dataclass(frozen=True)
class Augmentation:
    """How utterances are composed of recordings of one speaker; pairs are ranges of uniform numbers.

    Speed changes resample, so that the pitch changes too. The noise added has power that falls with
    frequency as 1/f^a, a between 0 and 1.5; its level is relative to the mean power of the speech.
    """

    recordings_per_utterance: tuple[int, int] = (1, 7)  # recordings in a composed utterance, from and to
    gap_seconds: tuple[float, float] = (0.02, 0.3)  # silence between recordings in seconds
    edge_seconds: tuple[float, float] = (0.0, 0.3)  # silence before and after in seconds
    speed_change: float = 0.1  # largest relative change of a recording's speed
    attenuation_db: float = 6.0  # largest attenuation of a recording in dB
    snr_db: tuple[float, float] = (15.0, 50.0)  # signal-to-noise ratio in dB

    @classmethod
    def from_metadata(cls, fields: Mapping[str, Any]) -> "Augmentation":
        """`asdict` undone, also of earlier versions' names."""
        named: dict[str, Any] = {OLD_FIELDS.get(name, name): value for name, value in fields.items()}
        for name, value in named.items():
            named[name] = tuple(value) if isinstance(value, list) else value
        return cls(**named)


class UtteranceComposer:
    """Utterances by number: the same seed and number give the same one."""

    def __init__(
        self, recordings: Sequence[Recording], sample_rate: int, augmentation: Augmentation, seed: int
    ):
        low, high = augmentation.recordings_per_utterance
        if not 1 <= low <= high:
            raise BadInput(f"utterances are of 1 or more recordings, not {(low, high)}")
        if not 0 <= augmentation.speed_change < 1:
            raise BadInput(f"speed_change must be from 0 to below 1, not {augmentation.speed_change}")
        self.speakers: dict[str, list[Recording]] = defaultdict(list)
        for recording in recordings:
            self.speakers[recording.speaker].append(recording)
        self.names = sorted(self.speakers)
        self.sample_rate, self.augmentation, self.seed = sample_rate, augmentation, seed
        self.noise_clips = noise_clips()

    def __call__(self, number: int) -> Recording:
        """The utterance of this number."""
        generator = derive_generator(self.seed, SeedStream.AUGMENTATION, number)
        settings = self.augmentation
        speaker = self.names[_randint(0, len(self.names) - 1, generator)]
        own = self.speakers[speaker]
        count = _randint(*settings.recordings_per_utterance, generator)
        recordings = [own[_randint(0, len(own) - 1, generator)] for _ in range(count)]
        pieces = [self._silence(settings.edge_seconds, generator)]
        for i, each in enumerate(recordings):
            if i:
                pieces.append(self._silence(settings.gap_seconds, generator))
            changed = self._change_speed(each.wave, generator) if settings.speed_change else each.wave
            pieces.append(changed * 10 ** (-_uniform(0, settings.attenuation_db, generator) / 20))
        wave = torch.cat([*pieces, self._silence(settings.edge_seconds, generator)])
        power = torch.cat(pieces[1:]).square().mean()
        snr_db = _uniform(*settings.snr_db, generator)
        wave = add_noise(wave, power, snr_db, self.noise_clips, generator)
        text = "".join(each.text for each in recordings)
        return Recording(wave / wave.abs().max(), text, speaker, f"composed of {speaker}, {number}")

    def _silence(self, seconds: tuple[float, float], generator: torch.Generator) -> Tensor:
        return torch.zeros(round(_uniform(*seconds, generator) * self.sample_rate))

    def _change_speed(self, wave: Tensor, generator: torch.Generator) -> Tensor:
        """Faster or slower, with linear interpolation between samples."""
        speed = 1 + self.augmentation.speed_change * _uniform(-1, 1, generator)
        length = max(2, round(len(wave) / speed))
        return F.interpolate(wave[None, None], length, mode="linear", align_corners=True)[0, 0]


@functools.cache
def noise_clips() -> list[Float[Tensor, " samples"]]:
    """Noise of mean power 1, whose power falls with frequency as 1/f^a, a from 0 to 1.5."""
    generator, clips = torch.Generator().manual_seed(NOISE_SEED), []
    for number in range(NOISE_CLIPS):
        spectrum = torch.fft.rfft(torch.randn(NOISE_SAMPLES, generator=generator))
        bins = torch.arange(len(spectrum)).clamp(min=1)
        clip = torch.fft.irfft(spectrum * bins ** (-0.75 * number / (NOISE_CLIPS - 1)), NOISE_SAMPLES)
        clips.append(clip / clip.square().mean().sqrt())
    return clips


def add_noise(
    wave: Float[Tensor, " samples"],
    power: Tensor,
    snr_db: float,
    clips: Sequence[Tensor],
    generator: torch.Generator,
) -> Float[Tensor, " samples"]:
    """The waveform plus a random piece of noise, `snr_db` below the speech's `power`."""
    clip = clips[_randint(0, len(clips) - 1, generator)]
    first = _randint(0, len(clip) - 1, generator)
    index = torch.arange(first, first + len(wave)) % len(clip)
    return wave + clip[index] * (power / 10 ** (snr_db / 10)).sqrt()


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _randint(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


class SpeechBatches:
    """Endless `SpeechBatch`es; the position, the number of utterances so far, is the full state.

    With an `UtteranceComposer` each utterance is a new one; recordings of other sets come once an epoch,
    grouped by length, each time with new noise (`snr_db` as in `Augmentation`). `batch_size` counts the
    utterances of all processes together.

    Raises:
        BadInput: the batch cannot be shared by the processes; there are no recordings.
    """

    def __init__(
        self,
        source: UtteranceComposer | Sequence[Recording],
        alphabet: str,
        batch_size: int,
        *,
        seed: int,
        snr_db: tuple[float, float] | None = None,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ):
        share_of_batch(batch_size, rank, world_size)
        self.source, self.alphabet, self.batch_size, self.seed = source, alphabet, batch_size, seed
        self.snr_db, self.device, self.rank, self.world_size = snr_db, device, rank, world_size
        self.clips = noise_clips() if snr_db and not isinstance(source, UtteranceComposer) else []
        self.grouped = None
        if not isinstance(source, UtteranceComposer):
            if not source:
                raise BadInput("no utterances to make batches of")
            lengths = torch.tensor([len(each.wave) for each in source])
            # no pool is larger than an epoch, or a batch would hold a sample several times
            pool = max(1, min(16, len(lengths) // batch_size))
            self.grouped = LengthGrouped(lengths, batch_size, seed, pool=pool)
        self.position = 0

    __iter__, state_dict, load_state_dict = itself, position_state, load_position

    def __next__(self) -> SpeechBatch:
        share = self.batch_size // self.world_size
        numbers = [self.position + self.rank * share + i for i in range(share)]
        if isinstance(self.source, UtteranceComposer):
            utterances = [self.source(number) for number in numbers]
        else:
            assert self.grouped
            index = self.grouped.index(self.position).chunk(self.world_size)[self.rank].tolist()
            utterances = [self._with_noise(self.source[i], n) for i, n in zip(index, numbers, strict=True)]
        self.position += self.batch_size
        return collate(utterances, self.alphabet, self.device)

    def _with_noise(self, recording: Recording, number: int) -> Recording:
        if self.snr_db is None:
            return recording
        generator = derive_generator(self.seed, SeedStream.AUGMENTATION, number)
        wave, power = recording.wave, recording.wave.square().mean()
        wave = add_noise(wave, power, _uniform(*self.snr_db, generator), self.clips, generator)
        return recording._replace(wave=wave / wave.abs().max())


def collate(
    recordings: Sequence[Recording], alphabet: str, device: torch.device | str = "cpu"
) -> SpeechBatch:
    """Padded recordings; label 0 is the blank, label k the k-th character of the alphabet."""
    label_of = {character: k for k, character in enumerate(alphabet, 1)}
    columns = []
    for rows in (
        [each.wave for each in recordings],
        [torch.tensor([label_of[c] for c in each.text], dtype=torch.int64) for each in recordings],
    ):
        lengths = torch.tensor([len(row) for row in rows])
        columns += [pad_sequence(rows, batch_first=True).to(device), lengths.to(device)]
    return SpeechBatch(*columns)


def eval_batches(
    recordings: Sequence[Recording], alphabet: str, batch_size: int = 64, device: torch.device | str = "cpu"
) -> Iterator[tuple[list[int], SpeechBatch]]:
    """Batches of all recordings in order of length, with their indices."""
    order = sorted(range(len(recordings)), key=lambda i: len(recordings[i].wave))
    for first in range(0, len(order), batch_size):
        index = order[first : first + batch_size]
        yield index, collate([recordings[i] for i in index], alphabet, device)
