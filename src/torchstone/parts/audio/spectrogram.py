"""Audio features: short-time Fourier transform, mel filterbank, log-mel energies, MFCCs and deltas.

Steven Davis and Paul Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word
Recognition in Continuously Spoken Sentences", IEEE Transactions on Acoustics, Speech and Signal
Processing 28(4), 1980. Waveforms are mono, full scale ±1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput


def frame_signal(
    waveforms: Float[Tensor, "*batch samples"], window: int, hop: int
) -> Float[Tensor, "*batch frames window"]:
    """Frames of `window` samples, one every `hop`; none reaches past the end (a view).

    Raises:
        BadInput: the waveform is shorter than one window.
    """
    if waveforms.shape[-1] < window:
        raise BadInput(f"{waveforms.shape[-1]} samples are less than one window of {window}")
    return waveforms.unfold(-1, window, hop)


def power_spectrogram(
    waveforms: Float[Tensor, "*batch samples"], window: int, hop: int, size: int
) -> Float[Tensor, "*batch frames bins"]:
    """|STFT|² with a periodic Hann window, zero-padded to `size` points: bins 0 to size/2, each
    sample_rate/size Hz wide."""
    hann = torch.hann_window(window, dtype=waveforms.dtype, device=waveforms.device)
    spectrum = torch.fft.rfft(frame_signal(waveforms, window, hop) * hann, size)
    return spectrum.real.square() + spectrum.imag.square()


def hz_to_mel(hertz: float) -> float:
    """The mel scale: 2595 log₁₀(1 + f/700) (O'Shaughnessy 1987)."""
    return 2595 * math.log10(1 + hertz / 700)


def mel_filterbank(
    bins: int, n_mels: int, sample_rate: int, f_min: float, f_max: float
) -> Float[Tensor, "bins n_mels"]:
    """Triangular filters of height 1 over the bins 0 to sample_rate/2, evenly spaced in mel.

    Raises:
        BadInput: `f_min` and `f_max` are no range below sample_rate/2; filters so narrow that one covers
            no bin.
    """
    if not 0 <= f_min < f_max <= sample_rate / 2:
        raise BadInput(
            f"mel bands must lie between 0 and {sample_rate / 2:g} Hz, not from {f_min:g} to {f_max:g}"
        )
    points = torch.linspace(hz_to_mel(f_min), hz_to_mel(f_max), n_mels + 2, dtype=torch.float64)
    edges = 700 * (10 ** (points / 2595) - 1)
    hertz = torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    if not filters.any(0).all():
        raise BadInput(f"{n_mels} mel bands over {bins} bins leave one without a bin: use fewer")
    return filters.float()


def mfcc(log_mels: Float[Tensor, "*batch n_mels"], count: int) -> Float[Tensor, "*batch count"]:
    """Mel-frequency cepstral coefficients 1 to `count`: the orthonormal DCT-II of log-mel energies."""
    n_mels = log_mels.shape[-1]
    n = torch.arange(n_mels, dtype=torch.float64) + 0.5
    k = torch.arange(1, count + 1, dtype=torch.float64)
    matrix = (math.pi / n_mels * n[:, None] * k).cos() * math.sqrt(2 / n_mels)
    return log_mels @ matrix.to(log_mels)


def deltas(x: Float[Tensor, "*batch frames width"], reach: int = 2) -> Float[Tensor, "*batch frames width"]:
    """Delta coefficients: Σ n (x_{t+n} − x_{t−n}) / 2 Σ n² over n up to `reach`, the slope of the
    least-squares line through the frames around t (Furui 1986). The first and last frame are repeated
    beyond the ends."""
    frames = torch.arange(x.shape[-2], device=x.device)
    last = x.shape[-2] - 1
    total = torch.zeros_like(x)
    for n in range(1, reach + 1):
        after, before = (frames + n).clamp(max=last), (frames - n).clamp(min=0)
        total = total + n * (x.index_select(-2, after) - x.index_select(-2, before))
    return total / (2 * sum(n * n for n in range(1, reach + 1)))


# what fields of `AudioFeatures` were called in the metadata of earlier versions
OLD_FIELDS = {
    "rate": "sample_rate",
    "window": "window_ms",
    "hop": "hop_ms",
    "bands": "n_mels",
    "low": "f_min",
    "kind": "features",
    "floor": "log_floor",
}
OLD_VALUES = {"cepstra": "mfcc"}


@dataclass(frozen=True)
class AudioFeatures:
    """From waveforms to sequences of feature vectors; plain numbers, so that metadata can hold them.

    `mel` gives `n_mels` log-mel energies a frame. `mfcc` gives 26 features: 12 cepstral coefficients, the
    frame's log-energy, and the deltas of all 13 (Graves et al. 2006, section 5.2, without lifter weights).
    Mel bands lie between `f_min` and half the sample rate.
    """

    sample_rate: int = 8000  # sample rate in Hz; sound of another rate is resampled
    window_ms: float = 25.0  # STFT window in milliseconds
    hop_ms: float = 10.0  # hop between frames in milliseconds
    n_mels: int = 40  # number of mel bands
    f_min: float = 60.0  # lowest mel frequency in Hz
    features: Literal["mel", "mfcc"] = "mel"  # features: log-mel energies, or MFCCs with deltas
    log_floor: float = 1e-3  # power added before the logarithm

    @classmethod
    def from_metadata(cls, fields: Mapping[str, Any]) -> "AudioFeatures":
        """`asdict` undone, also of earlier versions' names."""
        return cls(**{OLD_FIELDS.get(n, n): OLD_VALUES.get(v, v) for n, v in fields.items()})

    @property
    def width(self) -> int:
        """Features per frame."""
        return self.n_mels if self.features == "mel" else 26

    @property
    def samples(self) -> tuple[int, int]:
        """Window and hop in samples."""
        return (round(self.window_ms * self.sample_rate / 1000), round(self.hop_ms * self.sample_rate / 1000))

    def frame_counts(self, lengths: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Number of frames of waveforms of so many samples."""
        window, hop = self.samples
        return (lengths - window) // hop + 1

    def extract(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch frames width"], Int64[Tensor, " batch"]]:
        """Features of padded waveforms and the number of valid frames of each; the others are 0.

        Padding does not change the features of a shorter waveform.

        Raises:
            BadInput: a waveform is shorter than one window.
        """
        window, hop = self.samples
        if int(lengths.min()) < window:
            raise BadInput(f"a sound of {int(lengths.min())} samples is less than a window, {window}")
        size = 2 ** math.ceil(math.log2(window))
        spectrum = power_spectrogram(waveforms, window, hop, size)
        filters = mel_filterbank(
            spectrum.shape[-1], self.n_mels, self.sample_rate, self.f_min, self.sample_rate / 2
        )
        log_mels = (spectrum @ filters.to(spectrum) + self.log_floor).log()
        counts = self.frame_counts(lengths.to(waveforms.device))
        valid = torch.arange(log_mels.shape[1], device=waveforms.device) < counts[:, None]
        if self.features == "mfcc":
            energy = frame_signal(waveforms, window, hop).square().sum(-1, keepdim=True)
            x = torch.cat([mfcc(log_mels, 12), (energy + self.log_floor).log()], -1)
            # a waveform's last frame is repeated after its end, as `deltas` does at the end of the batch
            index = torch.arange(x.shape[1], device=x.device).minimum(counts[:, None] - 1)
            x = x.gather(1, index[..., None].expand_as(x))
            log_mels = torch.cat([x, deltas(x)], -1)
        return log_mels * valid[..., None], counts
