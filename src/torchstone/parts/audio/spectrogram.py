"""From sound to what the ear tells apart: short-time power, mel bands, their logarithms, their slopes.

Steven Davis and Paul Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word
Recognition in Continuously Spoken Sentences", IEEE Transactions on Acoustics, Speech and Signal
Processing 28(4), 1980. Waves are mono, full scale ±1, `rate` samples a second.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput


def frame_signal(
    waves: Float[Tensor, "*batch samples"], window: int, hop: int
) -> Float[Tensor, "*batch frames window"]:
    """Pieces of `window` samples, one every `hop`; none reaches over the end (a view).

    Raises:
        BadInput: the wave is shorter than one window.
    """
    if waves.shape[-1] < window:
        raise BadInput(f"{waves.shape[-1]} samples are less than one window of {window}")
    return waves.unfold(-1, window, hop)


def power_spectrogram(
    waves: Float[Tensor, "*batch samples"], window: int, hop: int, size: int
) -> Float[Tensor, "*batch frames bins"]:
    """|STFT|²: Hann's window (periodic) over each piece, which zeros fill up to `size`; bins 0 to
    size/2, of rate/size Hz each."""
    hann = torch.hann_window(window, dtype=waves.dtype, device=waves.device)
    spectrum = torch.fft.rfft(frame_signal(waves, window, hop) * hann, size)
    return spectrum.real.square() + spectrum.imag.square()


def hz_to_mel(hertz: float) -> float:
    """Pitch as heard: 2595 log₁₀(1 + f/700) (O'Shaughnessy 1987)."""
    return 2595 * math.log10(1 + hertz / 700)


def mel_filterbank(bins: int, bands: int, rate: int, low: float, high: float) -> Float[Tensor, "bins bands"]:
    """Triangles over the bins 0 to rate/2, their feet and tops evenly apart in mel, of height 1.

    Raises:
        BadInput: `low` and `high` are no range below rate/2; bands so narrow that one covers no bin.
    """
    if not 0 <= low < high <= rate / 2:
        raise BadInput(f"mel bands lie between 0 and {rate / 2:g} Hz, not from {low:g} to {high:g}")
    points = torch.linspace(hz_to_mel(low), hz_to_mel(high), bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (points / 2595) - 1)
    hertz = torch.linspace(0, rate / 2, bins, dtype=torch.float64)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    if not filters.any(0).all():
        raise BadInput(f"{bands} mel bands over {bins} bins leave one without a bin: ask for fewer")
    return filters.float()


def mfcc(logs: Float[Tensor, "*batch bands"], count: int) -> Float[Tensor, "*batch count"]:
    """Coefficients 1 to `count` of the orthonormal cosine transform of log-mel energies."""
    bands = logs.shape[-1]
    n = torch.arange(bands, dtype=torch.float64) + 0.5
    k = torch.arange(1, count + 1, dtype=torch.float64)
    matrix = (math.pi / bands * n[:, None] * k).cos() * math.sqrt(2 / bands)
    return logs @ matrix.to(logs)


def deltas(x: Float[Tensor, "*batch frames width"], reach: int = 2) -> Float[Tensor, "*batch frames width"]:
    """Slopes a frame: Σ n (x_{t+n} − x_{t−n}) / 2 Σ n² over n up to `reach`, the least-squares line
    through the frames around t (Furui 1986). The first and last frame stand for those beyond."""
    frames = torch.arange(x.shape[-2], device=x.device)
    last = x.shape[-2] - 1
    total = torch.zeros_like(x)
    for n in range(1, reach + 1):
        after, before = (frames + n).clamp(max=last), (frames - n).clamp(min=0)
        total = total + n * (x.index_select(-2, after) - x.index_select(-2, before))
    return total / (2 * sum(n * n for n in range(1, reach + 1)))


@dataclass(frozen=True)
class AudioFeatures:
    """How sound becomes a sequence of vectors; plain numbers, so that a metadata can hold it.

    Args:
        rate: samples a second; sound of any other rate is to be brought to it first.
        window, hop: milliseconds a frame lasts, and from one frame to the next.
        bands: mel bands between `low` Hz and half the rate.
        kind: `mel`, log-mel energies (`bands` numbers a frame); `cepstra`, 12 coefficients of their
            cosine transform, the frame's log-energy, and the slopes of all: 26 numbers (Graves et
            al. 2006, section 5.2, without weights on the coefficients).
        floor: power that stands under every logarithm, so that silence is one number.
    """

    rate: int = 8000
    window: float = 25.0
    hop: float = 10.0
    bands: int = 40
    low: float = 60.0
    kind: Literal["mel", "cepstra"] = "mel"
    floor: float = 1e-3

    @property
    def width(self) -> int:
        """Numbers a frame."""
        return self.bands if self.kind == "mel" else 26

    @property
    def samples(self) -> tuple[int, int]:
        """Samples of a window, and from one to the next."""
        return round(self.window * self.rate / 1000), round(self.hop * self.rate / 1000)

    def frames(self, lengths: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Frames that so many samples make."""
        window, hop = self.samples
        return (lengths - window) // hop + 1

    def of(
        self, waves: Float[Tensor, "batch samples"], lengths: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch frames width"], Int64[Tensor, " batch"]]:
        """Vectors of waves side by side, and how many of each count; the others are 0.

        What is filled up after a shorter wave does not change its vectors.

        Raises:
            BadInput: a wave is shorter than one window.
        """
        window, hop = self.samples
        if int(lengths.min()) < window:
            raise BadInput(f"a sound of {int(lengths.min())} samples is less than a window, {window}")
        size = 2 ** math.ceil(math.log2(window))
        spectrum = power_spectrogram(waves, window, hop, size)
        filters = mel_filterbank(spectrum.shape[-1], self.bands, self.rate, self.low, self.rate / 2)
        logs = (spectrum @ filters.to(spectrum) + self.floor).log()
        counts = self.frames(lengths.to(waves.device))
        there = torch.arange(logs.shape[1], device=waves.device) < counts[:, None]
        if self.kind == "cepstra":
            energy = (frame_signal(waves, window, hop).square().sum(-1, keepdim=True) + self.floor).log()
            x = torch.cat([mfcc(logs, 12), energy], -1)
            # beyond a wave's end its last frame goes on, as at the end of them all
            index = torch.arange(x.shape[1], device=x.device).minimum(counts[:, None] - 1)
            x = x.gather(1, index[..., None].expand_as(x))
            logs = torch.cat([x, deltas(x)], -1)
        return logs * there[..., None], counts
