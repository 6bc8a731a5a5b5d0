"""Piano rolls: keys upwards, time to the right."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.data.music.midi import KEYS, LOWEST_KEY
from torchstone.plots.canvas import canvas, save


def draw(rolls: Mapping[str, Float[Tensor, "_frames 88"]], frame_beats: float, file: Path) -> None:
    """Draw the probability of each key in each frame, one roll below the other.

    Args:
        frame_beats: quarter notes per frame.
    """
    sounding = torch.cat([roll > 0.5 for roll in rolls.values()]).any(0).nonzero().flatten().tolist()
    low, high = (max(0, sounding[0] - 2), min(KEYS, sounding[-1] + 3)) if sounding else (0, KEYS)
    octaves = [key for key in range(low, high) if (key + LOWEST_KEY) % 12 == 0]
    figure = canvas(11, 0.4 + 2.3 * len(rolls))
    for number, (name, roll) in enumerate(rolls.items(), 1):
        axes = figure.add_subplot(len(rolls), 1, number)
        axes.imshow(
            roll[:, low:high].T.numpy(),
            cmap="Blues",
            vmin=0,
            vmax=1,
            aspect="auto",
            origin="lower",
            extent=(0, len(roll) * frame_beats, low - 0.5, high - 0.5),
            interpolation="nearest",
        )
        axes.set_yticks(octaves, [f"C{(key + LOWEST_KEY) // 12 - 1}" for key in octaves], fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        if number == len(rolls):
            axes.set_xlabel("quarter notes", fontsize=8)
    save(figure, file)
