"""A picture of an intersection from above: lanes, the light of each link at its stop line, and vehicles."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from torchstone.envs.sumo_process import STOPPED, Scenario, Signal

SIZE, AROUND = 480, 75.0  # pixels; m of the streets on each side
LIGHTS = {"G": (40, 170, 70), "g": (40, 170, 70), "y": (240, 180, 0), "r": (200, 40, 40), "s": (200, 40, 40)}
GROUND, ROAD, DRIVING, STANDING = (238, 238, 232), (150, 150, 150), (30, 90, 180), (20, 20, 20)
LENGTH = 4.5  # m, of a vehicle


def draw_intersection(
    scenario: Scenario, signal: Signal, state: str, vehicles: Sequence[tuple[float, float, float, float]]
) -> np.ndarray:
    """uint8 `(height, width, 3)`; vehicles that stand are black, those that drive blue."""
    stops = {lane: scenario.shapes[lane][-1] for lane in signal.lanes}
    center = [sum(point[axis] for point in stops.values()) / len(stops) for axis in (0, 1)]
    scale = SIZE / (2 * AROUND)

    def pixel(point: Sequence[float]) -> tuple[float, float]:
        return (point[0] - center[0] + AROUND) * scale, (center[1] + AROUND - point[1]) * scale

    image = Image.new("RGB", (SIZE, SIZE), GROUND)
    draw = ImageDraw.Draw(image)
    for shape in scenario.shapes.values():
        draw.line([pixel(point) for point in shape], fill=ROAD, width=round(3 * scale), joint="curve")
    for x, y, heading, speed in vehicles:
        angle = math.radians(heading)
        tail = x - LENGTH * math.sin(angle), y - LENGTH * math.cos(angle)
        color = STANDING if speed < STOPPED else DRIVING
        draw.line([pixel((x, y)), pixel(tail)], fill=color, width=round(1.8 * scale))
    for lane, (x, y) in stops.items():
        letters = [letter for letter, link in zip(state, signal.links, strict=True) if link[0] == lane]
        across, radius = pixel((x, y)), 1.3 * scale
        for index, letter in enumerate(letters):  # of a lane that leads on in several directions
            left = across[0] + (index - (len(letters) - 1) / 2) * 2 * radius
            box = (left - radius, across[1] - radius, left + radius, across[1] + radius)
            draw.ellipse(box, fill=LIGHTS.get(letter, (90, 90, 90)))
    return np.asarray(image)
