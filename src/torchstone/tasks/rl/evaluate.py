"""What an agent is worth: the returns of whole episodes, played greedily in worlds of their own.

A network that plays has `greedy(observation) -> actions` (see `streams.players`). Its metadata says `world`: spec, wrappers, limit.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchstone.envs.actor import Player
from torchstone.envs.vector_env import Worlds, spaces
from torchstone.errors import BadInput

VALIDATION, TEST = 10_007, 20_011  # seeds, the same for every run: all are asked the same questions
TRAINING = ("SignReward", "EpisodicLife")  # wrappers that make learning easier, and returns others


def judging(wrappers: Sequence[str]) -> tuple[str, ...]:
    """The wrappers that remain when an agent is judged."""
    return tuple(w for w in wrappers if w.split(":")[0] not in TRAINING)


class Judge:
    """One greedy episode in each of `episodes` worlds, all side by side: short ones count as much as long.

    Called with a network and a seed, it gives the returns, world by world.
    """

    def __init__(self, spec: str, wrappers: Sequence[str], limit: int | None, episodes: int, device: Any):
        self.made = (spec, episodes)
        self.options: dict[str, Any] = {"wrappers": judging(wrappers), "limit": limit}
        self.device, self.worlds = device, None

    @torch.no_grad()
    def __call__(self, model: Any, seed: int) -> list[float]:
        if self.worlds is None:
            self.worlds = Worlds(*self.made, **self.options)
        worlds = self.worlds
        worlds.reset(seed)
        player = Player(model, worlds, self.device)
        returns: dict[int, float] = {}
        while len(returns) < worlds.count:
            step = worlds.step(player.greedy())
            if step.returns:
                over = step.terminated | step.truncated
                player.ended(over)
                ended = over.nonzero()[:, 0].tolist()
                for index, total in zip(ended, step.returns, strict=True):
                    returns.setdefault(index, total)
        return [returns[index] for index in range(worlds.count)]


def said(returns: Sequence[float], spread: bool = False) -> dict[str, float]:
    """Mean return, and the standard deviation over episodes."""
    mean = math.fsum(returns) / len(returns)
    if not spread:
        return {"return": mean}
    squares = math.fsum((r - mean) ** 2 for r in returns)
    return {"return": mean, "return_spread": math.sqrt(squares / max(len(returns) - 1, 1))}


def evaluate(model: Any, metadata: dict[str, Any], data: str, *, held_out: bool) -> dict[str, float]:
    """The figure of the run's test, or that of another world with the same spaces."""
    world: dict[str, Any] = metadata["world"] if held_out else {**metadata["world"], "spec": data}
    _same_spaces(metadata, world)
    device = next(model.parameters()).device
    judge = Judge(world["spec"], world["wrappers"], world["limit"], world["episodes"], device)
    return said(judge(model, TEST), spread=True)


def _same_spaces(metadata: dict[str, Any], world: dict) -> None:
    if world["spec"] == metadata["world"]["spec"]:
        return
    trained, asked = (spaces(w["spec"], tuple(judging(w["wrappers"]))) for w in (metadata["world"], world))
    if trained != asked:
        raise BadInput(
            f"{world['spec']} has other spaces than {metadata['world']['spec']}, which the agent knows: "
            f"observations {asked[0]} and actions {asked[1]}, not {trained[0]} and {trained[1]}"
        )


def play(
    model: Any,
    metadata: dict[str, Any],
    *,
    episodes: int = 10,
    video: str | Path | None = None,
    seed: int = TEST,
) -> list[float]:
    """The returns of `episodes` greedy episodes; the first one is filmed into `video`, an `.mp4` or `.gif`.

    Raises:
        BadInput: no package to film with, or a world that cannot be drawn.
    """
    world = metadata["world"]
    device = next(model.parameters()).device
    filmed: list[float] = []
    if video is not None:
        filmed = [_film(model, world, Path(video), seed, device)]
    rest = episodes - len(filmed)
    if not rest:
        return filmed
    judge = Judge(world["spec"], world["wrappers"], world["limit"], rest, device)
    return filmed + judge(model, seed + 1)


@torch.no_grad()
def _film(model: Any, world: dict[str, Any], file: Path, seed: int, device: Any) -> float:
    options: dict[str, Any] = {"wrappers": judging(world["wrappers"]), "limit": world["limit"]}
    try:
        worlds = Worlds(world["spec"], 1, seed=seed, render=True, **options)
        frames = [_even(worlds.frame())]
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{world['spec']} cannot be filmed: {error}") from error
    total: list[float] = []
    player = Player(model, worlds, device)
    while not total:
        step = worlds.step(player.greedy())
        total = step.returns
        if not total:  # after the last step the world has begun anew
            frames.append(_even(worlds.frame()))
    worlds.close()
    write(file, frames, worlds.rate)
    return total[0]


def _even(frame: np.ndarray) -> np.ndarray:
    """Sides cut to even lengths, as video wants them."""
    height, width = (side // 2 * 2 for side in frame.shape[:2])
    return np.ascontiguousarray(frame[:height, :width])


def write(file: Path, frames: Sequence[np.ndarray], rate: float) -> None:
    """Frames, uint8 `(height, width, 3)`, as a film of `rate` frames a second."""
    if file.suffix == ".gif":
        from PIL import Image

        first, *rest = map(Image.fromarray, frames)
        first.save(file, save_all=True, append_images=rest, duration=1000 / rate, loop=0)
        return
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        raise BadInput("to film needs imageio-ffmpeg: pip install 'torchstone[worlds]'") from error
    height, width = frames[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(file), (width, height), fps=rate, macro_block_size=2, ffmpeg_log_level="error"
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(frame)
    finally:
        writer.close()
