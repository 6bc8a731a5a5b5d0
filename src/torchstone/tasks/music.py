"""Music: from a recurrent network, a recipe and pieces to a Run that tells the next frame, and its use."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.music import midi
from torchstone.data.music.batches import PieceBatches, pad_pieces
from torchstone.data.music.dataset import load_music, read_piece
from torchstone.data.music.midi import KEYS, Frames
from torchstone.engine import parallel
from torchstone.engine.run import Run
from torchstone.errors import BadInput
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.plots import piano_roll
from torchstone.tasks.build_network import build_network
from torchstone.tasks.optimization import gradient_update

INPUT_SCALE = 5.0  # about the inverse deviation of a key that sounds in one frame of twenty
EVAL_BATCH = 32  # pieces judged at a time
PLOTTED_FRAMES = 96  # frames in a picture
TEMPO = 90.0  # quarter notes a minute


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to tell which of 88 keys sound next, each by itself.

    `loss` is the negative log-likelihood of a frame in nats, summed over its keys and averaged over
    frames (Boulanger-Lewandowski et al. 2012, arXiv:1206.6392, section 6); a piece begins after silence,
    and its first frame counts. Training cuts pieces longer than the recipe's `length`; judging does not.

    Raises:
        BadInput: what `load_music` refuses; a network that reads from the end, and so sees what
            comes next.
    """
    if recipe.bidirectional:
        raise BadInput("what comes next cannot be told by a bidirectional network, which has seen it")
    music = load_music(recipe.data, recipe.frame)
    model, model_config = build_network(recipe, cell, inputs=KEYS, outputs=KEYS, tokens=False, pool="each")
    init_output_bias(model, music.train)
    update, state, judged = gradient_update(model, recipe.optim, loss, steps=recipe.steps)
    stream = PieceBatches(
        [part for piece in music.train for part in piece.split(recipe.length)], recipe.batch_size,
        seed=recipe.seed, transpose=recipe.transpose, device=next(model.parameters()).device,
        rank=parallel.rank(), world_size=parallel.world_size(),
    )  # fmt: skip
    metadata = {
        "task": "music",
        "variant": recipe.variant,
        "model_config": model_config,
        "frame": music.frame,
        "data": music.note,
    }
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: {"loss": measure(judged, music.val)},
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=lambda: {"loss": measure(judged, music.test)},
        report=lambda folder: report(judged, music.test[0], music.frame, folder),
        metadata=metadata,
    )


@torch.no_grad()
def init_output_bias(model: SequenceModel, pieces: Sequence[Frames]) -> None:
    """The last layer begins by telling how often each key sounds."""
    sounds = torch.cat(list(pieces)).float()
    share = (sounds.sum(0) + 1) / (len(sounds) + 2)
    model.head.bias.copy_(share.logit())


def loss(
    net: Any, batch: tuple[Float[Tensor, "pieces time 88"], Int64[Tensor, " pieces"]]
) -> dict[str, Tensor]:
    """Nats a frame, and over how many frames. What stands after a piece's end is read after all that
    counts, and changes nothing of it."""
    frames, lengths = batch
    nats = frame_nll(net, frames)
    there = torch.arange(frames.shape[1], device=frames.device) < lengths.to(frames.device)[:, None]
    count = there.sum()
    return {"loss": (nats * there).sum() / count, "weight": count}


def frame_nll(net: Any, frames: Float[Tensor, "pieces time 88"]) -> Float[Tensor, "pieces time"]:
    """−log p of each frame, given all before it: Σ over keys, each a Bernoulli of its own."""
    logits = net(shift_frames(frames))
    return F.binary_cross_entropy_with_logits(logits, frames, reduction="none").sum(-1)


def shift_frames(frames: Float[Tensor, "pieces time 88"]) -> Float[Tensor, "pieces time 88"]:
    """What each frame is told from: the one before it, of the first one silence."""
    return F.pad(frames[:, :-1], (0, 0, 1, 0)) * INPUT_SCALE


