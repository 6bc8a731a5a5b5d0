"""Audio features compared with transformers' audio functions and scipy's."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import audio_utils

from torchstone.errors import BadInput
from torchstone.parts.audio.spectrogram import (
    AudioFeatures,
    deltas,
    frame_signal,
    hz_to_mel,
    mel_filterbank,
    mfcc,
    power_spectrogram,
)


def sound(samples: int = 4000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(samples) / 8000
    tone = (2 * math.pi * (300 + 500 * t) * t).sin()
    return (0.4 * tone + 0.05 * torch.randn(samples, generator=generator)).double()


@pytest.mark.parametrize(("window", "hop", "size"), [(200, 80, 256), (400, 160, 512), (256, 64, 256)])
def test_power_spectrogram_matches_transformers(window, hop, size):
    wave = sound()
    ours = power_spectrogram(wave, window, hop, size)
    theirs = audio_utils.spectrogram(
        wave.numpy(), audio_utils.window_function(window, "hann"), window, hop, size, power=2.0,
        center=False,
    )  # fmt: skip
    print(f"{tuple(ours.shape)}, {np.abs(ours.numpy() - theirs.T).max():.2g} difference")
    np.testing.assert_allclose(ours.numpy(), theirs.T, rtol=1e-4, atol=1e-6 * theirs.max())


def test_power_spectrogram_matches_scipy():
    wave, window, hop = sound(), 256, 100
    hann = scipy.signal.get_window("hann", window)
    *_, theirs = scipy.signal.spectrogram(
        wave.numpy(), window=hann, noverlap=window - hop, detrend=False, scaling="spectrum"
    )
    theirs = theirs.T * hann.sum() ** 2  # scipy's is of the amplitude, both signs of frequency
    theirs[:, 1:-1] /= 2
    ours = power_spectrogram(wave, window, hop, window).numpy()
    print(f"{ours.shape}, {np.abs(ours - theirs).max():.2g} difference")
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("bins", "bands", "rate", "low", "high"),
    [(129, 40, 8000, 60, 4000), (257, 80, 16000, 0, 8000), (201, 26, 16000, 133.3, 6854.5)],
)
def test_mel_filterbank_matches_transformers(bins, bands, rate, low, high):
    ours = mel_filterbank(bins, bands, rate, low, high)
    theirs = audio_utils.mel_filter_bank(bins, bands, low, high, rate, None, "htk")
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
    assert hz_to_mel(1000) == pytest.approx(audio_utils.hertz_to_mel(1000.0, "htk"))


def test_log_mel_matches_transformers():
    wave, audio = sound(), AudioFeatures()
    window, hop = audio.samples
    ours, counts = audio.extract(wave.float()[None], torch.tensor([len(wave)]))
    theirs = audio_utils.spectrogram(
        wave.numpy(), audio_utils.window_function(window, "hann"), window, hop, 256, power=2.0,
        center=False, mel_filters=audio_utils.mel_filter_bank(129, 40, 60, 4000, 8000, None, "htk"),
        mel_floor=0.0,
    )  # fmt: skip
    assert (window, hop) == (200, 80)
    assert counts.tolist() == [theirs.shape[1]] == [48]
    np.testing.assert_allclose(ours[0].numpy(), np.log(theirs.T + audio.log_floor), atol=1e-3)
    silence, _ = audio.extract(torch.zeros(1, 800), torch.tensor([800]))
    assert silence.unique().tolist() == pytest.approx([math.log(audio.log_floor)])


def test_mfcc_matches_scipy():
    logs = torch.randn(7, 26, dtype=torch.float64)
    theirs = scipy.fft.dct(logs.numpy(), type=2, norm="ortho")[:, 1:13]
    np.testing.assert_allclose(mfcc(logs, 12).numpy(), theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_deltas_match_savgol_filter(reach):
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    theirs = scipy.signal.savgol_filter(
        x.numpy(), 2 * reach + 1, polyorder=1, deriv=1, axis=1, mode="nearest"
    )
    np.testing.assert_allclose(deltas(x, reach).numpy(), theirs, rtol=1e-10, atol=1e-12)
    line = torch.arange(20.0)[:, None] * 3 + 1
    assert deltas(line, reach)[reach:-reach].unique().tolist() == pytest.approx([3.0])


@pytest.mark.parametrize("kind", ["mel", "mfcc"])
def test_audio_features_ignore_padding(kind):
    """Nor do they depend on how loud the others of the batch are, as with a floor below its loudest value."""
    audio = AudioFeatures(features=kind, n_mels=26)
    levels = {2000: 100.0, 700: 1e-3, 3999: 0.1, 200: 1.0}
    waveforms = [level * sound(n, seed=n).float() for n, level in levels.items()]
    together, counts = audio.extract(pad_sequence(waveforms, True), torch.tensor(list(map(len, waveforms))))
    assert together.shape == (4, int(counts.max()), audio.width)
    for row, count, wave in zip(together, counts.tolist(), waveforms, strict=True):
        alone, single = audio.extract(wave[None], torch.tensor([len(wave)]))
        assert single.tolist() == [count]
        torch.testing.assert_close(row[:count], alone[0], rtol=1e-5, atol=1e-5)
        assert not row[count:].any()
    print(f"{kind}: frames {counts.tolist()}")
    assert counts.tolist() == [(len(w) - 200) // 80 + 1 for w in waveforms]


def test_mfcc_features_hold_energy_and_deltas():
    audio = AudioFeatures(features="mfcc", n_mels=26, window_ms=10, hop_ms=5)
    x, _ = audio.extract(sound().float()[None], torch.tensor([4000]))
    assert x.shape == (1, 99, 26)
    energy = (frame_signal(sound(), 80, 40).square().sum(-1) + audio.log_floor).log()
    torch.testing.assert_close(x[0, :, 12].double(), energy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x[..., 13:], deltas(x[..., :13]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frame_signal(torch.zeros(79), 80, 40), "79 samples are less than one window of 80"),
        (lambda: AudioFeatures().extract(torch.zeros(1, 300), torch.tensor([199])), "199 samples is less"),
        (lambda: mel_filterbank(129, 40, 8000, 60, 4001), "between 0 and 4000 Hz, not from 60 to 4001"),
        (lambda: mel_filterbank(129, 200, 8000, 0, 4000), "leave one without a bin"),
    ],
)
def test_audio_features_reject_invalid_input(call, message):
    with pytest.raises(BadInput, match=message):
        call()
