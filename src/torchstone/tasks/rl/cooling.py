"""Cooling of a data centre: the controllers of the field that an agent is compared with, and a week of its.

A controller is used as an agent is: `greedy(observation) -> set-points`; one with a state of its own as a
recurrent one (see `envs.actor`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.envs.actor import Actor
from torchstone.envs.energyplus import (
    FIXED,
    INTERLOCK,
    SUPPLY_LIMITS,
    THERMOSTAT_ALONE,
    WEEK,
    ZONE_LIMITS,
    Reading,
)
from torchstone.envs.vector_env import VectorEnv
from torchstone.parts.modes import eval_mode
from torchstone.plots import cooling as plots

RESET_FROM, RESET_TO = 16.0, 21.0  # °C outdoors between which the supply air is reset
TRIM, RESPOND, REQUEST = 0.1, 0.3, 0.3  # K a step, K a step, and K above the set-point that are a request


class FixedSetpoints(nn.Module):
    """The same set-points for ever: `(zone,)`, or `(zone, supply)` in °C."""

    def __init__(self, *setpoints: float):
        super().__init__()
        self.setpoints = torch.tensor(setpoints)

    def greedy(self, observation: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
        return self.setpoints.expand(len(observation), -1)


class SupplyReset(nn.Module):
    """The supply air's temperature reset by that outdoors, after ASHRAE Guideline 36 (5.16.2): at its least
    from `RESET_TO` on, at a maximum up to `RESET_FROM`, and linear between. The maximum follows the zones by
    trim and respond: up by `TRIM` in a step without a request, down by `RESPOND` in one in which a zone is
    `REQUEST` above its set-point, which stays at `zone`.

    State: the maximum, `(1, batch, 1)` in °C.
    """

    def __init__(self, zone: float = 26.5):
        super().__init__()
        self.zone = zone

    def initial_state(self, num_envs: int) -> tuple[Tensor]:
        return (torch.full((1, num_envs, 1), SUPPLY_LIMITS[0]),)

    def greedy(
        self, observation: Float[Tensor, "batch n"], action_mask: Tensor | None, state: tuple[Tensor]
    ) -> tuple[Float[Tensor, "batch 2"], tuple[Tensor]]:
        outdoor, zones = 15 + 15 * observation[:, 0], FIXED + 5 * observation[:, 2:4]
        is_request = zones.amax(1) > self.zone + REQUEST
        low, high = SUPPLY_LIMITS
        most = (state[0][0, :, 0] + torch.where(is_request, -RESPOND, TRIM)).clamp(low, high)
        share = ((outdoor - RESET_FROM) / (RESET_TO - RESET_FROM)).clamp(0, 1)
        supply = most + share * (low - most)
        return torch.stack([torch.full_like(supply, self.zone), supply], 1), (most[None, :, None],)


class BandIntegral(nn.Module):
    """The thermostat alone, by an integral controller that brings the warmer zone just below the band's end:
    the set-point moves by `gain` of what is missing to `target`.

    State: the set-point, `(1, batch, 1)` in °C.
    """

    def __init__(self, target: float = 26.7, gain: float = 0.3):
        super().__init__()
        self.target, self.gain = target, gain

    def initial_state(self, num_envs: int) -> tuple[Tensor]:
        return (torch.full((1, num_envs, 1), FIXED),)

    def greedy(
        self, observation: Float[Tensor, "batch n"], action_mask: Tensor | None, state: tuple[Tensor]
    ) -> tuple[Float[Tensor, "batch 1"], tuple[Tensor]]:
        warmest = FIXED + 5 * observation[:, 2:4].amax(1)
        setpoint = (state[0][0, :, 0] + self.gain * (self.target - warmest)).clamp(*ZONE_LIMITS)
        return setpoint[:, None], (setpoint[None, :, None],)


class Trace(NamedTuple):
    """An episode step by step."""

    readings: list[Reading]
    setpoints: Float[np.ndarray, "steps m"]  # °C


@torch.no_grad()
def play_week(model: Any, spec: str, seed: int, steps: int = WEEK) -> Trace:
    """The first episode that follows from the seed, the same weather and days whoever plays."""
    envs = VectorEnv(spec, 1, seed=seed, max_episode_steps=0)
    try:
        actor = Actor(model, envs, next(iter(model.parameters()), torch.zeros(())).device)
        env, readings, setpoints = envs.backend.envs[0].unwrapped, [], []
        with eval_mode(model):
            for _ in range(steps):
                action = actor.greedy_action()
                envs.step(action)
                readings.append(env.reading)
                setpoints.append(env.actions[-1])
        return Trace(readings, np.array(setpoints))
    finally:
        envs.close()


def report(model: Any, env: Mapping[str, Any], folder: Path, seed: int) -> None:
    """`week.png`, a week that training never saw."""
    picture(model, env, folder / "week.png", seed)


def picture(model: Any, env: Mapping[str, Any], file: Path, seed: int) -> None:
    draw_week(model, env["spec"], seed, file)


def draw_week(model: Any, spec: str, seed: int, file: Path) -> None:
    """A week of an agent, with the cooling power of a fixed set-point in the same weather beside its own."""
    trace = play_week(model, spec, seed)
    fixed = play_week(FixedSetpoints(FIXED), thermostat_alone(spec), seed)
    plots.week(trace.readings, trace.setpoints, [each.power for each in fixed.readings], file)


def thermostat_alone(spec: str) -> str:
    """The environment in which the supply air is left to the model."""
    if f":{THERMOSTAT_ALONE}" in spec:
        return spec
    name, _, split = spec.replace(f":{INTERLOCK}", "").rpartition(":")
    return f"{name}:{THERMOSTAT_ALONE}:{split}"