@torch.no_grad()
def measure(model: nn.Module, pieces: Sequence[Frames]) -> float:
    """Mean nats a frame, over all frames of some pieces."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total = 0.0
    for at in range(0, len(pieces), EVAL_BATCH):
        frames, lengths = pad_pieces(pieces[at : at + EVAL_BATCH])
        nats = frame_nll(model, frames.to(device)).cpu().double()
        total += float(nats[torch.arange(nats.shape[1]) < lengths[:, None]].sum())
    model.train(was_training)
    return total / sum(map(len, pieces))


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Nats a frame: of the test split where `held_out`, else of all pieces."""
    music = load_music(spec, metadata["frame"])
    pieces = music.test if held_out else music.train + music.val + music.test
    found = {"loss": measure(model, pieces)}
    return {**found, "pieces": len(pieces), "frames": sum(map(len, pieces))}


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path]) -> list[dict]:
    """How likely each MIDI file is to the model: nats a frame."""
    answers = []
    for file in map(str, inputs):
        piece, _ = read_piece(Path(file), metadata["frame"])
        nats = measure(model, [piece])
        text = f"{file}: {nats:.3f} nats a frame, {len(piece)} frames"
        answers.append({"input": file, "loss": nats, "frames": len(piece), "text": text})
    return answers


def sample(
    model: nn.Module,
    metadata: dict,
    *,
    prompt: str | Path | None = None,
    count: int = 1,
    seed: int = 0,
    length: int = 64,
    temperature: float = 1.0,
    tempo: float = TEMPO,
    out: str | Path | None = None,
) -> list[str]:
    """Pieces that the model plays: keys by name, a line a frame, or MIDI files and their names.

    Args:
        prompt: a MIDI file that the pieces begin with.
        length: frames that are played.
        tempo: quarter notes a minute.
        out: the file, or where `count` is more, the files NAME-1.mid, NAME-2.mid …

    Raises:
        BadInput: an option out of its range; a prompt that is no MIDI file.
    """
    if count < 1 or length < 1 or temperature <= 0:
        raise BadInput(
            f"count and length are at least 1, temperature is above 0: {count}, {length}, {temperature}"
        )
    opening = None if prompt is None else read_piece(Path(prompt), metadata["frame"])[0]
    pieces = generate_pieces(model, length, count=count, seed=seed, temperature=temperature, opening=opening)
    if out is None:
        return [midi.key_names(piece) for piece in pieces]
    out = Path(out)
    files = [out if count == 1 else out.with_stem(f"{out.stem}-{i}") for i in range(1, count + 1)]
    for file, piece in zip(files, pieces, strict=True):
        midi.write(file, piece, metadata["frame"], tempo)
    return list(map(str, files))


@torch.no_grad()
def generate_pieces(
    model: Any,
    length: int,
    *,
    count: int,
    seed: int,
    temperature: float = 1.0,
    opening: Frames | None = None,
) -> list[Frames]:
    """`count` pieces: the opening, if any, and `length` frames drawn key by key."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    silence = torch.zeros(1, KEYS)
    begun = silence if opening is None else torch.cat([silence, opening.float()])
    logits, state = model.step((begun * INPUT_SCALE).expand(count, -1, -1).to(device))
    drawn = []
    for _ in range(length):
        chance = (logits[:, -1].cpu() / temperature).sigmoid()
        drawn.append((torch.rand(chance.shape, generator=generator) < chance).float())
        logits, state = model.step((drawn[-1][:, None] * INPUT_SCALE).to(device), state)
    pieces = torch.cat([begun[1:].expand(count, -1, -1), torch.stack(drawn, 1)], 1)
    return list(pieces.bool())


@torch.no_grad()
def report(model: Any, piece: Frames, frame: float, folder: Path) -> None:
    """Draws a test piece, what was told of each of its frames, and a piece played; that one as MIDI too."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    piece = piece[:PLOTTED_FRAMES]
    chance = model(shift_frames(piece[None].float()).to(device))[0].sigmoid().cpu()
    (own,) = generate_pieces(model, len(piece), count=1, seed=0)
    model.train(was_training)
    drawn = {
        "a test piece": piece.float(),
        "as told, frame by frame": chance,
        "played": own.float(),
    }
    piano_roll.draw(drawn, frame, folder / "rolls.png")
    with contextlib.suppress(BadInput):  # without mido there is the picture
        midi.write(folder / "sample.mid", own, frame, TEMPO)
