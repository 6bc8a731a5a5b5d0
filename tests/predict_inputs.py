"""Inputs for `predict`, by what a model was trained for: made up, and of the kind that it takes."""

import math
import struct
import wave
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGES = ("classify", "segment", "autoencode", "density", "answer", "diffuse")
TEXTS = {
    "adding": "0.25 0.5* 0.125 0.75*",
    "copy": "3141582671",
    "label": "it is a good day",
    "labels": "it is a good day",
    "sentiment": "it is a good day",
    "language": "to be",
    "in_context": "a1b2a",
    "translate": "to be",
    "denoise": "to be",
    "texts": "to be",
}


def for_predict(metadata: dict[str, Any], folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """One input, and options where it needs some, for the model that `metadata` is of."""
    task, options = metadata["task"], {}
    if task in IMAGES:
        is_point = not any(key in metadata for key in ("picture", "image"))
        value: Any = "0,1" if is_point else _image(folder / "ring.png")
    elif task == "image_translation":
        value, options = _image(folder / "ring.png"), {"out": str(folder / "translated.png")}
    elif task == "adversarial":  # of the generator's own size: its projection
        side = metadata["picture"]["size"]
        value = folder / "small.png"
        Image.open(_image(folder / "ring.png")).resize((side, side)).save(value)
        options = {"out": str(folder / "projected.png"), "projection_steps": 3}
    elif task == "image_text":
        value, options = _image(folder / "ring.png"), {"labels": "a ring,a house"}
    elif task == "tabular":
        value = ",".join(["1.5"] * len(metadata["features"]))
    elif task == "table":
        value = ",".join(["1.5"] * len({column["source"] for column in metadata["schema"]}))
    elif task in ("speech", "audio_lm") or (task == "voices" and metadata["audio_features"]):
        value = _sound(folder / "chirp.wav")
    elif task == "voices":
        value = _vectors(folder / "vectors.csv", len(metadata["mean"]))
    elif task == "forecast":
        value, options = _series(folder / "series.csv", metadata), {"out": str(folder / "forecast.csv")}
    elif task == "music":
        value = _midi(folder / "scale.mid")
    elif task == "masked":
        value, options = "the [MASK] is here", {"fill": True}
    else:
        value = TEXTS[task]
    return [value], options


def _image(file: Path) -> Path:
    """A bright ring on black."""
    y, x = np.mgrid[:48, :48] - 23.5
    ring = np.exp(-((np.hypot(x, y) - 13) ** 2) / 8) * 255
    Image.fromarray(ring.astype(np.uint8)).save(file)
    return file


def _sound(file: Path, rate: int = 16_000) -> Path:
    """A second and a half of a rising tone."""
    phases = [2 * math.pi * (300 + 200 * t / rate) * t / rate for t in range(3 * rate // 2)]
    samples = [int(12_000 * math.sin(phase)) for phase in phases]
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file


def _vectors(file: Path, width: int) -> Path:
    rows = (",".join(f"{math.sin(i + j):.3f}" for j in range(width)) for i in range(20))
    file.write_text("\n".join(rows) + "\n")
    return file


def _series(file: Path, metadata: dict[str, Any], points: int = 2000) -> Path:
    """Waves at the model's own step."""
    columns, begin = metadata["columns"], datetime(2024, 1, 1, tzinfo=UTC)
    assert metadata["unit"] == "seconds", metadata["unit"]
    lines = [f"time,{','.join(columns)}"]
    for i in range(points):
        time = (begin + timedelta(seconds=metadata["step"] * i)).strftime("%Y-%m-%d %H:%M:%S")
        lines.append(",".join([time, *(f"{20 + 5 * math.sin(i / 8 + j):.4f}" for j in range(len(columns)))]))
    file.write_text("\n".join(lines) + "\n")
    return file


def _midi(file: Path) -> Path:
    """A scale upwards."""
    import mido

    song = mido.MidiFile()
    song.tracks.append(track := mido.MidiTrack())
    for key in (60, 62, 64, 65, 67):
        track.append(mido.Message("note_on", note=key, velocity=64, time=0))
        track.append(mido.Message("note_off", note=key, velocity=64, time=song.ticks_per_beat))
    song.save(file)
    return file
