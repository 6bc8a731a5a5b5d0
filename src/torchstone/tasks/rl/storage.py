"""Memory for experience: how much a replay buffer or a rollout takes, said and checked before training."""

from typing import Any

import torch
from rich.filesize import decimal

from torchstone.engine.device import total_memory
from torchstone.envs.episodes import EpisodeRollouts
from torchstone.envs.replay_buffer import ReplayBuffer
from torchstone.envs.search_stream import StepBuffer
from torchstone.errors import BadInput

SHARE = 0.9  # of the memory that there is: networks and the system need the rest
WORTH_SAYING = 2**26  # bytes
COPIES = 3  # of a rollout's observations: as collected, stacked, and as minibatches


def check_replay_memory(recipe: Any, observation: torch.Tensor, num_stack: int, device: Any) -> None:
    """Refuse a replay buffer that is larger than the memory of `device`.

    Args:
        observation: one env's, as it is stored.
        num_stack: frames in it, of which the newest is stored.

    Raises:
        BadInput: with the largest size that fits.
    """
    memory, per_step = total_memory(device), observation.nbytes / num_stack
    num_bytes = recipe.buffer_size * per_step
    if memory is None or num_bytes <= SHARE * memory:
        return
    fitting = int(SHARE * memory / 2 / per_step)  # half: room for what else there is
    digits = 10 ** max(len(str(fitting)) - 2, 0)
    raise BadInput(
        f"a replay buffer of {recipe.buffer_size:,} steps takes {decimal(round(num_bytes))}, and there are "
        f"{decimal(memory)} of memory: --buffer-size {fitting // digits * digits}"
    )


def check_rollout_memory(recipe: Any, stream: Any, device: Any) -> str:
    """What the stream stores, if that is much, in words.

    Raises:
        BadInput: it cannot fit; with the option that fits.
    """
    buffer = getattr(stream, "buffer", None)
    if isinstance(buffer, ReplayBuffer):
        steps = buffer.slots * buffer.num_envs
        return f"replay buffer of {steps:,} steps: {decimal(_nbytes(buffer))} of memory"
    if isinstance(buffer, StepBuffer):
        steps = buffer.action.numel()
        text = f"replay buffer of {steps:,} steps: {decimal(buffer.nbytes)} of memory"
        return text if buffer.nbytes > WORTH_SAYING else ""
    stream = stream.actors[0] if hasattr(stream, "actors") else stream
    envs, memory = stream.envs, total_memory(device)
    observation = envs.observation.nbytes * COPIES
    if isinstance(stream, EpisodeRollouts):  # most episodes end long before
        num_bytes = observation * (envs.episode_limit or 1)
        most = f"rollout of {envs.num_envs} episodes: up to {decimal(round(num_bytes))} of memory"
        if memory is not None and num_bytes > SHARE * memory:
            most += f", and there are {decimal(memory)}: --max-episode-steps or --num-envs bounds it"
        return most if num_bytes > WORTH_SAYING else ""
    num_bytes = observation * stream.num_steps
    if memory is not None and num_bytes > SHARE * memory:
        fitting = max(int(SHARE * memory / 2 / observation), 1)
        option = f"--num-steps {fitting}" if observation < SHARE * memory else "fewer --num-envs"
        raise BadInput(
            f"a rollout of {stream.num_steps:,} steps of {envs.num_envs:,} environments takes "
            f"{decimal(round(num_bytes))}, and there are {decimal(memory)} of memory: {option}"
        )
    text = f"rollout of {stream.num_steps:,} steps: {decimal(round(num_bytes))} of memory"
    return text if num_bytes > WORTH_SAYING else ""


def _nbytes(buffer: ReplayBuffer) -> int:
    columns = [getattr(buffer, name).nbytes for name in buffer.COLUMNS]
    return sum(columns) + buffer.final_frames.slot_of_row.nbytes + buffer.first_stacks.slot_of_row.nbytes
