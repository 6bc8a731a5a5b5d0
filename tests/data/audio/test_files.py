"""Sound files: the same wave from any rate, channels and format; each kind of bad file caught in a line."""

import io
import re
import sys
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from torchstone.data.audio.files import (
    clipped_fraction,
    expand_audio_paths,
    find_audio_files,
    read_audio,
    read_captcha,
    read_fsdd,
)
from torchstone.errors import BadInput

RATE = 8000


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0, peak: float = 0.6):
    t = np.arange(round(seconds * rate)) / rate
    return peak * np.sin(2 * np.pi * hertz * t) * np.hanning(len(t))


def write_audio(folder, name: str, wave, rate: int = RATE, **options):
    soundfile.write(folder / name, wave, rate, **options)
    return folder / name


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("rate", [8000, 11025, 44100])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_read_audio_any_format_rate_and_channels(name, rate, channels, tmp_path):
    wave = tone(rate=rate)
    sides = np.stack([wave * share for share in (1.0, 0.5, 0.2)[:channels]], 1)
    read = read_audio(write_audio(tmp_path, name, sides, rate), RATE)
    wanted = torch.from_numpy(tone()).float() / 0.6
    apart = float((read - wanted).abs().max())
    print(f"{name}, {rate} Hz, {channels} channels: {len(read)} samples, {apart:.3f} apart")
    assert read.shape == wanted.shape
    assert read.dtype == torch.float32
    assert read.abs().max() == pytest.approx(1.0)
    assert apart < (0.06 if name == "a.ogg" else 0.01)  # Vorbis is lossy


def test_read_audio_resamples_without_aliasing(tmp_path):
    """A tone above half the rate is gone, not folded to a lower one."""
    low, high = tone(1.0, 48000, 300.0), tone(1.0, 48000, 6000.0)
    both = read_audio(write_audio(tmp_path, "a.wav", (low + high) / 2, 48000), RATE)
    alone = read_audio(write_audio(tmp_path, "b.wav", low, 48000), RATE)
    assert (both - alone).abs().max() < 0.02


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_read_audio_any_sample_format(subtype, tmp_path):
    read = read_audio(write_audio(tmp_path, "a.wav", tone(), subtype=subtype), RATE)
    wanted = torch.from_numpy(tone() / np.abs(tone()).max()).float()
    assert (read - wanted).abs().max() < (0.02 if subtype == "PCM_U8" else 1e-3)


def test_read_audio_long_and_short(tmp_path):
    assert len(read_audio(write_audio(tmp_path, "long.wav", tone(60.0, 16000), 16000), RATE)) == 480_000
    assert len(read_audio(write_audio(tmp_path, "short.wav", tone(0.05)), RATE)) == 400


def test_clipped_fraction(tmp_path):
    wave = np.zeros((1000, 2), dtype=np.float32)
    wave[:, 0] = 0.3 * np.sin(np.arange(1000))
    assert clipped_fraction(wave) == 0.0
    wave[10:15, 0], wave[40:42, 0], wave[50:53, 0] = 0.9, 0.9, -0.9
    assert clipped_fraction(wave) == 8 / 2000  # five and three in a row; two may happen
    wave[:, 1] = 0.01  # a level that is quiet stands still and is not clipped
    assert clipped_fraction(wave) == 8 / 2000
    wave[0, 1], wave[500:550, 1] = -1.0, 0.8
    assert clipped_fraction(wave) == 58 / 2000


@pytest.mark.parametrize("level", [1.0, 0.5])
def test_read_audio_reports_clipped_share(level, tmp_path):
    wave = np.clip(tone(1.0, hertz=50.0, peak=1.0) * 3, -level, level)
    with pytest.raises(BadInput, match=r"a.wav is clipped") as caught:
        read_audio(write_audio(tmp_path, "a.wav", wave), RATE)
    print(caught.value)
    share = float(re.search(r"clipped: ([0-9.]+)% of its samples", str(caught.value))[1]) / 100
    assert share == pytest.approx(np.mean(np.abs(wave) >= level), abs=0.005)


def silent(folder, name):
    return write_audio(folder, name, np.zeros(4000))


def nearly_silent(folder, name):
    return write_audio(folder, name, np.full(4000, 7e-5))


def empty(folder, name):
    return write_audio(folder, name, np.zeros(0))


def of_text(folder, name):
    (folder / name).write_text("no sound at all")
    return folder / name


def of_nothing(folder, name):
    (folder / name).write_bytes(b"")
    return folder / name


def headless(folder, name):
    file = write_audio(folder, name, tone())
    file.write_bytes(file.read_bytes()[20:])
    return file


def a_folder(folder, name):
    (folder / name).mkdir()
    return folder / name


def too_short(folder, name):
    return write_audio(folder, name, tone(0.049))


def not_finite(folder, name):
    wave = tone()
    wave[7] = np.nan
    return write_audio(folder, name, wave, subtype="FLOAT")


