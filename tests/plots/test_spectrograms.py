"""A tone is where its frequency is."""

import math

import numpy as np
import torch
from PIL import Image

from torchstone.plots.spectrograms import save_spectrograms


def test_a_row_of_panels_for_each_row(tmp_path):
    time = torch.arange(4000) / 8000
    tones = [(f"{hertz} Hz", (2 * math.pi * hertz * time).sin()) for hertz in (500, 3500)]
    save_spectrograms([tones, tones], 8000, tmp_path / "tones.png")
    save_spectrograms([tones[:1]], 8000, tmp_path / "one.png")
    with Image.open(tmp_path / "tones.png") as whole, Image.open(tmp_path / "one.png") as one:
        assert whole.size[0] > 1.8 * one.size[0]
        assert whole.size[1] > 1.8 * one.size[1]
        pixels = np.asarray(one.convert("RGB")).astype(int)
    # the loudest color of magma is a pale yellow; white is the paper
    bright = (pixels[..., 0] > 240) & (pixels[..., 1] > 180) & (pixels[..., 2] < 215)
    rows = bright.nonzero()[0]
    print(f"bright rows {rows.min()} to {rows.max()} of {pixels.shape[0]}")
    assert rows.mean() > 0.6 * pixels.shape[0], "500 of 4000 Hz is near the bottom"
