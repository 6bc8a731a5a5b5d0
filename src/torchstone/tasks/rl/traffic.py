"""A trained traffic light beside the controllers of its field: a table, and pictures of one hour."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from torchstone.envs.make import close_env, make_env
from torchstone.envs.sumo_process import Detectors
from torchstone.envs.traffic_control import Choice, Hour, play_baselines, play_hour
from torchstone.files import atomic_write
from torchstone.metrics.paired import margin
from torchstone.parts.modes import eval_mode
from torchstone.plots.traffic import draw_signals, draw_waiting
from torchstone.tasks.rl.evaluate import eval_wrappers

AGENT = "agent"
WINDOW = (1200.0, 1800.0)  # s of the hour that are drawn
COMPARED = "actuated, 2 s yellow"  # drawn beside the agent


def agent_choice(model: Any) -> Choice:
    """The greedy phase of a network that reads one observation at a time."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def choose(observation: Any, _: Detectors) -> int:
        return int(model.greedy(torch.from_numpy(observation)[None].to(device))[0])

    return choose


def compare(model: Any, env: Any, seed: int) -> dict[str, Hour]:
    """An hour of the agent and of all controllers, on the day of `seed`."""
    with eval_mode(model):
        agent = play_hour(env, agent_choice(model), seed)
    return {AGENT: agent, **play_baselines(env.unwrapped, seed)}


def report(model: Any, env_options: Mapping[str, Any], folder: Path, seed: int) -> None:
    """`controllers.md`, `waiting.png` and `signals.png` of one hour."""
    hours = _compared(model, env_options, folder / "signals.png", seed)
    with atomic_write(folder / "controllers.md") as new:
        new.write_text(table({name: [hour] for name, hour in hours.items()}) + "\n", encoding="utf-8")
    curves = {
        name: ([s.time - hour.samples[0].time for s in hour.samples], [s.waiting for s in hour.samples])
        for name, hour in hours.items()
    }
    draw_waiting(curves, folder / "waiting.png", _title(env_options))


def picture(model: Any, env_options: Mapping[str, Any], file: Path, seed: int) -> None:
    """The signals of ten minutes, and the queues."""
    _compared(model, env_options, file, seed)


def _title(env_options: Mapping[str, Any]) -> str:
    return f"{env_options['spec']}, a day that training never saw"


def _compared(model: Any, env_options: Mapping[str, Any], file: Path, seed: int) -> dict[str, Hour]:
    """The hours of the agent and of all controllers; the signals are drawn."""
    env, _ = make_env(env_options["spec"], eval_wrappers(env_options["wrappers"]), None)
    try:
        hours = compare(model, env, seed)
        begin, greens = env.unwrapped.scenario.begin, env.unwrapped.timer.greens
    finally:
        close_env(env)
    plans = {
        name: (hours[name].states, queues(hours[name], begin)) for name in (AGENT, COMPARED) if name in hours
    }
    draw_signals(plans, greens, file, _title(env_options), WINDOW)
    return hours


def queues(hour: Hour, begin: float) -> dict[str, tuple[list[float], list[int]]]:
    """Vehicles that stand on each approach, the lanes of one road together, over time."""
    roads = dict.fromkeys(lane.rpartition("_")[0] for _, stopped in hour.stopped for lane in stopped)
    times = [time - begin for time, _ in hour.stopped]
    return {road: (times, [_on_road(stopped, road) for _, stopped in hour.stopped]) for road in roads}


def _on_road(stopped: Mapping[str, int], road: str) -> int:
    return sum(count for lane, count in stopped.items() if lane.rpartition("_")[0] == road)


def table(hours: Mapping[str, Sequence[Hour]]) -> str:
    """Markdown: means over hours, and half the width of their 95 % interval where there are several."""
    lines = [
        "| controller | mean waiting, s | vehicles standing | arrived | without room at the end |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, each in hours.items():
        measures = [hour.measures for hour in each]
        columns = (("waiting", 2), ("stopped", 1), ("arrived", 0), ("pending", 0))
        cells = [interval([m[key] for m in measures], digits) for key, digits in columns]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def interval(values: Sequence[float], digits: int) -> str:
    """Mean ± half the width of Student's 95 % interval."""
    mean, half = f"{statistics.fmean(values):.{digits}f}", margin(values)
    return mean if half is None else f"{mean} ± {half:.{digits}f}"