def too_large(folder, name):
    return write_audio(folder, name, np.stack([tone(peak=3e38)] * 2, 1).astype(np.float32), subtype="FLOAT")


def of_slow_rate(folder, name):
    return write_audio(folder, name, tone(), rate=1)


def opposed(folder, name):
    return write_audio(folder, name, np.stack([tone(), -tone()], 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (silent, "is silent (all its samples are 0)"),
        (nearly_silent, "is silent (its peak is -84 dB)"),
        (empty, "is empty: it holds no samples"),
        (of_text, "cannot be read as sound (Format not recognised)"),
        (of_nothing, "cannot be read as sound"),
        (headless, "cannot be read as sound"),
        (a_folder, "there is no sound file"),
        (lambda folder, name: folder / name, "there is no sound file"),
        (too_short, "lasts 0.049 s, at least 0.05 are needed"),
        (not_finite, "not finite"),
        (too_large, "has samples up to 3e+38: export it again, within full scale"),
        (of_slow_rate, "states 1 samples a second, and sound has at least 1000"),
        (opposed, "cancel each other out"),
    ],
)
def test_read_audio_rejects_unusable_files(make, message, tmp_path):
    with pytest.raises(BadInput) as caught:
        read_audio(make(tmp_path, "voice.wav"), RATE)
    print(caught.value)
    assert message in str(caught.value)
    assert "voice.wav" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("absent", "rate"), [("soundfile", 8000), ("soxr", 16000)])
def test_read_audio_names_missing_extra(absent, rate, tmp_path, monkeypatch):
    file = write_audio(tmp_path, "a.wav", tone(rate=rate), rate)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(BadInput, match=rf"install {absent}: pip install 'torchstone\[audio\]'"):
        read_audio(file, RATE)


def test_expand_audio_paths_of_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("b.wav", "a.FLAC", "inner/c.ogg", ".hidden.wav", "notes.txt"):
        (tmp_path / name).touch()
    assert [str(f.relative_to(tmp_path)) for f in find_audio_files(tmp_path)] == [
        "a.FLAC",
        "b.wav",
        "inner/c.ogg",
    ]
    assert expand_audio_paths([tmp_path, tmp_path / "x.wav"]) == [
        *find_audio_files(tmp_path),
        tmp_path / "x.wav",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="none holds no sound files"):
        expand_audio_paths([tmp_path / "none"])


def fsdd(folder, form: str, indices=range(10)):
    """Two speakers' zero and one, in the dataset's names; the pitch tells which."""
    inner = folder / "recordings" if form == "folder" else folder
    inner.mkdir(exist_ok=True)
    for digit in (0, 1):
        for k, speaker in enumerate(("ann", "bob")):
            for index in indices:
                wave = tone(0.2, hertz=200 + 100 * digit + 50 * k + index)
                write_audio(inner, f"{digit}_{speaker}_{index}.wav", wave)
    if form != "zip":
        return folder
    with zipfile.ZipFile(folder / "recordings.zip", "w") as archive:
        for file in find_audio_files(folder):
            archive.write(file, f"recordings/{file.name}")
            file.unlink()
    return folder / "recordings.zip"


@pytest.mark.parametrize("form", ["files", "folder", "zip"])
def test_read_fsdd_official_split(form, tmp_path):
    parts = read_fsdd(fsdd(tmp_path, form), RATE)
    for split, wanted in {"test": range(5), "val": range(5, 8), "train": range(8, 10)}.items():
        names = [(r.text, r.speaker) for r in parts[split]]
        assert names == [(d, s) for d in "01" for s in ("ann", "bob") for _ in wanted]
        assert [int(r.name.split(".wav")[0].rpartition("_")[2]) for r in parts[split][: len(wanted)]] == list(
            wanted
        )
    wave = read_audio(io.BytesIO(_bytes(tone(0.2, hertz=350))), RATE)
    torch.testing.assert_close(parts["test"][15].wave, wave)  # 1_bob_0


def _bytes(wave) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, wave, RATE, format="WAV")
    return held.getvalue()


def test_read_fsdd_ignores_other_data(tmp_path):
    write_audio(tmp_path, "0_ann_0.wav", tone())
    write_audio(tmp_path, "hello.wav", tone())
    assert read_fsdd(tmp_path, RATE) is None
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(BadInput, match=r"a.zip is not a complete zip file"):
        read_fsdd(tmp_path / "a.zip", RATE)


def test_read_fsdd_rejects_empty_split(tmp_path):
    with pytest.raises(BadInput, match="no test recordings"):
        read_fsdd(fsdd(tmp_path, "files", range(5, 10)), RATE)


def test_read_captcha():
    found = read_captcha(RATE)
    assert "".join(r.text for r in found) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert all(0.2 < len(r.wave) / RATE < 0.9 for r in found)
    assert len({tuple(r.wave[:400].tolist()) for r in found}) == 36
