"""Spectrograms of sounds."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from torchstone.parts.audio.spectrogram import power_spectrogram
from torchstone.plots.canvas import canvas, plain, save

WINDOW, HOP = 0.025, 0.005  # seconds
RANGE_DB = 60.0  # from the loudest on down


def save_spectrograms(
    rows: Sequence[Sequence[tuple[str, Float[Tensor, " _"]]]], sample_rate: int, file: Path
) -> None:
    """A row of panels for each of `rows`: titles, and sounds, at one scale of time."""
    columns = max(map(len, rows))
    longest = max(len(wave) for row in rows for _, wave in row) / sample_rate
    figure = canvas(2.4 * columns, 1.9 * len(rows))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    window, hop = round(WINDOW * sample_rate), round(HOP * sample_rate)
    for i, row in enumerate(rows):
        for j, (title, wave) in enumerate(row):
            power = power_spectrogram(F.pad(wave.detach(), (0, window)), window, hop, 512)
            decibels = 10 * torch.log10(power + 1e-9)
            top = float(decibels.max())
            panel = panels[i, j]
            panel.imshow(
                decibels.T.cpu().numpy(),
                origin="lower",
                aspect="auto",
                extent=(0, len(wave) / sample_rate, 0, sample_rate / 2000),
                cmap="magma",
                vmin=top - RANGE_DB,
                vmax=top,
            )
            panel.set_xlim(0, longest)
            panel.set_title(plain(title), loc="left", fontsize=8)
            panel.tick_params(labelsize=7)
            if i == len(rows) - 1:
                panel.set_xlabel("seconds", fontsize=7)
            if j == 0:
                panel.set_ylabel("kHz", fontsize=7)
    save(figure, file)
