"""A room in EnergyPlus' place: the same interface, microseconds a step."""

import math
from pathlib import Path

from torchstone.envs import energyplus, make


class Room:
    """A room that follows its thermostat, slowly: its state is not what it reports."""

    running = 0

    def __init__(self, weather: int, day: int):
        self.outdoor, self.temperature, self.step = 10.0 * weather + 5 * math.sin(day), 23.0, 0
        Room.running += 1

    def read(self):
        self.step += 1
        load = 0.5 + 0.5 * (self.step // 4 % 2)
        values = (self.outdoor, 50.0, self.temperature, self.temperature + 0.1, 16.0, load)
        return (*values, 900 * (4000 + 500 * load * (28 - self.temperature)), 900 * 1000.0, 900 * 90e3)

    def write(self, *settings: float) -> None:
        self.temperature += 0.4 * (settings[0] - self.temperature)

    def close(self) -> None:
        Room.running -= 1


def install(monkeypatch) -> None:
    """Rooms in the place of EnergyPlus, for `energyplus:2zone_datacenter` in all splits."""
    weather = tuple((f"place {n}", b"") for n in range(3))
    monkeypatch.setattr(
        energyplus, "read_files", lambda name, split: energyplus.Files(Path(), b"{}", weather)
    )
    monkeypatch.setattr(energyplus, "engines", lambda files, chooses_supply: Room)
    monkeypatch.setattr(energyplus, "bundled", energyplus.read_compared)
    make._facts.cache_clear()
